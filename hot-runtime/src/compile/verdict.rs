//! Decides whether a compiler failed because of the code or because of how it was called: only the former is shown at
//! once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::message::{CompilerMessage, MessageLevel};
use crate::source::inputs::InputSet;

/// Errors about finding and loading crates: they come from what another build left behind, not from the code.
const OF_LOADING: [&str; 14] = [
    "E0454", "E0455", "E0457", "E0458", "E0459", "E0460", "E0461", "E0462", "E0463", "E0464", "E0466", "E0514",
    "E0519", "E0786",
];

/// Whether all of these are errors about edited files: each has a span in one of them, none is about loading crates,
/// and there is no other output.
pub(crate) fn is_about(
    files: &BTreeSet<PathBuf>,
    folder: &Path,
    status: ExitStatus,
    messages: &[CompilerMessage],
    other: &[u8],
) -> bool {
    let errors: Vec<_> = messages.iter().filter(|message| message.level == MessageLevel::Error).collect();
    let of_code = |message: &&CompilerMessage| {
        let loads = message.code.as_deref().is_some_and(|code| OF_LOADING.contains(&code));
        let placed = |file: &PathBuf| files.contains(file) || files.contains(&folder.join(file));
        !loads && message.spans.iter().any(|span| span.primary && placed(&span.file))
    };
    // A panic of the compiler gives 101.
    status.code() == Some(1) && other.is_empty() && !errors.is_empty() && errors.iter().all(of_code)
}

/// Whether the compiler itself crashed, which its incremental data may cause.
pub(crate) fn is_internal(said: &str) -> bool {
    said.contains("internal compiler error") || said.contains("the compiler unexpectedly panicked")
}

/// Whether a program complained about incremental compilation, as compiler caches do.
pub(crate) fn is_about_incremental(said: &str) -> bool {
    said.contains("incremental") || said.contains("increment compilation")
}

/// The paths that errors name, including those of files that were not found.
pub(crate) fn paths_in(messages: &[CompilerMessage], folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for message in messages.iter().filter(|message| message.level == MessageLevel::Error) {
        found.extend(message.spans.iter().map(|span| folder.join(&span.file)));
        found.extend(paths_in_text(&message.plain(), folder));
    }
    found
}

/// The quoted parts of a text that may be paths.
pub(crate) fn paths_in_text(text: &str, folder: &Path) -> BTreeSet<PathBuf> {
    let quoted = ['`', '"'].into_iter().flat_map(|quote| text.split(quote).skip(1).step_by(2).take(100));
    // Other quoted text is taken for a path that does not exist, which does no harm.
    let path = |text: &&str| (text.contains('/') || text.contains('.')) && !text.contains('\n');
    quoted.filter(path).map(|text| folder.join(text)).collect()
}

/// The inputs of the build scripts that failed, from cargo's output: what they say they read, or else their whole
/// packages.
pub(crate) fn failed_scripts(said: &str) -> InputSet {
    let mut set = InputSet::default();
    for failed in said.split("failed to run custom build command for `").skip(1) {
        // `name v1.2.3 (folder)`
        let Some(package) = failed.lines().next().and_then(|line| line.split_once(" (")?.1.rsplit_once(")`")) else {
            continue;
        };
        let package = Path::new(package.0);
        let told = |key: &str| {
            let lines = failed.lines().filter_map(|line| line.trim_start().strip_prefix("cargo:"));
            let value = lines.filter_map(|line| line.strip_prefix(':').unwrap_or(line).strip_prefix(key));
            value.map(|value| package.join(value.trim_end())).collect::<Vec<_>>()
        };
        let reads = told("rerun-if-changed=");
        if reads.is_empty() && told("rerun-if-env-changed=").is_empty() {
            set.packages.insert(package.to_owned());
        }
        set.trees.extend(reads);
    }
    set
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::message::MessageSpan;

    fn error(code: Option<&str>, file: &str, rendered: &str) -> CompilerMessage {
        let span = MessageSpan {
            file: file.into(),
            line: 1,
            column: 1,
            end_line: 1,
            end_column: 2,
            label: None,
            primary: true,
        };
        CompilerMessage {
            level: MessageLevel::Error,
            code: code.map(str::to_owned),
            text: rendered.to_owned(),
            spans: if file.is_empty() { Vec::new() } else { vec![span] },
            rendered: rendered.to_owned(),
        }
    }

    #[test]
    fn only_errors_that_are_all_about_edited_files_are_the_codes_own() {
        let files = BTreeSet::from([PathBuf::from("/crate/src/lib.rs")]);
        let judge = |status: i32, messages: &[CompilerMessage], other: &str| {
            is_about(&files, Path::new("/crate"), ExitStatus::from_raw(status << 8), messages, other.as_bytes())
        };
        let own = error(Some("E0308"), "src/lib.rs", "mismatched types");
        assert!(judge(1, std::slice::from_ref(&own), ""));
        assert!(!judge(101, std::slice::from_ref(&own), ""), "a panic of the compiler");
        assert!(!judge(1, &[], ""), "it said nothing");
        assert!(!judge(1, std::slice::from_ref(&own), "thread panicked"));
        let lost = error(Some("E0463"), "src/lib.rs", "can't find crate for `serde`");
        assert!(!judge(1, &[own.clone(), lost], ""), "a crate went");
        assert!(!judge(1, &[own.clone(), error(None, "", "error writing dependencies")], ""));
        assert!(!judge(1, &[own, error(None, "src/other.rs", "expected item")], ""), "a file that nobody edited");
    }

    #[test]
    fn files_that_were_not_found_are_named_by_the_errors() {
        let module = "error[E0583]: file not found for module `gone`\n = help: to create the module `gone`, create file \
                      \"src/gone.rs\" or \"src/gone/mod.rs\"";
        let include = "error: couldn't read `src/../../data.txt`: No such file or directory (os error 2)";
        let errors = [error(Some("E0583"), "src/lib.rs", module), error(None, "src/lib.rs", include)];
        let found = paths_in(&errors, Path::new("/crate"));
        for path in ["src/gone.rs", "src/gone/mod.rs", "src/../../data.txt", "src/lib.rs"] {
            assert!(found.contains(&Path::new("/crate").join(path)), "{found:?}");
        }
    }

    #[test]
    fn what_a_build_script_that_failed_read_is_told_by_cargo() {
        let said = "error: failed to run custom build command for `a v0.1.0 (/ö (x)/a)`\n\nCaused by:\n  process didn't exit \
                    successfully: `/t/build-script-build` (exit status: 101)\n  --- stdout\n  cargo:rerun-if-changed=../p.txt\n  \
                    cargo::rerun-if-changed=in \n\n  --- stderr\n  oops\nwarning: build failed, waiting for other jobs to \
                    finish...\nerror: failed to run custom build command for `b v0.1.0 (/ö (x)/b)`\n\nCaused by:\n  oops\n";
        let set = failed_scripts(said);
        assert_eq!(set.trees, BTreeSet::from(["/ö (x)/a/../p.txt", "/ö (x)/a/in"].map(PathBuf::from)));
        assert_eq!(set.packages, BTreeSet::from([PathBuf::from("/ö (x)/b")]));
        assert_eq!(failed_scripts("error: it is not for `c v0.1.0 (/c)`"), InputSet::default());
    }
}

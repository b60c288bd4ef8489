//! Records how cargo calls rustc, with a small wrapper that is compiled on first use, and reads the records back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::source::environment::callers_environment;
use crate::sys::files::{create_private_dir, is_open_to_others, os_string};

const SHIM: &str = include_str!("shim/main.rs");

/// The recording wrapper of a target directory, and its records.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    /// The wrapper.
    pub(crate) shim: PathBuf,
    /// The directory of the records.
    pub(crate) folder: PathBuf,
}

impl Capture {
    /// Prepares the wrapper for a target directory, and compiles it if necessary; `None` if that fails: then every build
    /// is cargo's, which reports itself what is wrong with the compiler. Blocks.
    pub(crate) fn prepare(target_dir: &Path) -> Option<Self> {
        let folder = target_dir.join("cbus");
        std::fs::create_dir_all(&folder).ok()?;
        private_folder(&folder.join("calls")).ok()?;
        let name = format!("rustc-shim-{}", &blake3::hash(SHIM.as_bytes()).to_hex()[..12]);
        let shim = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
        if !shim.is_file() {
            let source = tempfile::Builder::new().suffix(".rs").tempfile_in(&folder).ok()?;
            std::fs::write(source.path(), SHIM).ok()?;
            let made = source.path().with_extension("made");
            let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let mut command = std::process::Command::new(rustc);
            command.args(["--edition=2021", "--crate-name=shim", "-Copt-level=1", "-Cpanic=abort", "-o"]);
            let output = command.arg(&made).arg(source.path()).stdin(Stdio::null()).output().ok()?;
            if !output.status.success() {
                tracing::debug!(said = %String::from_utf8_lossy(&output.stderr), "cannot compile the recording wrapper");
                return None;
            }
            std::fs::rename(made, &shim).ok()?;
        }
        Some(Self { shim, folder: folder.join("calls") })
    }

    /// The last call recorded for a crate, by the stem of its outputs (`name-hash`).
    pub(crate) fn call(&self, stem: &str) -> Option<Call> {
        Call::read(&self.folder.join(format!("{stem}.call")))
    }

    /// The call recorded for the build script with outputs in a directory.
    pub(crate) fn call_into(&self, folder: &Path) -> Option<Call> {
        let recorded = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let scripts = recorded.filter(|entry| entry.file_name().to_string_lossy().starts_with("build_script_"));
        let calls = scripts.filter_map(|entry| Call::read(&entry.path()));
        calls
            .filter(|call| call.after("--out-dir").is_some_and(|out| Path::new(out) == folder))
            .max_by_key(|it| it.recorded)
    }

    /// All calls recorded for crates in these packages.
    pub(crate) fn calls_in(&self, packages: &BTreeSet<&Path>) -> Vec<Call> {
        let recorded = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let calls = recorded.filter_map(|entry| Call::read(&entry.path()));
        calls.filter(|call| call.package().is_some_and(|package| packages.contains(package))).collect()
    }
}

/// Creates a directory that only its owner can enter. A directory of an earlier version, whose records held the whole
/// environment and were readable by all, is emptied first: the next build is then cargo's.
fn private_folder(folder: &Path) -> std::io::Result<()> {
    if std::fs::metadata(folder).is_ok_and(|found| is_open_to_others(&found)) {
        std::fs::remove_dir_all(folder)?;
    }
    create_private_dir(folder)
}

/// Describes the environment that cargo is started with to the recorder, which can so tell what cargo has set. `None`
/// if it is too large for that.
pub(crate) fn outer_environment(environment: &[(OsString, OsString)]) -> Option<String> {
    // FNV-1a, as in the recorder: it need not withstand an attacker.
    let fnv = |bytes: &[u8]| {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
    };
    let line = |(name, value): &(OsString, OsString)| {
        format!("{}={:016x}\n", name.to_string_lossy(), fnv(value.as_encoded_bytes()))
    };
    // The system limits a variable to 128 KiB.
    Some(environment.iter().map(line).collect::<String>()).filter(|lines| lines.len() < 120_000)
}

/// A recorded call of rustc.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) folder: PathBuf,
    pub(crate) rustc: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// When it was recorded, just before the call.
    pub(crate) recorded: SystemTime,
}

impl Call {
    fn read(path: &Path) -> Option<Self> {
        let recorded = std::fs::metadata(path).and_then(|found| found.modified()).ok()?;
        Self::parse(&std::fs::read(path).ok()?, recorded)
    }

    /// `None` on systems where strings cannot be restored from their bytes: there every build is cargo's.
    fn parse(text: &[u8], recorded: SystemTime) -> Option<Self> {
        let mut parts = text.split(|byte| *byte == 0);
        let (folder, rustc) = (os_string(parts.next()?)?.into(), os_string(parts.next()?)?.into());
        let count: usize = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let arguments: Vec<_> = parts.by_ref().take(count).filter_map(os_string).collect();
        let pair = |part: &[u8]| {
            let at = part.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
            Some((os_string(&part[..at])?, os_string(&part[at + 1..])?))
        };
        (arguments.len() == count).then(|| Self {
            folder,
            rustc,
            arguments,
            environment: parts.filter_map(pair).collect(),
            recorded,
        })
    }

    /// The argument after a flag.
    pub(crate) fn after(&self, flag: &str) -> Option<&OsString> {
        self.arguments.windows(2).find(|pair| pair[0] == flag).map(|pair| &pair[1])
    }

    /// The value of a `-C` option.
    pub(crate) fn option(&self, key: &str) -> Option<&str> {
        let set = self.arguments.iter().filter_map(|argument| argument.to_str()?.split_once('='));
        set.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The stem of its outputs: `name-hash`.
    pub(crate) fn stem(&self) -> String {
        let name = self.after("--crate-name").map(|name| name.to_string_lossy()).unwrap_or_default();
        format!("{name}{}", self.option("extra-filename").unwrap_or_default())
    }

    /// Where rustc writes the crate's dep-info.
    pub(crate) fn dep_info(&self) -> Option<PathBuf> {
        Some(Path::new(self.after("--out-dir")?).join(self.stem() + ".d"))
    }

    /// A variable that cargo set for the call.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The directory of the compiled package.
    pub(crate) fn package(&self) -> Option<&Path> {
        self.variable("CARGO_MANIFEST_DIR").map(Path::new)
    }

    /// The files of the `--extern` crates.
    pub(crate) fn externs(&self) -> impl Iterator<Item = &Path> {
        let named = self.arguments.windows(2).filter(|pair| pair[0] == "--extern");
        named.filter_map(|pair| pair[1].to_str()?.split_once('=').map(|(_, path)| Path::new(path)))
    }

    /// The environment that cargo would give it now: cargo's own variables as recorded, all others as they are.
    pub(crate) fn environment_now(&self) -> Vec<(OsString, OsString)> {
        let mut environment = callers_environment();
        environment.retain(|(name, _)| !self.environment.iter().any(|(known, _)| known == name));
        environment.extend_from_slice(&self.environment);
        // That cargo's job server is gone.
        environment.retain(|(name, _)| !matches!(name.to_str(), Some("MAKEFLAGS" | "CARGO_MAKEFLAGS" | "MFLAGS")));
        environment
    }
}

/// A crate's inputs, as rustc wrote them down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DepInfo {
    /// The files that it read.
    pub(crate) files: Vec<PathBuf>,
    /// The variables that the source reads, with their values.
    pub(crate) environment: Vec<(String, Option<String>)>,
}

impl DepInfo {
    /// Reads a `.d` file; relative paths are relative to `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub(crate) fn read(path: &Path, folder: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading a crate's dep-info", path))?;
        Ok(Self::parse(&text, folder))
    }

    fn parse(text: &str, folder: &Path) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            if let Some(variable) = line.strip_prefix("# env-dep:") {
                let unescaped = |text: &str| text.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\");
                let (name, value) = match variable.split_once('=') {
                    Some((name, value)) => (name, Some(unescaped(value))),
                    None => (variable, None),
                };
                found.environment.push((unescaped(name), value));
            } else if found.files.is_empty()
                // The first line is about this file, whose path may contain a colon as well.
                && let Some((_, files)) = line.split_once(".d: ").or_else(|| line.split_once(": "))
            {
                // Spaces in a name are escaped with a backslash, other whitespace is not.
                let files = files.replace("\\ ", "\u{0}");
                let files = files.split(' ').filter(|file| !file.is_empty());
                found.files = files.map(|file| folder.join(file.replace('\u{0}', " "))).collect();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dep_info_names_files_with_blanks_and_variables_that_are_not_set() {
        let text = "/out/a.d: src/lib.rs src/with\\ blank.txt /abs/x.rs\n\n/out/liba.rmeta: src/lib.rs\n\nsrc/lib.rs:\n\n\
                    # env-dep:UNSET\n# env-dep:NAME=a=b\n";
        let found = DepInfo::parse(text, Path::new("/crate"));
        let files = ["/crate/src/lib.rs", "/crate/src/with blank.txt", "/abs/x.rs"].map(PathBuf::from);
        assert_eq!(found.files, files);
        assert_eq!(found.environment, [("UNSET".to_owned(), None), ("NAME".to_owned(), Some("a=b".to_owned()))]);
    }

    #[test]
    fn dep_info_names_files_whatever_blanks_there_are() {
        let names = ["no\u{a0}break.rs", "全角\u{3000}空白/mod.rs", "tab\there.rs", "thin\u{2009}one: two.rs"];
        let found = DepInfo::parse(
            &format!("/out: put/a.d: {}\n", names.map(|name| name.replace(' ', "\\ ")).join(" ")),
            Path::new("/crate"),
        );
        assert_eq!(found.files, names.map(|name| Path::new("/crate").join(name)));
    }

    #[cfg(unix)]
    #[test]
    fn a_recorded_call_is_read_back() {
        let text = b"/crate\0/bin/rustc\x002\0--crate-name\0a\0NAME=x=y\0EMPTY=\0";
        let call = Call::parse(text, SystemTime::UNIX_EPOCH).expect("a call");
        assert_eq!(call.folder, Path::new("/crate"));
        assert_eq!(call.arguments, ["--crate-name", "a"]);
        let pairs = [("NAME", "x=y"), ("EMPTY", "")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(call.environment, pairs);
        assert!(Call::parse(b"/crate\0/bin/rustc\x003\0a\0", SystemTime::UNIX_EPOCH).is_none());
    }

    /// What the recorder, as cargo would call it, writes down in a target directory.
    #[cfg(unix)]
    fn recorded(target: &Path, outer: &str) -> (PathBuf, Call) {
        let capture = Capture::prepare(target).expect("the recorder");
        let mut cargo = std::process::Command::new(&capture.shim);
        cargo.args(["true", "--crate-name", "a", "--out-dir", "out", "-C", "extra-filename=-1"]);
        cargo.env("CBUS_CAPTURE", &capture.folder).env("CBUS_OUTER", outer);
        cargo.envs([("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("CARGO_REGISTRY_TOKEN", "s3cr3t")]);
        cargo.envs([("CARGO_PKG_NAME", "a"), ("OUT_DIR", "/out"), ("FROM_A_BUILD_SCRIPT", "yes"), ("CHANGED", "now")]);
        assert!(cargo.status().expect("running it").success());
        (capture.folder.clone(), capture.call("a-1").expect("the call"))
    }

    #[cfg(unix)]
    #[test]
    fn a_recorded_call_holds_what_cargo_set_and_nothing_else_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let target = tempfile::tempdir().expect("a folder");
        // As an earlier version left it.
        let calls = target.path().join("cbus/calls");
        std::fs::create_dir_all(&calls).expect("a folder");
        std::fs::set_permissions(&calls, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        std::fs::write(calls.join("old.call"), "TOKEN=s3cr3t").expect("writing");
        let mut outer: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let more = [("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("CARGO_REGISTRY_TOKEN", "s3cr3t"), ("CHANGED", "before")];
        outer.extend(more.map(|(name, value)| (name.into(), value.into())));

        let (folder, call) = recorded(target.path(), &outer_environment(&outer).expect("not too large"));
        let mut set: Vec<_> = call.environment.iter().map(|(name, value)| (name.to_str(), value.to_str())).collect();
        set.sort_unstable();
        let wanted = [("CARGO_PKG_NAME", "a"), ("CHANGED", "now"), ("FROM_A_BUILD_SCRIPT", "yes"), ("OUT_DIR", "/out")];
        assert_eq!(set, wanted.map(|(name, value)| (Some(name), Some(value))));
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("a-1.call"))), (0o700, 0o600));
        assert!(!calls.join("old.call").exists(), "what an earlier version has recorded is gone");
        // What is set by now is taken, and what is not any more is not passed on.
        let now = call.environment_now();
        assert!(now.iter().any(|(name, _)| name == "PATH") && now.iter().any(|(name, _)| name == "CHANGED"));
        assert!(!now.iter().any(|(name, _)| name == "AWS_SECRET_ACCESS_KEY"));
    }
    #[cfg(unix)]
    #[test]
    fn flags_with_which_no_plugin_works_are_refused_when_cargo_asks_what_they_amount_to() {
        let target = tempfile::tempdir().expect("a folder");
        let shim = Capture::prepare(target.path()).expect("the recorder").shim;
        let said = |flags: &str| {
            // As cargo asks: see `TargetInfo` in its sources.
            let mut asked = std::process::Command::new(&shim);
            asked.args(["true", "-", "--crate-name", "___", "--print=file-names"]).args(flags.split(' '));
            // As cargo has it that was not started by a build script.
            asked.env_remove("OUT_DIR");
            let output = asked.args(["--crate-type", "cdylib", "--print=cfg"]).output().expect("running it");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.success(), said.is_empty(), "{said}");
            said
        };
        for aborts in ["-Cpanic=abort", "-C panic=abort", "--codegen panic=abort", "--codegen=panic=abort"] {
            assert!(said(aborts).starts_with("cbus-refuses: a plugin must unwind from a panic"), "{aborts}");
        }
        let own = "cannot have one of its own: take `-C target-feature=+crt-static` out";
        assert!(said("-Ctarget-feature=+sse3,+crt-static --target x86_64-unknown-linux-gnu").contains(own));
        for musl in ["--target x86_64-unknown-linux-musl", "--target=aarch64-unknown-linux-musl -Cdebuginfo=0"] {
            assert!(said(musl).contains("needs musl as one too: add `-C target-feature=-crt-static`"), "{musl}");
            assert_eq!(said(&format!("{musl} -C target-feature=-crt-static")), "");
        }
        for fits in [
            "-Cpanic=abort -Cpanic=unwind",
            "-Ctarget-cpu=native -Copt-level=1",
            "--target riscv64gc-unknown-linux-gnu",
        ] {
            assert_eq!(said(fits), "", "{fits}");
        }
        // A cargo that a build script starts builds no plugin, and neither does a compiler.
        let mut of_a_script = std::process::Command::new(&shim);
        of_a_script.args(["true", "-", "--print=cfg", "-Cpanic=abort"]).env("OUT_DIR", target.path());
        assert!(of_a_script.status().expect("running it").success());
        let other = std::process::Command::new(&shim).args(["true", "--crate-name", "a", "-Cpanic=abort"]).status();
        assert!(other.expect("running it").success());
    }
}

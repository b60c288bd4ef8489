//! Runs cargo on an overlay and finds the library that it built.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cargo_metadata::{Message, TargetKind};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::compile::BuildOptions;
use crate::compile::capture::{Capture, outer_environment};
use crate::compile::process::{self, Ended, Lines};
use crate::compile::progress::Progress;
use crate::compile::units::{CargoArtifact, Kind, Script};
use crate::error::{Error, Result};
use crate::message::{CompilerMessage, MessageLevel};
use crate::phase::BuildPhase;
use crate::source::environment;
use crate::source::overlay::Overlay;
use crate::source::spec::PluginSpec;

/// The result of a build by cargo.
pub(crate) struct CargoBuilt {
    /// The library.
    pub(crate) library: PathBuf,
    /// The compiler's messages.
    pub(crate) messages: Vec<CompilerMessage>,
    /// Everything that was compiled, or was up to date.
    pub(crate) made: Vec<CargoArtifact>,
    /// The build scripts that ran, or were up to date.
    pub(crate) scripts: Vec<Script>,
    /// How rustc called the linker for the plugin, as `--print link-args` prints it.
    pub(crate) link_line: Option<String>,
}

/// Why a build was stopped.
pub(crate) enum Stop {
    Cancelled,
    TimedOut,
}

/// Waits for a reason to stop a build.
pub(crate) async fn stop_of(cancel: &CancellationToken, options: &BuildOptions) -> Stop {
    tokio::select! {
        () = cancel.cancelled() => Stop::Cancelled,
        () = tokio::time::sleep(options.timeout) => Stop::TimedOut,
    }
}

impl Stop {
    pub(crate) fn error(&self, spec: &PluginSpec, options: &BuildOptions) -> Error {
        match self {
            Self::Cancelled => Error::Cancelled { plugin: spec.id.clone() },
            Self::TimedOut => Error::BuildTimedOut { plugin: spec.id.clone(), after: options.timeout },
        }
    }
}

/// How cargo is run.
#[derive(Clone, Copy)]
pub(crate) struct How<'a> {
    /// Records its calls of rustc.
    pub(crate) capture: Option<&'a Capture>,
    /// Names that replace the directories of local crates in the outputs.
    pub(crate) local: &'a [(PathBuf, String)],
    /// The configured compiler wrapper.
    pub(crate) wrapper: Option<&'a OsStr>,
    /// Whether to compile incrementally.
    pub(crate) incremental: bool,
    /// At a low priority, because nobody waits for it.
    pub(crate) in_background: bool,
}

/// Builds an overlay. Cancelling stops the compiler and everything that it started.
///
/// # Errors
/// [`Error::Build`] with the messages, [`Error::BuildTimedOut`], [`Error::Cancelled`].
pub(crate) async fn build(
    overlay: &Overlay,
    spec: &PluginSpec,
    options: &BuildOptions,
    how: How<'_>,
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<CargoBuilt> {
    progress.phase(BuildPhase::Compiling);
    let child = command(overlay, spec, options, how)
        .spawn()
        .map_err(Error::io("running cargo (is Rust installed?)", &overlay.dir))?;
    let mut library = None;
    let mut messages = Vec::new();
    let mut made = Vec::new();
    let mut scripts = Vec::new();
    let mut link_line = None;
    let mut out_dirs = Vec::new();
    let mut packages = std::collections::HashMap::new();
    let line = |line: &[u8]| match serde_json::from_slice(line) {
        Ok(Message::CompilerArtifact(artifact)) => {
            if !artifact.fresh {
                let name = package_name(&artifact.package_id.repr, &artifact.target.name);
                if artifact.target.kind.contains(&TargetKind::CustomBuild) {
                    progress.compiled(&format!("the build script of {name}"));
                } else {
                    progress.compiled(&name);
                }
            }
            let cdylib = artifact.target.crate_types.iter().any(|kind| kind.to_string() == "cdylib");
            if cdylib && artifact.target.name.starts_with("cbus_overlay_") {
                let file = artifact.filenames.iter().find(|file| file.as_str().ends_with(std::env::consts::DLL_SUFFIX));
                library = file.map(|file| file.as_std_path().to_owned());
            }
            let folder = artifact.manifest_path.parent().map(|folder| folder.as_std_path().to_owned());
            packages.insert(artifact.package_id.repr.clone(), folder.clone().unwrap_or_default());
            made.push(CargoArtifact {
                package: folder.unwrap_or_default(),
                package_name: package_name(&artifact.package_id.repr, &artifact.target.name),
                local: is_local(&artifact.package_id.repr),
                kind: Kind::of(&artifact.target.kind),
                files: artifact.filenames.iter().map(|file| file.as_std_path().to_owned()).collect(),
            });
        }
        Ok(Message::BuildScriptExecuted(script)) => {
            out_dirs.push((script.package_id.repr, script.out_dir.into_std_path_buf()));
        }
        Err(_) if line.windows(10).any(|part| part == b"/symbols.o") => {
            link_line = Some(String::from_utf8_lossy(line).into_owned());
        }
        Ok(Message::CompilerMessage(message)) => {
            if let Some(found) = CompilerMessage::of(message.message) {
                progress.message(&found);
                // Where cargo runs the compiler for a crate that is no member of the overlay's workspace.
                let folder = folder_of(&message.package_id.repr);
                messages.push(folder.into_iter().fold(found, |found, folder| found.in_folder(&folder)));
            }
        }
        _ => {}
    };
    let ended = process::run(child, Lines::Stdout, line, stop_of(cancel, options)).await;
    let (ended, said) = ended.map_err(Error::io("waiting for cargo", &overlay.dir))?;
    let status = match ended {
        Ended::Exited(status) => status,
        Ended::Stopped(stop) => return Err(stop.error(spec, options)),
    };
    for (id, out_dir) in out_dirs {
        if let Some(package) = packages.get(&id) {
            scripts.push(Script::read(package, is_local(&id), &out_dir));
        }
    }
    match library {
        Some(library) if status.success() => Ok(CargoBuilt { library, messages, made, scripts, link_line }),
        _ => Err(failed(spec, messages, &String::from_utf8_lossy(&said))),
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The directories of a target directory in which cargo has fingerprints: `PROFILE`, or with a target `TRIPLE/PROFILE`. Blocks.
pub(crate) fn profiles(target_dir: &Path) -> Vec<PathBuf> {
    let below: Vec<_> = entries(target_dir).flat_map(|dir| entries(&dir).collect::<Vec<_>>()).collect();
    let known = |profile: &PathBuf| [".fingerprint", "build"].iter().any(|name| profile.join(name).is_dir());
    entries(target_dir).chain(below).filter(known).collect()
}

/// Makes cargo compile these packages again in one of its profiles' directories, under its lock: it compares times only, and
/// does not notice that an older file was put back. Blocks.
pub(crate) fn invalidate_fingerprints(profile: &Path, packages: &BTreeSet<String>) {
    for known in entries(&profile.join(".fingerprint")) {
        let name = known.file_name().unwrap_or_default().to_string_lossy();
        if name.rsplit_once('-').is_some_and(|(package, _)| packages.contains(package)) {
            let _ = std::fs::remove_dir_all(&known);
        }
    }
    // Cargo's future layout.
    for unit in packages.iter().flat_map(|package| entries(&profile.join("build").join(package))) {
        let _ = std::fs::remove_dir_all(unit.join("fingerprint"));
    }
}

/// The directory of a local package, by its id: `path+file:///folder#name@version`.
fn folder_of(id: &str) -> Option<PathBuf> {
    let (url, _) = id.strip_prefix("path+")?.rsplit_once('#')?;
    Some(PathBuf::from(url.strip_prefix("file://")?.replace("%20", " ")))
}

/// Whether a package is in a local directory.
fn is_local(id: &str) -> bool {
    id.starts_with("path+")
}

/// The error of a failed build: the compiler's errors or, if there are none, the other output.
pub(crate) fn failed(spec: &PluginSpec, messages: Vec<CompilerMessage>, said: &str) -> Error {
    let errors = messages.iter().filter(|message| message.level == MessageLevel::Error);
    let mut rendered: String = errors.map(|message| message.rendered.as_str()).collect();
    if rendered.is_empty() {
        // What the recorder refuses is somewhere in what cargo says of a compiler that does not answer.
        let refused = said.lines().find_map(|line| line.trim_start().strip_prefix("cbus-refuses: "));
        rendered = refused.map_or_else(|| said.to_owned(), |why| format!("error: {why}\n"));
    }
    Error::Build { plugin: spec.id.clone(), rendered, messages }
}

/// The package's name, which cargo uses for its fingerprints: the end of `registry+url#name@version`, or of
/// `path+file:///folder/name#version` if the directory has the same name.
fn package_name(id: &str, target: &str) -> String {
    let (url, end) = id.rsplit_once('#').unwrap_or((id, target));
    match end.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => url.rsplit(['/', '\\']).next().unwrap_or(target).to_owned(),
    }
}

/// Lines of `FROM=TO`.
fn lines(pairs: &[(PathBuf, String)]) -> String {
    pairs.iter().map(|(from, to)| format!("{}={to}\n", from.display())).collect()
}

fn command(overlay: &Overlay, spec: &PluginSpec, options: &BuildOptions, how: How<'_>) -> Command {
    let mut command = if how.in_background && cfg!(unix) {
        let mut command = Command::new("nice");
        command.args(["-n", "19", "cargo"]);
        command
    } else {
        Command::new("cargo")
    };
    environment::scrub_cargo_env(command.as_std_mut());
    command.args(["rustc", "--lib", "--message-format=json-diagnostic-rendered-ansi", "--manifest-path"]);
    command.arg(overlay.dir.join("Cargo.toml"));
    if spec.release {
        command.arg("--release");
    }
    // Overrides cargo's own settings and variables, which take precedence over the overlay's.
    command.arg("--config").arg(format!("profile.{}.panic=\"unwind\"", spec.profile_name()));
    if cfg!(target_os = "linux") {
        // Keeps the distributed slices' boundaries local to this library, and gives each build its own name.
        let name = format!("-Clink-arg=-Wl,-soname,{}-{}", spec.slug(), overlay.build_hash);
        command.args(["--", "-Clink-arg=-Wl,-z,start-stop-visibility=hidden", &name]);
        if how.capture.is_some() && spec.watch {
            // Needed to relink it without recompiling it.
            command.args(["-Csave-temps", "--print=link-args"]);
        }
    }
    if let Some(capture) = how.capture {
        if let Some(outer) = outer_environment(&environment::callers_environment()) {
            command.env("CBUS_CAPTURE", &capture.folder).env("CBUS_OUTER", outer);
        }
        command.env("CBUS_WRAPPER", how.wrapper.unwrap_or_default());
        command.env("RUSTC_WRAPPER", &capture.shim);
        // Cargo would use a configured one for the overlay, which is a workspace of its own, and for nothing else.
        // Where there is none, that would only keep cargo from remembering what rustc says of itself.
        if environment::wrapper_of_members(&overlay.root).is_some() {
            command.env("RUSTC_WORKSPACE_WRAPPER", "");
        }
        command.env("CBUS_REMAP", lines(&[(environment::cargo_home().join("registry/src"), "/registry".to_owned())]));
        if !spec.watch {
            // Equal inputs give an equal artifact, wherever it is built.
            command.env("CBUS_LOCAL", lines(how.local));
        }
    }
    command.current_dir(&overlay.root).env("CARGO_TARGET_DIR", &options.target_dir);
    // Intermediate files are expected there as well.
    command.env("CARGO_BUILD_BUILD_DIR", &options.target_dir);
    // Rebuilds are three times faster with it; a single build is better without.
    command.env("CARGO_INCREMENTAL", if how.incremental { "1" } else { "0" });
    process::prepare(&mut command);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_takes_for_built_is_forgotten_in_every_layout_of_its_folders() {
        let target = tempfile::tempdir().expect("a folder");
        let at = |inside: &str| target.path().join(inside);
        let old = ["debug/.fingerprint/put-back-1f2e", "x86_64-unknown-linux-gnu/release/.fingerprint/put-back-1f2e"];
        let new =
            ["debug/build/put-back/1f2e/fingerprint", "x86_64-unknown-linux-gnu/debug/build/put-back/1f2e/fingerprint"];
        let others = [
            "debug/.fingerprint/put-back-too-1f2e",
            "debug/.fingerprint/other-1f2e",
            "debug/build/other/1f2e/fingerprint",
            "debug/build/put-back/1f2e/out",
            "debug/build/put-back-1f2e/out",
        ];
        old.iter().chain(&new).chain(&others).for_each(|folder| std::fs::create_dir_all(at(folder)).expect("a folder"));
        for profile in profiles(target.path()) {
            invalidate_fingerprints(&profile, &BTreeSet::from(["put-back".to_owned()]));
        }
        for folder in old.iter().chain(&new) {
            assert!(!at(folder).exists(), "{folder}");
        }
        for folder in others {
            assert!(at(folder).is_dir(), "{folder}");
        }
    }
}

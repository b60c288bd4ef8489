//! Runs cargo on an overlay and finds the library that it made.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cargo_metadata::{Message, TargetKind};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::build::BuildOptions;
use crate::build::capture::{Capture, outer_environment};
use crate::build::message::{CompilerMessage, MessageLevel};
use crate::build::process::{self, Ended, Lines};
use crate::build::progress::{BuildPhase, Progress};
use crate::error::{Error, Result};
use crate::overlay::{Overlay, PluginSpec};

/// What cargo made.
pub(crate) struct CargoBuilt {
    /// The library.
    pub(crate) library: PathBuf,
    /// What the compiler said.
    pub(crate) messages: Vec<CompilerMessage>,
    /// Everything that was compiled, or was up to date.
    pub(crate) made: Vec<Made>,
    /// The build scripts that were run, or were up to date.
    pub(crate) scripts: Vec<Script>,
    /// How rustc called the linker for the plugin, as `--print link-args` prints it.
    pub(crate) link_line: Option<String>,
}

/// Something that cargo compiled.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// The package's folder.
    pub(crate) package: PathBuf,
    /// The package's name.
    pub(crate) package_name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// The files.
    pub(crate) files: Vec<PathBuf>,
}

/// What a crate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is linked.
    Library,
    /// A procedural macro: it runs while others are compiled.
    Macro,
    /// A build script: it runs before its package is compiled.
    Script,
}

impl Kind {
    fn of(kinds: &[TargetKind]) -> Self {
        match kinds.first() {
            Some(TargetKind::ProcMacro) => Self::Macro,
            Some(TargetKind::CustomBuild) => Self::Script,
            _ => Self::Library,
        }
    }
}

/// A build script, and when it would be run again.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Its package's folder.
    pub(crate) package: PathBuf,
    /// The files and folders that it says it reads; `None` if it says nothing, which means all of its package.
    files: Option<Vec<PathBuf>>,
    /// The variables that it says it reads, with what they were.
    variables: Vec<(String, Option<std::ffi::OsString>)>,
}

impl Script {
    /// Reads what it told cargo, which cargo keeps beside its output folder.
    fn read(package: &Path, out_dir: &Path) -> Self {
        let told = out_dir.parent().map(|folder| folder.join("output"));
        let told = told.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let said = |key: &str| {
            let prefixes = [format!("cargo:{key}="), format!("cargo::{key}=")];
            let lines = told.lines().filter_map(move |line| prefixes.iter().find_map(|start| line.strip_prefix(start)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let files: Vec<_> = said("rerun-if-changed").iter().map(|file| package.join(file)).collect();
        let variables: Vec<_> =
            said("rerun-if-env-changed").into_iter().map(|name| (name.clone(), std::env::var_os(name))).collect();
        let files = if files.is_empty() && variables.is_empty() { None } else { Some(files) };
        Self { package: package.to_owned(), files, variables }
    }

    /// Whether a change of a file, which belongs to `owner`, may make it say something else.
    pub(crate) fn may_read(&self, path: &Path, owner: Option<&Path>) -> bool {
        match &self.files {
            Some(files) => files.iter().any(|file| path.starts_with(file)),
            None => owner == Some(&*self.package),
        }
    }

    /// A variable that it reads and that has changed since.
    pub(crate) fn changed_variable(&self) -> Option<&str> {
        let changed = self.variables.iter().find(|(name, then)| std::env::var_os(name) != *then);
        changed.map(|(name, _)| name.as_str())
    }
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

/// Builds an overlay. Cancelling stops the compiler with all that it started.
///
/// # Errors
/// [`Error::Build`] with the messages, [`Error::BuildTimedOut`], [`Error::Cancelled`].
pub(crate) async fn build(
    overlay: &Overlay,
    spec: &PluginSpec,
    options: &BuildOptions,
    capture: Option<&Capture>,
    local: &[(PathBuf, String)],
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<CargoBuilt> {
    progress.phase(BuildPhase::Compiling);
    let child = command(overlay, spec, options, capture, local)
        .spawn()
        .map_err(Error::io("running cargo (is Rust installed?)", &overlay.dir))?;
    let (mut library, mut messages) = (None, Vec::new());
    let (mut made, mut scripts, mut link_line, mut out_dirs) = (Vec::new(), Vec::new(), None, Vec::new());
    let mut packages = std::collections::HashMap::new();
    let line = |line: &[u8]| match serde_json::from_slice(line) {
        Ok(Message::CompilerArtifact(artifact)) => {
            if !artifact.fresh {
                progress.compiled(&artifact.target.name);
            }
            let cdylib = artifact.target.crate_types.iter().any(|kind| kind.to_string() == "cdylib");
            if cdylib && artifact.target.name.starts_with("cbus_overlay_") {
                let file = artifact.filenames.iter().find(|file| file.as_str().ends_with(std::env::consts::DLL_SUFFIX));
                library = file.map(|file| file.as_std_path().to_owned());
            }
            let folder = artifact.manifest_path.parent().map(|folder| folder.as_std_path().to_owned());
            packages.insert(artifact.package_id.repr.clone(), folder.clone().unwrap_or_default());
            made.push(Made {
                package: folder.unwrap_or_default(),
                package_name: package_name(&artifact.package_id.repr, &artifact.target.name),
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
            if let Some(message) = CompilerMessage::of(message.message) {
                progress.message(&message);
                messages.push(message);
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
            scripts.push(Script::read(package, &out_dir));
        }
    }
    match library {
        Some(library) if status.success() => Ok(CargoBuilt { library, messages, made, scripts, link_line }),
        _ => Err(failed(spec, messages, &String::from_utf8_lossy(&said))),
    }
}

/// Makes cargo compile these packages again. It goes by times, and takes an older file that was put back for what it
/// has built already.
pub(crate) fn forget(target_dir: &Path, packages: &BTreeSet<String>) {
    // `target/PROFILE/.fingerprint`, or with a target `target/TRIPLE/PROFILE/.fingerprint`.
    let folders = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let below = folders(target_dir).flat_map(|dir| folders(&dir).collect::<Vec<_>>()).collect::<Vec<_>>();
    for profile in folders(target_dir).chain(below).filter(|dir| dir.join(".fingerprint").is_dir()) {
        forget_in(&profile, |name| name.rsplit_once('-').is_some_and(|(package, _)| packages.contains(package)));
    }
}

/// The same in one profile's folder, for what has certain names there (`package-hash`).
pub(crate) fn forget_in(profile: &Path, which: impl Fn(&str) -> bool) {
    // A cargo that builds there holds this lock, and must not lose what it counts on.
    let lock = std::fs::File::options().create(true).append(true).open(profile.join(".cargo-lock"));
    let _locked = lock.and_then(|lock| lock.lock().map(|()| lock));
    let Ok(known) = std::fs::read_dir(profile.join(".fingerprint")) else { return };
    for entry in known.flatten().filter(|entry| which(&entry.file_name().to_string_lossy())) {
        let _ = std::fs::remove_dir_all(entry.path());
    }
}

/// The error of a build: the compiler's own errors, or, without any, what else was said.
pub(crate) fn failed(spec: &PluginSpec, messages: Vec<CompilerMessage>, said: &str) -> Error {
    let errors = messages.iter().filter(|message| message.level == MessageLevel::Error);
    let mut rendered: String = errors.map(|message| message.rendered.as_str()).collect();
    if rendered.is_empty() {
        said.clone_into(&mut rendered);
    }
    Error::Build { plugin: spec.id.clone(), rendered, messages }
}

/// The package's name, by which cargo names what it keeps of it: the end of `registry+url#name@version`, or of
/// `path+file:///folder/name#version` if the folder has the name.
fn package_name(id: &str, target: &str) -> String {
    let (url, end) = id.rsplit_once('#').unwrap_or((id, target));
    match end.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => url.rsplit(['/', '\\']).next().unwrap_or(target).to_owned(),
    }
}

/// Where cargo keeps the sources of the crates that it has downloaded.
fn registry_sources() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    home.unwrap_or_default().join("registry/src")
}

/// `FROM=TO`, in lines.
fn lines(pairs: &[(PathBuf, String)]) -> String {
    pairs.iter().map(|(from, to)| format!("{}={to}\n", from.display())).collect()
}

fn command(
    overlay: &Overlay,
    spec: &PluginSpec,
    options: &BuildOptions,
    capture: Option<&Capture>,
    local: &[(PathBuf, String)],
) -> Command {
    let mut command = Command::new("cargo");
    command.args(["rustc", "--lib", "--message-format=json-diagnostic-rendered-ansi", "--manifest-path"]);
    command.arg(overlay.dir.join("Cargo.toml"));
    if spec.release {
        command.arg("--release");
    }
    // Over what cargo's own settings and variables say, which come before the overlay's.
    command.arg("--config").arg(format!("profile.{}.panic=\"unwind\"", spec.profile_name()));
    if cfg!(target_os = "linux") {
        // The slices' boundaries stay this library's own, and no two builds share a name.
        let name = format!("-Clink-arg=-Wl,-soname,{}-{}", spec.slug(), overlay.build_hash);
        command.args(["--", "-Clink-arg=-Wl,-z,start-stop-visibility=hidden", &name]);
        if capture.is_some() && spec.watch {
            // To link it again without compiling it again.
            command.args(["-Csave-temps", "--print=link-args"]);
        }
    }
    if let Some(capture) = capture {
        if let Some(outer) = outer_environment(&callers_environment()) {
            command.env("CBUS_CAPTURE", &capture.folder).env("CBUS_OUTER", outer);
        }
        command.env("CBUS_WRAPPER", std::env::var_os("RUSTC_WRAPPER").unwrap_or_default());
        command.env("RUSTC_WRAPPER", &capture.shim);
        command.env("CBUS_REMAP", lines(&[(registry_sources(), "/registry".to_owned())]));
        if !spec.watch {
            // Equal inputs give an equal artifact, whoever builds it and wherever.
            command.env("CBUS_LOCAL", lines(local));
        }
    }
    command.current_dir(&overlay.root).env("CARGO_TARGET_DIR", &options.target_dir);
    // What is built once is better without, and what is built again and again is three times faster with it.
    command.env("CARGO_INCREMENTAL", if spec.watch { "1" } else { "0" });
    without_the_callers_cargo(&mut command);
    process::prepare(&mut command);
    command
}

/// What the cargo or clippy that runs this process says to this process, and not to those that it starts.
const CALLERS: [&str; 6] =
    ["RUSTC_WORKSPACE_WRAPPER", "CARGO_MAKEFLAGS", "MAKEFLAGS", "CARGO", "CLIPPY_ARGS", "RUSTUP_TOOLCHAIN_SOURCE"];

fn is_the_callers(name: &str) -> bool {
    let about_this_process = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    CALLERS.contains(&name) || about_this_process.iter().any(|start| name.starts_with(start))
}

/// Whether a variable of this process decides how cargo builds.
pub(crate) fn decides(name: &str) -> bool {
    (name.starts_with("CARGO") || name.starts_with("RUST")) && !is_the_callers(name) && !name.starts_with("RUST_LOG")
}

/// The environment of this process, but for what is about this process.
pub(crate) fn callers_environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !is_the_callers(&name.to_string_lossy())).collect()
}

/// Takes out of a command's environment what is about this process.
fn without_the_callers_cargo(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_the_callers(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
}

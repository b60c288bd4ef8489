//! Runs cargo on an overlay and finds the library that it made.

use std::path::PathBuf;

use cargo_metadata::Message;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::build::BuildOptions;
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
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<CargoBuilt> {
    progress.phase(BuildPhase::Compiling);
    let child = command(overlay, spec, options)
        .spawn()
        .map_err(Error::io("running cargo (is Rust installed?)", &overlay.dir))?;
    let (mut library, mut messages) = (None, Vec::new());
    let line = |line: &[u8]| match serde_json::from_slice(line) {
        Ok(Message::CompilerArtifact(artifact)) => {
            if !artifact.fresh {
                progress.compiled(&artifact.target.name);
            }
            let cdylib = artifact.target.crate_types.iter().any(|kind| kind.to_string() == "cdylib");
            if cdylib && artifact.target.name.starts_with("cbus_overlay_") {
                let made = artifact.filenames.iter().find(|file| file.as_str().ends_with(std::env::consts::DLL_SUFFIX));
                library = made.map(|file| file.as_std_path().to_owned());
            }
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
    match library {
        Some(library) if status.success() => Ok(CargoBuilt { library, messages }),
        _ => Err(failed(spec, messages, &String::from_utf8_lossy(&said))),
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

fn command(overlay: &Overlay, spec: &PluginSpec, options: &BuildOptions) -> Command {
    let mut command = Command::new("cargo");
    command.args(["rustc", "--lib", "--message-format=json-diagnostic-rendered-ansi"]);
    if spec.release {
        command.arg("--release");
    }
    if cfg!(target_os = "linux") {
        // The slices' boundaries stay this library's own, and no two builds share a name.
        let name = format!("-Clink-arg=-Wl,-soname,{}-{}", spec.slug(), overlay.build_hash);
        command.args(["--", "-Clink-arg=-Wl,-z,start-stop-visibility=hidden", &name]);
    }
    command.current_dir(&overlay.dir).env("CARGO_TARGET_DIR", &options.target_dir);
    // What is built to be shipped is better without, and what is built again and again is three times faster with it.
    command.env("CARGO_INCREMENTAL", if spec.release && !spec.watch { "0" } else { "1" });
    without_the_callers_cargo(&mut command);
    process::prepare(&mut command);
    command
}

/// Takes out of a command's environment what the cargo or clippy that runs this process says about this process.
fn without_the_callers_cargo(command: &mut Command) {
    for name in
        ["RUSTC_WORKSPACE_WRAPPER", "CARGO_MAKEFLAGS", "MAKEFLAGS", "CARGO", "CLIPPY_ARGS", "RUSTUP_TOOLCHAIN_SOURCE"]
    {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_BIN_") {
            command.env_remove(&name);
        }
    }
}

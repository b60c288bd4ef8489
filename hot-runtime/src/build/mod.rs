//! Runs cargo on an overlay and finds the library that it made.

pub(crate) mod inputs;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use cargo_metadata::Message;
use cargo_metadata::diagnostic::DiagnosticLevel;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::overlay::{Overlay, PluginSpec};

/// How a plugin is built.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Where cargo's outputs go; plugins that share one share their dependencies' builds.
    pub target_dir: PathBuf,
    /// Whether to build with the release profile.
    pub release: bool,
    /// When to give up.
    pub timeout: Duration,
}

/// A built library, not yet sealed.
#[derive(Clone, Debug)]
pub struct Built {
    /// The file.
    pub library: PathBuf,
    /// The hash of what it was built from.
    pub build_hash: String,
    /// How long it took.
    pub duration: Duration,
    /// How many warnings there were.
    pub warnings: usize,
}

/// The right to build one plugin in a target folder, which two processes may share. Released on drop.
pub(crate) struct Turn {
    _file: std::fs::File,
}

impl Turn {
    /// Waits until nobody else builds this plugin there.
    pub(crate) async fn take(target_dir: &Path, spec: &PluginSpec) -> Result<Self> {
        let path = target_dir.join(format!(".cbus-{}.lock", spec.slug()));
        std::fs::create_dir_all(target_dir).map_err(Error::io("creating the target folder", target_dir))?;
        let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(Error::io("opening the build's lock file", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                // Another process's end cannot be awaited without a thread that could not be cancelled.
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(std::fs::TryLockError::Error(error)) => return Err(Error::io("locking the build", &path)(error)),
            }
        }
    }
}

/// Builds an overlay. Cancelling stops the compiler with all that it started.
///
/// # Errors
/// [`Error::Build`] with the rendered messages, [`Error::BuildTimedOut`], [`Error::Cancelled`].
pub async fn build(
    overlay: &Overlay,
    spec: &PluginSpec,
    options: &BuildOptions,
    cancel: &CancellationToken,
) -> Result<Built> {
    let begun = Instant::now();
    let cancelled = || Error::Cancelled { plugin: spec.id.clone() };
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    let mut child = command(overlay, spec, options)
        .spawn()
        .map_err(Error::io("running cargo (is Rust installed?)", &overlay.dir))?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        let out = async {
            match stdout {
                Some(mut stdout) => stdout.read_to_end(&mut out).await,
                None => Ok(0),
            }
        };
        let err = async {
            match stderr {
                Some(mut stderr) => stderr.read_to_end(&mut err).await,
                None => Ok(0),
            }
        };
        let _ = tokio::join!(out, err);
    };
    tokio::select! {
        () = reading => {}
        () = cancel.cancelled() => {
            stop(&mut child).await;
            return Err(cancelled());
        }
        () = tokio::time::sleep(options.timeout) => {
            stop(&mut child).await;
            return Err(Error::BuildTimedOut { plugin: spec.id.clone(), after: options.timeout });
        }
    }
    let status = child.wait().await.map_err(Error::io("waiting for cargo", &overlay.dir))?;
    let messages = Messages::read(&out);
    match messages.library {
        Some(library) if status.success() => Ok(Built {
            library,
            build_hash: overlay.build_hash.clone(),
            duration: begun.elapsed(),
            warnings: messages.warnings,
        }),
        _ => {
            let rendered =
                if messages.errors.is_empty() { String::from_utf8_lossy(&err).into_owned() } else { messages.errors };
            Err(Error::Build { plugin: spec.id.clone(), rendered })
        }
    }
}

fn command(overlay: &Overlay, spec: &PluginSpec, options: &BuildOptions) -> Command {
    let mut command = Command::new("cargo");
    command.args(["rustc", "--lib", "--message-format=json-diagnostic-rendered-ansi"]);
    if options.release {
        command.arg("--release");
    }
    if cfg!(target_os = "linux") {
        // The slices' boundaries stay this library's own, and no two builds share a name.
        let name = format!("-Clink-arg=-Wl,-soname,{}-{}", spec.slug(), overlay.build_hash);
        command.args(["--", "-Clink-arg=-Wl,-z,start-stop-visibility=hidden", &name]);
    }
    command.current_dir(&overlay.dir).env("CARGO_TARGET_DIR", &options.target_dir).env("CARGO_INCREMENTAL", "1");
    // What the cargo or clippy that runs this process says is about this process.
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
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    command
}

/// Kills cargo's whole process group, compilers and linkers included, and waits for cargo's end.
async fn stop(child: &mut Child) {
    #[cfg(unix)]
    if let Some(id) = child.id() {
        let killed = Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).status().await;
        if !killed.is_ok_and(|status| status.success()) {
            tracing::warn!("the compiler's process group could not be killed; cargo alone is");
        }
    }
    let _ = child.kill().await;
}

/// What cargo said on its standard output.
#[derive(Default)]
struct Messages {
    library: Option<PathBuf>,
    errors: String,
    warnings: usize,
}

impl Messages {
    fn read(out: &[u8]) -> Self {
        let mut found = Self::default();
        for message in Message::parse_stream(out).map_while(std::result::Result::ok) {
            match message {
                Message::CompilerArtifact(artifact) => {
                    let cdylib = artifact.target.crate_types.iter().any(|kind| kind.to_string() == "cdylib");
                    if cdylib && artifact.target.name.starts_with("cbus_overlay_") {
                        let library = artifact
                            .filenames
                            .iter()
                            .find(|file| file.as_str().ends_with(std::env::consts::DLL_SUFFIX));
                        found.library = library.map(|file| file.as_std_path().to_owned());
                    }
                }
                Message::CompilerMessage(message) => match message.message.level {
                    DiagnosticLevel::Error | DiagnosticLevel::Ice => {
                        found.errors.push_str(message.message.rendered.as_deref().unwrap_or(&message.message.message));
                    }
                    DiagnosticLevel::Warning => found.warnings += 1,
                    _ => {}
                },
                _ => {}
            }
        }
        found
    }
}

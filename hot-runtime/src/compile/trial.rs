//! Builds an empty library as a plugin is built, to find out what there is: cargo, rustc, and which linker.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::capture::Capture;
pub(crate) use super::link::Linking;
use crate::source::environment;

/// What a trial has shown.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) took: Duration,
    /// How the library was linked; `None` if that is not understood.
    pub(crate) linking: Option<Linking>,
    /// Whether calls of rustc can be recorded, so that direct builds are possible.
    pub(crate) is_recorded: bool,
}

/// Builds the library in a directory of its own, with what is set for a workspace. Blocks.
///
/// # Errors
/// What cargo says, or why it cannot be run.
pub(crate) fn build(root: &Path) -> Result<Trial, String> {
    let folder = tempfile::Builder::new().prefix("cbus-trial-").tempdir().map_err(|error| error.to_string())?;
    let manifest = folder.path().join("Cargo.toml");
    let text = "[package]\nname = \"trial\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\
                crate-type = [\"cdylib\"]\n\n[workspace]\n";
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).map_err(|error| error.to_string());
    write("Cargo.toml", text)?;
    write("lib.rs", "#[unsafe(no_mangle)]\npub extern \"C\" fn trial() {}\n")?;
    let target = folder.path().join("target");
    let mut cargo = Command::new("cargo");
    environment::scrub_cargo_env(&mut cargo);
    cargo.args(["rustc", "--lib", "--quiet", "--offline", "--manifest-path"]).arg(&manifest);
    cargo.args(["--", "-Csave-temps", "--print=link-args"]);
    cargo.current_dir(root).env("CARGO_TARGET_DIR", &target).env("CARGO_BUILD_BUILD_DIR", &target).stdin(Stdio::null());
    let begun = Instant::now();
    let output = cargo.output().map_err(|error| format!("cargo cannot be run: {error}"))?;
    let took = begun.elapsed();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let linking = said.lines().find(|line| line.contains("/symbols.o")).and_then(Linking::of);
    let is_recorded = Capture::prepare(&target).is_some();
    Ok(Trial { took, linking, is_recorded })
}

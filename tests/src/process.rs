//! What the tests of process-hosted plugins share: the `hazard` fixture's directives, and its artifact, built once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::PluginSpec;
use hot_runtime::compile::{BuildOptions, PluginBuilder};
use tokio::sync::OnceCell;

use crate::{Answer, Scratch, nonce, target_dir, work_dir};

/// The same directive as in the `hazard` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "hazard/do", value = Answer)]
pub struct Do {
    /// What the controller shall do.
    pub what: String,
    /// Makes requests differ.
    pub nonce: u64,
}

/// Runs the `hazard` fixture.
pub const CONFIG: &str = "hazard:\n  id: hazard\n";

/// A request to the fixture that no other is equal to.
pub fn a_request(what: &str) -> Do {
    Do { what: what.to_owned(), nonce: nonce() }
}

/// Asks the fixture to do something.
///
/// # Errors
/// What it answered, or that it did not within 20 s.
pub async fn act(bus: &Bus, what: &str) -> Result<String> {
    match tokio::time::timeout(Duration::from_secs(20), bus.resolve(a_request(what))).await {
        Ok(answer) => Ok(answer?.0.clone()),
        Err(_) => Err(Error::msg(format!("no answer to `{what}` within 20 s"))),
    }
}

/// The fixture's artifact, built once.
pub async fn hazard() -> &'static Path {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_init(|| artifact("hazard", &["hazard"])).await
}

/// The artifact of a fixture, which may need others beside it.
pub async fn artifact(name: &str, fixtures: &[&str]) -> PathBuf {
    let scratch = Scratch::new(fixtures);
    let spec = PluginSpec::new(name).crate_path(scratch.path(name)).watch(false);
    let mut options = BuildOptions::new(work_dir().join(format!("process-{name}")));
    options.target_dir = target_dir();
    let (mut builder, cancel) = (PluginBuilder::new(spec, options), tokio_util::sync::CancellationToken::new());
    builder.build(&|_| {}, &cancel).await.expect("the fixture builds").artifact
}

/// Whether a process runs (a dead one that nobody has waited for does not).
pub fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").map(|(_, rest)| rest.chars().next().unwrap_or('X'));
    !matches!(state, None | Some('Z' | 'X'))
}

/// The processes that this one has started and that are still there, dead or not.
pub fn children() -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        if parent == Some(std::process::id()) {
            found.push(pid);
        }
    }
    found
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "{what} within 20 s");
}

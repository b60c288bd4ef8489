//! Optimised dependencies: smaller libraries for somebody who edits.
//!
//! A first build takes half the time without optimisation, but its dependencies make a library of several megabytes,
//! which each edit links, reads, hashes and copies. So after the first edit the plugin is built once more, in the
//! background and at a low priority, in a target directory of its own and with optimised dependencies. Edits continue from
//! that build as soon as it is done. The plugin's own crates are never optimised: that would make their compiler
//! slower.
//!
//! A change that cargo must build goes back to the first target directory, and the other one follows in the background.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::direct::Session;
use super::learned::Learned;
use super::lock::BuildLock;
use super::progress::Progress;
use super::{BuildOptions, PluginBuilder};
use crate::error::{Error, Result};
use crate::source::inputs::Snapshot;
use crate::source::overlay::Dependencies;
use crate::source::spec::PluginSpec;
use crate::source::workspace::Workspace;

/// How long after an edit the build starts: whoever edits once more is not slowed down.
const QUIET: Duration = Duration::from_secs(2);

/// The longest wait for a time in which nobody edits.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The build with optimised dependencies.
pub(super) enum Optimizing {
    /// It was not needed yet, or has to be done again.
    NotYet,
    /// It runs, or has ended.
    Running { task: JoinHandle<Result<Optimized>>, _stop: DropGuard },
    /// It failed, or makes no difference: the workspace's profile says how dependencies are optimised.
    Never,
}

/// What such a build leaves.
pub(super) struct Optimized {
    pub(super) workspace: Workspace,
    pub(super) learned: Learned,
    pub(super) session: Session,
    /// The contents that it was built from.
    pub(super) inputs: Snapshot,
}

impl Optimizing {
    /// Starts the build, unless it runs already.
    pub(super) fn start(&mut self, workspace: &Workspace, spec: &PluginSpec, options: &BuildOptions) {
        if !matches!(self, Self::NotYet) {
            return;
        }
        if !options.optimize_dependencies || !spec.watch || !Dependencies::can_be_optimized(workspace, spec) {
            *self = Self::Never;
            return;
        }
        let stop = CancellationToken::new();
        let builder = PluginBuilder {
            dependencies: Dependencies::Optimized,
            ..PluginBuilder::new(spec.clone(), place(spec, options))
        };
        let task = tokio::spawn(builder.build_optimized(stop.clone()));
        *self = Self::Running { task, _stop: stop.drop_guard() };
    }

    /// Stops it, so that it can be started again.
    pub(super) fn stop(&mut self) {
        if !matches!(self, Self::Never) {
            *self = Self::NotYet;
        }
    }

    /// What it left, if it has just ended.
    pub(super) async fn done(&mut self, plugin: &str) -> Option<Optimized> {
        let Self::Running { task, .. } = self else { return None };
        if !task.is_finished() {
            return None;
        }
        let ended = task.await;
        *self = Self::NotYet;
        let error = match ended {
            Ok(Ok(optimized)) => return Some(optimized),
            // A mistake in the plugin, which is mended by a later edit. The dependencies are compiled by then.
            Ok(Err(error @ Error::Build { .. })) => {
                let error = error.with_causes().to_string();
                tracing::debug!(plugin, error, "optimising the dependencies is put off");
                return None;
            }
            Ok(Err(error)) => error.with_causes().to_string(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(plugin, error, "the dependencies stay as they are: optimising them failed");
        *self = Self::Never;
        None
    }
}

/// Where a plugin is built with optimised dependencies: inside the target directory, but with other locks.
pub(super) fn place(spec: &PluginSpec, options: &BuildOptions) -> BuildOptions {
    let target_dir = target_dir(&options.target_dir);
    let overlay = target_dir.join("overlays").join(spec.slug());
    BuildOptions { target_dir, overlay_dir: Some(overlay), output: None, keep: 0, ..options.clone() }
}

/// The target directory for optimised dependencies of the plugins in a target directory.
fn target_dir(beside: &Path) -> PathBuf {
    beside.join("cbus").join("optimized")
}

impl PluginBuilder {
    async fn build_optimized(mut self, cancel: CancellationToken) -> Result<Optimized> {
        // If it is cancelled, that is noticed next.
        let _ = cancel.run_until_cancelled(tokio::time::sleep(QUIET)).await;
        self.build_in_background(&cancel).await?;
        let inputs = self.inputs.built();
        match (self.session, self.learned) {
            (Some(session), Some(learned)) => Ok(Optimized { workspace: self.workspace, learned, session, inputs }),
            _ => Err(Error::Settings { reason: "it is not known how cargo called rustc".to_owned() }),
        }
    }

    async fn build_in_background(&mut self, cancel: &CancellationToken) -> Result<()> {
        let mut progress = Progress::new(&|_| {});
        let _lock = BuildLock::acquire(&self.options.target_dir, &self.spec, &mut progress, cancel).await?;
        let mut wait = QUIET;
        while self.build_by_cargo(&mut progress, cancel, &|_| (), 0).await?.is_none() {
            // It was edited meanwhile. There is no hurry.
            tracing::debug!(plugin = self.spec.id, "edited while its dependencies were optimised: once more");
            let _ = cancel.run_until_cancelled(tokio::time::sleep(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Ok(())
    }
}

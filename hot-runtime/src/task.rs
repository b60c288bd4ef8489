//! One plugin's task: it builds, swaps and unloads in turn, and starts a build over that a newer change overtakes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::artifact::Verified;
use crate::build::{self, BuildEvent, BuildOptions, BuildPhase, MessageLevel, PluginBuilder};
use crate::error::{Error, Result};
use crate::event::{RuntimeEvent, SwapReport, Timeline, UnloadReport};
use crate::overlay::PluginSpec;
use crate::process::Isolation;
use crate::runtime::Shared;
use crate::swap::{self, Generation, millis};
use crate::watch::{Change, Watcher};
use crate::workspace::Workspace;

/// What a plugin's task is asked to do.
pub(crate) enum Command {
    /// Build it and swap it in.
    Build(Option<oneshot::Sender<Result<Option<SwapReport>>>>),
    /// Swap a built artifact in.
    Load(Box<Verified>, Timeline, oneshot::Sender<Result<SwapReport>>),
    /// Bring what serves to where it is to run now.
    Place(oneshot::Sender<Result<Option<SwapReport>>>),
    /// Take it off the bus and unload it.
    Unload(oneshot::Sender<Result<UnloadReport>>),
}

/// Where a plugin is built from.
pub(crate) struct Source {
    builder: PluginBuilder,
    watcher: Option<Watcher>,
    changes: Option<mpsc::UnboundedReceiver<Change>>,
}

impl Source {
    /// Reads what the plugin is made of and starts to watch it, if its spec says so.
    pub(crate) async fn new(spec: PluginSpec, options: BuildOptions) -> Result<Self> {
        let (crates, watch) = (spec.crates.clone(), spec.watch);
        let workspace = build::blocking(move || Workspace::read(&crates)).await?;
        let (mut watcher, mut changes) = (None, None);
        if watch {
            let watching = Watcher::of_sources(workspace.watched)?;
            (watcher, changes) = (Some(watching.0), Some(watching.1));
        }
        Ok(Self { builder: PluginBuilder::new(spec, options), watcher, changes })
    }
}

/// One plugin's task.
pub(crate) struct Plugin {
    id: String,
    shared: Arc<Shared>,
    source: Option<Source>,
    current: Option<Generation>,
}

impl Plugin {
    /// A plugin of which nothing is loaded yet.
    pub(crate) fn new(id: &str, shared: Arc<Shared>, source: Option<Source>) -> Self {
        Self { id: id.to_owned(), shared, source, current: None }
    }

    /// Does what it is asked to and follows its source, until it is told to stop or nobody can ask any more.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            let changes = self.source.as_mut().and_then(|source| source.changes.as_mut());
            let change = async {
                match changes {
                    Some(changes) => changes.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                command = commands.recv() => match command {
                    Some(Command::Build(answer)) => {
                        let result = self.build_and_swap(None, &stop).await;
                        if let Some(answer) = answer {
                            let _ = answer.send(result);
                        }
                    }
                    Some(Command::Load(artifact, timeline, answer)) => {
                        let result = self.swap(*artifact, timeline, None).await;
                        let _ = answer.send(result);
                    }
                    Some(Command::Place(answer)) => {
                        let _ = answer.send(self.place().await);
                    }
                    Some(Command::Unload(answer)) => self.unload(answer),
                    None => break,
                },
                Some(change) = change => {
                    if let Some(changes) = self.source.as_mut().and_then(|source| source.changes.as_mut()) {
                        settle(changes).await;
                    }
                    // Errors are told as events; there is nobody to answer.
                    let _ = self.build_and_swap(Some(change.at), &stop).await;
                }
            }
        }
        if let Some(generation) = self.current.take() {
            swap::remove(&self.shared, &self.id, generation, None);
        }
    }

    /// Swaps what serves for the same code where it is to run now.
    async fn place(&mut self) -> Result<Option<SwapReport>> {
        let Some(current) = &self.current else { return Ok(None) };
        let wanted = self.shared.placing.of(&self.id);
        let same_place = wanted.isolation == current.placement.isolation;
        let same_place = same_place && wanted.capabilities == current.placement.capabilities;
        if wanted == current.placement || (same_place && wanted.isolation == Isolation::None) {
            return Ok(None);
        }
        let begun = Instant::now();
        let artifact = match build::blocking(current.artifact()).await {
            Ok(artifact) => artifact,
            Err(error) => return Err(self.rolled_back(error)),
        };
        let timeline = Timeline { verify_ms: millis(begun), ..Timeline::default() };
        self.swap(artifact, timeline, None).await.map(Some)
    }

    /// Takes it off the bus and unloads it, for which this task does not wait: what does not end keeps nobody.
    fn unload(&mut self, answer: oneshot::Sender<Result<UnloadReport>>) {
        match self.current.take() {
            Some(generation) => swap::remove(&self.shared, &self.id, generation, Some(answer)),
            None => drop(answer.send(Err(Error::UnknownPlugin { id: self.id.clone(), nearest: None }))),
        }
    }

    /// Builds until a build is not overtaken by a change, then swaps. Never two builds at once.
    async fn build_and_swap(
        &mut self,
        edited: Option<Instant>,
        stop: &CancellationToken,
    ) -> Result<Option<SwapReport>> {
        let mut edited = edited;
        let serving = self.current.as_ref().map(|current| current.number);
        let built = loop {
            let Some(source) = self.source.as_mut() else {
                return Err(Error::UnknownPlugin { id: self.id.clone(), nearest: None });
            };
            let cancel = stop.child_token();
            self.shared.emit(RuntimeEvent::BuildStarted { plugin: self.id.clone() });
            let observer = |event| self.shared.emit(told(&self.id, event));
            let watcher = source.watcher.as_ref();
            let building = source.builder.build_watching(&observer, &cancel, |paths| match watcher {
                // A dependency may have come or gone with the edit.
                Some(watcher) => watcher.set_paths(paths),
                None => Ok(()),
            });
            tokio::pin!(building);
            let overtaken = async {
                match source.changes.as_mut() {
                    Some(changes) => match changes.recv().await {
                        Some(change) => change,
                        None => std::future::pending().await,
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                change = overtaken => {
                    // What is being built is out of date: stop it, wait until it has stopped, start over.
                    cancel.cancel();
                    let _ = building.await;
                    edited = Some(edited.unwrap_or(change.at));
                    if let Some(changes) = source.changes.as_mut() {
                        settle(changes).await;
                    }
                }
                built = &mut building => break built,
            }
        };
        let (built, in_memory) = match built {
            Ok(built) => built,
            Err(error) => {
                let (rendered, messages) = match &error {
                    Error::Cancelled { .. } => return Err(error),
                    Error::Build { rendered, messages, .. } => (rendered.clone(), messages.clone()),
                    other => (other.to_string(), Vec::new()),
                };
                self.shared.emit(RuntimeEvent::BuildFailed { plugin: self.id.clone(), rendered, messages, serving });
                return Err(error);
            }
        };
        self.shared.emit(RuntimeEvent::Built {
            plugin: self.id.clone(),
            build_ms: built.build_ms,
            by: built.by,
            phases: built.phases.clone(),
            warnings: built.messages.iter().filter(|message| message.level == MessageLevel::Warning).count(),
        });
        if self.current.as_ref().is_some_and(|current| current.build_hash == built.build_hash) {
            self.shared.emit(RuntimeEvent::Unchanged { plugin: self.id.clone(), serving });
            return Ok(None);
        }
        let begun = Instant::now();
        let reading = move || match in_memory {
            Some(sealed) => Verified::just_built(sealed),
            None => Verified::of_build(&built.artifact, &built.hash),
        };
        let artifact = match build::blocking(reading).await {
            Ok(artifact) => artifact,
            Err(error) => return Err(self.rolled_back(error)),
        };
        let timeline = Timeline { build_ms: built.build_ms, verify_ms: millis(begun), ..Timeline::default() };
        self.swap(artifact, timeline, edited).await.map(Some)
    }

    async fn swap(&mut self, artifact: Verified, timeline: Timeline, edited: Option<Instant>) -> Result<SwapReport> {
        match swap::replace(&self.shared, &self.id, self.current.as_ref(), artifact, timeline, edited).await {
            Ok((generation, report, committed)) => {
                if let Some(old) = self.current.replace(generation) {
                    let retiring = swap::retire(Arc::clone(&self.shared), self.id.clone(), old, committed, true);
                    self.shared.retiring.spawn(retiring);
                }
                Ok(report)
            }
            Err(error) => Err(self.rolled_back(error)),
        }
    }

    /// Tells why nothing was swapped.
    fn rolled_back(&self, error: Error) -> Error {
        self.shared.emit(RuntimeEvent::RolledBack {
            plugin: self.id.clone(),
            reason: error.to_string(),
            serving: self.current.as_ref().map(|current| current.number),
        });
        error
    }
}

/// A build's event as one of the runtime's.
fn told(plugin: &str, event: BuildEvent) -> RuntimeEvent {
    let plugin = plugin.to_owned();
    match event {
        BuildEvent::Phase { phase, elapsed_ms } => {
            RuntimeEvent::BuildProgress { plugin, phase, compiled: None, elapsed_ms }
        }
        BuildEvent::Compiled { package, elapsed_ms } => {
            let phase = BuildPhase::Compiling;
            RuntimeEvent::BuildProgress { plugin, phase, compiled: Some(package), elapsed_ms }
        }
        BuildEvent::Message { message } => RuntimeEvent::CompilerSays { plugin, message },
    }
}

/// A save is several file events in a row: how long no further one must come.
const QUIET: Duration = Duration::from_millis(1);

/// How long to wait for quiet at most.
const SETTLED: Duration = Duration::from_millis(10);

/// Reads on until a save's events are all there, so that its build is not started for half of it.
async fn settle(changes: &mut mpsc::UnboundedReceiver<Change>) {
    let quiet = async { while let Ok(Some(_)) = tokio::time::timeout(QUIET, changes.recv()).await {} };
    let _ = tokio::time::timeout(SETTLED, quiet).await;
}

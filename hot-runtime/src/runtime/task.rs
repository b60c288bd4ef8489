//! One plugin's task: it builds, swaps and unloads one after the other, and restarts a build that a newer change
//! overtakes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::artifact::{Inspected, Verified};
use crate::compile::{BuildEvent, BuildOptions, BuildPhase, BuildReport, Inputs, MessageLevel, PluginBuilder};
use crate::error::{Error, Result};
use crate::event::{RuntimeEvent, SwapReport, Timeline, UnloadReport};
use crate::generation::context::Shared;
use crate::generation::serving::Serving;
use crate::source::spec::PluginSpec;
use crate::source::watch::{Following, Watched, Watcher};
use crate::text::duration;
use crate::util::blocking;

/// What a plugin's task is asked to do.
pub(crate) enum Command {
    /// Build it and swap it in.
    Build(Option<oneshot::Sender<Result<Option<SwapReport>>>>),
    /// Swap a built artifact in.
    Load(Box<Verified>, Timeline, oneshot::Sender<Result<SwapReport>>),
    /// Move the serving generation to where it is to run now.
    Place(oneshot::Sender<Result<Option<SwapReport>>>),
    /// Take it off the bus and unload it.
    Unload(oneshot::Sender<Result<UnloadReport>>),
    /// Build it from here from now on.
    Source(Box<NewSource>, oneshot::Sender<Result<()>>),
    /// Build it no more, and unload it.
    Leave(oneshot::Sender<Result<UnloadReport>>),
}

/// What a plugin is to be built from.
pub(crate) struct NewSource {
    pub(crate) spec: PluginSpec,
    pub(crate) options: BuildOptions,
    pub(crate) watcher: Watcher,
    /// Ends its builds.
    pub(crate) stop: CancellationToken,
}

/// Where a plugin is built from.
pub(crate) struct Source {
    builder: PluginBuilder,
    changes: Changes,
    /// Ends its builds.
    stop: CancellationToken,
}

impl Source {
    /// Reads what the plugin is made of and starts watching it, if its spec says so.
    pub(crate) async fn new(NewSource { spec, options, watcher, stop }: NewSource) -> Result<Self> {
        let following = spec.watch.then(|| watcher.follow());
        let mut builder = PluginBuilder::new(spec, options);
        builder.generate().await?;
        let inputs = builder.inputs();
        if let Some(following) = &following {
            following.set(inputs.watched());
        }
        Ok(Self { builder, changes: Changes { inputs, following, hint: None }, stop })
    }
}

/// The changes of what a plugin is built from.
struct Changes {
    inputs: Inputs,
    following: Option<Following>,
    /// When a change was reported that has not been looked at yet.
    hint: Option<Instant>,
}

impl Changes {
    /// Waits until an input's content is not what it was when the last build started; returns since when. Cancel-safe.
    async fn next(&mut self, paused: &watch::Sender<bool>) -> Instant {
        let Some(following) = &mut self.following else { return std::future::pending().await };
        loop {
            let mut at = match self.hint {
                Some(at) => at,
                None => *self.hint.insert(following.changed().await.at),
            };
            following.settle(QUIET, SETTLED).await;
            if *paused.borrow() {
                resumed(paused, following).await;
                // Nobody wants to know how long the pause was.
                at = Instant::now();
            }
            let inputs = self.inputs.clone();
            let changed = blocking(move || Ok(inputs.changed())).await;
            self.hint = None;
            if matches!(changed, Ok(true)) {
                return at;
            }
        }
    }

    /// A function that changes what is watched.
    fn set(&self) -> impl Fn(Vec<Watched>) + use<> {
        let setter = self.following.as_ref().map(Following::setter);
        move |watched| {
            if let Some(set) = &setter {
                set(watched);
            }
        }
    }
}

/// One plugin's task.
pub(crate) struct Plugin {
    id: String,
    shared: Arc<Shared>,
    source: Option<Source>,
    serving: Arc<Serving>,
}

impl Plugin {
    /// A plugin that is not loaded yet.
    pub(crate) fn new(shared: Arc<Shared>, source: Option<Source>, serving: Arc<Serving>, id: &str) -> Self {
        Self { id: id.to_owned(), shared, source, serving }
    }

    /// Serves commands and follows its source until it is stopped or its last handle is dropped.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            let change = async {
                match &mut self.source {
                    Some(source) if !source.stop.is_cancelled() => source.changes.next(&self.shared.paused).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                command = commands.recv() => match command {
                    Some(Command::Build(answer)) => {
                        let result = self.build_and_swap(None).await;
                        if let Some(answer) = answer {
                            let _ = answer.send(result);
                        }
                    }
                    Some(Command::Load(artifact, timeline, answer)) => {
                        let result = self.serving.swap(*artifact, timeline, None).await;
                        let _ = answer.send(result);
                    }
                    Some(Command::Place(answer)) => {
                        let _ = answer.send(self.serving.place().await);
                    }
                    Some(Command::Unload(answer)) => self.serving.unload(Some(answer)).await,
                    Some(Command::Source(source, answer)) => {
                        // The one before has the same overlay.
                        self.source = None;
                        let (found, said) = match Source::new(*source).await {
                            Ok(source) => (Some(source), Ok(())),
                            Err(error) => (None, Err(error)),
                        };
                        self.source = found;
                        let builds = said.is_ok();
                        let _ = answer.send(said);
                        if builds {
                            let _ = self.build_and_swap(None).await;
                        }
                    }
                    Some(Command::Leave(answer))
                        if self.source.as_ref().is_some_and(|source| !source.stop.is_cancelled()) =>
                    {
                        // Another config builds it by now; whoever leaves has stopped its own source before.
                        let _ = answer.send(Err(Error::UnknownPlugin { id: self.id.clone(), nearest: None }));
                    }
                    Some(Command::Leave(answer)) => {
                        self.source = None;
                        self.serving.unload(Some(answer)).await;
                        self.shared.emit(RuntimeEvent::SourceRemoved { plugin: self.id.clone() });
                    }
                    None => break,
                },
                edited = change => {
                    // Errors are reported as events; there is no caller to answer.
                    let _ = self.build_and_swap(Some(edited)).await;
                }
            }
        }
        self.serving.unload(None).await;
    }

    /// Builds until no change overtakes the build, then swaps. Never two builds at once.
    async fn build_and_swap(&mut self, edited: Option<Instant>) -> Result<Option<SwapReport>> {
        let mut edited = edited;
        let mut overtaken = 0;
        let serving = self.serving.number().await;
        loop {
            let built = {
                let Some(source) = self.source.as_mut() else {
                    return Err(Error::UnknownPlugin { id: self.id.clone(), nearest: None });
                };
                let cancel = source.stop.child_token();
                self.shared.emit(RuntimeEvent::BuildStarted { plugin: self.id.clone() });
                let observer = |event| self.shared.emit(to_runtime_event(&self.id, event));
                let private = self.shared.private_dir.path();
                let building = source.builder.build_watching(&observer, &cancel, source.changes.set(), Some(private));
                tokio::pin!(building);
                tokio::select! {
                    biased;
                    // Sources that are written all the time are built all the same.
                    at = source.changes.next(&self.shared.paused), if overtaken < OVERTAKEN => {
                        // The build is out of date: stop it, wait until it has stopped, start over.
                        cancel.cancel();
                        let _ = building.await;
                        overtaken += 1;
                        edited = Some(edited.unwrap_or(at));
                        continue;
                    }
                    built = &mut building => built,
                }
            };
            let (built, in_memory) = self.built(built, serving)?;
            if self.serving.is_build(&built.build_hash).await {
                self.shared.emit(RuntimeEvent::Unchanged { plugin: self.id.clone(), serving });
                return Ok(None);
            }
            match self.allowed(overtaken).await {
                Answer::Overtaken(at) => {
                    overtaken += 1;
                    edited = Some(edited.unwrap_or(at));
                }
                Answer::No(reason) => {
                    let error = Error::NotAllowed { plugin: self.id.clone(), reason };
                    return Err(self.serving.refused(error).await);
                }
                Answer::Stopped => return Err(Error::Cancelled { plugin: self.id.clone() }),
                Answer::Yes => return self.swap(built, in_memory, edited).await.map(Some),
            }
        }
    }

    /// Reports how a build ended.
    fn built(
        &self,
        built: Result<(BuildReport, Option<Inspected>)>,
        serving: Option<u64>,
    ) -> Result<(BuildReport, Option<Inspected>)> {
        let (built, in_memory) = match built {
            Ok(built) => built,
            Err(error) => {
                let (rendered, messages) = match &error {
                    Error::Cancelled { .. } => return Err(error),
                    Error::Build { rendered, messages, .. } => (rendered.clone(), messages.clone()),
                    other => (other.with_causes().to_string(), Vec::new()),
                };
                let (plugin, code) = (self.id.clone(), error.code());
                self.shared.emit(RuntimeEvent::BuildFailed { plugin, code, rendered, messages, serving });
                return Err(error);
            }
        };
        self.shared.emit(RuntimeEvent::Built {
            plugin: self.id.clone(),
            took: built.took,
            by: built.by,
            optimized: built.optimized,
            why_cargo: built.why_cargo.clone(),
            why_full_link: built.why_full_link.clone(),
            phases: built.phases.clone(),
            warnings: built.messages.iter().filter(|message| message.level == MessageLevel::Warning).count(),
            messages: built.messages.clone(),
        });
        Ok((built, in_memory))
    }

    /// Asks whether what was built may be swapped in. A change of the sources meanwhile is an answer too.
    async fn allowed(&mut self, overtaken: usize) -> Answer {
        let (Some((check, limit)), Some(source)) = (self.shared.settings.before_swap.clone(), self.source.as_mut())
        else {
            return Answer::Yes;
        };
        let (id, stop) = (self.id.clone(), source.stop.clone());
        // A task of its own, which may panic, and which is stopped when this is not waited for.
        let asked = AbortOnDropHandle::new(tokio::spawn(async move { check(&id).await }));
        tokio::select! {
            biased;
            () = stop.cancelled() => Answer::Stopped,
            at = source.changes.next(&self.shared.paused), if overtaken < OVERTAKEN => Answer::Overtaken(at),
            answer = tokio::time::timeout(limit, asked) => match answer {
                Ok(Ok(Ok(()))) => Answer::Yes,
                Ok(Ok(Err(reason))) => Answer::No(reason),
                Ok(Err(ended)) => Answer::No(format!("the check before the swap ended early: {ended}")),
                Err(_) => Answer::No(format!("the check before the swap took longer than {}", duration(limit))),
            },
        }
    }

    async fn swap(
        &self,
        built: BuildReport,
        in_memory: Option<Inspected>,
        edited: Option<Instant>,
    ) -> Result<SwapReport> {
        let begun = Instant::now();
        let shared = Arc::clone(&self.shared);
        let reading = move || match in_memory {
            Some(sealed) => Verified::just_built(sealed),
            None => Verified::of_build(&built.artifact, &built.hash, shared.private_dir.path()),
        };
        let artifact = match blocking(reading).await {
            Ok(artifact) => artifact,
            Err(error) => return Err(self.serving.refused(error).await),
        };
        let timeline = Timeline { build: built.took, verify: begun.elapsed(), ..Timeline::default() };
        self.serving.swap(artifact, timeline, edited).await
    }
}

/// Whether a build may be swapped in.
enum Answer {
    Yes,
    /// Why not.
    No(String),
    /// It is out of date since then.
    Overtaken(Instant),
    /// It is not built any more.
    Stopped,
}

/// Waits for the end of a pause. What changes meanwhile is looked at then.
async fn resumed(paused: &watch::Sender<bool>, following: &mut Following) {
    let mut state = paused.subscribe();
    loop {
        tokio::select! {
            _ = state.wait_for(|paused| !paused) => return,
            _ = following.changed() => {}
        }
    }
}

/// Converts a build's event to one of the runtime's.
fn to_runtime_event(plugin: &str, event: BuildEvent) -> RuntimeEvent {
    let plugin = plugin.to_owned();
    match event {
        BuildEvent::Phase { phase, elapsed } => RuntimeEvent::BuildProgress { plugin, phase, compiled: None, elapsed },
        BuildEvent::Compiled { package, elapsed } => {
            let phase = BuildPhase::Compiling;
            RuntimeEvent::BuildProgress { plugin, phase, compiled: Some(package), elapsed }
        }
        BuildEvent::Message { message } => RuntimeEvent::CompilerSays { plugin, message },
    }
}

/// Saving a file gives several events: how long there must be no further one.
const QUIET: Duration = Duration::from_millis(1);

/// The longest wait for that.
const SETTLED: Duration = Duration::from_millis(10);

/// How often in a row a build is restarted because an input changed.
const OVERTAKEN: usize = 5;

//! The swap protocol: generation n+1 is prepared beside n, takes over in one step, and n is unloaded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use controllerbus::__private::hot::configs;
use controllerbus::bus::{Bus, ConfigOwner, LastStates, Source};
use controllerbus::controller::factory::Factory;
use controllerbus::error::Code;
use tokio::sync::oneshot;

use crate::artifact::{FactoryRecord, PrivateCopy, Verified};
use crate::error::{Error, Result};
use crate::event::{RuntimeEvent, SwapReport, Timeline, UnloadReport};
use crate::generation::conflicts;
use crate::generation::context::Shared;
use crate::generation::history::Past;
use crate::generation::registry::{GenerationInfo, GenerationState};
use crate::host::capability::{guarded, guarded_factories};
use crate::host::library::{LoadOptions, STAYS_MAPPED, Unload};
use crate::host::placement::Placement;
use crate::host::{Instance, Opening, with_value_types};
use crate::util::blocking;

/// A started generation.
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) build_hash: String,
    pub(crate) placement: Placement,
    /// What it was opened from: to move it elsewhere, or to come back to it.
    pub(crate) copy: PrivateCopy,
    plugin: String,
    /// What runs as soon as it is loaded.
    starts: Option<ConfigOwner>,
    /// The config ids of its factories, from its manifest.
    manifest: Vec<String>,
    /// The types of its values, by directive id, from its manifest.
    value_types: Vec<(String, String)>,
    instance: Instance,
}

impl Generation {
    /// Its factories, restricted to its manifest and to what the plugin may do.
    fn factories(&self) -> Vec<Arc<dyn Factory>> {
        let factories = guarded_factories(self.instance.factories(), &self.plugin, &self.placement, &self.manifest);
        with_value_types(factories, &self.value_types)
    }

    /// Keeps its artifact for when a config changes.
    async fn unfit(&self) -> Option<Unfit> {
        let (number, build, copy) = (self.number, self.build_hash.clone(), self.copy.clone());
        let past = blocking(move || Past::of(number, build, &copy, LastStates::default())).await;
        past.ok().map(|past| Unfit { past, config_ids: self.manifest.clone() })
    }

    /// Reads its artifact from its private copy again, and checks it against the hash that was verified before.
    pub(crate) fn artifact(&self) -> impl FnOnce() -> Result<Verified> + Send + use<> {
        let copy = self.copy.clone();
        move || Verified::again(&copy)
    }
}

/// A generation that was rolled back, and that a change of config may fix.
pub(crate) struct Unfit {
    pub(crate) past: Past,
    /// The config ids of its factories.
    pub(crate) config_ids: Vec<String>,
}

/// Loads a verified artifact as the next generation of `plugin` and swaps it for `current`.
///
/// On an error `current` is untouched and keeps serving; `unfit` is then the new one, if its controllers could not be
/// constructed. A generation that comes `back` starts from those states where it rejects those of `current`.
pub(crate) async fn replace(
    shared: &Arc<Shared>,
    plugin: &str,
    (current, back): (Option<&Generation>, Option<LastStates>),
    artifact: Verified,
    timeline: Timeline,
    edited: Option<Instant>,
    unfit: &mut Option<Unfit>,
) -> Result<(Generation, SwapReport, Option<controllerbus::bus::Committed>)> {
    let mut timeline = timeline;
    if artifact.bundle.id != plugin {
        return Err(Error::Artifact {
            path: artifact.path.clone(),
            code: Code::OTHER_ID,
            reason: format!("it is the plugin `{}`, not `{plugin}`", artifact.bundle.id),
            help: "load it under its own id, or build it with the other id".to_owned(),
        });
    }
    let number = shared.next_generation();
    shared.emit(RuntimeEvent::Loading {
        plugin: plugin.to_owned(),
        generation: number,
        schemas: artifact.factories.iter().map(|factory| factory.schema.clone()).collect(),
    });
    let placement = shared.placements.resolve(plugin);
    let info = GenerationInfo::loading(
        plugin,
        number,
        (&artifact.bundle, &artifact.factories),
        &artifact.path,
        placement.isolation,
    );
    shared.registry.add(info, None);
    let factories: Arc<[FactoryRecord]> = artifact.factories.as_slice().into();
    let known = current.map(|current| shared.registry.conflicts(current.number)).unwrap_or_default();
    let result = bring_up(shared, plugin, (current, back), artifact, number, placement, (&mut timeline, unfit)).await;
    match result {
        Ok((generation, committed)) => {
            timeline.edit_to_live = edited.map(|edited| edited.elapsed());
            shared.registry.set_factories(number, factories);
            shared.registry.set(number, GenerationState::Serving, None);
            let from = current.map(|generation| generation.number);
            if let Some(from) = from {
                shared.registry.set(from, GenerationState::Draining, None);
            }
            let report = SwapReport { plugin: plugin.to_owned(), from, to: number, timeline };
            shared.emit(RuntimeEvent::Swapped {
                plugin: report.plugin.clone(),
                from,
                to: number,
                timeline: report.timeline.clone(),
            });
            conflicts::compare(shared, Some(number), &known);
            Ok((generation, report, committed))
        }
        Err(error) => {
            shared.registry.set(number, GenerationState::Failed, Some(error.with_causes().to_string()));
            Err(error)
        }
    }
}

async fn bring_up(
    shared: &Arc<Shared>,
    plugin: &str,
    (current, back): (Option<&Generation>, Option<LastStates>),
    artifact: Verified,
    number: u64,
    placement: Placement,
    (timeline, unfit): (&mut Timeline, &mut Option<Unfit>),
) -> Result<(Generation, Option<controllerbus::bus::Committed>)> {
    let begun = Instant::now();
    let (records, from) = ((&artifact.bundle, artifact.factories.as_slice()), artifact.path.as_path());
    let loading = GenerationInfo::loading(plugin, number, records, from, placement.isolation);
    let build_hash = artifact.bundle.build_hash.clone();
    let options = LoadOptions {
        bus: guarded(shared.bus.handle(), plugin, &placement),
        plugin: plugin.to_owned(),
        generation: number,
        workers: shared.settings.workers,
    };
    let manifest = artifact.factories.iter().map(|factory| factory.config.clone()).collect();
    let resolved = artifact.factories.iter().flat_map(|factory| factory.resolves.iter().zip(&factory.types));
    let value_types =
        resolved.filter_map(|(id, types)| Some((id.clone(), types.as_ref()?.value_name.clone()))).collect();
    let with_functions = artifact.factories.iter().filter(|factory| factory.functions.is_some());
    let starting: Vec<String> = with_functions.map(|factory| factory.config.clone()).collect();
    let opening = Opening {
        placement: &placement,
        load: options,
        folder: shared.private_dir.path().to_owned(),
        plugin_host: shared.placements.plugin_host().map(std::path::Path::to_owned),
        tell: shared.process_listener(plugin, number),
        #[cfg(all(unix, feature = "process"))]
        deadline: shared.deadlines.of(plugin),
    };
    let (instance, copy) = Instance::open(artifact, opening).await?;
    let info = GenerationInfo {
        pid: instance.pid(),
        layers: instance.layers(placement.capabilities.is_some()),
        path: copy.path().to_owned(),
        ..loading
    };
    shared.registry.add(info, Some(Arc::clone(instance.leases())));
    timeline.load = begun.elapsed();

    let begun = Instant::now();
    let plugin_id = plugin.to_owned();
    let mut generation = Generation {
        number,
        build_hash,
        placement,
        copy,
        plugin: plugin_id,
        starts: None,
        manifest,
        value_types,
        instance,
    };
    let committed = match current {
        None => {
            shared.bus.add_factories(Source(number), generation.factories());
            None
        }
        Some(current) => {
            let factories = generation.factories();
            let (from, to, grace) = (Source(current.number), Source(number), shared.settings.grace);
            let staged = match back {
                Some(states) => shared.bus.stage_back(from, to, factories, grace, states).await,
                None => shared.bus.stage(from, to, factories, grace).await,
            };
            let committed = match staged {
                Ok(staged) => staged.commit(shared.settings.hand_over).await,
                Err(error) => Err(error),
            };
            match committed {
                Ok(committed) => Some(committed),
                Err(error) => {
                    let (kind, reason) = (error.kind(), error.to_string());
                    let code = error.code().unwrap_or(Code::NOT_READY);
                    let failed = Error::Swap { plugin: plugin.to_owned(), generation: number, code, kind, reason };
                    // A config can fix nothing else.
                    if error.is_of_construction() {
                        *unfit = generation.unfit().await;
                    }
                    let retiring = retire(Arc::clone(shared), plugin.to_owned(), generation, None, false);
                    shared.retiring.spawn(retiring);
                    return Err(failed);
                }
            }
        }
    };
    if !starting.is_empty() {
        // What the generation before has started goes on, because it has the same configs.
        let owner = shared.bus.config_owner();
        let set = configs(starting.iter().map(String::as_str));
        if let Err(error) = owner.apply(set).await {
            tracing::error!(plugin, generation = number, %error, "its functions failed to start");
        }
        generation.starts = Some(owner);
    }
    timeline.swap = begun.elapsed();
    Ok((generation, committed))
}

/// Waits until nothing uses a replaced generation, joins its threads, and closes it.
///
/// This goes on in the background for as long as it takes; what keeps the generation is in the registry and reported as
/// events. `served` is false for a generation that was rolled back, which keeps its `failed` state.
pub(crate) async fn retire(
    shared: Arc<Shared>,
    plugin: String,
    generation: Generation,
    committed: Option<controllerbus::bus::Committed>,
    served: bool,
) -> UnloadReport {
    let begun = Instant::now();
    let Generation { number, mut instance, starts, .. } = generation;
    drop(starts);
    let state = |state, reason| {
        if served {
            shared.registry.set(number, state, reason);
        }
    };
    let drain = shared.settings.drain;
    if let Some(committed) = committed {
        // What is pinned has its own limit, which may be longer.
        if tokio::time::timeout(drain, committed.unpinned()).await.is_err() {
            state(GenerationState::Draining, Some(finishing(&shared.bus, number).join("; ")));
            committed.unpinned().await;
        }
        instance.with_kill_after(drain, committed.drained()).await;
    }
    if !served {
        // Nothing of it was on the bus, but for what its controllers have added, if a task of theirs still holds that.
        instance.with_kill_after(drain, shared.bus.remove_source(Source(number))).await;
    }
    let leases = Arc::clone(instance.leases());
    let mut told = None;
    let mut wait = drain;
    loop {
        if tokio::time::timeout(drain, leases.drained()).await.is_err() {
            let held = leases.holders();
            let mut why = vec![format!("held by {held}")];
            why.extend(finishing(&shared.bus, number));
            state(GenerationState::Draining, Some(why.join("; ")));
            let count = held.to_drain();
            shared.emit(RuntimeEvent::Draining { plugin: plugin.clone(), generation: number, leases: count });
            // Connections may last as long as their peers like; all else ends in time, or with its process.
            instance.with_kill_after(Duration::ZERO, leases.done_but_connections()).await;
            leases.drained().await;
        }
        let (outcome, back) = match instance.unload(wait).await {
            Ok(done) => done,
            // A panic while unloading: dropping `Loaded` leaves the library mapped.
            Err(error) => {
                state(GenerationState::Stuck, Some(error.to_string()));
                return report(&plugin, number, begun, Some(false), 0);
            }
        };
        instance = back;
        match outcome {
            Unload::Closed { unmapped, leaked_thread_locals } => {
                shared.bus.forget_source(Source(number));
                let report = report(&plugin, number, begun, unmapped, leaked_thread_locals);
                state(GenerationState::Unloaded, (unmapped == Some(false)).then(|| STAYS_MAPPED.to_owned()));
                shared.emit(RuntimeEvent::Unloaded { plugin, generation: number, took: report.took, unmapped });
                return report;
            }
            Unload::Stuck { threads, reason } => {
                // Reported once, and again when it changes.
                if told.replace(threads) != Some(threads) {
                    state(GenerationState::Stuck, Some(reason.clone()));
                    shared.emit(RuntimeEvent::Stuck { plugin: plugin.clone(), generation: number, threads, reason });
                }
                // From now on it is only polled.
                wait = Duration::ZERO;
            }
            Unload::Held => {}
            Unload::NeverClosed { reason, leaked_thread_locals } => {
                shared.bus.forget_source(Source(number));
                let left = Some(reason.to_owned());
                state(GenerationState::Stuck, left.clone());
                let (event, reason) = (plugin.clone(), reason.to_owned());
                shared.emit(RuntimeEvent::Stuck { plugin: event, generation: number, threads: 0, reason });
                let report = report(&plugin, number, begun, Some(false), leaked_thread_locals);
                return UnloadReport { left, ..report };
            }
        }
        // There is nothing to wait on: that a thread has ended is only known by asking again.
        tokio::time::sleep(if told.is_some() { STUCK } else { HELD }).await;
    }
}

/// What keeps a generation's controllers on the bus, in words: calls, and what is pinned to them.
fn finishing(bus: &Bus, generation: u64) -> Vec<String> {
    let left = bus.leaving().into_iter().filter(|found| found.source == Source(generation));
    left.filter_map(|found| Some(format!("{} {}", found.info.id, found.execution.finishing()?))).collect()
}

/// How often a generation is checked whose threads did not end.
const STUCK: Duration = Duration::from_millis(500);

/// How long until the next try where something began to use a generation while it was being unloaded.
const HELD: Duration = Duration::from_millis(50);

fn report(
    plugin: &str,
    generation: u64,
    begun: Instant,
    unmapped: Option<bool>,
    leaked_thread_locals: u64,
) -> UnloadReport {
    let took = begun.elapsed();
    UnloadReport { plugin: plugin.to_owned(), generation, took, unmapped, leaked_thread_locals, left: None }
}

/// Takes a plugin off the bus and unloads its serving generation in the background.
pub(crate) fn remove(
    shared: &Arc<Shared>,
    plugin: &str,
    generation: Generation,
    answer: Option<oneshot::Sender<Result<UnloadReport>>>,
) {
    shared.registry.set(generation.number, GenerationState::Draining, None);
    conflicts::compare(shared, None, &[]);
    let (own, plugin) = (Arc::clone(shared), plugin.to_owned());
    shared.retiring.spawn(async move {
        let bus = own.bus.clone();
        let removing = bus.remove_source(Source(generation.number));
        generation.instance.with_kill_after(own.settings.drain, removing).await;
        let report = retire(own, plugin, generation, None, true).await;
        if let Some(answer) = answer {
            let _ = answer.send(Ok(report));
        }
    });
}

//! The orchestrator, controller `controllerbus/fleet/rollout`: writes the next step of each rollout, on one host at a time.
//!
//! It may run on every host. Whoever holds the lease `rollouts` leads; the others watch it. Everything that counts is in the
//! store, so that a leader may die anywhere, and the next one goes on: all that it loses is its place in the queue.

mod call;
mod lead;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controllerbus::controller::{Closures, Info};
use controllerbus::{Bus, BusHandle, Context};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::chain::Chain;
use crate::clock::Clock;
use crate::elapsed::Note;
use crate::error::{Error, Result};
use crate::health::RolloutStep;
use crate::lease::{Candidate, Held};
use crate::shown::{ShowStore, ShownStore};
use crate::store::{Store, jittered};

pub(crate) use lead::drain;

/// The name of the lease.
const LEASE: &str = "rollouts";

/// How an orchestrator works.
#[derive(Clone, Debug)]
pub struct OrchestratorOptions {
    pub(crate) store: Store,
    pub(crate) host: String,
    pub(crate) clock: Clock,
    pub(crate) lease: Duration,
    pub(crate) look: Duration,
    pub(crate) tick: Duration,
    pub(crate) patience: Duration,
}

impl OrchestratorOptions {
    /// One on this host, for the rollouts of a store.
    pub fn new(store: &Store, host: impl Into<String>) -> Self {
        Self {
            store: store.clone(),
            host: host.into(),
            clock: Clock::system(),
            lease: Duration::from_secs(30),
            look: Duration::from_secs(5),
            tick: Duration::from_millis(500),
            patience: Duration::from_secs(10),
        }
    }

    /// With other clocks, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets for how long the lease lasts, after which another host goes on for one that has died; 30 s unless set.
    #[must_use]
    pub fn lease(mut self, lasts: Duration) -> Self {
        self.lease = lasts;
        self
    }

    /// Sets how often the store is looked at for what operators did; 5 s unless set. They may also [tell](crate::tell_hosts).
    #[must_use]
    pub fn look(mut self, every: Duration) -> Self {
        self.look = every;
        self
    }

    /// Sets for how long a host may be out of reach before it counts as lost; 10 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// What the leader of all rollouts and those of each have in common.
pub(crate) struct Shared {
    options: OrchestratorOptions,
    /// The highest step that somebody told of, by plugin.
    told: watch::Sender<BTreeMap<String, u64>>,
    tenure: Mutex<Tenure>,
    notes: Mutex<BTreeMap<String, Note>>,
}

/// For how long this host leads.
#[derive(Clone, Copy, Debug, Default)]
struct Tenure {
    fence: u64,
    until: Duration,
}

impl Shared {
    /// The number of the lease, while it is held.
    fn leads(&self) -> Option<u64> {
        let tenure = *self.tenure.lock().unwrap_or_else(PoisonError::into_inner);
        (self.options.clock.now() < tenure.until).then_some(tenure.fence)
    }

    fn holds(&self, held: &Held) {
        *self.tenure.lock().unwrap_or_else(PoisonError::into_inner) =
            Tenure { fence: held.fence(), until: held.until() };
    }

    fn notes(&self) -> BTreeMap<String, Note> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs an orchestrator on a bus. Dropping what is returned ends it, and gives the lease up if it can.
///
/// # Errors
/// The bus's.
pub fn orchestrate(bus: &Bus, options: OrchestratorOptions) -> Result<controllerbus::bus::Running> {
    let (controller, info) = controller(options);
    Ok(bus.handle().add_controller(Arc::new(controller), info)?)
}

/// The orchestrator as a controller.
pub(crate) fn controller(options: OrchestratorOptions) -> (Closures, Info) {
    let shared = Arc::new(Shared {
        options,
        told: watch::Sender::new(BTreeMap::new()),
        tenure: Mutex::default(),
        notes: Mutex::default(),
    });
    let executing = Arc::clone(&shared);
    let store = ShownStore::new(shared.options.store.url(), &shared.options.host);
    let controller = Closures::new()
        .executes(move |context| run(Arc::clone(&executing), context))
        .resolves(move |step: RolloutStep, values| {
            let shared = Arc::clone(&shared);
            async move {
                tell(&shared.told, &step);
                values.idle();
                Ok(())
            }
        })
        .resolves(move |_: ShowStore, values| {
            values.add(store.clone());
            std::future::ready(Ok(()))
        });
    let version = semver::Version::new(0, 1, 0);
    let info = Info::new("controllerbus/fleet/rollout", version, "controllerbus/fleet/rollout");
    (controller, info.with_description("Rolls plugins out to a fleet, step by step, and back."))
}

/// Notes that there is a step.
pub(crate) fn tell(told: &watch::Sender<BTreeMap<String, u64>>, step: &RolloutStep) {
    told.send_if_modified(|told| {
        let known = told.entry(step.plugin.clone()).or_default();
        let is_new = *known < step.number;
        *known = step.number.max(*known);
        is_new
    });
}

async fn run(shared: Arc<Shared>, context: Context) -> controllerbus::Result<()> {
    let OrchestratorOptions { store, host, lease, clock, .. } = &shared.options;
    let mut candidate = Candidate::new(store, LEASE, host, *lease, clock);
    loop {
        let trying = candidate.try_acquire();
        let held = tokio::select! {
            held = trying => held,
            () = context.cancelled() => return Ok(()),
        };
        match held {
            Ok(Some(held)) => lead(&shared, held, &context).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "rollouts wait"),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(candidate.interval())) => {}
            () = context.cancelled() => return Ok(()),
        }
    }
}

/// Leads, for as long as the lease is held.
async fn lead(shared: &Arc<Shared>, mut held: Held, context: &Context) {
    let OrchestratorOptions { lease, look, .. } = shared.options;
    tracing::info!(fence = held.fence(), "this host leads the rollouts");
    shared.holds(&held);
    let (note, ago) = held.inherited();
    let inherited: BTreeMap<String, Note> = serde_json::from_value(note.clone()).unwrap_or_default();
    *shared.notes.lock().unwrap_or_else(PoisonError::into_inner) = inherited.clone();
    let mut watched = Watched { inherited, ago, known: HashMap::new(), tasks: JoinSet::new() };
    let mut told = shared.told.subscribe();
    let mut renew = tokio::time::interval(lease / 3);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = tokio::time::interval(look);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while held.is_held() {
        tokio::select! {
            _ = renew.tick() => match held.renew(serde_json::to_value(shared.notes()).unwrap_or_default()).await {
                Ok(_) => shared.holds(&held),
                Err(error) => tracing::warn!(%error, "the lease on rollouts is not renewed"),
            },
            _ = looks.tick() => watched.look(shared, context.bus()).await,
            _ = told.changed() => watched.look(shared, context.bus()).await,
            () = context.cancelled() => {
                watched.tasks.shutdown().await;
                let _ = held.release().await;
                return;
            }
        }
    }
    tracing::warn!("this host does not lead the rollouts any more");
    watched.tasks.shutdown().await;
}

/// The rollouts that are led.
struct Watched {
    inherited: BTreeMap<String, Note>,
    ago: Duration,
    /// The newest step that is over, by plugin; `None` while a task leads it.
    known: HashMap<String, Option<u64>>,
    tasks: JoinSet<(String, u64)>,
}

impl Watched {
    async fn look(&mut self, shared: &Arc<Shared>, bus: &BusHandle) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok((plugin, number)) => drop(self.known.insert(plugin, Some(number))),
                Err(error) => {
                    tracing::error!(%error, "a rollout's task has failed, and is begun again");
                    self.known.retain(|_, known| known.is_some());
                    self.tasks.abort_all();
                }
            }
        }
        if let Err(error) = self.begin(shared, bus).await {
            tracing::warn!(%error, "rollouts wait");
        }
    }

    async fn begin(&mut self, shared: &Arc<Shared>, bus: &BusHandle) -> Result<(), Error> {
        for plugin in Chain::plugins(&shared.options.store).await? {
            let known = match self.known.get(&plugin) {
                Some(None) => continue,
                Some(Some(known)) => *known,
                None => 0,
            };
            let newest = match Chain::new(&shared.options.store, &plugin).newest(known).await {
                Ok(newest) => newest,
                Err(error @ Error::Refused { .. }) => {
                    tracing::warn!(%error, plugin, "its rollouts cannot go on");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(newest) = newest else { continue };
            if newest.stage.is_over() {
                self.known.insert(plugin, Some(newest.number));
                continue;
            }
            self.known.insert(plugin.clone(), None);
            let (noted, ago) = (self.inherited.remove(&plugin), self.ago);
            let leading = lead::Leading::new(Arc::clone(shared), bus.clone(), newest, noted.as_ref(), ago);
            self.tasks.spawn(async move { (plugin, leading.run().await) });
        }
        Ok(())
    }
}

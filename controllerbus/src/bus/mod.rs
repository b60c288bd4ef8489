//! The bus: keeps running controllers and standing directives, and routes one to the other.

// This folder is one state machine with two halves, which meet only in a controller's `ControllerEntry`:
//
//   lives        which controllers there are, and which configs ask for: `Life` (engine.rs), configs.rs, instance.rs, life.rs,
//                stop_first.rs, swap.rs
//   directives   what is asked and answered: types.rs, table.rs, standing.rs, resolver.rs, reference.rs, kept.rs
//
// This head is what a change in here has to keep to. Where a file's own head says more, it is named.
//
//
// # Locks
//
// All are `std::sync::Mutex`es that are held for a few statements, never over an `.await`. An arrow: the right one may be
// taken while the left one is held. What has no arrow between it is never held together.
//
//   Engine::life ──> Engine::sockets              (life first: a socket is kept for the keys that an instance has)
//             └────> ControllerEntry::execution
//
//   Types::routing ──> TypeTable::shards[i] ──> Standing::state ──> Handover::held
//                   (one shard at a time,     (one directive
//                   in one table)             at a time)
//
//   ONE_AT_A_TIME (bridge.rs) ──> Engine::bridges (of one bus after the other)
//
//   alone: ControllerEntry::answers[lane], ControllerEntry::failed, Handover::watchers, Kept::queue, Staged::ended
//
// * `life` and the chain that begins at `routing` are never held together. Whoever needs both takes what he needs from one, lets
//   go, and takes the other: so each step that spans them (attaching a controller, taking it off, switching a generation) says
//   in which order its two parts are done, and what is seen in between.
// * The watch channels (`Engine::changed`, `directives_changed`, `ControllerEntry::end`, `service`) have locks of their own,
//   inside of which nothing is taken. `end` is read under `life`; all are written with no lock held, because a write wakes.
// * No user code runs under a lock: no controller, factory, callback or destructor, and no waker of a requester. What a change
//   of a directive wakes, calls or drops is collected in `Effects`, and `Standing::change` applies that when the lock is given
//   back; what a change of configs entails is collected in `Changes`, and `Engine::carry_out` does it. Exceptions, all of
//   them: `AnyDirective::same_key` (a directive's `Eq`) and `id` run under a shard or a directive's lock; a requester's waker
//   is cloned under a directive's lock; `Handover::watchers` is held while the bus's own tasks are notified (and,
//   for `watchers`, the task that awaits `Bus::stage` or `Staged::commit`).
// * The last reference to a controller is never dropped under a lock. Whoever takes one off has a reference of his own, and puts
//   it among `Life::leaving` until it is closed; so routes and answers never hold the last one.
// * `Claim`, `StagedConfig` and `DiscardOnDrop` take `life` when they are dropped. So none of them is dropped under it.
//
//
// # Fields that are shared, and who may touch them when
//
// `Engine`
//
//  * `life: Mutex<Life>`. `controllers` are those on the bus: routed to, or about to be. `leaving` are those that were taken
//    off and are not closed; `Life::leave` moves one over, and does so before its routes go. `factories` and `configs` are
//    plain data. Electing, installing, switching and closing each happen within one hold of this lock.
//  * `closed` is set under `Types::routing`, and stays. It is read under a shard where a directive is inserted, and under `life`
//    where a controller or a config is: `Types::drain` and `Bus::close` take these locks after they have set it, so what was
//    inserted before, they find, and what comes after sees the flag. A keeper or a swap that is at work then need not look:
//    its instance, or the controllers that it would replace, are gone.
//  * `next` is the one counter for controllers, claims and owners of configs. 0 is the bus itself: as a controller, and as
//    the owner for `Bus::apply`.
//  * `changed`, `directives_changed` count changes. Sent after the change, so that whoever marks the channel as seen and then
//    looks misses nothing.
//
// `Instance` (one for each distinct config; under `life`)
//
//  * Its keeper, a task, takes every step that constructs or ends something. All others change fields under `life` and call
//    `nudge`. `running` is there if and only if `state` is `Running`; only `Instance::set_state` writes `state` and `since`.
//  * `users` counts the keys that want it or are served by it. At 0 its keeper removes it.
//  * `claim`: while it is there, only whoever holds the `Claim` may replace its controller or make one.
//    `is_staged`: the same, while a generation that is made ready constructs its controller.
//  * `legacy`, `at_stake`: see stop_first.rs.
//
// `ControllerEntry`
//
//  * `phase` is `Staged` or `Live` from the start. `Staged` becomes `Live` under `life`, in `Staged::switch`, and after that every
//    directive that it answers is locked once (`StandingState::replace`): so whoever reads it under a directive's lock and
//    sees `Staged` is put right by that. `Removed` is stored by `withdraw`, which then takes each lane of `answers`: who
//    remembers an answer reads the phase under that lock, so that none is left behind.
//  * `answers[lane]` is written by `LaneRef::remember` and `forget` of that lane, and read by whoever wants to know what the
//    controller answers. An answer is remembered before its resolver begins, and forgotten after that is gone.
//  * `is_routed` is set under `Types::routing` when its routes are stored; it never goes back.
//  * `execution`, `failures`, `failed` are written by its own life (life.rs) only.
//  * `end` is written by its own life only: `left`, then `held` as often as that changes, then `over`, once, at the very end.
//    `closed` is cancelled after that, and `is_over` set before it, under `life`, with its removal from `leaving`.
//  * `is_inherited` is set before `cancel` is cancelled, and read by its life after that. `is_waited_for` is set by whoever is
//    going to wait until it is dropped, and read by its life when it has been closed.
//  * `handover.replaces` is set once, before it is routed to; read under the directives' locks.
//  * `handover.has_begun` is set once, by its execution. `handover.held` is the gate, and the runs that wait at it: a run asks with
//    its directive's lock held; it is opened and shut with none. While `guarded` is false the gate is taken for open without
//    that lock. A gate that is shut stays so.
//  * `resolver_failed` is set under a directive's lock, and taken back by the swap that looks at it.
//
// `TypeTable` and `Types`
//
//  * `routes` and the tables themselves are read without a lock (`ArcSwap`); written under `Types::routing`. A controller that
//    comes is on the list before it is offered what stands, and a directive is in its shard before the list is read: so each
//    meets each at least once, and `StandingState::begin` takes the first offer only.
//  * `Shard::ended` is set under `Types::routing` and the shard. A directive that finds it set looks for the new table.
//
// `Standing`
//
//  * All but `state` never changes. `state` is under its own lock; inserting the directive, ending it and letting go of a
//    reference hold its shard, too, so that what is in a shard has not ended.
//  * `references` counts strong subscribers. `epoch` is raised with each, so that a keep timer of before does not end it.
//    `offers` is 1 until the controllers that were on the list when it came have been offered it; before, it is not idle, and
//    a controller that has no resolver here is not taken for one that has nothing to say.
//  * `Resolver::run` is raised whenever a run ends, or fails. Whatever a handle of an earlier run says is refused.
//
//
// # A directive
//
//    add_reference               last strong reference goes, and
//         │                      `keep_for` is 0, or it is empty and `drop_if_empty`
//         v                                  ┌──────────────────────────────────┐
//    ┌─ stands ──────────────────────────────┘                                  v
//    │    │  ^                                                                ended: out of its shard, resolvers and
//    │    │  │ a strong reference comes: epoch + 1                              ^  values are let go of, references
//    │    v  │                                                                  │  read an end
//    │   kept ──────────────────────────────────────────────────────────────────┤
//    │        time over, or too many are kept on this bus, or it is empty       │
//    └──────────────────────────────────────────────────────────────────────────┘
//             another one supersedes it, or the bus closes
//
// One resolver of it, that is, one controller's answer:
//
//                     gate holding                  gate opens
//    offer ──> begin ──────────────> held at the gate ─────────┐
//                │ gate open                                   │
//                v                                             v
//             working <─────────────────────────────────── run n: polled in place first, spawned if it is not done
//              │  ^                                            ^
//       idle() │  │ busy(), as long as it has not returned     │ after its backoff, unless the error is permanent
//              v  │                                            │
//             idle    returns Ok ──> done: its values stand    │
//                     returns Err ─> failed: its values go, run n + 1 ─────┘
//
//    parked      as many values as wanted without it: its run is ended, and begins again when there is room
//    suspended   its controller ended before its successor is made (stop_first.rs): its run is ended, its values stand
//    retiring    its successor serves: it goes, with its values, when that one has a value or is idle (OUTLAST at most)
//    gone        its controller is taken off, it has no resolver for it after all, or the directive has ended
//
//
// # A key and its instance
//
//    key "a" ──wanted──> instance 7 (config X)       Queued, Constructing, Running or Failed: see instance.rs
//        └───serving──> instance 3 (config W)       what ran before, until the wanted one runs
//    key "b" ──wanted──> instance 7                  equal configs are one instance
//
//    apply      another candidate wins: its instance is wanted, and what ran becomes `serving`
//    runs       the wanted one runs: `serving` is let go of, and its controller leaves if no key uses it any more
//    withdraw   the next candidate wins; without one the key goes, and what has to be over before it may come again is
//               noted in `Configs::departed`
//
// A controller: constructed ──> (Staged ──>) Live ──> leaving ──> closed. Its life from there is drawn in life.rs; the order in
// which one takes another's place is drawn in stop_first.rs.
//
//
// # A swap
//
//    stage     successors are constructed beside those that serve, routed to, and offered what stands, with their values
//              held back; wait until all are ready                                                  (drop: rolled back)
//    commit    what cannot run beside its successor is saved, ended and made again (stop_first.rs)  (error: made again)
//              where there is a state, the gates of both hold, and it is handed over once more       (error: gates open)
//              switch, under `life`: factories, instances, phases. From here on there is no way back
//              take_over: the old ones are routed to no more and their gates shut; on each directive new values show and
//              old ones go; the new ones' gates open
//    drained   the old ones answer nothing any more, or OUTLAST is over; closed

mod applying;
mod bridge;
mod config_state;
mod configs;
mod counts;
mod engine;
mod entry;
mod factories;
mod handle;
mod handover;
mod instance;
mod introspect;
mod kept;
mod lane;
mod life;
mod limits;
pub mod loading;
mod owning;
mod reference;
mod resolver;
#[cfg(unix)]
mod sockets;
mod standing;
mod stop_first;
mod swap;
mod table;
mod types;

use std::sync::Arc;
use std::time::Duration;

pub use applying::{ApplyReport, ConfigOwner};
pub use bridge::{Across, Bridge};
pub use config_state::{ConfigState, Pending, RunState};
pub use counts::{CountsSnapshot, ResolverCounts};
pub use entry::Execution;
pub(crate) use entry::contained;
pub use handle::{Backend, BusHandle};
pub use introspect::{
    ConfigWatch, ControllerSnapshot, DirectiveSnapshot, FactorySnapshot, ResolverSnapshot, ResolverState, Snapshot,
    ValueSnapshot,
};
pub use limits::Limits;
#[cfg(unix)]
pub use sockets::SocketSnapshot;
pub use swap::{Committed, LastStates, Staged};

use crate::Result;
use crate::config::ConfigSet;
use crate::controller::factory::{FACTORIES, Factory};
use crate::controller::{AnyController, Info};
use crate::directive::{Directive, Request};
use configs::{CALLERS, Earlier};
use engine::Engine;
use entry::{ControllerEntry, Ties};
use factories::KnownFactory;

/// Where factories and controllers come from: this binary, or one generation of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Source(pub u64);

impl Source {
    /// This binary.
    pub const STATIC: Self = Self(0);
}

/// Identifies a controller on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ControllerId(pub u64);

/// Where controllers meet. Cheap to clone; every clone is the same bus.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> controllerbus::Result<()> {
/// use controllerbus::prelude::*;
///
/// let bus = Bus::new();
/// bus.apply(ConfigSet::from_yaml("{}")?).await?;
/// assert!(bus.controllers().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Bus(Arc<Engine>);

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus {
    /// A bus that knows the factories linked into this binary. Best made inside the tokio runtime that it shall use: its
    /// work is done there, whoever asks. One that is made outside uses the runtime of whoever calls it.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// [`Bus::new`] with other limits for the steps of controllers' lives.
    pub fn with_limits(limits: Limits) -> Self {
        let engine = Engine::new(limits);
        let factories = FACTORIES.iter().map(super::controller::factory::FactoryEntry::factory).collect();
        let known = KnownFactory::of(Source::STATIC, factories);
        engine.life().factories.add(known);
        Self(engine)
    }

    /// The limits for the steps of controllers' lives.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The bus as controllers see it.
    pub fn handle(&self) -> BusHandle {
        self.0.handle()
    }

    /// See [`BusHandle::request`].
    ///
    /// # Errors
    /// As there.
    pub fn request<D: Directive>(&self, directive: D) -> Result<Request<D>> {
        self.0.add(Arc::new(directive)).map(Request::new)
    }

    /// See [`BusHandle::resolve`].
    ///
    /// # Errors
    /// As there.
    pub async fn resolve<D: Directive>(&self, directive: D) -> Result<Arc<D::Value>> {
        self.request(directive)?.value().await
    }

    /// See [`BusHandle::resolve_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn resolve_all<D: Directive>(&self, directive: D) -> Result<Vec<Arc<D::Value>>> {
        self.request(directive)?.values().await
    }

    /// See [`BusHandle::try_resolve`].
    ///
    /// # Errors
    /// As there.
    pub async fn try_resolve<D: Directive>(&self, directive: D) -> Result<Option<Arc<D::Value>>> {
        self.request(directive)?.value_unless_idle().await
    }

    /// Puts a controller on the bus: it is executed, and offered the directives that stand.
    pub fn add_controller(&self, controller: Arc<dyn AnyController>, info: Info) -> ControllerId {
        let id = self.0.next_id();
        let entry = Arc::new(ControllerEntry::new(Ties::new(id), info, Source::STATIC, controller));
        let is_closed = {
            let mut life = self.0.life();
            life.controllers.insert(id, Arc::clone(&entry));
            self.0.is_closed()
        };
        if is_closed {
            self.0.discard(entry);
        } else {
            self.0.attach(&entry, Vec::new());
        }
        ControllerId(id)
    }

    /// Takes a controller off the bus: its values go, it is cancelled and closed. Returns when it is, or its limits are
    /// over; until it has ended after all, [`Bus::leaving`] shows it. False if it is not there.
    pub async fn remove_controller(&self, id: ControllerId) -> bool {
        let entry = {
            let mut life = self.0.life();
            let entry = life.controllers.get(&id.0).cloned();
            life.leave(&entry);
            entry
        };
        let Some(entry) = entry else { return false };
        self.0.dismiss(std::slice::from_ref(&entry));
        self.0.wait_closed(vec![entry]).await;
        true
    }

    /// Makes factories known and constructs the configs that wait for them, in the background.
    pub fn add_factories(&self, source: Source, factories: Vec<Arc<dyn Factory>>) {
        self.0.add_factories(KnownFactory::of(source, factories));
    }

    /// Takes a source's factories and controllers off the bus; configs that ran on it use another factory, or wait.
    /// Returns when its controllers have ended, or their limits are over; those that have not then.
    pub async fn remove_source(&self, source: Source) -> Vec<ControllerSnapshot> {
        let left = self.0.remove_source(source).await;
        left.iter().map(|entry| self.0.snapshot_of(entry)).collect()
    }

    /// Applies a config set: of each key the highest revision wins, and an equal config is left running. Keys with equal
    /// configs share a controller.
    ///
    /// Returns when each of its keys runs, has failed once, or waits for a factory; each step has its limit. A config that
    /// cannot be used leaves the one before running, and is shown as pending. Cancel-safe: what was applied stays so.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] when the bus is closed or there is no tokio runtime. What is wrong with one key is
    /// in the report, and does not keep the others.
    pub async fn apply(&self, set: ConfigSet) -> Result<ApplyReport> {
        self.0.apply(CALLERS, set, Earlier::Keep).await
    }

    /// Applies a config set as all there is of those that [`Bus::apply`] has applied: keys that it does not name are
    /// removed.
    ///
    /// # Errors
    /// As [`Bus::apply`].
    pub async fn apply_only(&self, set: ConfigSet) -> Result<ApplyReport> {
        self.0.apply(CALLERS, set, Earlier::Replace).await
    }

    /// Forgets a config, all its revisions, and takes its controller off the bus. False if the key is not there.
    pub async fn remove_config(&self, key: &str) -> bool {
        self.0.remove_config(key).await
    }

    /// Takes one revision of a config back: if it is the one that runs, the next lower one takes over. False if it is
    /// not there.
    pub async fn withdraw_config(&self, key: &str, revision: u64) -> bool {
        self.0.withdraw_revision(key, revision).await
    }

    /// An applied config and what its controller is doing.
    pub fn config(&self, key: &str) -> Option<ConfigState> {
        self.0.config_state(key)
    }

    /// The applied configs and what their controllers are doing, by key.
    pub fn configs(&self) -> Vec<ConfigState> {
        let keys: Vec<String> = self.0.life().configs.by_key.keys().cloned().collect();
        keys.iter().filter_map(|key| self.0.config_state(key)).collect()
    }

    /// The config IDs that some factory makes controllers of.
    pub fn config_ids(&self) -> Vec<String> {
        self.0.life().factories.config_ids()
    }

    /// Makes a new generation of controllers ready beside the one that runs: constructs each with the new
    /// factory, hands its state over, executes it, and offers it what stands, with its values held back.
    ///
    /// # Errors
    /// What kept a controller from being constructed, restored, executed or ready within `grace`.
    /// The running generation is untouched then.
    pub async fn stage(
        &self,
        from: Source,
        to: Source,
        factories: Vec<Arc<dyn Factory>>,
        grace: Duration,
    ) -> Result<Staged> {
        self.0.stage(from, to, factories, grace, None).await
    }

    /// [`Bus::stage`] of an older generation that comes back because the one that runs is not well: what that cannot save,
    /// or the older code's `restore` refuses, is no obstacle; the older one begins with its own last state then, which
    /// [`Committed::notes`] says.
    ///
    /// # Errors
    /// As [`Bus::stage`].
    pub async fn stage_back(
        &self,
        from: Source,
        to: Source,
        factories: Vec<Arc<dyn Factory>>,
        grace: Duration,
        last: LastStates,
    ) -> Result<Staged> {
        self.0.stage(from, to, factories, grace, Some(last)).await
    }

    /// Asks the controllers of a source how they are: what [`crate::Controller::health`] says of each, and of one that does
    /// not answer within a time, that.
    pub async fn health(&self, source: Source, within: Duration) -> Vec<(ControllerId, Result<()>)> {
        self.0.health(source, within).await
    }

    /// Ends every directive and refuses new ones, then takes every controller off: all are told at once, and each has its
    /// limits. Those that have not ended then; they end in the background, or with the process.
    pub async fn close(&self) -> Vec<ControllerSnapshot> {
        self.0.close();
        let (unused, leaving) = {
            let mut life = self.0.life();
            let unused = std::mem::take(&mut life.configs);
            let all: Vec<_> = life.controllers.values().cloned().collect();
            life.leave(&all);
            (unused, life.leaving.values().cloned().collect::<Vec<_>>())
        };
        unused.instances.values().for_each(|instance| instance.nudge.notify_one());
        // It may have the last reference to a controller that has ended.
        drop(unused);
        self.0.dismiss(&leaving);
        let left = self.0.wait_closed(leaving).await;
        #[cfg(unix)]
        self.0.close_sockets();
        left.iter().map(|entry| self.0.snapshot_of(entry)).collect()
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let life = self.0.life();
        f.debug_struct("Bus").field("controllers", &life.controllers.len()).finish_non_exhaustive()
    }
}

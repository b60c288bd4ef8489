//! The bus: keeps running controllers and standing directives, and routes one to the other.

// This folder is one state machine with two halves, which meet only in `ControllerEntry`:
//
//   lives        which controllers there are, and which ones the configs ask for: `Life` (engine.rs), configs.rs,
//                instance/, life.rs, stop_first.rs, swap/
//   directives   what is asked and what is answered: types.rs, table.rs, standing/, resolver.rs, pins.rs, reference.rs, kept.rs;
//                who is told what, where other hosts of a fleet ask and answer too: origin.rs, standing/sides.rs
//
// Below are the rules that a change in this folder has to keep.
//
//
// # Locks
//
// All of them are `std::sync::Mutex`es, held for a few statements and never over an `.await`. `A ──> B` means that B may
// be taken while A is held. Locks without a path of arrows between them are never held together.
//
//   Engine::life ──> Engine::sockets              (a socket is kept for the keys of an instance)
//             └────> ControllerEntry::execution
//
//   Types::routing ──> TypeTable::shards[i] ──> Standing::state ──> Handover::held
//                      (one shard at a time)    (one at a time)
//
//   ONE_AT_A_TIME (bridge.rs) ──> Engine::bridges (of one bus at a time)
//
//   HOSTS (origin.rs) below all of them, for a look at a name
//
//   States::files ──> States::table                (on threads that may block)
//
//   alone: Answering::lanes[lane], ControllerEntry::failed, Engine::bridged, Handover::watchers, KeptDirectives::queue,
//          Parts::added (bridge.rs), Staged::replacements, LastState
//
// * `life` is never held together with any lock of the second chain. A step that spans both (attaching a controller,
//   taking it off, switching generations) does one part, releases the lock, and does the other; its comments say in
//   which order and why.
// * The watch channels (`Engine::changed`, `directives_changed`, `ControllerEntry::end`, `service`) have internal
//   locks, inside of which nothing else is taken. `end` is read under `life`. All are written without a lock, because
//   writing wakes tasks.
// * User code does not run under a lock: no controller, factory, callback, destructor or requester's waker. What a
//   change of a directive wakes, calls or drops is collected in `Effects`, which `Standing::change` applies after the
//   lock is released; what a change of configs entails is collected in `Changes`, which `Engine::carry_out` does;
//   `Types::route` drops the lists that it replaces, and the spans of their routes, after `routing`. The
//   exceptions are: `AnyDirective::same_key` (the directive's `Eq`) and `AnyDirective::id` run under a shard's or
//   directive's lock; a requester's waker is cloned under the directive's lock; and the task that awaits `Bus::stage`
//   or `Staged::commit` is woken under `Handover::watchers`.
// * The last reference to a controller is never dropped under a lock. The code that takes a controller off has a
//   reference of its own, and `Life::leaving` has one until the controller is closed; so routes and answers never hold
//   the last one.
// * Dropping a `Claim`, `StagedConfig` or `DiscardOnDrop` takes `life`, so none of them may be dropped under it.
//
//
// # Shared fields, and who may touch them when
//
// `Engine`
//
//  * `life`: `controllers` are those on the bus: routed to, or about to be. `leaving` are those that were taken off and
//    are not closed yet; `Life::leave` moves a controller over before its routes are removed. `factories` and `configs`
//    are plain data. Electing a config, installing a controller, switching generations and closing each happen within
//    one hold of this lock.
//  * `closed` is set under `Types::routing` and never reset. It is read under the shard in which a directive is
//    inserted, and under `life` where a controller or config is. `Types::drain` and `Bus::close` take these locks after
//    setting it: they find what was inserted before, and whatever comes later sees the flag. Keepers and swaps need not
//    look at it, because their instances, or the controllers that they would replace, are gone then.
//  * `has_linked` is set once, by whoever starts what is linked in, where there is a runtime.
//  * `next` numbers controllers, claims, owners of configs and bridges that lead here. 0 is the bus itself as a
//    controller, and whoever calls `Bus::apply` as an owner.
//  * `bridged.has_fleet` is set with the first controller of the fleet's side, and never reset. Whoever sets it takes the
//    bridges that wait for it, and whoever finds it set does not wait: so each bridge gets its second part once.
//  * `changed` and `directives_changed` are incremented after a change; a reader marks the channel as seen first and
//    looks at the bus second, and so misses nothing.
//
// `Instance`: one for each distinct config; all of it under `life`
//
//  * Its keeper, a task, constructs its controller, ends those that this one replaces, and ends it when no key uses it.
//    Swaps do the same for generations. Everybody else changes fields and calls `nudge`.
//  * `running` is `Some` only while `state` is `Running`. `stop` takes it, and the next `look` sets the state. `set_state`
//    writes `state` and `since`.
//  * `users` counts the keys that want the instance or are served by it. At 0 the keeper removes it.
//  * While `claim` is `Some`, only the holder of that `Claim` may replace the instance's controller or construct one.
//    While `is_staged` is set, only the swap that has set it may.
//  * `legacy` and `at_stake`: see stop_first.rs.
//
// `States`
//
//  * `table.owners` says which controller writes a state. It is set when a controller begins to serve, in `attach` or
//    `take_over`, and it is read again in `files`, by whoever writes. What is in `table.forgotten` is removed in `files`
//    before anything else happens there.
//
// `ControllerEntry`
//
//  * `answering.phase` is `Staged` or `Live` at first. `Staged` becomes `Live` under `life`, in `Staged::switch`. After
//    that each directive that the controller answers is locked once, for `StandingState::replace`: it shows the values of
//    anybody who has read `Staged` under that lock. `Removed` is set by `withdraw`, which then takes each of the lanes.
//    `Answering::remember` reads the phase under a lane's lock, so that no answer is left behind. It is final.
//  * `answering.lanes` are written by `LaneRef::remember` and `LaneRef::forget`. An answer is remembered before its
//    resolver begins, and forgotten after that is gone.
//  * `is_routed` is set under `Types::routing` when the controller's routes have been stored, and never reset.
//  * `replaced` is set once, with the first `service` that says that it has ended.
//  * `execution`, `failures`, `failed` and `end` are written by the controller's own life (life.rs) only. In `end`,
//    `left` comes first, then `held` as often as it changes, and `over` once, at the very end. `is_over` is set before
//    that, under `life`, together with the removal from `leaving`; `closed` is cancelled after it.
//  * `is_inherited` is set before `cancel` is cancelled, and read by its life after that. `is_waited_for` is set by
//    anybody who will wait until the controller is dropped, and read by its life once it has been closed.
//  * `handover.replaces`, with the line that it is of, is set once, before the controller is routed to.
//  * `handover.held` is the gate and the runs that wait at it. A run asks for admission under its directive's lock; the
//    gate is opened and shut without one. As long as `guarded` is false, the gate counts as open without a look at the
//    lock. A gate that was shut stays shut.
//  * `missed_offers` is set when a staged controller is not offered a call or what is pinned, and read once by the swap, after it
//    has gone live. Each of the two looks at what the other has set, with a fence in between: see `offer`.
//  * `resolver_failed` is set under a directive's lock, and reset by the swap that looks at it.
//
// `Types` and `TypeTable`
//
//  * The tables and their `routes` are read without a lock (`ArcSwap`), and written under `Types::routing`. A
//    controller is put on the list before it is offered the standing directives, and a directive is put in its shard
//    before the list is read: so they meet at least once, and `StandingState::begin` refuses every offer but the first.
//  * `Shard::ended` is written under `Types::routing` and the shard's lock. Whoever finds it set looks for the new
//    table.
//
// `Standing`
//
//  * Everything but `state` is immutable. Inserting the directive, ending it and releasing a reference hold its shard's
//    lock, too, so that no directive in a shard has ended.
//  * `references` counts the strong subscribers, `narrow` those of them that do not ask the fleet: other hosts, and controllers
//    that keep what they answer. `epoch` is incremented with each new one, which invalidates keep timers.
//  * While `asks_fleet` is false, the directive has no resolver and no value of the fleet's side: `begin` refuses them. It
//    becomes true with a strong reference that is not narrow, and false when all that are left are narrow; without any
//    reference it stays. Where no other host asks and no controller keeps what it answers, it is true, and
//    `narrow` is 0.
//  * `offers` is 1 until the directive has been offered to every controller that was on the list when it was added.
//    Before that it is not idle, and a controller without a resolver does not count as one that has nothing to say.
//  * `Resolver::run` is incremented when a run ends or fails. What a handle of an earlier run says is ignored.
//
//
// # The life of a directive
//
//    add_reference            the last strong reference is dropped, and `keep_for`
//          │                  is 0, or there is no value and `drop_if_empty` is set
//          v                  ┌─────────────────────────────────────────────────┐
//      standing ──────────────┘                                                 v
//        │  ^ │                                                               ended: taken out of its shard; resolvers
//        │  │ └──────────────────────────────────────────────────────────────>  and values are dropped, and references
//        │  │    another one supersedes it, or the bus is closed                read an end
//        │  │                                                                   ^
//        │  │ a strong reference comes: epoch + 1                               │
//        v  │                                                                   │
//        kept ──────────────────────────────────────────────────────────────────┘
//         its time is over, the bus keeps too many, its last value is gone and `drop_if_empty` is set, or as above
//
// One of its resolvers, that is, one controller's answer to it:
//
//                      gate holding                gate opens
//    offer ──> begin ───────────────> held there ─────────────┐
//                │ gate open                                  │
//                └────────────────────────────────────────────┴─> run n: polled in place, spawned if it is not done
//                                                                  │                    ^
//         idle() <──> busy(), until it returns <── working <───────┤                    │ after its backoff, unless
//                                                                  │                    │ the error is permanent
//         returns Ok:  done, its values stay  <────────────────────┤                    │
//         returns Err: failed, its values go, n + 1 <──────────────┴────────────────────┘
//
//    parked      there are as many values as wanted without it: its run is over, and it begins again when there is room
//    suspended   its controller ends before its successor is constructed (stop_first.rs): its run is over, its values
//                stay
//    retiring    its successor serves: it goes, with its values, once that has a value or is idle; after OUTLAST at the
//                latest
//    pinned      (`Options::pin`) its controller was replaced, and goes on with it; nobody of its line begins. It becomes retiring at
//                its limit, when it has failed, or when its controller would have to begin it again, and the newest of the line is
//                offered the directive first; it is gone if there is none. One that waits at the gate is handed on, like a call
//    a call      (`Options::once`) has the first resolver that begins, and no other. A staged controller is not offered it; one that
//                waits at the gate is handed on to the successor, and one at work stays where it is. One that is added meanwhile is
//                offered to whoever is routed to by then, too
//    gone        its controller was taken off, it turned out to have no resolver for it, or the directive has ended; or it is
//                of the fleet's side, and nobody on this host asks any more. Then it is offered the directive again when
//                somebody does, and the number of its first run is one that it has never had
//
//
// # The life of a key and its instance
//
//    key "a" ─┬─ wanted ──> instance 7 (config X): Queued, Constructing, Running or Failed; see instance/mod.rs
//             └─ serving ─> instance 3 (config W): what ran before, until instance 7 runs
//    key "b" ─── wanted ──> instance 7: equal configs share an instance
//
//    apply       another candidate wins: its instance becomes `wanted`, and what has been running `serving`
//    runs        the wanted instance runs: `serving` is released, and its controller leaves if no other key uses it
//    withdraw    the next candidate wins. Without one the key is removed; `Configs::departed` notes what has to be over
//                before a controller is constructed for the same key again
//
// A controller: constructed ──> (Staged ──>) Live ──> leaving ──> closed. life.rs draws the second half of that, and
// stop_first.rs how one takes another's place.
//
//
// # A swap
//
//    stage     successors are constructed beside the controllers that serve, executed, routed to, and offered the standing
//              directives, with their values held back, until all of them are ready. Dropping `Staged` rolls back
//    commit  1 a controller that cannot run beside its successor is saved and ended, and its successor constructed; on an
//              error, the old one is constructed again
//            2 where there is a state, the gates of both are held, and it is handed over again; on an error, they open
//            3 `switch`, under `life`: factories, instances, phases; what the old generation has added by hand leaves. There
//              is no way back from here
//            4 `take_over`: the old ones lose their routes, and their gates are shut; on each directive the new values
//              become visible, and the old ones go, unless it is pinned; the gates of the new ones open
//    unpinned  what was pinned is over: see pins.rs
//    drained   the old ones answer nothing any more, or OUTLAST is over; they are closed

mod answering;
mod applying;
mod bridge;
mod config_state;
mod configs;
pub(crate) mod contain;
mod counts;
mod crossing;
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
mod origin;
mod owning;
mod pins;
mod reference;
mod resolver;
mod running;
mod shards;
mod sink;
#[cfg(unix)]
mod sockets;
mod standing;
mod states;
mod stop_first;
mod swap;
mod table;
#[cfg(feature = "testing")]
mod testing;
mod types;

use std::sync::Arc;
use std::time::Duration;

pub use applying::{ApplyReport, ConfigOwner};
pub use bridge::{Across, Bridge, FarBus};
pub use config_state::{ConfigState, Pending, RunState};
pub(crate) use contain::{contain, contained};
pub use counts::{CountsSnapshot, DirectiveCounts, ResolverCounts};
#[cfg(test)]
pub(crate) use crossing::Crossing;
pub use entry::Execution;
pub use handle::{Backend, BusHandle};
pub use introspect::{
    AskerSnapshot, ConfigWatch, ControllerSnapshot, DirectiveSnapshot, FactorySnapshot, ResolverSnapshot,
    ResolverState, Snapshot, ValueSnapshot,
};
pub use limits::Limits;
pub use origin::Origin;
pub use running::{AddedFactories, RawRunning, Running};
#[cfg(unix)]
pub use sockets::SocketSnapshot;
pub use states::{StateName, StateStore};
pub use swap::{Committed, LastStates, Staged};

use crate::config::ConfigSet;
use crate::controller::factory::Factory;
use crate::controller::{AnyController, Info};
use crate::directive::{Directive, Request, Wait};
use crate::linked::{FACTORIES, FactoryEntry};
use crate::{BusError, Result, Retry};
use configs::{CALLERS, Earlier};
use engine::Engine;
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
/// use controllerbus::bus::RunState;
/// use controllerbus::prelude::*;
///
/// #[tokio::main]
/// async fn main() -> Result<(), BusError> {
///     let bus = Bus::new();
///     let report = bus.apply(ConfigSet::from_yaml("lamp: { id: house/lamp }")?).await?;
///     // No factory makes such a controller yet; when one comes, it is made.
///     assert_eq!(report.configs[0].state, RunState::Queued);
///     assert!(bus.controllers().is_empty());
///     bus.close().await;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Bus(Arc<Engine>);

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus {
    /// A bus that knows the factories linked into this binary.
    ///
    /// Create it inside a tokio runtime: all its work is done there, whichever thread calls it. A bus that is created
    /// outside of one uses the runtime of each caller; functions that are linked in ([`hot`](mod@crate::hot)) start when it is first
    /// used in one.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A bus with its own limits for the steps of a controller's life; otherwise like [`Bus::new`].
    pub fn with_limits(limits: Limits) -> Self {
        let engine = Engine::new(limits);
        let factories = FACTORIES.iter().map(FactoryEntry::factory).collect();
        let known = KnownFactory::of(Source::STATIC, factories);
        engine.life().factories.add(known);
        engine.start_linked();
        Self(engine)
    }

    /// The limits for the steps of a controller's life.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The bus as controllers see it.
    pub fn handle(&self) -> BusHandle {
        self.0.handle()
    }

    /// The bus as another host of a fleet sees it, for the carriers of fleets: what is asked through it is asked for that host,
    /// which is not told what other hosts of the fleet answer, and a controller that is added through it passes directives on to
    /// that host, as [`Bus::add_controller_from`] says. Superseding directives of different hosts are kept apart; those that one host
    /// keeps apart, because buses with bridges to it ask them, only if the carrier passes on what they have there:
    /// [`Origin::keyed`].
    ///
    /// ```
    /// use controllerbus::bus::Origin;
    /// # use controllerbus::prelude::*;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/greet", value = String)]
    /// # struct Greet { name: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BusError> {
    /// let bus = Bus::new();
    /// let edge = bus.handle_from(Origin::fleet("edge-7"));
    /// let request = edge.request(Greet { name: "Ada".into() })?;
    /// assert_eq!(bus.directives()[0].asked_by[0].host.as_deref(), Some("edge-7"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle_from(&self, origin: Origin) -> BusHandle {
        self.0.handle_from(origin)
    }

    /// Adds a directive and returns a reference to it: [`BusHandle::request`] on this bus.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Invalid`] if the directive refuses itself, [`crate::error::ErrorKind::Closed`] if the bus is
    /// closed.
    pub fn request<D: Directive>(&self, directive: D) -> Result<Request<D>, BusError> {
        Ok(Request::new(self.0.read_from(Arc::new(directive))?))
    }

    /// The first value of a directive: [`BusHandle::resolve`] on this bus. Cancel-safe.
    ///
    /// # Errors
    /// As [`Bus::request`], or a resolver's error when no other resolver is still working on a value.
    pub fn resolve<D: Directive>(&self, directive: D) -> Wait<'static, D, Arc<D::Value>> {
        Wait::first(self.request(directive))
    }

    /// All values of a directive, once no resolver has more to add: [`BusHandle::resolve_all`] on this bus. Cancel-safe.
    ///
    /// # Errors
    /// As [`Bus::request`], or a resolver's error if there is no value.
    pub fn resolve_all<D: Directive>(&self, directive: D) -> Wait<'static, D, Vec<Arc<D::Value>>> {
        Wait::all(self.request(directive))
    }

    /// The first value of a directive, or `None` if nobody has one: [`BusHandle::try_resolve`] on this bus. Cancel-safe.
    ///
    /// # Errors
    /// As [`Bus::resolve_all`].
    pub fn try_resolve<D: Directive>(&self, directive: D) -> Wait<'static, D, Option<Arc<D::Value>>> {
        Wait::if_any(self.request(directive))
    }

    /// Adds a controller to the bus, which executes it and offers it the active directives.
    pub fn add_controller(&self, controller: Arc<dyn AnyController>, info: Info) -> ControllerId {
        self.add_controller_from(Origin::HERE, controller, info)
    }

    /// Adds a controller that answers for another host of a fleet, for the carriers of fleets. It is offered a directive only while
    /// somebody on this bus asks for that, and what it answers is told to nobody who asks for another host: what came from the
    /// fleet is not told to the fleet. Otherwise as [`Bus::add_controller`].
    pub fn add_controller_from(&self, origin: Origin, controller: Arc<dyn AnyController>, info: Info) -> ControllerId {
        let entry = self.0.by_hand(controller, info, (Source::STATIC, origin), Retry::default());
        // What is not a generation's is never refused.
        let _ = self.0.put(&entry);
        ControllerId(entry.id)
    }

    /// Removes a controller: its values are withdrawn, and it is cancelled and closed. Returns when that is done or its
    /// limits have passed; [`Bus::leaving`] lists it until it has ended. False if there is no such controller.
    ///
    /// If configs ask for it, their keys are [`RunState::Removed`] until one of these configs is applied again.
    pub async fn remove_controller(&self, id: ControllerId) -> bool {
        let Some(entry) = self.0.take_off(id.0) else { return false };
        self.0.wait_closed(vec![entry]).await;
        true
    }

    /// Adds factories. Controllers whose configs were waiting for them are constructed in the background.
    pub fn add_factories(&self, source: Source, factories: Vec<Arc<dyn Factory>>) {
        self.0.add_factories(KnownFactory::of(source, factories));
    }

    /// Removes a source's factories and controllers. Its configs use another factory, or wait for one.
    ///
    /// Returns when the controllers have ended or their limits have passed, with those that have not ended.
    pub async fn remove_source(&self, source: Source) -> Vec<ControllerSnapshot> {
        let left = self.0.remove_source(source).await;
        left.iter().map(|entry| self.0.snapshot_of(entry)).collect()
    }

    /// Forgets a source that was replaced or removed, once its library is gone. Until then what a task of it adds late is
    /// refused.
    pub fn forget_source(&self, source: Source) {
        self.0.life().factories.forget(source);
    }

    /// Applies a config set. The highest revision of each key wins, and a controller whose config is unchanged keeps
    /// running. Keys with equal configs share a controller.
    ///
    /// Returns when each key is running, has failed once, or is waiting for a factory; every step has a limit. If a config
    /// cannot be used, the previous one keeps running and the new one is reported as pending. Cancel-safe: what was applied
    /// stays applied.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Closed`] if the bus is closed or there is no tokio runtime. Problems of single keys are in the
    /// report and do not affect the other keys.
    pub async fn apply(&self, set: ConfigSet) -> Result<ApplyReport, BusError> {
        Ok(self.0.apply(CALLERS, set, Earlier::Keep).await?)
    }

    /// Applies a config set in place of everything that [`Bus::apply`] has applied: keys that it does not name are removed.
    ///
    /// # Errors
    /// As [`Bus::apply`].
    pub async fn apply_only(&self, set: ConfigSet) -> Result<ApplyReport, BusError> {
        Ok(self.0.apply(CALLERS, set, Earlier::Replace).await?)
    }

    /// Removes all revisions of a config, and its controller. False if there is no such key.
    pub async fn remove_config(&self, key: &str) -> bool {
        self.0.remove_config(key).await
    }

    /// Withdraws one revision of a config. If it is the one that is running, the next lower one takes over. False if there
    /// is no such revision.
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

    /// The keys that have a config with one of these IDs, each with what [`ConfigState::wanted`] says.
    #[doc(hidden)]
    pub fn wanted_configs(&self, config_ids: &[String]) -> Vec<(String, u64)> {
        let life = self.0.life();
        let of_these = life.configs.by_key.iter().filter(|(_, applied)| config_ids.contains(&applied.config.id));
        of_these.map(|(key, applied)| (key.clone(), applied.wanted)).collect()
    }

    /// The config IDs for which there is a factory.
    pub fn config_ids(&self) -> Vec<String> {
        self.0.life().factories.config_ids()
    }

    /// Prepares a new generation of controllers beside the running one: constructs each with the new factory, hands over its
    /// state, executes it, and offers it the active directives, while its values are held back.
    ///
    /// # Errors
    /// Why a controller could not be constructed, restored, executed or ready within `grace`. The running generation is
    /// not affected.
    pub async fn stage(
        &self,
        from: Source,
        to: Source,
        factories: Vec<Arc<dyn Factory>>,
        grace: Duration,
    ) -> Result<Staged, BusError> {
        Ok(self.0.stage(from, to, factories, grace, None).await?)
    }

    /// [`Bus::stage`] for an older generation that comes back because the running one is unhealthy. If the running one cannot
    /// save a state, or the older code's `restore` refuses it, the older one starts with its own last state instead, as
    /// [`Committed::notes`] reports.
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
    ) -> Result<Staged, BusError> {
        Ok(self.0.stage(from, to, factories, grace, Some(last)).await?)
    }

    /// Checks the health of a source's controllers: the result of [`crate::Controller::health`] for each, or an error for one
    /// that does not answer in time.
    pub async fn health(&self, source: Source, within: Duration) -> Vec<(ControllerId, Result<(), BusError>)> {
        let said = self.0.health(source, within).await;
        said.into_iter().map(|(id, health)| (id, health.map_err(BusError::from))).collect()
    }

    /// Ends every directive, refuses new ones, and then removes every controller, all at the same time and each within its
    /// limits. Returns those that have not ended by then; they end in the background, or with the process.
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
        self.0.flush_states().await;
        self.0.states.close();
        #[cfg(unix)]
        self.0.close_sockets();
        left.iter().map(|entry| self.0.snapshot_of(entry)).collect()
    }
}

/// A bus that is not kept by this: for what is itself on the bus, such as a factory that needs one.
#[derive(Clone)]
pub struct WeakBus(std::sync::Weak<Engine>);

impl Bus {
    /// The bus for something that is on it, and would keep it for ever.
    pub fn downgrade(&self) -> WeakBus {
        WeakBus(Arc::downgrade(&self.0))
    }
}

impl WeakBus {
    /// Whether it is this bus.
    pub fn is(&self, bus: &Bus) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&bus.0))
    }

    /// Whether nobody has the bus any more.
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// The bus, if anybody still has it.
    pub fn upgrade(&self) -> Option<Bus> {
        self.0.upgrade().map(Bus)
    }
}

impl std::fmt::Debug for WeakBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeakBus").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let life = self.0.life();
        f.debug_struct("Bus").field("controllers", &life.controllers.len()).finish_non_exhaustive()
    }
}

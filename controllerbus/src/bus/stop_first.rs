//! One at a time: controllers that end before their successors are constructed, and what they leave to these.
//!
//! ```text
//! serving ─> held: new runs wait, others finish ─> cancelled ─> closed ─> saved ─> dropped ─┐
//!    ^                                                                                      v
//!    └── in one step, with the runs that wait <── ready <── restored <── constructed (the successor)
//!                                                            │ fails
//!                                                            v
//!                                              constructed (the previous one again, with the same state)
//! ```
//!
//! The old controller's values stay meanwhile. No controller is constructed for an instance that somebody else has claimed, or
//! before everything that owned the same has been dropped. So there are never two. A construction has a claim of its own, which
//! stays with it when it passes its limit, until it has ended.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::watch;
use tokio::time::timeout;

use super::engine::Engine;
use super::entry::{ControllerEntry, End};
use super::resolver::{hand_on, offer, offer_to, start_run};
use super::standing::Standing;
use crate::controller::State;
use crate::error::ErrorKind;
use crate::listen::Service;
use crate::sync::Notify;
use crate::{Error, Result};

/// Whether a controller that is about to end does. The first decision is final.
#[derive(Default)]
pub(super) struct Fate(OnceLock<Verdict>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ends,
    Spared,
}

impl Fate {
    /// Decides that it ends; false if it was spared before.
    fn seal(&self) -> bool {
        self.0.set(Verdict::Ends).is_ok()
    }

    /// Decides that it serves on; false if it ends.
    pub(super) fn spare(&self) -> bool {
        *self.0.get_or_init(|| Verdict::Spared) == Verdict::Spared
    }

    /// Whether it was decided that it ends.
    pub(super) fn is_sealed(&self) -> bool {
        self.0.get() == Some(&Verdict::Ends)
    }
}

/// What a controller leaves to its successor.
#[derive(Default)]
pub(super) struct Legacy {
    /// The id of its config.
    config_id: String,
    /// The controller, while its values and the runs that wait at its gate are kept for the successor.
    pub(super) old: Option<Arc<ControllerEntry>>,
    /// Its state, as it was saved before the controller was told to end.
    state: Option<State>,
    /// Where its last state comes from.
    last: Option<watch::Receiver<End>>,
    /// What has to be over before the successor is constructed.
    after: Vec<After>,
}

/// A controller, or a claim, that has to be over.
#[derive(Clone)]
pub(super) struct After {
    controller: u64,
    end: watch::Receiver<End>,
}

impl After {
    pub(super) fn of(entry: &ControllerEntry) -> Self {
        Self { controller: entry.id, end: entry.end.subscribe() }
    }

    /// Waits until it is over.
    pub(super) async fn over(&mut self) {
        // An error means that the sender is gone, and so it is over.
        let _ = self.end.wait_for(|end| end.over).await;
    }

    pub(super) fn is_over(&self) -> bool {
        // Without a sender it is gone altogether.
        self.end.borrow().over || self.end.has_changed().is_err()
    }
}

/// A claim to an instance: its holder replaces the instance's controller, or constructs one that cannot run beside another.
/// Until it is dropped nobody else does. Must not be dropped under the lock of `Life`.
pub(super) struct Claim {
    engine: Weak<Engine>,
    id: u64,
    end: watch::Sender<End>,
}

impl Claim {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::downgrade(engine), id: engine.next_id(), end: watch::Sender::new(End::default()) }
    }

    /// The end of the claim.
    pub(super) fn after(&self) -> After {
        After { controller: self.id, end: self.end.subscribe() }
    }

    /// Lets whoever holds the claim say why it does not end.
    pub(super) fn teller(&self) -> watch::Sender<End> {
        self.end.clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.end.send_modify(|end| end.over = true);
        if let Some(engine) = self.engine.upgrade() {
            let waiting = engine.life().configs.waiting_for(self.id);
            waiting.iter().for_each(|nudge| nudge.notify_one());
        }
    }
}

impl Legacy {
    /// What a controller leaves that was told to end; `before` is the state that it had saved before that.
    pub(super) fn of(old: &Arc<ControllerEntry>, before: Option<State>) -> Self {
        let last = Some(old.end.subscribe());
        let config_id = old.info.config_id.clone();
        Self { config_id, old: Some(Arc::clone(old)), state: before, last, after: vec![After::of(old)] }
    }

    /// Only that a controller has to be over.
    pub(super) fn after(entry: &ControllerEntry) -> Self {
        Self { after: vec![After::of(entry)], ..Self::default() }
    }

    /// Others have to be over, too.
    pub(super) fn wait_for(&mut self, after: impl IntoIterator<Item = After>) {
        self.after.extend(after);
    }

    /// The state for the successor, if that has the same config ID.
    pub(super) fn state_for(&mut self, config_id: &str) -> Option<State> {
        self.state().filter(|_| self.config_id == config_id)
    }

    fn state(&mut self) -> Option<State> {
        let last = self.last.as_ref().and_then(|last| last.borrow().left.clone());
        match last {
            Some(Ok(state)) => {
                self.state = state;
                self.last = None;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the last state could not be saved; using the one from before the controller was told to end");
                self.last = None;
            }
            None => {}
        }
        self.state.clone()
    }

    /// Whether the successor may be constructed. An error says what is delaying it beyond the limits.
    pub(super) fn is_free(&mut self) -> Result<bool> {
        self.after.retain(|after| !after.is_over());
        match self.after.iter().find_map(|after| after.end.borrow().held.clone()) {
            Some(held) => Err(held),
            None => Ok(self.after.is_empty()),
        }
    }

    /// Whether there is more than something that has to be over.
    pub(super) fn is_estate(&self) -> bool {
        self.old.is_some() || self.state.is_some() || self.last.is_some()
    }

    /// What has to be over.
    pub(super) fn after_all(&self) -> impl Iterator<Item = After> {
        self.after.iter().cloned()
    }

    /// Whether it waits for a controller or claim.
    pub(super) fn waits_for(&self, controller: u64) -> bool {
        self.after.iter().any(|after| after.controller == controller)
    }
}

impl Engine {
    /// Ends controllers, concurrently, for their successors: new runs wait for these, runs at work get time to finish, and
    /// values stay. Returns when all controllers have been dropped.
    ///
    /// If the future is dropped, a controller whose fate is sealed ends all the same, and [`Legacy::of`] has what it leaves;
    /// whoever spares another one opens its gate again.
    ///
    /// # Errors
    /// Why the first one that does not end does not. It ends when that is over.
    pub(super) async fn stop_all(self: &Arc<Self>, all: &[(Arc<ControllerEntry>, Arc<Fate>)]) -> Result<()> {
        let runtime = self.runtime()?;
        let mut stopping = tokio::task::JoinSet::new();
        for (entry, fate) in all {
            // Here and not in the task, which might do it after the caller has given up and opened the gate again.
            entry.handover.hold();
            let watching = Watching::of(entry);
            let engine = Arc::clone(self);
            let fate = Arc::clone(fate);
            stopping.spawn_on(async move { engine.stop(watching, &fate).await }, &runtime);
        }
        let mut ended = Ok(());
        while let Some(stopped) = stopping.join_next().await {
            ended = ended.and(stopped.unwrap_or_else(|error| Err(Error::msg(error))));
        }
        ended
    }

    async fn stop(self: &Arc<Self>, watching: Watching, fate: &Fate) -> Result<()> {
        let entry = &Arc::clone(&watching.entry);
        let at_rest = async {
            while entry.answers().iter().any(|standing| is_at_work(standing, entry)) {
                watching.activity.notified().await;
            }
        };
        let in_time = timeout(self.limits.finish, at_rest).await.is_ok();
        drop(watching);
        if !fate.seal() {
            return Err(Error::new(ErrorKind::Closed, "no longer wanted"));
        }
        if !in_time {
            let limit = self.limits.finish;
            tracing::warn!(
                controller = entry.info.id,
                "requests in progress did not finish within {limit:?}; the next controller starts them over"
            );
        }
        self.cut_short(entry);
        let mut end = entry.end.subscribe();
        let over = end.wait_for(|end| end.over || end.held.is_some());
        match timeout(self.limits.part(), over).await {
            Ok(Ok(end)) => end.held.clone().filter(|_| !end.over).map_or(Ok(()), Err),
            _ => {
                let what = format!("{} did not end within {:?}", entry.info.id, self.limits.part());
                Err(Error::new(ErrorKind::TimedOut, what))
            }
        }
    }

    /// Drops a claim once these are over.
    pub(super) fn release_after(self: &Arc<Self>, claim: Claim, after: Vec<After>) {
        if after.iter().all(After::is_over) {
            return;
        }
        self.spawn(async move {
            for mut after in after {
                after.over().await;
            }
            drop(claim);
        });
    }

    /// Cancels a controller and the runs that are still at work. Its values stay.
    fn cut_short(self: &Arc<Self>, entry: &Arc<ControllerEntry>) {
        entry.is_inherited.store(true, Ordering::Release);
        for standing in entry.answers() {
            standing.change(|state, effects| {
                // A call whose answer is there, or that waits at the gate, is no worse for it. Asked under the directive's lock,
                // so that the call is the same afterwards.
                let is_cut = standing.options.once && state.is_at_work(entry.id) && !entry.handover.is_held(&standing);
                if !is_cut {
                    return state.suspend(&standing, entry.id, effects);
                }
                let what = format!("{} was stopped while this call was still running", entry.info.id);
                state.cut_call(entry.id, Error::new(ErrorKind::Closed, what), effects);
            });
        }
        entry.set_service(Service::Replaced);
        entry.cancel.cancel();
        self.notify_changed();
    }

    /// Lets new controllers take over from old ones: directives and the runs that wait become theirs. An old controller whose
    /// successor has no answer yet stays until that has one, or for a while.
    pub(super) fn take_over(self: &Arc<Self>, pairs: &[(Arc<ControllerEntry>, Option<Arc<ControllerEntry>>)]) {
        let old: Vec<_> = pairs.iter().map(|(old, _)| Arc::clone(old)).collect();
        for (old, new) in pairs {
            old.set_service(if new.is_some() { Service::Replaced } else { Service::Removed });
        }
        self.types.route(&[], &old);
        for (old, new) in pairs {
            // The runs that waited here, and whatever is offered to the old one from now on, are the new one's.
            for (standing, lane_ref, run) in old.handover.shut() {
                match new {
                    // What is local has nobody of another library: it stays where it is, like what has begun.
                    Some(new)
                        if new.is_left(&standing) && standing.library.is_some_and(|library| library != new.library) =>
                    {
                        let is_wanted = standing.lock().resolver_in((lane_ref.id, run)).is_some();
                        if is_wanted {
                            start_run(&standing, &lane_ref, run);
                        }
                    }
                    Some(new) if standing.options.stays() => hand_on(&standing, old.id, new.id),
                    _ => standing.change(|state, effects| state.remove_resolver(old.id, effects)),
                }
            }
            if let Some(new) = new {
                // A directive that is being added may have been offered to only one of the two. A call has no other answer.
                let both = new.answers().into_iter().chain(old.answers());
                let mut pinned = Vec::new();
                for standing in both.filter(|standing| !standing.options.once) {
                    if let Some(limit) = standing.options.pinned_for() {
                        if new.handover.leaves_pins() && standing.change(|state, _| state.pin(old.id, new.id)) {
                            pinned.push((standing, limit));
                            continue;
                        }
                        offer_to(&standing, new.id);
                    }
                    standing.change(|state, effects| state.replace(old.id, new.id, effects));
                }
                self.end_pins(old, pinned);
                // A call, or what is pinned, that was added before the new one was routed to may come to the old one too late; and
                // what was pinned to an earlier one may be over.
                fence(Ordering::SeqCst);
                if new.missed_offers.load(Ordering::Relaxed) {
                    let all = self.types.standing_for(new);
                    let missed = all.iter().filter(|(standing, _)| standing.options.stays());
                    missed.for_each(|(standing, own)| offer(standing, own));
                }
            }
        }
        for (old, new) in pairs {
            if let Some(new) = new {
                self.own_state(new);
                new.set_service(Service::Serving);
                new.open_gate();
            }
            let old = Arc::clone(old);
            self.spawn(async move {
                let watching = Watching::of(&old);
                let outlasted = async {
                    while old.answers_what_goes() {
                        watching.activity.notified().await;
                    }
                };
                let _ = timeout(super::swap::OUTLAST, outlasted).await;
                old.withdraw_what_goes();
                // Whoever calls decides how long he waits, and a pin has its limit. Meanwhile it is shown as finishing.
                while old.answer_count() > 0 {
                    watching.activity.notified().await;
                }
                drop(watching);
                old.withdraw();
                old.cancel.cancel();
            });
        }
    }
}

/// Is notified of each change of a controller until it is dropped.
pub(super) struct Watching {
    entry: Arc<ControllerEntry>,
    pub(super) activity: Arc<Notify>,
}

impl Watching {
    pub(super) fn of(entry: &Arc<ControllerEntry>) -> Self {
        let activity = Arc::default();
        entry.handover.watch(&activity);
        Self { entry: Arc::clone(entry), activity }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.entry.handover.unwatch(&self.activity);
    }
}

/// Whether a controller's resolver of a directive was started, and has not answered yet.
pub(super) fn is_at_work(standing: &Arc<Standing>, entry: &Arc<ControllerEntry>) -> bool {
    let at_work = standing.lock().is_at_work(entry.id);
    at_work && !entry.handover.is_held(standing)
}

//! Pinned directives: what a controller that was replaced still does, beside its successor, until its limit.
//!
//! ```text
//!             swap                      its limit, a failure, or nobody of its line serves
//! 1 answers ───────> 1 goes on ──────────────────────────────────────────────────────────> 2 is offered it, and 1 goes once
//!                    2 is not offered it                                                    2 has answered
//! ```
//!
//! Controllers that have replaced each other in swaps are a *line*: a third generation, too, leaves alone what is pinned to the
//! first one. A controller of another config is of another line.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::engine::Engine;
use super::entry::{ControllerEntry, LaneRef, Route};
use super::resolver::offer;
use super::standing::{Pin, Standing};
use super::stop_first::Watching;
use super::swap::OUTLAST;

/// Offers a directive whose pin is over to the newest controller of the line, and lets the old one go once that has answered.
pub(super) fn pass_on(standing: &Arc<Standing>, old: &LaneRef) {
    let mut asked = None;
    // Should that be replaced meanwhile, it refuses, and another one is the newest.
    while let Some(route) = newest_of(standing, old.line()).filter(|route| asked != Some(route.entry.id)) {
        asked = Some(route.entry.id);
        standing.change(|state, _| state.set_successor(old.id, route.entry.id));
        offer(standing, route.get());
    }
    standing.change(|state, effects| {
        if asked.is_none() {
            state.remove_resolver(old.id, effects);
        }
        state.offered(effects);
    });
}

/// The newest controller of a line that serves and resolves such directives.
fn newest_of(standing: &Standing, line: u64) -> Option<Arc<Route>> {
    let routes = standing.table.routes.load();
    let serves = |entry: &ControllerEntry| entry.line() == line && !entry.is_staged() && !entry.is_removed();
    routes.iter().filter(|route| serves(&route.entry)).max_by_key(|route| route.entry.id).cloned()
}

/// A directive that is pinned to a controller.
struct Pinned {
    standing: Arc<Standing>,
    /// When the pin ends; after that, when the resolver goes at the latest. `None` is never.
    until: Option<Instant>,
    is_over: bool,
}

impl Pinned {
    /// Does what is due; whether the controller still answers.
    fn look(&mut self, old: &ControllerEntry, has_successor: bool) -> bool {
        let now = Instant::now();
        let is_due = self.until.is_some_and(|until| until <= now);
        let Some(pin) = self.standing.lock().pin_to(old.id) else { return false };
        match pin {
            Pin::Over if self.is_over && is_due => {
                self.standing.change(|state, effects| state.remove_resolver(old.id, effects));
                return false;
            }
            // It has failed.
            Pin::Over if !self.is_over => self.ends(now),
            Pin::Holds if is_due || !has_successor => {
                self.ends(now);
                self.standing.change(|state, effects| state.unpin(old.id, effects));
            }
            _ => {}
        }
        true
    }

    fn ends(&mut self, now: Instant) {
        self.is_over = true;
        self.until = Some(now + OUTLAST);
    }
}

impl Engine {
    /// Ends what is pinned to a controller that was replaced: at its limit, or when nobody of the line serves any more.
    pub(super) fn end_pins(self: &Arc<Self>, old: &Arc<ControllerEntry>, pinned: Vec<(Arc<Standing>, Duration)>) {
        if pinned.is_empty() {
            return;
        }
        let now = Instant::now();
        let one = |(standing, limit)| Pinned { standing, until: now.checked_add(limit), is_over: false };
        let pinned = pinned.into_iter().map(one).collect();
        self.spawn(end_in_time(Arc::downgrade(self), Arc::clone(old), pinned));
    }

    /// Whether anybody of a line serves.
    fn has_any_of(&self, line: u64) -> bool {
        self.life().controllers.values().any(|entry| entry.line() == line && !entry.is_staged())
    }
}

async fn end_in_time(engine: Weak<Engine>, old: Arc<ControllerEntry>, mut pinned: Vec<Pinned>) {
    let Some(mut changed) = engine.upgrade().map(|engine| engine.changed.subscribe()) else { return };
    let watching = Watching::of(&old);
    loop {
        changed.borrow_and_update();
        let has_successor = engine.upgrade().is_some_and(|engine| engine.has_any_of(old.line()));
        pinned.retain_mut(|pinned| pinned.look(&old, has_successor));
        if pinned.is_empty() {
            return;
        }
        let next = pinned.iter().filter_map(|pinned| pinned.until).min();
        let due = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = watching.activity.notified() => {}
            Ok(()) = changed.changed() => {}
            () = due => {}
        }
    }
}

//! Runs a controller's resolver for one directive: polls it once in place, then as a task, and again after errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};

use tracing::Instrument;

use super::Source;
use super::contain::{contain, contained};
use super::entry::LaneRef;
use super::handover::Gate;
use super::origin::Sides;
use super::sink::sink;
use super::standing::{ResolverTask, Standing, StandingState, Turn};
use crate::controller::BoxFuture;
use crate::error::ErrorKind;
use tokio::time::Instant;

use crate::backoff::HEALTHY;
use crate::{Backoff, Error, Result};

/// How deep resolvers that are polled in place may nest before one is spawned instead.
const DEPTH: u32 = 16;

thread_local! {
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// Offers a directive to a controller. Only the first offer counts.
pub(super) fn offer(standing: &Arc<Standing>, lane_ref: &Arc<LaneRef>) {
    if let Some(library) = standing.library.filter(|library| *library != lane_ref.library) {
        return not_asked(standing, lane_ref, library);
    }
    // Its predecessor is asked. What that does not keep is offered again when this one goes live (`Engine::take_over`), and so is
    // what is pinned to an earlier one now. What is local has only its own generation.
    if standing.options.stays() && lane_ref.is_staged() && standing.library.is_none() {
        lane_ref.missed_offers.store(true, Ordering::Relaxed);
        // Either this thread sees that it has gone live, or whoever lets it take over sees the note.
        fence(Ordering::SeqCst);
        if lane_ref.is_left(standing) && lane_ref.is_staged() {
            return;
        }
    }
    // Remembered before it begins: if the controller is taken off in between, it does not begin.
    let Some(slot) = lane_ref.remember(standing) else { return };
    match standing.change(|state, effects| state.begin(standing, lane_ref, slot, effects)) {
        (Gate::Open, run) => start_run(standing, lane_ref, run),
        (Gate::Holding, _) => {}
        // There was another offer, the directive has ended, another controller has taken over, or nobody asks the fleet.
        (Gate::Shut, _) => lane_ref.forget(slot),
    }
}

/// Does what a change of who asks entails: somebody on this bus asks for the first time, or nobody does any more.
#[cold]
pub(super) fn turned(standing: &Arc<Standing>, mut turn: Box<Turn>) {
    turn.effects.apply(standing);
    if turn.asks_fleet {
        let routes = standing.table.routes.load();
        let fleet: Vec<_> = routes.iter().filter(|route| route.entry.side == Sides::FLEET).cloned().collect();
        drop(routes);
        for route in fleet {
            offer(standing, route.get());
        }
        standing.change(StandingState::offered_to_fleet);
    }
    standing.notify_changed();
}

/// Hands what waited at the gate of a controller, and has not begun, on to the one that has replaced it: a call, or what is pinned.
pub(super) fn hand_on(standing: &Arc<Standing>, old: u64, new: u64) {
    standing.change(|state, effects| state.take_back_offer(old, new, effects));
    offer_to(standing, new);
    standing.change(StandingState::offered);
}

/// Offers a directive to the controller with this id, if it is routed to.
pub(super) fn offer_to(standing: &Arc<Standing>, controller: u64) {
    let routes = standing.table.routes.load();
    let route = routes.iter().find(|route| route.entry.id == controller).cloned();
    drop(routes);
    if let Some(route) = route {
        offer(standing, route.get());
    }
}

/// A local directive of another library. Between the host and a plugin that is a mistake, which is told; between generations it
/// is not, because the other one has controllers of its own; nor is it where a controller resolves whatever there is, or answers
/// for another host, which has its own libraries.
fn not_asked(standing: &Arc<Standing>, lane_ref: &LaneRef, library: Source) {
    let is_meant = lane_ref.resolves.iter().any(|id| id == standing.directive.id());
    if !is_meant || lane_ref.side == Sides::FLEET || (library == Source::STATIC) == (lane_ref.library == Source::STATIC)
    {
        return;
    }
    let what = format!(
        "{} is local, so its values stay in the library that makes them; `{}`, which would answer it, is in another one",
        standing.directive.id(),
        lane_ref.info.id
    );
    let error = Error::new(ErrorKind::Invalid, what).permanent();
    standing.change(|state, effects| state.refuse(&lane_ref.cancel, error, effects));
}

/// Starts another run of a resolver, unless it is held back.
pub(super) fn restart(standing: &Arc<Standing>, lane_ref: &Arc<LaneRef>, run: u32) {
    if standing.change(|state, effects| state.pass(standing, lane_ref, run, effects)) == Gate::Open {
        start_run(standing, lane_ref, run);
    }
}

/// Starts a run that was admitted.
pub(super) fn start_run(standing: &Arc<Standing>, lane_ref: &Arc<LaneRef>, run: u32) {
    // Where nobody listens, this costs two branches.
    let entered = (!lane_ref.span.is_disabled()).then(|| lane_ref.span.enter());
    let mut work = match call_resolver(standing, lane_ref, run) {
        Ok(Some(work)) => work,
        Ok(None) => {
            drop(entered);
            // Another run may have begun meanwhile, if nobody asked the fleet for a moment.
            return standing.change(|state, effects| {
                if state.resolver_in((lane_ref.id, run)).is_some() {
                    state.remove_resolver(lane_ref.id, effects);
                }
            });
        }
        Err(error) => Box::pin(std::future::ready(Err(error))),
    };
    let depth = NESTED.get();
    if depth < DEPTH {
        NESTED.set(depth + 1);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let _inside = standing.table.enter();
            work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        NESTED.set(depth);
        match polled.unwrap_or_else(|payload| Poll::Ready(Err(Error::from_panic(payload)))) {
            Poll::Ready(Ok(())) => {
                discard(work);
                drop(entered);
                return finish(standing, lane_ref, run, Ok(()));
            }
            Poll::Ready(Err(error)) => {
                let polled = std::mem::replace(&mut work, Box::pin(std::future::ready(Err(error))));
                discard(polled);
            }
            Poll::Pending => {}
        }
    }
    drop(entered);
    let Some(runtime) = standing.table.runtime() else {
        let error = Error::msg("the bus was created and is used outside a tokio runtime; create it inside one");
        return standing.change(|state, effects| state.fail(lane_ref, run, error, effects));
    };
    // Noted before the task exists, so that the next run, which may begin while this task waits in its backoff, can end it.
    let task = Arc::new(ResolverTask::default());
    let is_over = !standing.change(|state, _| state.set_task(lane_ref.id, run, &task));
    if is_over {
        return discard(work);
    }
    task.began(runtime.spawn(drive(Arc::clone(standing), Arc::clone(lane_ref), run, work)).abort_handle());
}

/// Drops a future. A panic of its destructor is contained.
fn discard(work: BoxFuture<'static, Result<()>>) {
    contain("a resolver's destructor", || drop(work));
}

fn call_resolver(
    standing: &Arc<Standing>,
    lane_ref: &Arc<LaneRef>,
    run: u32,
) -> Result<Option<BoxFuture<'static, Result<()>>>> {
    let sink = sink(standing, (lane_ref.id, run));
    let controller = Arc::clone(&lane_ref.controller);
    lane_ref.counts.began();
    catch_unwind(AssertUnwindSafe(|| controller.resolve(Arc::clone(&standing.directive), sink)))
        .map_err(Error::from_panic)
}

fn finish(standing: &Arc<Standing>, lane_ref: &Arc<LaneRef>, run: u32, result: Result<()>) {
    standing.change(|state, effects| match result {
        Ok(()) => state.finish(lane_ref.id, run, effects),
        Err(error) => state.fail(lane_ref, run, error, effects),
    });
    lane_ref.handover.notify();
}

/// Drives a run to its end, and those after it. There is one of these for each resolver that works, and so it is small: as a block it
/// has its arguments once, and what seldom happens is boxed.
fn drive(
    standing: Arc<Standing>,
    lane_ref: Arc<LaneRef>,
    run: u32,
    work: BoxFuture<'static, Result<()>>,
) -> impl Future<Output = ()> + Send {
    let (mut run, mut work) = (run, work);
    async move {
        let mut backoff = None;
        loop {
            let begun = Instant::now();
            // In a scope of its own, so that the result takes no room while the next one is waited for.
            let is_tried_again = {
                let result = contained(work).instrument(lane_ref.span.clone()).await;
                let is_tried_again = result.as_ref().is_err_and(|error| !error.is_permanent());
                finish(&standing, &lane_ref, run, result);
                is_tried_again && !standing.options.once
            };
            if !is_tried_again {
                return;
            }
            let next = Box::pin(wait_to_retry(&standing, &lane_ref, run, begun, &mut backoff)).await;
            let Some(next) = next else { return };
            (run, work) = next;
        }
    }
}

/// Waits, and begins another run; `None` if there is none.
async fn wait_to_retry(
    standing: &Arc<Standing>,
    lane_ref: &Arc<LaneRef>,
    run: u32,
    begun: Instant,
    backoff: &mut Option<Box<Backoff>>,
) -> Option<(u32, BoxFuture<'static, Result<()>>)> {
    let own = || lane_ref.controller.retry(standing.directive.id()).unwrap_or(lane_ref.retry);
    let backoff = backoff.get_or_insert_with(|| Box::new(Backoff::new(own())));
    if begun.elapsed() >= HEALTHY {
        backoff.reset();
    }
    tokio::time::sleep(backoff.next()?).await;
    let run = standing.change(|state, effects| state.retry(standing, lane_ref, run, effects))?;
    match lane_ref.span.in_scope(|| call_resolver(standing, lane_ref, run)) {
        Ok(Some(work)) => Some((run, work)),
        Ok(None) => {
            finish(standing, lane_ref, run, Ok(()));
            None
        }
        Err(error) => Some((run, Box::pin(std::future::ready(Err(error))))),
    }
}

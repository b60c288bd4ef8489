//! Runs a controller's resolver on one standing directive: polled once in place, then as a task, again after errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::entry::{Seat, contained};
use super::handover::Gate;
use super::standing::{Drive, Standing, State};
use crate::controller::BoxFuture;
use crate::directive::{AnyValue, Callback, ValueId, ValueSink};
use crate::{Backoff, Error, Result};

/// How deep resolvers that are polled in place may nest before one goes to a task.
const DEPTH: u32 = 16;

thread_local! {
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// Where one resolver puts its values.
struct Sink {
    standing: Arc<Standing>,
    seat: Arc<Seat>,
    /// The run of the resolver that it belongs to.
    run: u32,
}

impl Sink {
    fn put(&self, value: AnyValue, removed: Option<Callback>) -> Option<ValueId> {
        let options = &self.standing.options;
        let put = |state: &mut State, effects: &mut _| {
            state.add_value((&self.seat, self.run), value, removed, options, effects)
        };
        let id = self.standing.change(put);
        self.seat.handover.stir();
        id
    }
}

impl ValueSink for Sink {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        self.put(value, None)
    }
    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId> {
        self.put(value, Some(removed))
    }
    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let options = &self.standing.options;
        let put = |state: &mut State, effects: &mut _| {
            state.replace_value((&self.seat, self.run), old, value, options, effects)
        };
        let id = self.standing.change(put);
        self.seat.handover.stir();
        id
    }
    fn remove(&self, id: ValueId) -> bool {
        self.standing.change(|state, effects| state.remove_value(self.seat.id, id, effects))
    }
    fn set_idle(&self, idle: bool) {
        self.standing.change(|state, effects| state.set_idle(self.seat.id, self.run, idle, effects));
        self.seat.handover.stir();
    }
    fn is_cancelled(&self) -> bool {
        self.standing.lock().is_cancelled(self.seat.id, self.run, &self.standing.options)
    }
    fn on_gone(&self, callback: Callback) {
        let refused = self.standing.change(|state, _| match state.resolver_in(self.seat.id, self.run) {
            Some(resolver) => {
                resolver.gone.push(callback);
                None
            }
            None => Some(callback),
        });
        if let Some(callback) = refused {
            callback();
        }
    }
}

/// Offers a directive to a controller, once.
pub(super) fn offer(standing: &Arc<Standing>, seat: &Arc<Seat>) {
    // Remembered first, begun then: who takes the controller off in between keeps it from beginning.
    let Some(place) = seat.remember(standing) else { return };
    match standing.change(|state, effects| state.begin(standing, seat, place, effects)) {
        Gate::Open => run(standing, seat, 0),
        Gate::Holding => {}
        // Another offer was first, the directive has ended, or another controller has taken over.
        Gate::Shut => seat.forget(place),
    }
}

/// Starts another run of a resolver, unless it is held.
pub(super) fn restart(standing: &Arc<Standing>, seat: &Arc<Seat>, number: u32) {
    if standing.change(|state, effects| state.pass(standing, seat, number, effects)) == Gate::Open {
        run(standing, seat, number);
    }
}

/// Starts the resolver that has begun.
pub(super) fn run(standing: &Arc<Standing>, seat: &Arc<Seat>, number: u32) {
    let mut work = match start(standing, seat, number) {
        Ok(Some(work)) => work,
        Ok(None) => return standing.change(|state, effects| state.remove_resolver(seat.id, effects)),
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
                return finish(standing, seat, number, Ok(()));
            }
            Poll::Ready(Err(error)) => {
                let polled = std::mem::replace(&mut work, Box::pin(std::future::ready(Err(error))));
                discard(polled);
            }
            Poll::Pending => {}
        }
    }
    let Some(runtime) = standing.table.runtime() else {
        let error = Error::msg("the bus was made, and is used, outside a tokio runtime");
        return standing.change(|state, effects| state.fail(seat, number, error, effects));
    };
    // Noted before it can fail: so whoever begins the next run knows the task that is in its backoff.
    let drive = Arc::new(Drive::default());
    let is_over = !standing.change(|state, _| state.goes_on(seat.id, number, &drive));
    if is_over {
        return discard(work);
    }
    drive.began(runtime.spawn(goes_on(Arc::clone(standing), Arc::clone(seat), number, work)).abort_handle());
}

/// Drops a future that has ended; a panic of its destructor is no better than one of its body.
fn discard(work: BoxFuture<'static, Result<()>>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(work))) {
        let error = Error::from_panic(payload);
        tracing::error!(%error, "a resolver panicked when it was dropped");
    }
}

fn start(standing: &Arc<Standing>, seat: &Arc<Seat>, run: u32) -> Result<Option<BoxFuture<'static, Result<()>>>> {
    let sink = Arc::new(Sink { standing: Arc::clone(standing), seat: Arc::clone(seat), run });
    let controller = Arc::clone(&seat.controller);
    seat.counts.began();
    catch_unwind(AssertUnwindSafe(|| controller.resolve(Arc::clone(&standing.directive), sink)))
        .map_err(Error::from_panic)
}

fn finish(standing: &Arc<Standing>, seat: &Arc<Seat>, number: u32, result: Result<()>) {
    standing.change(|state, effects| match result {
        Ok(()) => state.finish(seat.id, number, effects),
        Err(error) => state.fail(seat, number, error, effects),
    });
    seat.handover.stir();
}

async fn goes_on(standing: Arc<Standing>, seat: Arc<Seat>, number: u32, work: BoxFuture<'static, Result<()>>) {
    let mut backoff = Backoff::default();
    let (mut number, mut work) = (number, work);
    loop {
        let result = contained(work).await;
        let is_tried_again = result.as_ref().is_err_and(|error| !error.is_permanent());
        finish(&standing, &seat, number, result);
        if !is_tried_again {
            return;
        }
        tokio::time::sleep(backoff.next()).await;
        let again = standing.change(|state, effects| state.retry(&standing, &seat, number, effects));
        let Some(again) = again else { return };
        number = again;
        work = match start(&standing, &seat, number) {
            Ok(Some(work)) => work,
            Ok(None) => return finish(&standing, &seat, number, Ok(())),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        };
    }
}

//! Runs a controller's resolver on one standing directive: polled once in place, then as a task, again after errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use super::entry::{Backoff, ControllerEntry, contained};
use super::standing::Standing;
use crate::controller::BoxFuture;
use crate::directive::{AnyValue, ValueId, ValueSink};
use crate::{Error, Result};

/// How deep resolvers that are polled in place may nest before one goes to a task.
const DEPTH: u32 = 16;

thread_local! {
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// Where one resolver puts its values.
struct Sink {
    standing: Arc<Standing>,
    entry: Arc<ControllerEntry>,
}

impl ValueSink for Sink {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        let standing = &self.standing;
        standing.change(|state, effects| state.add_value(&self.entry, value, &standing.options, effects))
    }
    fn remove(&self, id: ValueId) -> bool {
        self.standing.change(|state, effects| state.remove_value(self.entry.id, id, effects))
    }
    fn set_idle(&self, idle: bool) {
        self.standing.change(|state, effects| state.set_idle(self.entry.id, idle, effects));
    }
    fn is_cancelled(&self) -> bool {
        let mut state = self.standing.lock();
        state.ended || state.resolver(self.entry.id).is_none()
    }
}

/// Offers a directive to a controller, once.
pub(super) fn offer(standing: &Arc<Standing>, entry: &Arc<ControllerEntry>, runtime: Option<&Handle>) {
    if !standing.change(|state, _| state.begin(entry)) {
        return;
    }
    if !entry.remember(standing) {
        standing.change(|state, effects| state.remove_resolver(entry.id, effects));
        return;
    }
    // The directive may have ended between the two: then nobody else would forget it.
    if standing.lock().ended {
        entry.forget(standing);
        return;
    }
    let mut work = match start(standing, entry) {
        Ok(Some(work)) => work,
        Ok(None) => return finish(standing, entry, Ok(())),
        Err(error) => Box::pin(std::future::ready(Err(error))),
    };
    let depth = NESTED.get();
    if depth < DEPTH {
        NESTED.set(depth + 1);
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        NESTED.set(depth);
        match polled.unwrap_or_else(|payload| Poll::Ready(Err(Error::from_panic(payload)))) {
            Poll::Ready(Ok(())) => return finish(standing, entry, Ok(())),
            Poll::Ready(Err(error)) => work = Box::pin(std::future::ready(Err(error))),
            Poll::Pending => {}
        }
    }
    let drive = drive(Arc::clone(standing), Arc::clone(entry), work);
    let task = match (Handle::try_current(), runtime) {
        (Ok(handle), _) => handle.spawn(drive),
        (Err(_), Some(handle)) => handle.spawn(drive),
        (Err(_), None) => {
            let error = Error::msg("the bus was made, and is used, outside a tokio runtime");
            return standing.change(|state, effects| state.fail(entry, error, effects));
        }
    };
    let abort = task.abort_handle();
    let gone = standing.change(|state, _| match state.resolver(entry.id) {
        Some(resolver) => {
            resolver.task = Some(abort.clone());
            false
        }
        None => true,
    });
    if gone {
        abort.abort();
    }
}

fn start(standing: &Arc<Standing>, entry: &Arc<ControllerEntry>) -> Result<Option<BoxFuture<'static, Result<()>>>> {
    let sink = Arc::new(Sink { standing: Arc::clone(standing), entry: Arc::clone(entry) });
    let controller = Arc::clone(&entry.controller);
    catch_unwind(AssertUnwindSafe(|| controller.resolve(Arc::clone(&standing.directive), sink)))
        .map_err(Error::from_panic)
}

fn finish(standing: &Arc<Standing>, entry: &Arc<ControllerEntry>, result: Result<()>) {
    standing.change(|state, effects| match result {
        Ok(()) => state.set_idle(entry.id, true, effects),
        Err(error) => state.fail(entry, error, effects),
    });
}

async fn drive(standing: Arc<Standing>, entry: Arc<ControllerEntry>, work: BoxFuture<'static, Result<()>>) {
    let mut backoff = Backoff::default();
    let mut work = work;
    loop {
        let result = contained(work).await;
        let failed = result.is_err();
        finish(&standing, &entry, result);
        if !failed {
            return;
        }
        tokio::time::sleep(backoff.next()).await;
        if !standing.change(|state, _| state.retry(entry.id)) {
            return;
        }
        work = match start(&standing, &entry) {
            Ok(Some(work)) => work,
            Ok(None) => return finish(&standing, &entry, Ok(())),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        };
    }
}

//! How a controller lives and ends: it is executed, cancelled and closed, each within its limit.
//!
//! ```text
//! attach ─> (the previous one ends) ─> executing <─> failed, waits ─> ended
//!                      │                   │ cancelled     │            │
//!                      v                   v               v            v
//!                   closing: `execute` ends or is dropped ─> `close` ends or is dropped ─> parted from ─> closed
//!                      │ it blocks its thread, and so cannot be dropped
//!                      v
//!                   stuck, until it ends after all
//! ```
//!
//! A task takes these steps for each controller. A controller that was taken off the bus is kept in `Life::leaving` until it is
//! closed, so that tools can show it. User code runs on further tasks: what blocks its thread costs that thread and nothing
//! else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::contain::contained;
use super::engine::{Engine, Life};
use super::entry::{ControllerEntry, Execution};
use super::loading::LoadFactory;
use super::{ControllerId, Source};
use crate::backoff::HEALTHY;
use crate::controller::{AnyController, Context, State, SwapMode};
use crate::directive::Directive;
use crate::error::ErrorKind;
use crate::listen::Service;
use crate::{Backoff, Error, Result};

/// How long dropping a future may take. If it takes longer, it is blocking its thread.
pub(super) const GRACE: Duration = Duration::from_millis(200);

/// How often a controller that cannot be dropped is tried again.
const STILL: Duration = Duration::from_secs(60);

impl Life {
    /// Takes controllers off; they are in `leaving` until they are closed.
    pub(super) fn leave<'a>(&mut self, entries: impl IntoIterator<Item = &'a Arc<ControllerEntry>>) {
        for entry in entries {
            self.controllers.remove(&entry.id);
            if !entry.is_over.load(Ordering::Acquire) {
                self.leaving.insert(entry.id, Arc::clone(entry));
            }
        }
    }
}

impl Engine {
    /// Attaches a controller that is in `Life::controllers`: directives are routed to it, the standing ones are offered to it,
    /// and it is executed once those before it have ended.
    pub(super) fn attach(self: &Arc<Self>, entry: &Arc<ControllerEntry>, before: Vec<CancellationToken>) {
        self.own_state(entry);
        entry.set_service(Service::Serving);
        self.start_linked();
        self.types.route(std::slice::from_ref(entry), &[]);
        // Whoever has taken it off in between has found no routes yet.
        if !self.life().controllers.contains_key(&entry.id) {
            self.types.route(&[], std::slice::from_ref(entry));
        }
        self.offer_standing(entry);
        self.start_life(entry, before);
        if entry.resolves.iter().any(|id| id == LoadFactory::ID) {
            // It may know where to get what configs wait for.
            let waiting = self.life().configs.nudges();
            waiting.iter().for_each(|nudge| nudge.notify_one());
        }
        self.notify_changed();
    }

    /// Starts the task of a controller's life.
    pub(super) fn start_life(self: &Arc<Self>, entry: &Arc<ControllerEntry>, before: Vec<CancellationToken>) {
        self.spawn(live(Arc::clone(self), Arc::clone(entry), before));
    }

    /// Ends controllers that are in `Life::leaving`: stops routing to them, withdraws their values, and cancels them.
    pub(super) fn dismiss(&self, entries: &[Arc<ControllerEntry>]) {
        self.types.route(&[], entries);
        for entry in entries {
            entry.withdraw();
            entry.set_service(Service::Removed);
            entry.cancel.cancel();
            entry.handover.notify();
        }
        self.notify_changed();
    }

    /// Closes a controller that was constructed but is not wanted. It is never executed.
    pub(super) fn discard(self: &Arc<Self>, entry: Arc<ControllerEntry>) {
        self.life().leave([&entry]);
        entry.withdraw();
        entry.set_service(Service::Removed);
        entry.cancel.cancel();
        self.start_life(&entry, Vec::new());
    }

    /// Checks the health of a source's controllers, concurrently.
    pub(super) async fn health(self: &Arc<Self>, source: Source, within: Duration) -> Vec<(ControllerId, Result<()>)> {
        let asked: Vec<_> = {
            let life = self.life();
            life.controllers.values().filter(|entry| entry.is_of(source)).cloned().collect()
        };
        let mut asking = tokio::task::JoinSet::new();
        for entry in asked {
            let engine = Arc::clone(self);
            asking.spawn(async move {
                let controller = Arc::clone(&entry.controller);
                let what = format!("checking the health of {}", entry.info.id);
                let work = async move { controller.health().await }.instrument(entry.span.clone());
                (ControllerId(entry.id), limited(&engine, within, &what, work, drop).await)
            });
        }
        asking.join_all().await
    }

    /// Waits until controllers that were told to end are closed or their limits have passed. Returns those that are not
    /// closed.
    pub(super) async fn wait_closed(&self, entries: Vec<Arc<ControllerEntry>>) -> Vec<Arc<ControllerEntry>> {
        let all = async {
            for entry in &entries {
                entry.closed.cancelled().await;
            }
        };
        // The last state of one with `persist` is stored before it is closed.
        let keeps = entries.iter().any(|entry| entry.persist.is_some()) && self.states.has_store();
        let storing = if keeps { self.limits.save + super::states::STORING } else { Duration::ZERO };
        if timeout(self.limits.end() + storing, all).await.is_ok() {
            return Vec::new();
        }
        entries.into_iter().filter(|entry| !entry.closed.is_cancelled()).collect()
    }
}

async fn live(engine: Arc<Engine>, entry: Arc<ControllerEntry>, before: Vec<CancellationToken>) {
    let ended = async {
        for before in before {
            before.cancelled().await;
        }
    };
    tokio::select! {
        _ = timeout(engine.limits.end(), ended) => {}
        () = entry.cancel.cancelled() => {}
    }
    let changed = engine.changed.clone();
    let mut keeping = None;
    if !entry.cancel.is_cancelled() {
        let context = engine.context(&entry.ties(), Arc::clone(&entry.info), entry.instance());
        let mut executing =
            tokio::spawn(execute(Arc::clone(&entry), context, changed.clone()).instrument(entry.span.clone()));
        keeping = engine.keep_state(&entry);
        let has_ended = tokio::select! {
            _ = &mut executing => true,
            () = entry.cancel.cancelled() => false,
        };
        entry.cancel.cancelled().await;
        entry.set_execution(Execution::Closing, &changed);
        if !has_ended {
            end_task(&engine, &entry, executing, ("execute", engine.limits.cancel)).await;
        }
    }
    entry.set_execution(Execution::Closing, &changed);
    let is_inherited = entry.is_inherited.load(Ordering::Acquire);
    if !is_inherited {
        engine.keep_last(&entry, keeping.take(), None).await;
    }
    let closing = tokio::spawn(close(Arc::clone(&entry)).instrument(entry.span.clone()));
    end_task(&engine, &entry, closing, ("close", engine.limits.close)).await;
    if entry.is_inherited.load(Ordering::Acquire) {
        let left = save(&engine, &entry).await;
        if let Ok(Some(state)) = &left {
            engine.keep_last(&entry, keeping.take(), Some(state.clone())).await;
        }
        entry.end.send_modify(|end| end.left = Some(left));
    }
    part_from(&engine, &entry).await;
    let (gone, waiting) = {
        let mut life = engine.life();
        entry.is_over.store(true, Ordering::Release);
        (life.leaving.remove(&entry.id), life.configs.waiting_for(entry.id))
    };
    drop(gone);
    #[cfg(unix)]
    engine.sockets_left(entry.id, entry.instance());
    entry.end.send_modify(|end| end.over = true);
    entry.closed.cancel();
    waiting.iter().for_each(|nudge| nudge.notify_one());
    engine.notify_changed();
}

/// Reports why a controller does not end to those who wait for its end.
fn report_held(engine: &Engine, entry: &ControllerEntry, by: Option<Error>) {
    entry.end.send_modify(|end| end.held = by);
    let waiting = engine.life().configs.waiting_for(entry.id);
    waiting.iter().for_each(|nudge| nudge.notify_one());
}

/// Drops the controller itself. If anybody waits for what it owns, this takes as long as it takes.
async fn part_from(engine: &Engine, entry: &ControllerEntry) {
    let asked = entry.is_inherited.load(Ordering::Acquire) || entry.is_waited_for.load(Ordering::Acquire);
    let is_waited_for = asked || entry.swap == SwapMode::StopFirst;
    let mut within = if is_waited_for { engine.limits.close } else { GRACE };
    loop {
        let parting = Arc::clone(&entry.controller).part(within).instrument(entry.span.clone());
        let error = match contained(parting).await {
            Err(error) if error.kind() == ErrorKind::TimedOut && is_waited_for => error,
            // Other errors mean that it is gone already.
            _ => return,
        };
        let id = &entry.info.id;
        tracing::error!(controller = id, %error, "it is closed but cannot be dropped; what it owns is still in use");
        entry.set_execution(Execution::Stuck { what: "drop" }, &engine.changed);
        report_held(engine, entry, Some(error.context(format!("{id} cannot be dropped"))));
        within = STILL;
    }
}

/// Has a controller save its state, within the limit.
pub(super) async fn save(engine: &Engine, entry: &Arc<ControllerEntry>) -> Result<Option<State>> {
    let running = Arc::clone(&entry.controller);
    let what = format!("saving the state of {}", entry.info.id);
    let work = async move { running.save().await }.instrument(entry.span.clone());
    let saved = limited(engine, engine.limits.save, &what, work, drop).await;
    match saved {
        // Its process is down, or has not made it again yet: then it begins with this there, too.
        Ok(None) => Ok(entry.last_state.as_ref().and_then(|last| last.get()).map(|last| State::clone(&last))),
        saved => saved.map_err(|error| named(error, &what)),
    }
}

/// Has a controller restore a state, within the limit.
pub(super) async fn restore(engine: &Engine, entry: &ControllerEntry, state: State) -> Result<()> {
    let controller = Arc::clone(&entry.controller);
    let what = format!("restoring the state of {}", entry.info.id);
    let restored_is = entry.last_state.as_ref().map(|last| (last, Arc::new(state.clone())));
    let work = async move { controller.restore(state).await }.instrument(entry.span.clone());
    let restored = limited(engine, engine.limits.restore, &what, work, drop).await;
    restored.map_err(|error| named(error, &what))?;
    if let Some((last, state)) = restored_is {
        last.set(state);
    }
    Ok(())
}

/// Adds what was being done to an error that does not say so itself.
fn named(error: Error, what: &str) -> Error {
    if error.message().starts_with(what) { error } else { error.context(what) }
}

/// Waits until user code ends, drops it when its limit has passed, and reports it if it cannot be dropped.
async fn end_task(
    engine: &Engine,
    entry: &ControllerEntry,
    mut task: JoinHandle<()>,
    (what, limit): (&'static str, Duration),
) {
    let changed = &engine.changed;
    if timeout(limit, &mut task).await.is_ok() {
        return;
    }
    let id = &entry.info.id;
    tracing::warn!(controller = id, "`{what}` did not end within {limit:?}; dropping it");
    task.abort();
    if timeout(GRACE, &mut task).await.is_ok() {
        return;
    }
    tracing::error!(controller = id, "`{what}` is blocking its thread and cannot be stopped; no longer waiting for it");
    entry.set_execution(Execution::Stuck { what }, changed);
    report_held(
        engine,
        entry,
        Some(Error::new(ErrorKind::TimedOut, format!("`{what}` of {id} is blocking its thread"))),
    );
    let _ = task.await;
    report_held(engine, entry, None);
}

/// Executes a controller until it is cancelled; again, with backoff, after an error or a panic.
async fn execute(entry: Arc<ControllerEntry>, context: Context, changed: watch::Sender<u64>) {
    let mut backoff = Backoff::new(entry.retry);
    while !entry.cancel.is_cancelled() {
        let work = Arc::clone(&entry.controller);
        let this = Arc::clone(&entry);
        let told = changed.clone();
        let began = Box::new(move || {
            this.handover.set_begun();
            told.send_modify(|version| *version += 1);
        });
        let begun = Instant::now();
        let ended = contained(async { work.execute(context.clone(), began).await }).await;
        let Err(error) = ended else {
            entry.set_execution(Execution::Ended, &changed);
            entry.exit.send_replace(Some(Ok(())));
            return;
        };
        if entry.cancel.is_cancelled() {
            return;
        }
        entry.note_failure(&error);
        if begun.elapsed() >= HEALTHY {
            backoff.reset();
        }
        let Some(retry_in) = backoff.next().filter(|_| !error.is_permanent()) else {
            tracing::warn!(controller = entry.info.id, %error, "execute failed; it is not tried again");
            entry.set_execution(Execution::Stopped { error: error.clone() }, &changed);
            entry.exit.send_replace(Some(Err(error)));
            return;
        };
        tracing::warn!(controller = entry.info.id, %error, "execute failed; retrying");
        entry.set_execution(Execution::Failed { error, retry_in }, &changed);
        tokio::select! {
            () = tokio::time::sleep(retry_in) => entry.set_execution(Execution::Running, &changed),
            () = entry.cancel.cancelled() => {}
        }
    }
}

async fn close(entry: Arc<ControllerEntry>) {
    let controller: Arc<dyn AnyController> = Arc::clone(&entry.controller);
    let closing = async {
        controller.close().await;
        Ok(())
    };
    if let Err(error) = contained(closing).await {
        tracing::warn!(controller = entry.info.id, %error, "close failed");
    }
}

/// Waits for the result of user code. Dropping it aborts the task; a result that has come all the same goes to `late`.
pub(super) struct Waiting<T, F: Fn(T)> {
    /// `None` once the task is left to end by itself.
    task: Option<AbortHandle>,
    result: oneshot::Receiver<Result<T>>,
    late: Arc<F>,
}

impl<T, F: Fn(T)> Waiting<T, F> {
    /// Waits until it ends or its limit has passed.
    pub(super) async fn within(&mut self, limit: Duration, what: &str) -> Result<T> {
        match timeout(limit, &mut self.result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::new(ErrorKind::Closed, format!("{what} was dropped"))),
            Err(_) => Err(Error::new(ErrorKind::TimedOut, format!("{what} took longer than {limit:?}"))),
        }
    }

    /// Leaves the task to end by itself; its result goes to `late`.
    pub(super) fn leave(mut self) {
        self.task = None;
    }
}

impl<T, F: Fn(T)> Drop for Waiting<T, F> {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
        self.result.close();
        if let Ok(Ok(result)) = self.result.try_recv() {
            (self.late)(result);
        }
    }
}

/// Runs user code on a task of its own until it ends, its limit has passed, or the returned future is dropped. A result
/// that comes too late goes to `late`.
pub(super) async fn limited<T: Send + 'static>(
    engine: &Engine,
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T>> + Send + 'static,
    late: impl Fn(T) + Send + Sync + 'static,
) -> Result<T> {
    begin(engine, work, late)?.within(limit, what).await
}

/// The same, in two steps.
pub(super) fn begin<T: Send + 'static, F: Fn(T) + Send + Sync + 'static>(
    engine: &Engine,
    work: impl Future<Output = Result<T>> + Send + 'static,
    late: F,
) -> Result<Waiting<T, F>> {
    let (done, result) = oneshot::channel();
    let late = Arc::new(late);
    let unheard = Arc::clone(&late);
    let task = engine.runtime()?.spawn(async move {
        // No `.await` comes between the two, so that an abort cannot lose the result.
        if let Err(Ok(result)) = done.send(contained(work).await) {
            unheard(result);
        }
    });
    Ok(Waiting { task: Some(task.abort_handle()), result, late })
}

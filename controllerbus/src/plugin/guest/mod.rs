//! The guest's side: starts a plugin's own runtime and serves its factories and controllers to the host.

pub(super) mod bus;
#[cfg(target_os = "linux")]
pub mod descriptors;
mod factory;
#[cfg(target_os = "linux")]
mod hooks;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod hooks;
mod ping;
#[cfg(target_os = "linux")]
pub mod signals;
mod sockets;
#[cfg(target_os = "linux")]
pub mod threads;
mod trace;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::abi::{
    GuestController, GuestFactoryPtr, GuestPtr, GuestSide, GuestStart, GuestTask, GuestTaskPtr, HostDoneDyn,
    HostDonePtr, HostPtr, HostSavedDyn, HostSavedPtr, HostSinkPtr, LastCall, List, SavedState, Text, boxed,
};
use super::contained::contain;
pub use super::entry::{Entry, EntryCall};
use crate::bus::contained;
use crate::controller::factory::Factory;
use crate::controller::{AnyController, Context, State};
use crate::directive::{DirectiveType, check, wire};
use crate::error::ErrorKind;
use crate::linked::{FACTORIES, FactoryEntry};
use crate::{Error, Result, spans};

/// The body of every entry symbol: starts the guest, with all factories or only those of one plugin id.
pub fn enter(call: &mut EntryCall, only: Option<&'static str>) {
    static ENTERED: AtomicBool = AtomicBool::new(false);
    let Some(start) = call.take_start() else { return };
    if ENTERED.swap(true, Ordering::AcqRel) {
        call.answer(Err(Error::new(ErrorKind::Invalid, "this library has been started already")));
        return;
    }
    let result = catch_unwind(AssertUnwindSafe(|| Guest::start(start, only)));
    call.answer(result.unwrap_or_else(|payload| Err(Error::from_panic(payload))));
}

/// One loaded generation, on its own runtime.
struct Guest {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    workers: usize,
    bus: bus::HostBus,
    factories: Vec<Arc<dyn Factory>>,
}

impl Guest {
    fn start(start: GuestStart, only: Option<&'static str>) -> Result<GuestPtr> {
        let GuestStart { host, hooks, workers, name } = start;
        // SAFETY: the host's, out of the call that starts this library.
        unsafe { hooks::set(hooks) };
        let host: Arc<HostPtr> = Arc::new(host);
        trace::forward_to(Arc::clone(&host));
        let name = name.as_str().to_owned();
        let workers = workers.max(1) as usize;
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers).thread_name(name).enable_all();
        let runtime = hooks::with_runtime(|| builder.build())
            .map_err(|error| Error::msg(format!("cannot start the plugin's runtime: {error}")))?;
        let factories: Vec<_> =
            FACTORIES.iter().filter(|entry| only.is_none_or(|id| id == entry.id)).map(FactoryEntry::factory).collect();
        let handle = runtime.handle().clone();
        let guest = Self {
            bus: bus::HostBus::new(host, handle.clone()),
            handle,
            runtime: Mutex::new(Some(runtime)),
            workers,
            factories,
        };
        Ok(boxed(guest).into())
    }
}

impl GuestSide for Guest {
    extern "C" fn factories(&self) -> List<GuestFactoryPtr> {
        let mut out = List::default();
        for factory in &self.factories {
            out.push(boxed(factory::Object::new(Arc::clone(factory), &self.bus)).into());
        }
        out
    }

    extern "C" fn ping(&self, done: HostDonePtr) -> GuestTaskPtr {
        ping::start(&self.handle, self.workers, done)
    }

    extern "C" fn shutdown(&self, timeout_ms: u64) -> bool {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(Duration::from_millis(timeout_ms));
            }
        }));
        trace::stop();
        ended.map_err(|payload| drop(Error::from_panic(payload))).is_ok()
    }

    extern "C" fn leaked_thread_locals(&self) -> u64 {
        hooks::leaked()
    }

    extern "C" fn last_call(&self) -> LastCall {
        LastCall { give_keys_back: hooks::give_keys_back }
    }
}

/// One controller of the guest.
struct GuestObject {
    /// Gone once it is parted from: its destructor has run by then, if no call holds it.
    controller: Arc<Mutex<Option<Arc<dyn AnyController>>>>,
    resolves: Vec<String>,
    context: Context,
    host: Arc<HostPtr>,
    handle: Handle,
}

/// A controller, if it is not closed.
type Open = Result<Arc<dyn AnyController>>;

impl GuestObject {
    fn controller(&self) -> Open {
        open(self.controller.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Starts a call of the controller.
    fn call<F: Future<Output = Result<()>> + Send + 'static>(
        &self,
        controller: Open,
        cancel: CancellationToken,
        done: HostDonePtr,
        work: impl FnOnce(Arc<dyn AnyController>) -> F + Send + 'static,
    ) -> GuestTaskPtr {
        self.call_in(spans::call(&self.context.info().id, None), controller, cancel, done, work)
    }

    /// Starts a call in a span.
    fn call_in<F: Future<Output = Result<()>> + Send + 'static>(
        &self,
        span: Span,
        controller: Open,
        cancel: CancellationToken,
        done: HostDonePtr,
        work: impl FnOnce(Arc<dyn AnyController>) -> F + Send + 'static,
    ) -> GuestTaskPtr {
        let calling = async move {
            let outcome = contained(async move { work(controller?).await }).await;
            done.done(outcome.into());
        };
        spawn(&self.handle, cancel, calling.instrument(span))
    }
}

fn open(controller: Option<Arc<dyn AnyController>>) -> Open {
    controller.ok_or_else(|| Error::new(ErrorKind::Closed, "the controller is closed"))
}

impl GuestController for GuestObject {
    extern "C" fn execute(&self, began: HostDonePtr, done: HostDonePtr) -> GuestTaskPtr {
        let cancel = self.context.token().child_token();
        let context = self.context.with_token(cancel.clone());
        self.call(self.controller(), cancel, done, move |controller| {
            controller.execute(context, Box::new(move || began.done(Ok(()).into())))
        })
    }

    extern "C" fn close(&self, done: HostDonePtr) -> GuestTaskPtr {
        contain("cancelling a controller", || self.context.token().cancel());
        self.call(self.controller(), CancellationToken::new(), done, |controller| async move {
            controller.close().await;
            Ok(())
        })
    }

    extern "C" fn part(&self, within_ms: u64, done: HostDonePtr) -> GuestTaskPtr {
        let held = Arc::clone(&self.controller);
        let Ok(controller) = self.controller() else {
            done.done(Ok(()).into());
            return boxed(Task { cancel: CancellationToken::new(), abort: None }).into();
        };
        self.call(Ok(controller), CancellationToken::new(), done, move |controller| async move {
            controller.part(Duration::from_millis(within_ms)).await?;
            // The last one is dropped here, before the host hears that it is done.
            let last = held.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(last);
            Ok(())
        })
    }

    extern "C" fn save(&self, done: HostSavedPtr) -> GuestTaskPtr {
        let controller = self.controller();
        let handle = self.handle.clone();
        let span = spans::call(&self.context.info().id, None);
        let saving = self.handle.spawn_blocking(move || span.in_scope(|| handle.block_on(controller?.save())));
        spawn(&self.handle, CancellationToken::new(), async move {
            let saved = saving
                .await
                .unwrap_or_else(|error| Err(error.try_into_panic().map_or_else(Error::msg, Error::from_panic)));
            let saved = saved.map(|state| match state {
                Some(State { schema, bytes }) => SavedState { there: true, schema, bytes: bytes.as_slice().into() },
                None => SavedState { there: false, schema: 0, bytes: List::default() },
            });
            done.done(saved.into());
        })
    }

    extern "C" fn health(&self, done: HostDonePtr) -> GuestTaskPtr {
        self.call(self.controller(), CancellationToken::new(), done, AnyController::health)
    }

    extern "C" fn restore(&self, state: SavedState, done: HostDonePtr) -> GuestTaskPtr {
        let state = State { schema: state.schema, bytes: state.bytes.as_ref().to_vec() };
        self.call(self.controller(), CancellationToken::new(), done, move |controller| controller.restore(state))
    }

    extern "C" fn resolves(&self) -> List<Text> {
        let mut out = List::default();
        for id in &self.resolves {
            out.push(Text::from(id.as_str()));
        }
        out
    }

    extern "C" fn retries(&self) -> List<u8> {
        let mut retries = List::default();
        contain("asking a controller how often it is tried again", || {
            let Ok(controller) = self.controller() else { return };
            let own = |id: &String| controller.retry(id).map(|retry| (id.clone(), retry));
            let all: Vec<_> = self.resolves.iter().filter_map(own).collect();
            if let Some(bytes) = wire::encode(&all).ok().filter(|_| !all.is_empty()) {
                retries = bytes.as_slice().into();
            }
        });
        retries
    }

    extern "C" fn resolve(&self, id: Text, bytes: List<u8>, sink: HostSinkPtr, done: HostDonePtr) -> GuestTaskPtr {
        let sink = Arc::new(bus::RemoteSink::new(sink, Arc::clone(&self.host), self.handle.clone()));
        let span = spans::call(&self.context.info().id, Some(id.as_str()));
        self.call_in(span, self.controller(), CancellationToken::new(), done, move |controller| async move {
            let directive = DirectiveType::decode(id.as_str(), bytes.as_ref())?;
            // Whoever does not know its type could not.
            check(&*directive).map_err(Error::permanent)?;
            match controller.resolve(directive, sink) {
                Some(work) => work.await,
                None => Err(Error::new(ErrorKind::NotFound, format!("no resolver for {}", id.as_str()))),
            }
        })
    }
}

impl Drop for GuestObject {
    fn drop(&mut self) {
        // One that was never parted from. Its destructor is the user's code, which must not run on the host's thread.
        let controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(controller) = controller {
            // Where the runtime has ended, it is dropped here.
            contain("dropping a controller", || {
                drop(self.handle.spawn(async move { contain("dropping a controller", move || drop(controller)) }));
            });
        }
    }
}

/// A task of the guest's runtime; dropped by the host, it is aborted.
struct Task {
    cancel: CancellationToken,
    abort: Option<tokio::task::AbortHandle>,
}

impl GuestTask for Task {
    extern "C" fn cancel(&self) {
        contain("cancelling a call", || self.cancel.cancel());
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        contain("dropping a call", || self.abort.iter().for_each(tokio::task::AbortHandle::abort));
    }
}

fn spawn(handle: &Handle, cancel: CancellationToken, work: impl Future<Output = ()> + Send + 'static) -> GuestTaskPtr {
    // Where the runtime has ended, the work is dropped here.
    let spawned = catch_unwind(AssertUnwindSafe(|| handle.spawn(work).abort_handle()));
    let abort = spawned.map_err(|payload| drop(Error::from_panic(payload))).ok();
    boxed(Task { cancel, abort }).into()
}

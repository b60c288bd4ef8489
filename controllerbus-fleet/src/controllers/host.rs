//! A host of the fleet as a controller of this one's bus: it is asked what it offers, and answers for as long as it is in reach.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use controllerbus::bus::ControllerId;
use controllerbus::controller::{AnyController, BoxFuture};
use controllerbus::directive::{AnyDirective, RawEvent, RawRequest, Relay, ValueSink};
use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};

use super::info;
use super::keyed::keyed;
use crate::link::{Link, lock};
use crate::shared::Shared;

/// What one host is asked of one id.
pub(crate) struct HostController {
    link: Arc<Link>,
    id: Arc<str>,
    asking: Arc<Asking>,
}

impl HostController {
    /// Puts a host on the bus, for one id.
    pub(crate) fn add(shared: &Shared, link: &Arc<Link>, id: &Arc<str>) -> (Arc<Self>, ControllerId) {
        let host = &link.peer().host;
        let controller = Arc::new(Self { link: Arc::clone(link), id: Arc::clone(id), asking: Arc::default() });
        let name = format!("fleet host {host}");
        let info = info(&name, "controllerbus/fleet/host", &format!("Asks {host}, another host of the fleet"));
        let id = shared.add_controller(host, Arc::clone(&controller) as _, info);
        (controller, id)
    }

    /// Tells those that wait for the host that it is out of reach.
    pub(crate) fn is_lost(&self, why: &Error) {
        self.asking.fail(why);
    }
}

impl AnyController for HostController {
    fn resolves(&self) -> Vec<String> {
        vec![self.id.to_string()]
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        if stays(&*directive) {
            return None;
        }
        let asked = self.asking.begin(sink);
        let begins = begin(&self.link, &self.id, directive, &asked);
        Some(Box::pin(async move { ask(&self.link, &self.id, begins, &asked).await }))
    }
}

/// Whether a directive stays on this host: its values are objects of this process.
pub(crate) fn stays(directive: &dyn AnyDirective) -> bool {
    directive.confined_to().is_some()
}

/// The directives that are being asked.
#[derive(Default)]
pub(crate) struct Asking {
    next: AtomicU64,
    all: Mutex<HashMap<u64, Arc<Asked>>>,
}

/// One that is being asked.
struct Asked {
    sink: Arc<dyn ValueSink>,
    idle: AtomicBool,
}

/// One that is being asked until this is dropped.
pub(crate) struct AskGuard {
    asking: Arc<Asking>,
    number: u64,
    asked: Arc<Asked>,
}

impl Asking {
    pub(crate) fn begin(self: &Arc<Self>, sink: Arc<dyn ValueSink>) -> AskGuard {
        let asked = Arc::new(Asked { sink, idle: AtomicBool::new(false) });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.all).insert(number, Arc::clone(&asked));
        AskGuard { asking: Arc::clone(self), number, asked }
    }

    pub(crate) fn fail(&self, why: &Error) {
        let all: Vec<_> = lock(&self.all).values().cloned().collect();
        for asked in all {
            if !asked.idle.swap(true, Ordering::AcqRel) {
                asked.sink.report(why.clone());
                // It has nothing more to say; a call is over with this.
                asked.sink.set_idle(true);
            }
        }
    }
}

impl AskGuard {
    pub(crate) fn set_idle(&self, idle: bool) {
        self.asked.idle.store(idle, Ordering::Release);
        self.asked.sink.set_idle(idle);
    }
}

impl Drop for AskGuard {
    fn drop(&mut self) {
        let ended = lock(&self.asking.all).remove(&self.number);
        drop(ended);
    }
}

/// An ask that the link counts until this is dropped.
struct Counted<'a>(&'a Link);

impl<'a> Counted<'a> {
    fn new(link: &'a Link) -> Self {
        link.asks.fetch_add(1, Ordering::Relaxed);
        Self(link)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.asks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks a host a directive, and shows its values until this is dropped.
///
/// # Errors
/// The host ends the directive, or the link is over.
#[expect(
    clippy::manual_async_fn,
    reason = "an async function would have its arguments twice, and there are many of these"
)]
pub(crate) fn ask<'a>(
    link: &'a Arc<Link>,
    id: &'a Arc<str>,
    begins: Begins,
    asked: &'a AskGuard,
) -> impl Future<Output = Result<()>> + Send + 'a {
    async move {
        let mut request = begins.await?;
        let _counted = Counted::new(link);
        let mut here = Relay::new(Arc::clone(&asked.asked.sink));
        let mut failure = None;
        while let Some(event) = poll_fn(|cx| request.poll_event(cx)).await {
            // What ends with an error is idle before it ends.
            if matches!(event, RawEvent::Added(..) | RawEvent::Busy) {
                failure = None;
            }
            match event {
                RawEvent::Added(there, value) => here.added(there, value),
                RawEvent::Removed(there) => here.removed(there),
                RawEvent::Idle => asked.set_idle(true),
                RawEvent::Busy => asked.set_idle(false),
                RawEvent::Failed(error) => {
                    asked.asked.sink.report(error.clone());
                    failure = Some(Box::new(error));
                }
            }
        }
        let ended = || Error::new(ErrorKind::Closed, format!("host `{}` has ended {id}", link.peer().host));
        Err(failure.map_or_else(ended, |error| *error))
    }
}

/// What [`ask`] goes on with.
type Begins = BoxFuture<'static, Result<Box<dyn RawRequest>>>;

/// Asks once there is room for it.
pub(crate) fn begin(link: &Arc<Link>, id: &Arc<str>, directive: Arc<dyn AnyDirective>, asked: &AskGuard) -> Begins {
    let (link, id) = (Arc::clone(link), Arc::clone(id));
    let directive = keyed(directive, &*asked.asked.sink);
    Box::pin(async move {
        let lane = link.lane(&id);
        let room = lane.out.room(directive.encode()?.len()).await?;
        let request = lane.endpoint.bus().raw(directive)?;
        lane.out.pay(room);
        Ok(request)
    })
}

//! A bridge: directives of one bus that match a filter are resolved on another bus of the process.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::engine::{Engine, own_info};
use super::{Bus, BusHandle, ControllerId};
use crate::controller::{AnyController, BoxFuture};
use crate::directive::{ANY_DIRECTIVE, AnyDirective, RawEvent, Relay, ValueSink, superseded};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

type Predicate = Box<dyn Fn(&dyn AnyDirective) -> bool + Send + Sync>;

/// Which directives cross a bridge.
pub struct Across(Which);

enum Which {
    Ids(Vec<String>),
    When(Predicate),
}

impl std::fmt::Debug for Across {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Which::Ids(ids) => f.debug_tuple("Types").field(ids).finish(),
            Which::When(_) => f.write_str("When"),
        }
    }
}

impl Across {
    /// The directives with these ids.
    pub fn types<I: Into<String>>(ids: impl IntoIterator<Item = I>) -> Self {
        Self(Which::Ids(ids.into_iter().map(Into::into).collect()))
    }

    /// The directives for which a function returns true. It is called once for each directive that is added.
    pub fn when(wanted: impl Fn(&dyn AnyDirective) -> bool + Send + Sync + 'static) -> Self {
        Self(Which::When(Box::new(wanted)))
    }

    /// Whether a directive might match both.
    fn meets(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Which::Ids(own), Which::Ids(other)) => own.iter().any(|id| other.contains(id)),
            _ => true,
        }
    }
}

/// A bridge to another bus, as the bus that it begins at knows it.
pub(super) struct BridgeTo {
    to: Weak<Engine>,
    across: Weak<Across>,
}

impl Engine {
    /// Whether a directive that crosses to this bus might reach another one.
    fn leads_to(self: &Arc<Self>, goal: &Arc<Engine>, across: &Across) -> bool {
        let mut seen = vec![Arc::clone(self)];
        let mut at = 0;
        while let Some(engine) = seen.get(at).cloned() {
            at += 1;
            let mut bridges = engine.bridges.lock().unwrap_or_else(PoisonError::into_inner);
            bridges.retain(|bridge| bridge.across.strong_count() > 0);
            for bridge in &*bridges {
                let (Some(to), Some(other)) = (bridge.to.upgrade(), bridge.across.upgrade()) else { continue };
                if across.meets(&other) && !seen.iter().any(|known| Arc::ptr_eq(known, &to)) {
                    seen.push(to);
                }
            }
        }
        seen.iter().any(|engine| Arc::ptr_eq(engine, goal))
    }
}

/// A bridge between two buses. Dropping it withdraws its values.
#[must_use = "dropping it removes the bridge"]
#[derive(Debug)]
pub struct Bridge {
    from: Bus,
    id: ControllerId,
}

impl Bridge {
    /// Removes the bridge, and waits until its values are withdrawn.
    pub async fn close(self) {
        self.from.remove_controller(self.id).await;
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let from = self.from.clone();
        let id = self.id;
        self.from.0.spawn(async move {
            from.remove_controller(id).await;
        });
    }
}

/// Where a bridge leads: another [`Bus`], or the bus that a controller is on, by its [`BusHandle`].
pub struct FarBus {
    handle: BusHandle,
    /// None of a handle: what is behind it may be of another library.
    engine: Option<Arc<Engine>>,
}

impl std::fmt::Debug for FarBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FarBus").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl From<&Bus> for FarBus {
    fn from(bus: &Bus) -> Self {
        Self { handle: bus.handle(), engine: Some(Arc::clone(&bus.0)) }
    }
}

impl From<&BusHandle> for FarBus {
    fn from(handle: &BusHandle) -> Self {
        Self { handle: handle.clone(), engine: None }
    }
}

impl Bus {
    /// Resolves directives of this bus on another bus of this process, too: their values there become values here. A
    /// directive is active there as long as it is here.
    ///
    /// A controller with a bus of its own reaches the bus that it is on: `own.bridge(context.bus(), ..)`, in a plugin too.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if directives might come back to this bus, as far as buses with bridges are concerned: what a
    /// controller asks elsewhere is its own business, and so is what is behind a handle.
    pub fn bridge(&self, to: impl Into<FarBus>, across: Across) -> Result<Bridge, BusError> {
        let FarBus { handle, engine: to } = to.into();
        // Two bridges that are created at the same time must not form a cycle together, whichever buses they begin at.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let looking = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let leads_back = |to: &Arc<Engine>| Arc::ptr_eq(&self.0, to) || to.leads_to(&self.0, &across);
        if to.as_ref().is_some_and(leads_back) {
            let what = "a bridge would create a cycle; use different directive types for each direction";
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let across = Arc::new(across);
        if let Some(to) = to {
            let bridge = BridgeTo { to: Arc::downgrade(&to), across: Arc::downgrade(&across) };
            self.0.bridges.lock().unwrap_or_else(PoisonError::into_inner).push(bridge);
        }
        drop(looking);
        let info = own_info("controllerbus/bridge", "Resolves directives on another bus");
        let id = self.add_controller(Arc::new(Crossing::new(handle, across)), info);
        Ok(Bridge { from: self.clone(), id })
    }
}

/// The bridge as a controller of the bus that it begins at.
pub(crate) struct Crossing {
    to: BusHandle,
    across: Arc<Across>,
}

impl Crossing {
    pub(crate) fn new(to: BusHandle, across: Arc<Across>) -> Self {
        Self { to, across }
    }
}

impl AnyController for Crossing {
    fn resolves(&self) -> Vec<String> {
        match &self.across.0 {
            Which::Ids(ids) => ids.clone(),
            Which::When(_) => vec![ANY_DIRECTIVE.to_owned()],
        }
    }
    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        if let Which::When(wanted) = &self.across.0
            && !wanted(&*directive)
        {
            return None;
        }
        Some(Box::pin(async move {
            let id = directive.id().to_owned();
            let mut request = self.to.raw(directive)?;
            let mut here = Relay::new(Arc::clone(&sink));
            let mut last_failure = None;
            loop {
                let event = poll_fn(|cx| request.poll_event(cx)).await;
                let failure = last_failure.take();
                match event {
                    Some(RawEvent::Added(there, value)) => here.added(there, value),
                    Some(RawEvent::Removed(there)) => here.removed(there),
                    Some(RawEvent::Idle) => sink.set_idle(true),
                    Some(RawEvent::Busy) => sink.set_idle(false),
                    Some(RawEvent::Failed(error)) if here.is_empty() => return Err(error),
                    Some(RawEvent::Failed(error)) => {
                        tracing::debug!(id, %error, "a resolver on the other side of a bridge failed");
                        last_failure = Some(error);
                    }
                    // The other bus has closed or superseded it, or is out of reach: retried with backoff.
                    None => return Err(failure.unwrap_or_else(|| superseded(&id))),
                }
            }
        }))
    }
}

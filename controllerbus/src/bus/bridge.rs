//! A bridge: directives of one bus that match a filter are resolved on another bus of the process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::crossing::Crossing;
use super::engine::{Engine, own_info};
use super::entry::ControllerEntry;
use super::origin::{Origin, Sides};
use super::{Bus, BusHandle, ControllerId};
use crate::directive::{ANY_DIRECTIVE, AnyDirective};
use crate::error::ErrorKind;
use crate::{BusError, Error};

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

    /// The directives for which a function returns true. It may be called several times for a directive, and has to answer the
    /// same each time.
    pub fn when(wanted: impl Fn(&dyn AnyDirective) -> bool + Send + Sync + 'static) -> Self {
        Self(Which::When(Box::new(wanted)))
    }

    /// The ids of the directives that may cross.
    pub(super) fn ids(&self) -> Vec<String> {
        match &self.0 {
            Which::Ids(ids) => ids.clone(),
            Which::When(_) => vec![ANY_DIRECTIVE.to_owned()],
        }
    }

    /// Whether a directive with one of these ids crosses.
    pub(super) fn wants(&self, directive: &dyn AnyDirective) -> bool {
        match &self.0 {
            Which::Ids(_) => true,
            Which::When(wanted) => wanted(directive),
        }
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
pub struct Bridge {
    from: Bus,
    parts: Arc<Parts>,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Bridge {
    /// Removes the bridge, and waits until its values are withdrawn.
    pub async fn close(self) {
        // All of it before the first wait, which may not be waited for to its end.
        let left = self.take_off();
        self.from.0.wait_closed(left).await;
    }

    fn take_off(&self) -> Vec<Arc<ControllerEntry>> {
        self.parts.end().into_iter().filter_map(|id| self.from.0.take_off(id.0)).collect()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.take_off();
    }
}

/// The controllers that a bridge consists of, on the bus that it begins at: one brings over what the process answers there. Once
/// that bus is joined to a fleet, another one brings over what that answers, for those who may be told. Where the bus beyond is not
/// known, one brings over whatever there is, as if it came from a fleet.
struct Parts {
    from: Weak<Engine>,
    to: Weak<Engine>,
    across: Arc<Across>,
    /// None once the bridge has been removed.
    added: Mutex<Option<Vec<ControllerId>>>,
}

impl Parts {
    fn new(from: &Arc<Engine>, to: Option<&Arc<Engine>>, across: &Arc<Across>) -> Arc<Self> {
        let (from, to) = (Arc::downgrade(from), to.map_or_else(Weak::new, Arc::downgrade));
        Arc::new(Self { from, to, across: Arc::clone(across), added: Mutex::new(Some(Vec::new())) })
    }

    fn added(&self) -> MutexGuard<'_, Option<Vec<ControllerId>>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, crossing: Crossing, origin: Origin) {
        let Some(from) = self.from.upgrade() else { return };
        let info = own_info("controllerbus/bridge", "Resolves directives on another bus");
        let id = Bus(Arc::clone(&from)).add_controller_from(origin, Arc::new(crossing), info);
        let is_over = match &mut *self.added() {
            Some(added) => {
                added.push(id);
                false
            }
            None => true,
        };
        if is_over {
            from.take_off(id.0);
        }
    }

    /// The part for what this side answers on the bus beyond.
    fn add_side(&self, side: Sides, origin: Origin) {
        if let Some(to) = self.to.upgrade() {
            self.add(Crossing::to_side(&to, side, Arc::clone(&self.across)), origin);
        }
    }

    /// The bridge is removed, and these of its controllers are to be.
    fn end(&self) -> Vec<ControllerId> {
        self.added().take().unwrap_or_default()
    }
}

/// The bridges that lead to a bus, as long as it is not joined to a fleet.
#[derive(Default)]
pub(super) struct Bridged {
    has_fleet: bool,
    from: Vec<Weak<Parts>>,
}

impl Engine {
    fn bridged(&self) -> MutexGuard<'_, Bridged> {
        self.bridged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A controller on the fleet's side is on this bus: what it answers goes over the bridges that lead here.
    pub(super) fn fleet_came(&self) {
        let waiting = {
            let mut bridged = self.bridged();
            bridged.has_fleet = true;
            std::mem::take(&mut bridged.from)
        };
        waiting.iter().filter_map(Weak::upgrade).for_each(|parts| parts.add_side(Sides::FLEET, Origin::BEYOND));
    }

    /// Adds a bridge's part for what the fleet answers here, now or when there is one.
    fn add_fleet_part(&self, parts: &Arc<Parts>) {
        {
            let mut bridged = self.bridged();
            if !bridged.has_fleet {
                bridged.from.retain(|parts| parts.strong_count() > 0);
                return bridged.from.push(Arc::downgrade(parts));
            }
        }
        parts.add_side(Sides::FLEET, Origin::BEYOND);
    }
}

/// Where a bridge leads: another [`Bus`], or the bus that a controller is on, by its [`BusHandle`].
pub struct FarBus {
    handle: BusHandle,
    /// None of a handle behind which is no bus of this library.
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
        Self { handle: handle.clone(), engine: handle.backend().bus().map(|bus| bus.0) }
    }
}

impl Bus {
    /// Resolves directives of this bus on another bus of this process, too: their values there become values here. A
    /// directive is active there as long as it is here. What only other hosts of a fleet ask here is asked there as by them:
    /// see [`Origin`].
    ///
    /// A controller with a bus of its own reaches the bus that it is on: `own.bridge(context.bus(), ..)`, in a plugin too.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if directives might come back to this bus, as far as buses with bridges are concerned: what a
    /// controller asks elsewhere is its own business, and so is what is behind a handle to a bus of another library or process.
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
        if let Some(to) = &to {
            let bridge = BridgeTo { to: Arc::downgrade(to), across: Arc::downgrade(&across) };
            self.0.bridges.lock().unwrap_or_else(PoisonError::into_inner).push(bridge);
        }
        drop(looking);
        let parts = Parts::new(&self.0, to.as_ref(), &across);
        match to {
            Some(to) => {
                parts.add_side(Sides::HERE, Origin::HERE);
                to.add_fleet_part(&parts);
            }
            None => parts.add(Crossing::new(handle, across), Origin::BEYOND),
        }
        Ok(Bridge { from: self.clone(), parts })
    }
}

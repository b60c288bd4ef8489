//! A directive as tools see it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::pins::Pin;
use super::resolvers::Resolver;
use super::{Standing, StandingState};
use crate::Error;
use crate::bus::ControllerId;
use crate::bus::counts::DirectiveCounts;
use crate::bus::introspect::{DirectiveSnapshot, ResolverSnapshot, ResolverState, ValueSnapshot};
use crate::bus::origin::Sides;
use crate::directive::{AnyValue, ValueId};

impl StandingState {
    /// Its resolvers on these sides as tools see them; `id` is the directive's.
    pub(in crate::bus) fn resolver_snapshots(&self, id: &str, sides: Sides) -> Vec<ResolverSnapshot> {
        let one = |resolver: &Resolver| ResolverSnapshot {
            controller: ControllerId(resolver.lane_ref.id),
            name: resolver.lane_ref.info.id.clone(),
            value_type: resolver.lane_ref.info.value_type(id).map(str::to_owned),
            state: match &resolver.error {
                _ if self.holds_back(&resolver.lane_ref) || resolver.successor.is_some() => ResolverState::Held,
                Some(error) => ResolverState::Failed { error: (**error).clone() },
                None if resolver.idle => ResolverState::Idle,
                None => ResolverState::Working,
            },
            values: self.values.iter().filter(|value| value.resolver == resolver.lane_ref.id && !value.staged).count(),
            host: resolver.lane_ref.host.shown(),
            pinned: resolver.pin == Pin::Holds,
        };
        self.resolvers.iter().filter(|resolver| sides.meets(resolver.lane_ref.side)).map(one).collect()
    }
}

impl Standing {
    /// Counts it among those of its id.
    pub(in crate::bus) fn add_to(&self, counts: &mut DirectiveCounts) {
        let state = self.lock();
        let values = state.values.iter().filter(|value| !value.staged).count();
        counts.active += 1;
        counts.references += state.references;
        counts.values += values;
        counts.unanswered += usize::from(state.idle.is(Sides::BOTH) && values == 0);
    }

    /// The directive as tools see it.
    pub(in crate::bus) fn snapshot(self: &Arc<Self>) -> DirectiveSnapshot {
        // User code (names, encoders) runs after the lock has been released.
        let id = self.directive.id();
        let (mut snapshot, values) = {
            let state = self.lock();
            let visible = state.values.iter().filter(|value| !value.staged);
            let values: Vec<_> = visible.map(|found| (found.id, found.resolver, found.value.clone())).collect();
            let snapshot = DirectiveSnapshot {
                id: String::new(),
                name: String::new(),
                debug: Vec::new(),
                options: self.options.clone(),
                references: state.references,
                asked_by: state.askers(),
                weak_references: state.subscribers.len() - state.references,
                idle: state.idle.is(Sides::BOTH),
                values: Vec::new(),
                resolvers: state.resolver_snapshots(id, Sides::BOTH),
            };
            (snapshot, values)
        };
        let shown = |text: &dyn Fn() -> String| {
            catch_unwind(AssertUnwindSafe(text)).unwrap_or_else(|payload| Error::from_panic(payload).to_string())
        };
        snapshot.id = self.directive.id().to_owned();
        snapshot.name = shown(&|| self.directive.name());
        let debug = catch_unwind(AssertUnwindSafe(|| self.directive.debug_values()));
        snapshot.debug = debug.map_err(Error::from_panic).unwrap_or_default();
        let value = |(id, controller, value): (ValueId, u64, AnyValue)| ValueSnapshot {
            id,
            controller: ControllerId(controller),
            value: catch_unwind(AssertUnwindSafe(move || value.to_json()))
                .unwrap_or_else(|payload| Error::from_panic(payload).to_string().into()),
        };
        snapshot.values = values.into_iter().map(value).collect();
        snapshot
    }
}

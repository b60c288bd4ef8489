//! How a plugin is, from what the bus counts and shows.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use controllerbus::bus::{ControllerId, ResolverCounts, ResolverState, RunState, Source};
use controllerbus::directive::{OpaqueDirective, RawEvent, wire};
use tokio::time::Instant;

use super::RuntimePlugins;
use crate::health::{Check, Counts};
use crate::rollout::Gates;

impl RuntimePlugins {
    /// The controllers of a generation.
    fn controllers(&self, generation: u64) -> BTreeSet<ControllerId> {
        let all = self.bus.controllers();
        all.iter().filter(|found| found.source == Source(generation)).map(|found| found.id).collect()
    }

    /// The configs of a generation's controllers that do not run.
    pub(super) fn failed_configs(&self, generation: u64) -> Vec<String> {
        let factories = self.bus.factories();
        let own = factories.iter().filter(|factory| factory.source == Source(generation));
        let ids: BTreeSet<&str> = own.map(|factory| factory.info.config_id.as_str()).collect();
        let configs = self.bus.configs();
        let of_plugin = configs.iter().filter(|config| ids.contains(config.config_id.as_str()));
        let failed = of_plugin.filter_map(|config| {
            let pending = config.pending.as_ref().map(|pending| &pending.state);
            let states = [Some(&config.state), pending];
            states.into_iter().flatten().find_map(|state| match state {
                RunState::Failed { error, .. } => Some(format!("config `{}`: {error}", config.key)),
                _ => None,
            })
        });
        failed.collect()
    }

    /// What a generation's controllers did for the directives that gates name.
    pub(super) fn counts(&self, generation: u64, gates: &Gates) -> BTreeMap<String, Counts> {
        let names = gates.errors.iter().map(|errors| &errors.of).chain(gates.slow.iter().map(|slow| &slow.of));
        let names: BTreeSet<&String> = names.collect();
        if names.is_empty() {
            return BTreeMap::new();
        }
        let own = self.controllers(generation);
        let mut counted: BTreeMap<String, Counts> =
            names.into_iter().map(|name| (name.clone(), Counts::default())).collect();
        for found in self.bus.counts() {
            let Some(counts) = counted.get_mut(&found.directive).filter(|_| own.contains(&found.controller)) else {
                continue;
            };
            counts.requests += found.counts.runs;
            counts.failures += found.counts.failures;
            counts.waited_ms += crate::release::millis(found.counts.waited_for);
            if let Some(slow) = gates.slow.as_ref().filter(|slow| slow.of == found.directive) {
                counts.slow += longer_than(&found.counts, slow.above);
            }
        }
        if let Some(slow) = &gates.slow
            && let Some(counts) = counted.get_mut(&slow.of)
        {
            counts.slow += self.waiting_longer(&own, &slow.of, slow.above);
        }
        counted
    }

    /// How many requests wait for longer than a time now: what never answers is not counted otherwise.
    fn waiting_longer(&self, own: &BTreeSet<ControllerId>, id: &str, above: Duration) -> u64 {
        let now = Instant::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut standing = BTreeSet::new();
        for directive in self.bus.directives().into_iter().filter(|directive| directive.id == id) {
            let is_waiting = directive.resolvers.iter().any(|resolver| {
                own.contains(&resolver.controller) && resolver.values == 0 && resolver.state == ResolverState::Working
            });
            if is_waiting {
                standing.insert((id.to_owned(), format!("{}{:?}", directive.name, directive.debug)));
            }
        }
        waiting.retain(|known, _| known.0 != id || standing.contains(known));
        let mut longer = 0;
        for known in standing {
            let since = *waiting.entry(known).or_insert(now);
            longer += u64::from(now.duration_since(since) >= above);
        }
        longer
    }

    /// How many directives of this id stand that a generation's controllers answer, or are about to.
    pub(super) fn works_of(&self, generation: u64, id: &str) -> usize {
        let own = self.controllers(generation);
        let standing = self.bus.directives().into_iter().filter(|directive| directive.id == id);
        let is_own = |resolver: &controllerbus::bus::ResolverSnapshot| {
            own.contains(&resolver.controller) && (resolver.values > 0 || resolver.state == ResolverState::Working)
        };
        standing.filter(|directive| directive.resolvers.iter().any(is_own)).count()
    }

    /// Asks a directive, and judges what a generation's controllers answer.
    pub(super) async fn check(&self, generation: u64, id: &str, within: Duration) -> Check {
        let nothing = serde_json::Map::new();
        let asked = wire::encode(&nothing).map(|bytes| OpaqueDirective::new(id, bytes));
        let mut request = match asked.and_then(|asked| Ok(self.bus.handle().raw(Arc::new(asked))?)) {
            Ok(request) => request,
            Err(error) => return Check::new(false, format!("{id} cannot be asked: {error}")),
        };
        let mut said = None;
        let answered = tokio::time::timeout(within, async {
            loop {
                match poll_fn(|cx| request.poll_event(cx)).await {
                    Some(RawEvent::Failed(error)) => said = Some(error.to_string()),
                    Some(RawEvent::Added(..) | RawEvent::Removed(_) | RawEvent::Busy) => {}
                    Some(RawEvent::Idle) | None => return,
                }
            }
        });
        let answered = answered.await;
        let own = self.controllers(generation);
        let standing = self.bus.directives().into_iter().filter(|directive| directive.id == id);
        let values: Vec<_> =
            standing.flat_map(|directive| directive.values).filter(|value| own.contains(&value.controller)).collect();
        let is_bad = |value: &serde_json::Value| value.get("ok") == Some(&serde_json::Value::Bool(false));
        if let Some(bad) = values.iter().find(|value| is_bad(&value.value)) {
            return Check::new(false, bad.value.to_string());
        }
        match (values.is_empty(), said, answered) {
            (false, _, _) => Check::new(true, "ok"),
            (true, Some(error), _) => Check::new(false, error),
            (true, None, Ok(())) => Check::new(false, format!("nobody answers {id}")),
            (true, None, Err(_)) => Check::new(false, format!("{id} was not answered within {within:?}")),
        }
    }
}

/// How many took longer than a time, as far as the bounds of the counts tell.
fn longer_than(counts: &ResolverCounts, above: Duration) -> u64 {
    let from =
        ResolverCounts::WAITS.iter().position(|bound| *bound >= above).map_or(ResolverCounts::WAITS.len(), |at| at + 1);
    counts.waits.get(from..).unwrap_or_default().iter().sum()
}

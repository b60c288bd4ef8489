//! Which serving plugins mean different things by one id.

use std::collections::HashSet;
use std::sync::PoisonError;

use crate::artifact::{Conflict, conflicts, conflicts_with_this_program};
use crate::event::RuntimeEvent;
use crate::generation::context::Shared;

/// Compares what serves, notes the conflicts in the registry, and reports those of a generation that has just begun to serve and
/// that the one before, with `known`, did not have.
pub(crate) fn compare(shared: &Shared, begun: Option<u64>, known: &[String]) {
    let mut news = Vec::new();
    // Two plugins that begin to serve at once must not overwrite each other's findings.
    let comparing = shared.comparing.lock().unwrap_or_else(PoisonError::into_inner);
    let serving = shared.registry.declared();
    for (generation, plugin, ours) in &serving {
        let own = conflicts_with_this_program(ours).into_iter().map(|conflict| (None, conflict));
        let others = serving.iter().filter(|(_, other, _)| other != plugin);
        let others = others.flat_map(|(_, other, theirs)| {
            conflicts(ours, other, theirs).into_iter().map(|conflict| (Some(other.clone()), conflict))
        });
        let found: Vec<(Option<String>, Conflict)> = own.chain(others).collect();
        shared.registry.set_conflicts(*generation, found.iter().map(|(_, conflict)| conflict.what.clone()).collect());
        if begun != Some(*generation) {
            continue;
        }
        let mut told: HashSet<&str> = known.iter().map(String::as_str).collect();
        for (with, Conflict { id, what }) in found.iter().filter(|(_, conflict)| told.insert(&conflict.what)) {
            let (plugin, with, id, what) = (plugin.clone(), with.clone(), id.clone(), what.clone());
            news.push(RuntimeEvent::Conflict { plugin, with, id, what });
        }
    }
    drop(comparing);
    news.into_iter().for_each(|event| shared.emit(event));
}

//! A swap that is rolled back: the new controllers end, and the old ones keep serving.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::successor::Replacements;
use super::{Pair, Staged, Stop, Stopping};
use crate::bus::engine::Engine;
use crate::bus::entry::ControllerEntry;
use crate::bus::instance::Predecessor;
use crate::bus::stop_first::{After, Legacy};
use crate::sync::Notify;

impl Staged {
    pub(super) fn roll_back(&mut self) {
        roll_back(&self.engine, std::mem::take(&mut self.pairs), &self.replacements, &self.activity);
    }
}

/// Ends the new controllers and lets the old ones go on. An old one that has ended is constructed again, once whatever was
/// constructed in its place is over.
pub(super) fn roll_back(engine: &Arc<Engine>, pairs: Vec<Pair>, replacements: &Replacements, activity: &Arc<Notify>) {
    let mut predecessors = Vec::new();
    let mut new = Vec::new();
    for pair in pairs {
        pair.old.handover.unwatch(activity);
        match (pair.stop, pair.old.instance()) {
            (Stop::Begun(Stopping { claim, fate, before }), Some(instance)) => {
                let running = Some(Arc::clone(&pair.old));
                let mut predecessor = Predecessor { instance, claim, fate, running, before, legacy: None };
                if !predecessor.fate.spare() {
                    let mut legacy = Legacy::of(&pair.old, predecessor.before.take());
                    if let Some(new) = &pair.new {
                        new.is_waited_for.store(true, Ordering::Release);
                        legacy.wait_for([After::of(new)]);
                    }
                    legacy.wait_for(replacements.lock().unwrap_or_else(PoisonError::into_inner).remove(&pair.old.id));
                    predecessor.legacy = Some(legacy);
                }
                predecessors.push(predecessor);
            }
            (Stop::Beside, _) => pair.old.open_gate(),
            _ => {}
        }
        new.extend(pair.new);
    }
    for entry in &new {
        entry.handover.unwatch(activity);
        drop(entry.handover.shut());
    }
    // A controller that is not executing yet has no life that would close it.
    let unborn: Vec<_> = {
        let mut life = engine.life();
        let has_begun = |entry: &ControllerEntry| {
            let is_known = life.controllers.contains_key(&entry.id) || life.leaving.contains_key(&entry.id);
            is_known || entry.is_over.load(Ordering::Acquire)
        };
        let unborn = new.iter().filter(|entry| !has_begun(entry)).cloned().collect();
        life.leave(&new);
        unborn
    };
    if !new.is_empty() {
        engine.dismiss(&new);
    }
    unborn.iter().for_each(|entry| engine.start_life(entry, Vec::new()));
    if !predecessors.is_empty() {
        engine.give_back(predecessors, None);
    }
}

//! A swap that does not happen: the new controllers end, and the old ones serve on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use super::successor::Replacements;
use super::{Pair, Staged, Stop, Stopping};
use crate::bus::engine::Engine;
use crate::bus::instance::Predecessor;
use crate::bus::stop_first::{After, Legacy};

impl Staged {
    pub(super) fn roll_back(&mut self) {
        roll_back(&self.engine, std::mem::take(&mut self.pairs), &self.replacements, &self.activity);
    }
}

/// The old controllers go on as if nothing had happened, and the new ones end. An old one that has ended is made again, when
/// whatever was made in its place is over.
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
    // One that does not execute yet is closed all the same.
    let unborn: Vec<_> = {
        let mut life = engine.life();
        let unborn = new.iter().filter(|entry| !life.controllers.contains_key(&entry.id)).cloned().collect();
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

//! Which config each key asks for: its candidates, the elected one, and what runs until that does.
//!
//! Data only, under the bus's lock: nothing here waits, and nothing of a user's runs. [`super::instance`] makes the
//! controllers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use super::Source;
use super::config_state::RunState;
use super::entry::ControllerEntry;
use super::factories::Factories;
use super::instance::Instance;
use super::stop_first::After;
use crate::config::Entry as ConfigEntry;
use crate::config::origin::Place;
use crate::controller::SwapMode;

/// Who applied a config.
pub(super) type Owner = u64;

/// Whoever calls [`super::Bus::apply`].
pub(super) const CALLERS: Owner = 0;

/// What a set does to the configs that its owner has applied before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// It adds to them.
    Keep,
    /// It replaces them: keys that it does not name are taken back.
    Replace,
}

/// How many revisions of a key one owner may have: the highest are kept.
const CANDIDATES: usize = 16;

struct Candidate {
    owner: Owner,
    /// Of equal revisions the one that came last wins.
    order: u64,
    config: ConfigEntry,
    place: Option<Place>,
}

/// One key. Its `wanted` instance is that of the elected candidate; `serving` is another one, which ran before and does
/// so until the wanted one runs. It counts as a user of both.
pub(super) struct Applied {
    pub(super) config: ConfigEntry,
    pub(super) place: Option<Place>,
    /// All that was applied for the key, the elected one first.
    candidates: Vec<Candidate>,
    pub(super) wanted: u64,
    pub(super) serving: Option<Serving>,
}

/// What runs for a key until the wanted instance does.
#[derive(Clone, Copy)]
pub(super) struct Serving {
    pub(super) instance: u64,
    pub(super) revision: u64,
}

impl Applied {
    /// The revisions that were not elected, the highest first.
    pub(super) fn others(&self) -> Vec<u64> {
        self.candidates.iter().skip(1).map(|found| found.config.revision).collect()
    }
}

/// The applied configs by key, and the controllers that they ask for.
#[derive(Default)]
pub(super) struct Configs {
    pub(super) by_key: BTreeMap<String, Applied>,
    pub(super) instances: BTreeMap<u64, Instance>,
    by_identity: HashMap<String, u64>,
    /// What has to be over before a controller is made for a key that was taken back, and comes again.
    departed: HashMap<String, Vec<After>>,
    next: u64,
}

/// What is to be done once the lock is given back.
#[derive(Default)]
#[must_use]
pub(super) struct Changes {
    /// Instances that need somebody to keep them.
    pub(super) born: Vec<u64>,
    /// Whoever keeps these has to look at them.
    pub(super) nudged: Vec<Arc<Notify>>,
    /// Controllers that nobody wants any more.
    pub(super) released: Vec<Arc<ControllerEntry>>,
    /// Controllers that have ended, and whose values nobody will replace any more.
    pub(super) ended: Vec<Arc<ControllerEntry>>,
    /// Keys that are gone for good.
    pub(super) keys_gone: Vec<String>,
}

impl Configs {
    /// Adds a candidate; one of the same owner and revision goes.
    pub(super) fn add(
        &mut self,
        owner: Owner,
        key: &str,
        (config, place): (ConfigEntry, Option<Place>),
        factories: &Factories,
        changes: &mut Changes,
    ) {
        self.next += 1;
        let candidate = Candidate { owner, order: self.next, config, place };
        if let Some(applied) = self.by_key.get_mut(key) {
            let revision = candidate.config.revision;
            applied.candidates.retain(|other| other.owner != owner || other.config.revision != revision);
            applied.candidates.push(candidate);
            sort(&mut applied.candidates);
            let mut own = 0;
            applied.candidates.retain(|other| {
                own += usize::from(other.owner == owner);
                other.owner != owner || own <= CANDIDATES
            });
            self.elect(key, factories, changes);
            return;
        }
        let config = candidate.config.clone();
        let place = candidate.place.clone();
        let wanted = self.use_instance(&config, factories, changes);
        let after = self.departed.remove(key).unwrap_or_default();
        self.wait_for(wanted, after);
        let applied = Applied { config, place, candidates: vec![candidate], wanted, serving: None };
        self.by_key.insert(key.to_owned(), applied);
    }

    /// Takes candidates back of which `gone` says so (told the key, the owner and the revision). False if there is none.
    pub(super) fn take_back(
        &mut self,
        gone: impl Fn(&str, Owner, u64) -> bool,
        factories: &Factories,
        changes: &mut Changes,
    ) -> bool {
        let mut keys = Vec::new();
        for (key, applied) in &mut self.by_key {
            let before = applied.candidates.len();
            applied.candidates.retain(|candidate| !gone(key, candidate.owner, candidate.config.revision));
            if applied.candidates.len() != before {
                keys.push(key.clone());
            }
        }
        keys.iter().for_each(|key| self.elect(key, factories, changes));
        !keys.is_empty()
    }

    /// Lets the highest revision win.
    fn elect(&mut self, key: &str, factories: &Factories, changes: &mut Changes) {
        let Some(applied) = self.by_key.get(key) else { return };
        let before = applied.wanted;
        let serving = applied.serving;
        let Some(best) = applied.candidates.first() else {
            self.by_key.remove(key);
            changes.keys_gone.push(key.to_owned());
            let mut after = self.release(before, changes);
            after.extend(serving.into_iter().flat_map(|serving| self.release(serving.instance, changes)));
            self.departed.retain(|_, after| !after.iter().all(After::is_over));
            if !after.is_empty() {
                self.departed.insert(key.to_owned(), after);
            }
            return;
        };
        let config = best.config.clone();
        let place = best.place.clone();
        let revision = applied.config.revision;
        // Taken before the others are let go of, so that one that stays is not let go of in between.
        let wanted = self.use_instance(&config, factories, changes);
        let is_running = |id: u64| self.instances.get(&id).is_some_and(|instance| instance.running.is_some());
        let holds = |id: u64| self.instances.get(&id).is_some_and(Instance::is_at_stake);
        let runs = (is_running(before) || holds(before)).then_some(Serving { instance: before, revision }).or(serving);
        let kept = runs.filter(|runs| runs.instance != wanted && !is_running(wanted));
        if let Some(kept) = kept {
            self.instances.get_mut(&kept.instance).into_iter().for_each(|instance| instance.users += 1);
        }
        if let Some(applied) = self.by_key.get_mut(key) {
            applied.config = config;
            applied.place = place;
            applied.wanted = wanted;
            applied.serving = kept;
        }
        let mut after = self.release(before, changes);
        after.extend(serving.into_iter().flat_map(|serving| self.release(serving.instance, changes)));
        self.wait_for(wanted, after);
        // Applying it again is a way to say: try now.
        if before == wanted
            && let Some(instance) = self.instances.get_mut(&wanted)
            && matches!(instance.state(), RunState::Failed { .. })
        {
            instance.retry_now();
            instance.look(factories);
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
    }

    /// The instance of a config, with one user more; made if there is none.
    fn use_instance(&mut self, config: &ConfigEntry, factories: &Factories, changes: &mut Changes) -> u64 {
        let identity = identity(config);
        if let Some(id) = self.by_identity.get(&identity)
            && let Some(instance) = self.instances.get_mut(id)
        {
            instance.users += 1;
            return *id;
        }
        self.next += 1;
        let id = self.next;
        let mut instance = Instance::new(config.clone());
        instance.look(factories);
        self.instances.insert(id, instance);
        self.by_identity.insert(identity, id);
        changes.born.push(id);
        id
    }

    /// One user less. Returns what has to be over before another controller is made in the place of this one's, if nobody
    /// uses it any more.
    fn release(&mut self, id: u64, changes: &mut Changes) -> Vec<After> {
        let Some(instance) = self.instances.get_mut(&id) else { return Vec::new() };
        instance.users -= 1;
        if instance.users > 0 {
            return Vec::new();
        }
        changes.nudged.push(Arc::clone(&instance.nudge));
        changes.released.extend(instance.running.clone());
        instance.after()
    }

    /// The next controller of an instance is made after these are over.
    fn wait_for(&mut self, id: u64, after: Vec<After>) {
        if let Some(instance) = self.instances.get_mut(&id).filter(|_| !after.is_empty()) {
            instance.wait_for(after);
        }
    }

    /// An instance runs: what ran for its keys until now is let go of.
    pub(super) fn runs(&mut self, id: u64, changes: &mut Changes) {
        let keys = self.by_key.values_mut().filter(|applied| applied.wanted == id);
        let served: Vec<_> = keys.filter_map(|applied| applied.serving.take()).collect();
        for serving in served {
            // It runs: nothing is made any more that could wait.
            drop(self.release(serving.instance, changes));
        }
    }

    /// The instances that end when this one runs, where they have to end before its controller is made: one of the two
    /// cannot run beside another, or there is something left of one that could not.
    pub(super) fn predecessors_of(&self, id: u64, swap: SwapMode) -> Vec<u64> {
        let mut keys = BTreeMap::<u64, usize>::new();
        for applied in self.by_key.values().filter(|applied| applied.wanted == id) {
            if let Some(serving) = applied.serving {
                *keys.entry(serving.instance).or_default() += 1;
            }
        }
        let ends = |(other, keys): &(u64, usize)| {
            let Some(instance) = self.instances.get(other).filter(|instance| instance.users == *keys) else {
                return false;
            };
            let running = instance.running.as_ref();
            let alone = |running: &Arc<ControllerEntry>| [running.swap, swap].contains(&SwapMode::StopFirst);
            instance.is_claimed() || instance.is_at_stake() || running.is_some_and(alone)
        };
        keys.into_iter().filter(ends).map(|(other, _)| other).collect()
    }

    /// What all keys of an instance ask for instead of it, if that is one config, and does not run.
    pub(super) fn wanted_instead_of(&self, id: u64) -> Option<u64> {
        let serves = |applied: &&Applied| applied.serving.is_some_and(|serving| serving.instance == id);
        let mut keys = self.by_key.values().filter(|applied| applied.wanted == id || serves(applied));
        let wanted = keys.next()?.wanted;
        let is_one = wanted != id && keys.all(|applied| applied.wanted == wanted);
        let is_waiting = |id: &u64| self.instances.get(id).is_some_and(|instance| instance.running.is_none());
        Some(wanted).filter(|_| is_one).filter(is_waiting)
    }

    /// Lets others replace an instance's controller again.
    pub(super) fn unclaim(&mut self, id: u64, changes: &mut Changes) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.unclaim();
        changes.nudged.push(Arc::clone(&instance.nudge));
        let serves = |applied: &&Applied| applied.serving.is_some_and(|serving| serving.instance == id);
        let waiting = self.by_key.values().filter(serves).filter_map(|applied| self.instances.get(&applied.wanted));
        changes.nudged.extend(waiting.map(|waiting| Arc::clone(&waiting.nudge)));
    }

    /// Whoever keeps an instance that waits for the end of a controller.
    pub(super) fn waiting_for(&self, controller: u64) -> Vec<Arc<Notify>> {
        let waits = |instance: &&Instance| instance.waits_for(controller);
        self.instances.values().filter(waits).map(|instance| Arc::clone(&instance.nudge)).collect()
    }

    /// Takes an instance out that nobody uses.
    pub(super) fn remove_unused(&mut self, id: u64) -> Option<Instance> {
        self.instances.get(&id).filter(|instance| instance.users == 0)?;
        self.by_identity.retain(|_, known| *known != id);
        self.instances.remove(&id)
    }

    /// The controllers that run for keys of which `of` says so (told the key and the owner of a candidate).
    pub(super) fn running(&self, of: impl Fn(&str, Owner) -> bool) -> Vec<Arc<ControllerEntry>> {
        let is_of = |key: &String, applied: &Applied| applied.candidates.iter().any(|found| of(key, found.owner));
        let keys = self.by_key.iter().filter(|(key, applied)| is_of(key, applied));
        let instances = keys.flat_map(|(_, applied)| {
            [Some(applied.wanted), applied.serving.map(|serving| serving.instance)].into_iter().flatten()
        });
        instances.filter_map(|id| self.instances.get(&id)?.running.clone()).collect()
    }

    /// Whether some key wants a controller, or is served by it.
    pub(super) fn uses(&self, entry: &ControllerEntry) -> bool {
        let instance = entry.configured.as_ref().and_then(|(instance, _)| self.instances.get(instance));
        instance.is_some_and(|found| found.users > 0 && found.running.as_ref().is_some_and(|own| own.id == entry.id))
    }

    /// The keys that an instance runs for, or will.
    pub(super) fn keys_of(&self, instance: u64) -> Vec<String> {
        let uses = |applied: &Applied| {
            applied.wanted == instance || applied.serving.is_some_and(|serving| serving.instance == instance)
        };
        self.by_key.iter().filter(|(_, applied)| uses(applied)).map(|(key, _)| key.clone()).collect()
    }

    /// Factories came or went: whoever keeps an instance that does not run has to look again.
    pub(super) fn factories_changed(&mut self, factories: &Factories, changes: &mut Changes) {
        for instance in self.instances.values_mut().filter(|instance| instance.running.is_none()) {
            instance.look(factories);
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
    }

    /// The controllers of a source go: their configs wait, or use another factory.
    pub(super) fn source_gone(&mut self, source: Source, factories: &Factories, changes: &mut Changes) {
        for instance in self.instances.values_mut() {
            if instance.running.as_ref().is_some_and(|running| running.source == source) {
                instance.stop();
            }
            // What has ended and waits for a successor does so no longer: its code is to go.
            let old = instance.legacy().and_then(|left| left.old.take_if(|old| old.source == source));
            changes.ended.extend(old);
        }
        self.factories_changed(factories, changes);
    }
}

fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|found| std::cmp::Reverse((found.config.revision, found.order)));
}

/// What makes two configs the same: config ID, versions, and the config as a value, whatever the order of its fields.
fn identity(config: &ConfigEntry) -> String {
    fn write(value: &serde_json::Value, out: &mut String) {
        match value {
            serde_json::Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_by_key(|(name, _)| *name);
                out.push('{');
                for (name, value) in fields {
                    out.push_str(&format!("{name:?}:"));
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            serde_json::Value::Array(items) => {
                out.push('[');
                for item in items {
                    write(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut identity = format!("{:?} {:?} ", config.id, config.version.as_ref().map(ToString::to_string));
    write(&config.config, &mut identity);
    identity
}

//! Which config each key asks for: its candidates, the elected one, and what runs until that does.
//!
//! Only data, under the lock of [`super::engine::Life`]: nothing here waits or runs user code. [`super::instance`] constructs
//! the controllers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// The number of an owner: whoever applied a config.
pub(super) type Owner = u64;

/// The owner of what [`super::Bus::apply`] applies.
pub(super) const CALLERS: Owner = 0;

/// What a new set does to the configs that its owner has applied before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// They stay.
    Keep,
    /// They are withdrawn, unless the set has them, too.
    Replace,
}

/// How many revisions of a key one owner may have; the highest are kept.
const CANDIDATES: usize = 16;

struct Candidate {
    owner: Owner,
    /// Of equal revisions, the one that was added last wins.
    order: u64,
    config: ConfigEntry,
    place: Option<Place>,
}

/// One key. `wanted` is the instance of the elected candidate; `serving` is another one that ran before and keeps running
/// until the wanted one does. The key counts as a user of both.
pub(super) struct Applied {
    pub(super) config: ConfigEntry,
    pub(super) place: Option<Place>,
    /// Everything that was applied for the key, the elected one first.
    candidates: Vec<Candidate>,
    pub(super) wanted: u64,
    pub(super) serving: Option<Serving>,
}

/// What keeps running for a key until the wanted instance does.
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
    /// For keys that were removed: what has to be over before a controller is constructed for the same key again.
    departed: HashMap<String, Vec<After>>,
    next: u64,
}

/// What is to be done once the lock is released: see [`Engine::carry_out`](super::engine::Engine::carry_out).
#[derive(Default)]
#[must_use]
pub(super) struct Changes {
    /// New instances, which need a keeper.
    pub(super) born: Vec<u64>,
    /// Keepers that have to look at their instances.
    pub(super) nudged: Vec<Arc<Notify>>,
    /// Controllers that no key wants any more.
    pub(super) released: Vec<Arc<ControllerEntry>>,
    /// Controllers that have ended, and whose values no successor will replace.
    pub(super) ended: Vec<Arc<ControllerEntry>>,
    /// Keys that were removed.
    pub(super) keys_gone: Vec<String>,
}

/// The key of a config that a directive has applied, by the number of its owner.
pub(super) fn key_of_directive(owner: Owner, config_id: &str) -> String {
    format!("directive {owner}: {config_id}")
}

impl Configs {
    /// The elected config of each key, without those that directives keep: they have keys of their own, and go with these.
    pub(super) fn elected(&self) -> impl Iterator<Item = (&String, &ConfigEntry)> {
        let is_kept_by_one = |key: &String, applied: &Applied| {
            let best = applied.candidates.first();
            best.is_some_and(|best| *key == key_of_directive(best.owner, &best.config.id))
        };
        let all = self.by_key.iter().filter(move |(key, applied)| !is_kept_by_one(key, applied));
        all.map(|(key, applied)| (key, &applied.config))
    }

    /// Adds a candidate, in place of one of the same owner and revision.
    pub(super) fn add(
        &mut self,
        owner: Owner,
        key: &str,
        (config, place): (ConfigEntry, Option<Place>),
        factories: &Factories,
        changes: &mut Changes,
    ) {
        self.next += 1;
        let order = self.next;
        let candidate = Candidate { owner, order, config, place };
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
            let elected = self
                .by_key
                .get(key)
                .filter(|applied| applied.candidates.first().is_some_and(|best| best.order == order));
            if let Some(wanted) = elected.map(|applied| applied.wanted) {
                self.ask_again(wanted, factories, changes);
            }
            return;
        }
        let config = candidate.config.clone();
        let place = candidate.place.clone();
        let wanted = self.use_instance(&config, factories, changes);
        let after = self.departed.remove(key).unwrap_or_default();
        self.wait_for(wanted, after);
        self.ask_again(wanted, factories, changes);
        let applied = Applied { config, place, candidates: vec![candidate], wanted, serving: None };
        self.by_key.insert(key.to_owned(), applied);
    }

    /// Makes an owner want, too, what is elected for a key, which changes nothing else. False if he does already.
    pub(super) fn keep(&mut self, owner: Owner, key: &str) -> bool {
        let Some(applied) = self.by_key.get_mut(key) else { return false };
        let Some(best) = applied.candidates.first() else { return false };
        let what = (best.config.revision, identity(&best.config));
        let is_same = |own: &Candidate| own.owner == owner && (own.config.revision, identity(&own.config)) == what;
        if applied.candidates.iter().any(is_same) {
            return false;
        }
        // With the order of what it copies, and so right behind it: the sort is stable.
        let kept = Candidate { owner, order: best.order, config: best.config.clone(), place: best.place.clone() };
        applied.candidates.retain(|own| own.owner != owner);
        applied.candidates.push(kept);
        sort(&mut applied.candidates);
        true
    }

    /// A config was applied: if its instance's controller was taken off by hand, it is constructed again.
    fn ask_again(&mut self, wanted: u64, factories: &Factories, changes: &mut Changes) {
        if let Some(instance) = self.instances.get_mut(&wanted)
            && instance.is_asked_for_again()
        {
            instance.look(factories);
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
    }

    /// A controller is taken off by hand: its keys say so until their config is applied again.
    pub(super) fn take_off(&mut self, entry: &ControllerEntry) {
        let instance = entry.instance().and_then(|instance| self.instances.get_mut(&instance));
        let own = instance.filter(|found| found.running.as_ref().is_some_and(|running| running.id == entry.id));
        own.into_iter().for_each(Instance::take_off);
    }

    /// Withdraws the candidates for which `gone` returns true; it is given key, owner and revision. False if there is none.
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
        // Used before the others are released, so that an instance that stays is not released in between.
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
        if before != wanted
            && let Some(instance) = self.instances.get(&wanted)
        {
            // It may have been waiting for what its key wanted before.
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
        // Applying a failed config again means: retry now.
        if before == wanted
            && let Some(instance) = self.instances.get_mut(&wanted)
            && matches!(instance.state(), RunState::Failed { .. })
        {
            instance.retry_now();
            instance.look(factories);
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
    }

    /// The instance of a config, with one more user; created if there is none.
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

    /// One user less. If that was the last one, returns what has to be over before another controller is constructed in
    /// place of the instance's.
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

    /// The next controller of an instance is constructed after these are over.
    fn wait_for(&mut self, id: u64, after: Vec<After>) {
        if let Some(instance) = self.instances.get_mut(&id).filter(|_| !after.is_empty()) {
            instance.wait_for(after);
        }
    }

    /// An instance runs: what has been serving its keys is released.
    pub(super) fn runs(&mut self, id: u64, changes: &mut Changes) {
        let keys = self.by_key.values_mut().filter(|applied| applied.wanted == id);
        let served: Vec<_> = keys.filter_map(|applied| applied.serving.take()).collect();
        for serving in served {
            // The wanted one runs already, and so waits for nothing.
            drop(self.release(serving.instance, changes));
        }
    }

    /// The instances that have to end before this one's controller is constructed: they end when it runs, and one of the two
    /// cannot run beside another, or something is left of one that could not.
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

    /// What all keys of an instance ask for instead of it, if that is a single config that does not run.
    pub(super) fn wanted_instead_of(&self, id: u64) -> Option<u64> {
        let serves = |applied: &&Applied| applied.serving.is_some_and(|serving| serving.instance == id);
        let mut keys = self.by_key.values().filter(|applied| applied.wanted == id || serves(applied));
        let wanted = keys.next()?.wanted;
        let is_one = wanted != id && keys.all(|applied| applied.wanted == wanted);
        let is_waiting = |id: &u64| self.instances.get(id).is_some_and(|instance| instance.running.is_none());
        Some(wanted).filter(|_| is_one).filter(is_waiting)
    }

    /// Allows others to replace an instance's controller again.
    pub(super) fn unclaim(&mut self, id: u64, changes: &mut Changes) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.unclaim();
        changes.nudged.push(Arc::clone(&instance.nudge));
        let serves = |applied: &&Applied| applied.serving.is_some_and(|serving| serving.instance == id);
        let waiting = self.by_key.values().filter(serves).filter_map(|applied| self.instances.get(&applied.wanted));
        changes.nudged.extend(waiting.map(|waiting| Arc::clone(&waiting.nudge)));
    }

    /// The nudges of instances that wait for the end of a controller or claim, and of those that are to take a key from one.
    pub(super) fn waiting_for(&self, controller: u64) -> Vec<Arc<Notify>> {
        let waits = |id: &u64| self.instances.get(id).is_some_and(|instance| instance.waits_for(controller));
        let mut ids: BTreeSet<u64> = self.instances.keys().copied().filter(waits).collect();
        if !ids.is_empty() {
            let served = |applied: &&Applied| applied.serving.is_some_and(|serving| ids.contains(&serving.instance));
            ids =
                self.by_key.values().filter(served).map(|applied| applied.wanted).chain(ids.iter().copied()).collect();
        }
        ids.iter().filter_map(|id| self.instances.get(id)).map(|instance| Arc::clone(&instance.nudge)).collect()
    }

    /// Removes an instance that no key uses.
    pub(super) fn remove_unused(&mut self, id: u64) -> Option<Instance> {
        self.instances.get(&id).filter(|instance| instance.users == 0)?;
        self.by_identity.retain(|_, known| *known != id);
        self.instances.remove(&id)
    }

    /// The controllers that run for the keys for which `of` returns true; it is given the key and the owner of a candidate.
    pub(super) fn running(&self, of: impl Fn(&str, Owner) -> bool) -> Vec<Arc<ControllerEntry>> {
        let is_of = |key: &String, applied: &Applied| applied.candidates.iter().any(|found| of(key, found.owner));
        let keys = self.by_key.iter().filter(|(key, applied)| is_of(key, applied));
        let instances = keys.flat_map(|(_, applied)| {
            [Some(applied.wanted), applied.serving.map(|serving| serving.instance)].into_iter().flatten()
        });
        instances.filter_map(|id| self.instances.get(&id)?.running.clone()).collect()
    }

    /// Whether a key wants a controller or is served by it.
    pub(super) fn uses(&self, entry: &ControllerEntry) -> bool {
        let instance = entry.configured.as_ref().and_then(|(instance, _)| self.instances.get(instance));
        instance.is_some_and(|found| found.users > 0 && found.running.as_ref().is_some_and(|own| own.id == entry.id))
    }

    /// The keys that an instance runs for, or is to run for.
    pub(super) fn keys_of(&self, instance: u64) -> Vec<String> {
        let uses = |applied: &Applied| {
            applied.wanted == instance || applied.serving.is_some_and(|serving| serving.instance == instance)
        };
        self.by_key.iter().filter(|(_, applied)| uses(applied)).map(|(key, _)| key.clone()).collect()
    }

    /// Factories were added: instances whose configs want a better one than they have are replaced, as if the config had changed.
    pub(super) fn factories_added(&mut self, factories: &Factories, changes: &mut Changes) {
        self.supersede(factories, changes);
        self.factories_changed(factories, changes);
    }

    /// Replaces the instances whose configs want a better factory than they have.
    pub(super) fn supersede(&mut self, factories: &Factories, changes: &mut Changes) {
        let outdated = self.instances.iter().filter(|(_, instance)| instance.is_outdated(factories));
        for id in outdated.map(|(id, _)| *id).collect::<Vec<_>>() {
            // The keys get another instance, because this one is not found any more.
            self.by_identity.retain(|_, known| *known != id);
            let keys = self.by_key.iter().filter(|(_, applied)| applied.wanted == id);
            for key in keys.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                self.elect(&key, factories, changes);
            }
        }
    }

    /// The nudges of all keepers.
    pub(super) fn nudges(&self) -> Vec<Arc<Notify>> {
        self.instances.values().map(|instance| Arc::clone(&instance.nudge)).collect()
    }

    /// Factories were added or removed: the keepers of instances that do not run have to look again.
    pub(super) fn factories_changed(&mut self, factories: &Factories, changes: &mut Changes) {
        for instance in self.instances.values_mut().filter(|instance| instance.running.is_none()) {
            instance.look(factories);
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
    }

    /// The controllers of a source are removed: their configs wait, or use another factory.
    pub(super) fn source_gone(&mut self, source: Source, factories: &Factories, changes: &mut Changes) {
        for instance in self.instances.values_mut() {
            if instance.running.as_ref().is_some_and(|running| running.is_of(source)) {
                instance.stop();
            }
            // A controller that has ended and waits for a successor must not keep its code loaded.
            let old = instance.legacy().and_then(|left| left.old.take_if(|old| old.is_of(source)));
            changes.ended.extend(old);
        }
        self.factories_changed(factories, changes);
    }
}

fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|found| std::cmp::Reverse((found.config.revision, found.order)));
}

/// What makes two configs equal: all but the revision; the config itself as a value, whatever the order of its fields.
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
    let version = config.version.as_ref().map(ToString::to_string);
    let mut identity = format!("{:?} {version:?} {} {:?} ", config.id, config.supersede, config.retry);
    write(&config.config, &mut identity);
    identity
}

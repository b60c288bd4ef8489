//! A generation of controllers takes over from another: made ready beside it, then switched in one step.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::Source;
use super::configs::Changes;
use super::engine::{Engine, Life};
use super::entry::ControllerEntry;
use super::factories::Known;
use super::life::limited;
use super::resolver::run;
use super::standing::Standing;
use crate::controller::factory::Factory;
use crate::controller::{AnyController, State};
use crate::error::ErrorKind;
use crate::{Error, Result};

/// How long an old answer may outlast a swap when its successor has nothing.
const OUTLAST: Duration = Duration::from_secs(5);

/// A new generation that is ready beside the old one. Dropping it rolls back.
#[must_use = "dropping it rolls the new generation back"]
pub struct Staged {
    engine: Arc<Engine>,
    from: Source,
    to: Source,
    factories: Vec<Known>,
    pairs: Vec<Pair>,
    /// Woken when something changes about a controller of either generation.
    stirred: Arc<Notify>,
    /// Until when all must be ready.
    deadline: Instant,
    grace: Duration,
    /// Where the new generation is an older one that comes back: the states that it had last.
    back: Option<LastStates>,
    /// What was done otherwise than asked for, for whoever asked.
    notes: Vec<String>,
}

/// The last states of a generation that was replaced, for when it has to come back: see [`super::Bus::stage_back`].
#[derive(Clone, Debug, Default)]
pub struct LastStates(HashMap<u64, State>);

/// An old controller and the one that takes over, `None` where the new generation has no factory for it.
struct Pair {
    old: Arc<ControllerEntry>,
    new: Option<Arc<ControllerEntry>>,
    /// What the new one has restored so far.
    restored: Option<State>,
    /// It comes back and has begun with its own last state: that of the old one is nothing to it.
    with_own: bool,
    /// What the new one has to answer before it is ready, the next one last; `None` before it was looked for.
    unready: Option<Vec<Arc<Standing>>>,
}

/// A swap that has happened; the old controllers are on their way out.
pub struct Committed {
    engine: Arc<Engine>,
    old: Vec<Arc<ControllerEntry>>,
    states: LastStates,
    notes: Vec<String>,
}

impl Committed {
    /// The states that the old generation has handed over.
    pub fn last_states(&self) -> LastStates {
        self.states.clone()
    }

    /// What was done otherwise than usual, such as a state that was refused and another one that was used instead.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Ends when the old controllers are closed and answer nothing any more, or their limits are over.
    pub async fn drained(self) {
        let Self { engine, old, .. } = self;
        let gone = async {
            for entry in &old {
                entry.cancel.cancelled().await;
            }
        };
        let _ = timeout(OUTLAST, gone).await;
        engine.closed(old).await;
    }
}

impl Engine {
    pub(super) async fn stage(
        self: &Arc<Self>,
        from: Source,
        to: Source,
        factories: Vec<Arc<dyn Factory>>,
        grace: Duration,
        back: Option<LastStates>,
    ) -> Result<Staged> {
        let mut staged = Staged {
            engine: Arc::clone(self),
            from,
            to,
            factories: Known::of(to, factories),
            pairs: Vec::new(),
            stirred: Arc::default(),
            deadline: Instant::now() + grace,
            grace,
            back,
            notes: Vec::new(),
        };
        // An error drops `staged`, which takes back what was done.
        staged.make_ready().await?;
        Ok(staged)
    }
}

impl Life {
    /// The controllers of a source that serve.
    fn serving(&self, source: Source) -> Vec<Arc<ControllerEntry>> {
        self.controllers.values().filter(|entry| entry.source == source).cloned().collect()
    }
}

impl Staged {
    async fn make_ready(&mut self) -> Result<()> {
        let (deadline, grace) = (self.deadline, self.grace);
        timeout_at(deadline, self.prepare()).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, format!("the new generation was not ready within {grace:?}")))
        })
    }

    /// Makes a successor for each old controller that has none yet, and waits until all are ready. Configs may change
    /// meanwhile, which takes old controllers away and brings others.
    async fn prepare(&mut self) -> Result<()> {
        loop {
            let serving = self.engine.life().serving(self.from);
            let (kept, gone) = std::mem::take(&mut self.pairs)
                .into_iter()
                .partition(|pair| serving.iter().any(|entry| entry.id == pair.old.id));
            self.pairs = kept;
            roll_back(&self.engine, gone);
            let known: HashSet<u64> = self.pairs.iter().map(|pair| pair.old.id).collect();
            let missing: Vec<_> = serving.into_iter().filter(|entry| !known.contains(&entry.id)).collect();
            if missing.is_empty() {
                return self.until_ready().await;
            }
            let begun = self.pairs.len();
            self.construct(missing).await?;
            self.start(begun);
            self.until_ready().await?;
        }
    }

    /// Constructs successors side by side, and gives them the states of those that they are to replace.
    async fn construct(&mut self, old: Vec<Arc<ControllerEntry>>) -> Result<()> {
        let mut making = Vec::new();
        for old in old {
            let known = self.factories.iter().find(|known| known.info.config_id == old.info.config_id).cloned();
            let last = self
                .back
                .as_ref()
                .map(|last| old.configured.as_ref().and_then(|(instance, _)| last.0.get(instance).cloned()));
            let making_one = successor(Arc::clone(&self.engine), self.to, known, Arc::clone(&old), last);
            making.push((old, AbortOnDrop(self.engine.runtime()?.spawn(making_one))));
        }
        for (old, mut made) in making {
            let made = (&mut made.0).await.unwrap_or_else(|error| Err(Error::msg(error)))?;
            self.pairs.push(match made {
                Some(Made { fresh, state, with_own, note }) => {
                    self.notes.extend(note);
                    Pair { old, new: Some(fresh.keep()), restored: state, with_own, unready: None }
                }
                None => Pair { old, new: None, restored: None, with_own: false, unready: None },
            });
        }
        Ok(())
    }

    /// Has the successors from `begun` on execute, and offers them what stands, with their values held back.
    fn start(&self, begun: usize) {
        for pair in &self.pairs[begun..] {
            pair.old.handover.watch(&self.stirred);
            pair.new.iter().for_each(|new| new.handover.watch(&self.stirred));
        }
        // Routes first, then what stands: so each directive is offered to them, whenever it came.
        let new: Vec<_> = self.pairs[begun..].iter().filter_map(|pair| pair.new.clone()).collect();
        {
            let mut life = self.engine.life();
            life.controllers.extend(new.iter().map(|entry| (entry.id, Arc::clone(entry))));
        }
        for entry in &new {
            self.engine.live(entry, Vec::new());
        }
        self.engine.types.route(&new, &[]);
        for entry in &new {
            self.engine.offer_standing(entry);
        }
    }

    async fn until_ready(&mut self) -> Result<()> {
        while !self.is_ready()? {
            self.stirred.notified().await;
        }
        Ok(())
    }

    /// Hands over what has changed in the states since they were restored. From here to the commit, or to the drop,
    /// no call begins on a controller with a state.
    async fn hand_over(&mut self, patience: Duration) -> Result<()> {
        let with_state: Vec<_> =
            self.pairs.iter_mut().filter(|pair| pair.restored.is_some() && !pair.with_own).collect();
        // The new one first: so what the old one does not do any more, the new one does after it is restored.
        let held: Vec<_> = with_state.iter().flat_map(|pair| pair.new.iter().chain([&pair.old])).cloned().collect();
        held.iter().for_each(|entry| entry.handover.hold());
        let at_rest = async {
            for entry in &held {
                while entry.answers().iter().any(|standing| is_at_work(standing, entry)) {
                    self.stirred.notified().await;
                }
            }
        };
        // Whoever takes longer is not waited for: see `Controller::save`.
        let _ = tokio::time::timeout(patience, at_rest).await;
        for pair in with_state {
            let Some(new) = &pair.new else { continue };
            let state = match save(&self.engine, &pair.old).await {
                // What is taken back need not be well.
                Err(error) if self.back.is_some() => {
                    self.notes.push(error.to_string());
                    continue;
                }
                saved => saved?,
            };
            if let Some(state) = state.filter(|state| pair.restored.as_ref() != Some(state)) {
                // What the new one alone has done, since the old one was not asked, is not in that state.
                for standing in new.answers() {
                    standing.change(|state, effects| {
                        if state.resolver_of(pair.old.id).is_none() {
                            state.do_again(&standing, new.id, effects);
                        }
                    });
                }
                match restore(&self.engine, new, state.clone()).await {
                    Err(error) if self.back.is_some() => self.notes.push(error.to_string()),
                    restored => restored?,
                }
                pair.restored = Some(state);
            }
        }
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool> {
        for pair in &mut self.pairs {
            let Some(new) = &pair.new else { continue };
            if let Some(error) = new.failure() {
                return Err(error.context(format!("executing {}", new.info.id)));
            }
            if !new.handover.began.load(Ordering::Acquire) {
                return Ok(false);
            }
            if new.resolver_failed.swap(false, Ordering::AcqRel) {
                // Where the old one fails too, the new one does no worse.
                for standing in new.answers() {
                    let state = standing.lock();
                    if let Some(error) = state.error_of(new.id).filter(|_| state.error_of(pair.old.id).is_none()) {
                        let what = format!("resolving {} with {}", standing.directive.id(), new.info.id);
                        return Err(error.clone().context(what));
                    }
                }
            }
            let is_ready = |standing: &Arc<Standing>| {
                let state = standing.lock();
                !state.has_values(pair.old.id) || state.is_ready(new.id)
            };
            // One after the other: each change costs a look at one of them, however many stand.
            let unready = pair.unready.get_or_insert_with(|| new.answers());
            while unready.last().is_some_and(is_ready) {
                unready.pop();
            }
            if !unready.is_empty() {
                return Ok(false);
            }
            // What came or changed meanwhile.
            unready.extend(new.answers().into_iter().filter(|standing| !is_ready(standing)));
            if !unready.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands over the states as they are now, and makes the new generation the one that serves. Where there is a
    /// state, calls that are at work without an answer get `patience` to end, for which calls that begin wait. A
    /// controller whose config has changed since is made ready again before.
    ///
    /// # Errors
    /// Why a state could not be saved or restored, or what was not ready in time. The running generation goes on then.
    pub async fn commit(mut self, patience: Duration) -> Result<Committed> {
        let limit = self.engine.limits.hand_over + patience;
        loop {
            timeout(limit, self.hand_over(patience)).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::TimedOut, format!("the state was not handed over within {limit:?}")))
            })?;
            self = match self.switch() {
                Ok(committed) => return Ok(committed),
                Err(staged) => *staged,
            };
            self.make_ready().await?;
        }
    }

    /// The one step. Gives the generation back if configs have brought controllers that have no successor yet.
    fn switch(mut self) -> Result<Committed, Box<Self>> {
        let engine = Arc::clone(&self.engine);
        let (gone, changes) = {
            let mut life = engine.life();
            let serving: HashSet<u64> = life.serving(self.from).iter().map(|entry| entry.id).collect();
            let is_whole =
                self.pairs.len() == serving.len() && self.pairs.iter().all(|pair| serving.contains(&pair.old.id));
            if !is_whole {
                drop(life);
                self.go_on_as_before();
                return Err(Box::new(self));
            }
            let gone = life.switch(self.from, std::mem::take(&mut self.factories), &self.pairs);
            // From here on the new values are visible as they come, and new directives go to the new ones only.
            self.pairs.iter().filter_map(|pair| pair.new.as_ref()).for_each(|new| new.go_live());
            gone
        };
        drop(gone);
        let pairs = std::mem::take(&mut self.pairs);
        let old: Vec<_> = pairs.iter().map(|pair| Arc::clone(&pair.old)).collect();
        engine.types.route(&[], &old);
        for pair in &pairs {
            // What was held is the new one's to do, and so is what is offered to the old one from here on.
            for (standing, ..) in pair.old.handover.shut() {
                standing.change(|state, effects| state.remove_resolver(pair.old.id, effects));
            }
            if let Some(new) = &pair.new {
                // Who adds a directive right now may have offered it to one of the two only.
                for standing in new.answers().into_iter().chain(pair.old.answers()) {
                    standing.change(|state, effects| state.replace(pair.old.id, new.id, effects));
                }
            }
        }
        for pair in &pairs {
            if let Some(new) = &pair.new {
                new.handover.unwatch();
                new.handover.release().iter().for_each(|(standing, seat, number)| run(standing, seat, *number));
            }
            let old = Arc::clone(&pair.old);
            engine.spawn(async move {
                let outlasted = async {
                    let stirred = Arc::default();
                    old.handover.watch(&stirred);
                    while old.answer_count() > 0 {
                        stirred.notified().await;
                    }
                };
                let _ = timeout(OUTLAST, outlasted).await;
                old.handover.unwatch();
                old.withdraw();
                old.cancel.cancel();
            });
        }
        // Factories that are new with this generation may be what other configs wait for.
        engine.carry_out(changes);
        let mut states = LastStates::default();
        let mut old = Vec::new();
        for pair in pairs {
            if let (Some((instance, _)), Some(state)) = (&pair.old.configured, pair.restored) {
                states.0.insert(*instance, state);
            }
            old.push(pair.old);
        }
        Ok(Committed { engine, old, states, notes: std::mem::take(&mut self.notes) })
    }

    /// Lets calls begin on the old controllers again.
    fn go_on_as_before(&self) {
        for pair in &self.pairs {
            for entry in pair.new.iter().chain([&pair.old]) {
                entry.handover.release().iter().for_each(|(standing, seat, number)| run(standing, seat, *number));
            }
        }
    }
}

impl Life {
    /// Exchanges factories and controllers of one generation for those of the next.
    fn switch(&mut self, from: Source, to: Vec<Known>, pairs: &[Pair]) -> (Vec<Known>, Changes) {
        self.factories.add(to);
        let gone = self.factories.remove(from);
        self.leave(pairs.iter().map(|pair| &pair.old));
        for pair in pairs {
            let Some((instance, _)) = &pair.old.configured else { continue };
            let Some(instance) = self.configs.instances.get_mut(instance) else { continue };
            // One that nobody uses any more is ended by its keeper, whichever it is.
            match &pair.new {
                Some(new) => instance.run(new),
                None => instance.stop(),
            }
        }
        let mut changes = Changes::default();
        self.configs.factories_changed(&self.factories, &mut changes);
        (gone, changes)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        roll_back(&self.engine, std::mem::take(&mut self.pairs));
    }
}

/// The old controllers go on as if nothing had happened, and the new ones end.
fn roll_back(engine: &Arc<Engine>, pairs: Vec<Pair>) {
    for old in pairs.iter().map(|pair| &pair.old) {
        old.handover.unwatch();
        old.handover.release().iter().for_each(|(standing, seat, number)| run(standing, seat, *number));
    }
    let new: Vec<_> = pairs.into_iter().filter_map(|pair| pair.new).collect();
    if new.is_empty() {
        return;
    }
    for entry in &new {
        entry.handover.unwatch();
        drop(entry.handover.shut());
    }
    // One that does not execute yet is closed all the same.
    let unborn: Vec<_> = {
        let mut life = engine.life();
        let unborn = new.iter().filter(|entry| !life.controllers.contains_key(&entry.id)).cloned().collect();
        life.leave(&new);
        unborn
    };
    engine.dismiss(&new);
    unborn.iter().for_each(|entry| engine.live(entry, Vec::new()));
}

/// A successor that is closed unless it is kept.
struct Fresh(Option<(Arc<Engine>, ControllerEntry)>);

impl Fresh {
    fn keep(mut self) -> Arc<ControllerEntry> {
        let (_, entry) = self.0.take().expect("it is kept once");
        Arc::new(entry)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some((engine, entry)) = self.0.take() {
            engine.discard(entry);
        }
    }
}

/// A controller that is to take over.
struct Made {
    fresh: Fresh,
    /// What it has restored.
    state: Option<State>,
    with_own: bool,
    note: Option<String>,
}

/// The controller that takes over from an old one, with its state. Where an older generation comes `back`, what the old
/// one cannot save, or the new one cannot read, is no obstacle: it begins with its own last state then.
async fn successor(
    engine: Arc<Engine>,
    to: Source,
    known: Option<Known>,
    old: Arc<ControllerEntry>,
    back: Option<Option<State>>,
) -> Result<Option<Made>> {
    let (Some(known), Some((instance, config))) = (known, old.configured.clone()) else { return Ok(None) };
    let name = known.info.id.clone();
    let make = async || {
        let made = engine.construct(&known, config.clone()).await;
        let (controller, cancel) = made.map_err(|error| error.context(format!("constructing {name}")))?;
        let entry = ControllerEntry::new(engine.next_id(), known.info.clone(), to, Arc::clone(&controller));
        let entry = entry.configured(instance, config.clone(), cancel).staged();
        entry.handover.replaces.store(old.id, Ordering::Relaxed);
        Ok::<_, Error>((Fresh(Some((Arc::clone(&engine), entry))), controller))
    };
    let (fresh, controller) = make().await?;
    let Some(last) = back else {
        let state = save(&engine, &old).await?;
        if let Some(state) = state.clone() {
            restore_into(&engine, controller, &name, state).await?;
        }
        return Ok(Some(Made { fresh, state, with_own: false, note: None }));
    };
    let saved = save(&engine, &old).await;
    let error = match saved {
        Ok(Some(state)) => match restore_into(&engine, controller, &name, state.clone()).await {
            Ok(()) => return Ok(Some(Made { fresh, state: Some(state), with_own: false, note: None })),
            Err(error) => Some(error),
        },
        Ok(None) => None,
        Err(error) => Some(error),
    };
    // What it has half restored is not what it begins with.
    drop(fresh);
    let (fresh, controller) = make().await?;
    let begins = if last.is_some() { "it begins with its own last state" } else { "it begins without a state" };
    if let Some(state) = last.clone() {
        restore_into(&engine, controller, &name, state).await?;
    }
    Ok(Some(Made { fresh, state: last, with_own: true, note: error.map(|error| format!("{error}; {begins}")) }))
}

/// Whether a controller's resolver of a directive has been started and has neither answered nor nothing to do.
fn is_at_work(standing: &Arc<Standing>, entry: &Arc<ControllerEntry>) -> bool {
    let at_work = standing.lock().is_at_work(entry.id);
    at_work && !entry.handover.is_held(standing)
}

async fn save(engine: &Engine, old: &Arc<ControllerEntry>) -> Result<Option<State>> {
    let running = Arc::clone(&old.controller);
    let what = format!("saving the state of {}", old.info.id);
    let saved = limited(engine, engine.limits.save, &what, async move { running.save_later().await }, drop).await;
    saved.map_err(|error| named(error, &what))
}

async fn restore(engine: &Engine, new: &Arc<ControllerEntry>, state: State) -> Result<()> {
    restore_into(engine, Arc::clone(&new.controller), &new.info.id, state).await
}

async fn restore_into(engine: &Engine, controller: Arc<dyn AnyController>, name: &str, state: State) -> Result<()> {
    let what = format!("restoring the state of {name}");
    let work = async move { controller.restore(state).await };
    let restored = limited(engine, engine.limits.restore, &what, work, drop).await;
    restored.map_err(|error| named(error, &what))
}

/// An error with what was being done, where it does not say that itself.
fn named(error: Error, what: &str) -> Error {
    if error.message().starts_with(what) { error } else { error.context(what) }
}

/// Ends a task that nobody waits for any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

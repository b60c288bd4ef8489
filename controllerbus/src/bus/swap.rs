//! A generation of controllers takes over from another: made ready beside it, then switched in one step.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::Source;
use super::configs::{Changes, RunState};
use super::engine::{Engine, Life};
use super::entry::ControllerEntry;
use super::factories::KnownFactory;
use super::instance::{ConstructFailure, Predecessor};
use super::life::{restore, save};
use super::owning::with_advice;
use super::standing::Standing;
use super::stop_first::{After, Claim, Fate, Legacy, is_at_work};
use crate::config::Entry as ConfigEntry;
use crate::controller::factory::Factory;
use crate::controller::{State, SwapMode};
use crate::directive::wire;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// How long an old answer may outlast a swap when its successor has nothing.
pub(super) const OUTLAST: Duration = Duration::from_secs(5);

/// A new generation that is ready beside the old one. Dropping it rolls back.
#[must_use = "dropping it rolls the new generation back"]
pub struct Staged {
    engine: Arc<Engine>,
    from: Source,
    factories: Vec<KnownFactory>,
    pairs: Vec<Pair>,
    /// Woken when something changes about a controller of either generation.
    activity: Arc<Notify>,
    /// Until when all must be ready.
    deadline: Instant,
    grace: Duration,
    /// Where the new generation is an older one that comes back: the states that it had last.
    last_states: Option<LastStates>,
    /// What was done otherwise than asked for, for whoever asked.
    notes: Vec<String>,
    replacements: Replacements,
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
    has_own_state: bool,
    stop: Stop,
    /// It is made of another config than the old one: of that which its keys ask for, and which the old one's code cannot use.
    instead: Option<StagedConfig>,
    /// What the new one has to answer before it is ready, the next one last; `None` before it was looked for.
    unready: Option<Vec<Arc<Standing>>>,
}

/// Whether the old one of a pair ends before the new one is made.
enum Stop {
    /// It does not.
    Beside,
    /// It does, at the commit.
    Due,
    /// It was told to end.
    Begun(Stopping),
}

/// An old one that was told to end.
struct Stopping {
    claim: Claim,
    fate: Arc<Fate>,
    /// What it has saved before.
    before: Option<State>,
}

impl Pair {
    fn new(old: Arc<ControllerEntry>, new: Option<Arc<ControllerEntry>>, stop: Stop) -> Self {
        Self { old, new, restored: None, has_own_state: false, stop, instead: None, unready: None }
    }

    /// Whether the new one is made beside the old one.
    fn is_beside(&self) -> bool {
        matches!(self.stop, Stop::Beside)
    }
}

/// A config that the old generation cannot use, and of which a controller of the new one is made. Nobody else makes one
/// meanwhile. Not to be dropped under the bus's lock.
struct StagedConfig {
    engine: Arc<Engine>,
    instance: u64,
}

impl Drop for StagedConfig {
    fn drop(&mut self) {
        let mut changes = Changes::default();
        if let Some(instance) = self.engine.life().configs.instances.get_mut(&self.instance) {
            instance.is_staged = false;
            changes.nudged.push(Arc::clone(&instance.nudge));
        }
        self.engine.carry_out(changes);
    }
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
        engine.wait_closed(old).await;
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
            factories: KnownFactory::of(to, factories),
            pairs: Vec::new(),
            activity: Arc::default(),
            deadline: Instant::now() + grace,
            grace,
            last_states: back,
            notes: Vec::new(),
            replacements: Replacements::default(),
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

    /// Takes the config that is asked for instead of an old one's, if that has failed and this factory is for it.
    fn stage_config_instead(
        &mut self,
        engine: &Arc<Engine>,
        old: &ControllerEntry,
        known: &KnownFactory,
    ) -> Option<(StagedConfig, ConfigEntry)> {
        let id = self.configs.wanted_instead_of(old.instance()?)?;
        let instance = self.configs.instances.get_mut(&id)?;
        let config = instance.config.clone();
        let fits = config.id == known.info.config_id
            && config.version.as_ref().is_none_or(|range| range.matches(&known.info.version))
            && matches!(instance.state(), RunState::Failed { .. })
            && !instance.is_claimed()
            && !std::mem::replace(&mut instance.is_staged, true);
        fits.then(|| (StagedConfig { engine: Arc::clone(engine), instance: id }, config))
    }

    /// Whether what a pair's new one is made of is what is asked for still.
    fn is_asked_for(&self, pair: &Pair) -> bool {
        pair.instead.as_ref().is_none_or(|instead| {
            pair.old.instance().and_then(|old| self.configs.wanted_instead_of(old)) == Some(instead.instance)
        })
    }
}

impl Staged {
    async fn make_ready(&mut self) -> Result<()> {
        let deadline = self.deadline;
        let grace = self.grace;
        timeout_at(deadline, self.prepare()).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, format!("the new generation was not ready within {grace:?}")))
        })
    }

    /// Makes a successor for each old controller that has none yet, and waits until all are ready. Configs may change
    /// meanwhile, which takes old controllers away and brings others.
    async fn prepare(&mut self) -> Result<()> {
        loop {
            let (serving, gone) = {
                let life = self.engine.life();
                let serving = life.serving(self.from);
                let (kept, gone) = std::mem::take(&mut self.pairs)
                    .into_iter()
                    .partition(|pair| serving.iter().any(|entry| entry.id == pair.old.id) && life.is_asked_for(pair));
                self.pairs = kept;
                (serving, gone)
            };
            roll_back(&self.engine, gone, &self.replacements, &self.activity);
            let known: HashSet<u64> = self.pairs.iter().map(|pair| pair.old.id).collect();
            let missing: Vec<_> = serving.into_iter().filter(|entry| !known.contains(&entry.id)).collect();
            if missing.is_empty() {
                return self.until_ready().await;
            }
            let begun = self.pairs.len();
            self.construct(missing).await?;
            self.start(&(begun..self.pairs.len()).collect::<Vec<_>>());
            self.until_ready().await?;
        }
    }

    /// The factory of an old one's successor.
    fn factory_of(&self, old: &ControllerEntry) -> Option<&KnownFactory> {
        self.factories.iter().find(|known| known.info.config_id == old.info.config_id)
    }

    /// Where an older generation comes back: what an old one's successor had last.
    fn last_of(&self, old: &ControllerEntry) -> Option<Option<State>> {
        self.last_states.as_ref().map(|last| old.instance().and_then(|instance| last.0.get(&instance).cloned()))
    }

    /// Constructs successors side by side, and gives them the states of those that they are to replace; but for those that
    /// are made when these have ended.
    async fn construct(&mut self, old: Vec<Arc<ControllerEntry>>) -> Result<()> {
        let mut making = Vec::new();
        for old in old {
            let Some((known, (instance, config))) = self.factory_of(&old).cloned().zip(old.configured.clone()) else {
                self.pairs.push(Pair::new(old, None, Stop::Beside));
                continue;
            };
            if [known.swap, old.swap].contains(&SwapMode::StopFirst) {
                self.pairs.push(Pair::new(old, None, Stop::Due));
                continue;
            }
            let spec = SuccessorSpec { engine: Arc::clone(&self.engine), known, instance, config, old: old.id };
            let making_one = make_successor(spec, Arc::clone(&old), self.last_of(&old));
            making.push((old, AbortOnDrop(self.engine.runtime()?.spawn(making_one))));
        }
        for (old, mut made) in making {
            let made = (&mut made.0).await.unwrap_or_else(|error| Err(Error::msg(error)));
            let (made, instead) = match made {
                Err(error) if self.last_states.is_none() => self.make_instead(&old, error).await?,
                made => (made?, None),
            };
            self.notes.extend(made.note);
            let pair = Pair::new(old, Some(made.controller.keep()), Stop::Beside);
            self.pairs.push(Pair { restored: made.state, has_own_state: made.has_own_state, instead, ..pair });
        }
        Ok(())
    }

    /// Makes an old one's successor of the config that is asked for instead of the old one's: a config and the code that needs
    /// it may change in either order.
    async fn make_instead(
        &self,
        old: &Arc<ControllerEntry>,
        error: Error,
    ) -> Result<(Successor, Option<StagedConfig>)> {
        let known = self.factory_of(old).cloned();
        let claimed = known.and_then(|known| {
            let (instead, wanted) = self.engine.life().stage_config_instead(&self.engine, old, &known)?;
            Some((known, instead, wanted))
        });
        let Some((known, instead, wanted)) = claimed else { return Err(error) };
        let engine = Arc::clone(&self.engine);
        let config = wire::encode(&wanted.config)?;
        let spec = SuccessorSpec { engine, known, instance: instead.instance, config, old: old.id };
        let mut made = AbortOnDrop(self.engine.runtime()?.spawn(make_successor(spec, Arc::clone(old), None)));
        match (&mut made.0).await.unwrap_or_else(|error| Err(Error::msg(error))) {
            Ok(made) => Ok((made, Some(instead))),
            Err(other) => Err(error.and(format_args!("nor could it with the config that waits: {other}"))),
        }
    }

    /// Has the successors of these pairs execute, and offers them what stands, with their values held back.
    fn start(&self, pairs: &[usize]) {
        for pair in pairs.iter().map(|at| &self.pairs[*at]).filter(|pair| pair.new.is_some()) {
            pair.old.handover.watch(&self.activity);
            pair.new.iter().for_each(|new| new.handover.watch(&self.activity));
        }
        // Routes first, then what stands: so each directive is offered to them, whenever it came.
        let new: Vec<_> = pairs.iter().filter_map(|at| self.pairs[*at].new.clone()).collect();
        {
            let mut life = self.engine.life();
            life.controllers.extend(new.iter().map(|entry| (entry.id, Arc::clone(entry))));
        }
        for entry in &new {
            self.engine.start_life(entry, Vec::new());
        }
        self.engine.types.route(&new, &[]);
        for entry in &new {
            self.engine.offer_standing(entry);
        }
    }

    async fn until_ready(&mut self) -> Result<()> {
        while !self.is_ready()? {
            self.activity.notified().await;
        }
        Ok(())
    }

    /// Hands over what has changed in the states since they were restored. From here to the commit, or to the drop,
    /// no call begins on a controller with a state.
    async fn hand_over(&mut self, patience: Duration) -> Result<()> {
        let with_state: Vec<_> = self
            .pairs
            .iter_mut()
            .filter(|pair| pair.is_beside() && pair.restored.is_some() && !pair.has_own_state)
            .collect();
        // The new one first: so what the old one does not do any more, the new one does after it is restored.
        let held: Vec<_> = with_state.iter().flat_map(|pair| pair.new.iter().chain([&pair.old])).cloned().collect();
        held.iter().for_each(|entry| entry.handover.hold());
        let at_rest = async {
            for entry in &held {
                while entry.answers().iter().any(|standing| is_at_work(standing, entry)) {
                    self.activity.notified().await;
                }
            }
        };
        // Whoever takes longer is not waited for: see `Controller::save`.
        let _ = tokio::time::timeout(patience, at_rest).await;
        for pair in with_state {
            let Some(new) = &pair.new else { continue };
            let state = match save(&self.engine, &pair.old).await {
                // What is taken back need not be well.
                Err(error) if self.last_states.is_some() => {
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
                match restore(&self.engine, Arc::clone(&new.controller), &new.info.id, state.clone()).await {
                    Err(error) if self.last_states.is_some() => self.notes.push(error.to_string()),
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
                return Err(with_advice(error.context(format!("executing {}", new.info.id))));
            }
            if !new.handover.has_begun.load(Ordering::Acquire) {
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

    /// Ends what cannot run beside its successor, and makes that ready with its state. Its values stand on, and calls that
    /// begin wait.
    async fn one_at_a_time(&mut self) -> Result<()> {
        let due = loop {
            let due: Vec<_> = (0..self.pairs.len()).filter(|at| matches!(self.pairs[*at].stop, Stop::Due)).collect();
            if due.is_empty() {
                return Ok(());
            }
            match self.claim(&due).await? {
                true => break due,
                // Configs have brought others.
                false => self.make_ready().await?,
            }
        };
        // Until all of them are saved nothing happens to any of them.
        for at in &due {
            let saved = match save(&self.engine, &self.pairs[*at].old).await {
                Err(error) if self.last_states.is_some() => {
                    self.notes.push(error.to_string());
                    None
                }
                saved => saved?,
            };
            if let Stop::Begun(stopping) = &mut self.pairs[*at].stop {
                stopping.before = saved;
            }
        }
        let old = due.iter().filter_map(|at| match &self.pairs[*at] {
            Pair { old, stop: Stop::Begun(stopping), .. } => Some((Arc::clone(old), Arc::clone(&stopping.fate))),
            _ => None,
        });
        let old: Vec<_> = old.collect();
        self.engine.stop_all(&old).await?;
        self.deadline = Instant::now() + self.grace;
        let mut making = Vec::new();
        for at in &due {
            let Pair { old, stop, .. } = &mut self.pairs[*at];
            let Stop::Begun(stopping) = stop else { continue };
            let mut legacy = Legacy::of(old, stopping.before.clone());
            let old = Arc::clone(old);
            let Some((known, (instance, config))) = self.factory_of(&old).cloned().zip(old.configured.clone()) else {
                continue;
            };
            let state = legacy.state_for(&known.info.config_id);
            let spec = SuccessorSpec { engine: Arc::clone(&self.engine), known, instance, config, old: old.id };
            let replacements = Arc::clone(&self.replacements);
            let last = self.last_of(&old);
            let claim = Claim::new(&self.engine);
            note_replacement(&replacements, old.id, claim.after());
            // Not ended with this future: so it is known when it is over.
            making.push((*at, self.engine.runtime()?.spawn(make_after_stop(spec, state, last, claim, replacements))));
        }
        let mut all = Ok(());
        for (at, made) in making {
            // Each is waited for, whatever became of the others: so it is known of all what has to end.
            match made.await.unwrap_or_else(|error| Err(Error::msg(error))) {
                Ok(made) => {
                    self.notes.extend(made.note);
                    let pair = &mut self.pairs[at];
                    pair.restored = made.state;
                    pair.has_own_state = made.has_own_state;
                    pair.new = Some(made.controller.keep());
                }
                Err(error) => all = all.and(Err(error)),
            }
        }
        all?;
        self.start(&due);
        self.make_ready().await
    }

    /// Claims the instances of these pairs, so that no config replaces their controllers meanwhile; waits for one that does.
    /// False if one of the controllers has been replaced.
    async fn claim(&mut self, pairs: &[usize]) -> Result<bool> {
        let engine = Arc::clone(&self.engine);
        let mut changed = engine.changed.subscribe();
        let claiming = async {
            loop {
                changed.borrow_and_update();
                {
                    let mut life = engine.life();
                    let mut is_free = true;
                    for Pair { old, .. } in pairs.iter().map(|at| &self.pairs[*at]) {
                        let instance = old.instance().and_then(|instance| life.configs.instances.get(&instance));
                        let Some(instance) = instance else { return false };
                        // One that nobody uses any more is about to be taken off.
                        is_free &= !instance.is_claimed() && instance.users > 0;
                        if !instance.is_claimed()
                            && instance.running.as_ref().is_none_or(|running| running.id != old.id)
                        {
                            return false;
                        }
                    }
                    if is_free {
                        for at in pairs {
                            let claim = Claim::new(&engine);
                            let instance = self.pairs[*at].old.instance();
                            let instance = instance.and_then(|instance| life.configs.instances.get_mut(&instance));
                            instance.into_iter().for_each(|instance| instance.claim(&claim));
                            let stopping = Stopping { claim, fate: Arc::default(), before: None };
                            self.pairs[*at].stop = Stop::Begun(stopping);
                        }
                        return true;
                    }
                }
                if changed.changed().await.is_err() {
                    return false;
                }
            }
        };
        timeout(self.grace, claiming).await.map_err(|_| {
            Error::new(
                ErrorKind::TimedOut,
                "another controller is still being made in the place of one of this generation",
            )
        })
    }

    /// Hands over the states as they are now, and makes the new generation the one that serves. Where there is a
    /// state, calls that are at work without an answer get `patience` to end, for which calls that begin wait. A
    /// controller whose config has changed since is made ready again before. One that cannot run beside its successor is
    /// ended, and its successor made ready, here.
    ///
    /// # Errors
    /// Why a state could not be saved or restored, or what was not ready in time. The running generation goes on then: a
    /// controller of it that has ended already is made again with the state that it had; the error says whether that went
    /// well.
    pub async fn commit(mut self, patience: Duration) -> Result<Committed> {
        let limit = self.engine.limits.hand_over + patience;
        loop {
            let handing_over = async {
                self.one_at_a_time().await?;
                timeout(limit, self.hand_over(patience)).await.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::TimedOut, format!("the state was not handed over within {limit:?}")))
                })
            };
            if let Err(error) = handing_over.await {
                return Err(self.taken_back(error).await);
            }
            self = match self.switch() {
                Ok(committed) => return Ok(committed),
                Err(staged) => *staged,
            };
            if let Err(error) = self.make_ready().await {
                return Err(self.taken_back(error).await);
            }
        }
    }

    /// Rolls back, and says in the error what became of those that have ended.
    async fn taken_back(mut self, error: Error) -> Error {
        let has_ended = |pair: &&Pair| matches!(&pair.stop, Stop::Begun(stopping) if stopping.fate.is_sealed());
        let ended: Vec<_> = self.pairs.iter().filter(has_ended).map(|pair| Arc::clone(&pair.old)).collect();
        self.roll_back();
        if ended.is_empty() {
            return error;
        }
        let names = ended.iter().map(|old| old.info.id.as_str()).collect::<Vec<_>>().join(", ");
        let instances: Vec<_> = ended.iter().filter_map(|old| old.instance()).collect();
        match self.engine.come_back(&instances).await {
            Ok(()) => error.and(format_args!("{names} was made again of the code before, with the state that it had")),
            Err(other) => error.and(format_args!(
                "{names} could not be made again of the code before either ({other}), and its state is kept for what comes next"
            )),
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
            let is_whole = is_whole && !self.pairs.iter().any(|pair| matches!(pair.stop, Stop::Due));
            let is_whole = is_whole && self.pairs.iter().all(|pair| life.is_asked_for(pair));
            if !is_whole {
                drop(life);
                self.open_gates();
                return Err(Box::new(self));
            }
            let gone = life.switch(self.from, std::mem::take(&mut self.factories), &self.pairs);
            // From here on the new values are visible as they come, and new directives go to the new ones only.
            self.pairs.iter().filter_map(|pair| pair.new.as_ref()).for_each(|new| new.go_live());
            gone
        };
        drop(gone);
        let mut pairs = std::mem::take(&mut self.pairs);
        for Pair { new, stop, .. } in &mut pairs {
            // Whoever waits for the claim, because the config is gone, waits for what has come in its place.
            if let (Some(new), Stop::Begun(stopping)) = (new, std::mem::replace(stop, Stop::Beside)) {
                let is_used = new.instance().is_some_and(|instance| engine.life().is_used(instance));
                if !is_used {
                    new.is_waited_for.store(true, Ordering::Release);
                    engine.release_after(stopping.claim, vec![After::of(new)]);
                }
            }
        }
        for entry in pairs.iter().flat_map(|pair| pair.new.iter().chain([&pair.old])) {
            entry.handover.unwatch(&self.activity);
        }
        let switched: Vec<_> = pairs.iter().map(|pair| (Arc::clone(&pair.old), pair.new.clone())).collect();
        engine.take_over(&switched);
        // Factories that are new with this generation may be what other configs wait for.
        engine.carry_out(changes);
        let mut states = LastStates::default();
        let mut old = Vec::new();
        for pair in pairs {
            let instance = pair.new.as_ref().and_then(|new| new.instance()).or_else(|| pair.old.instance());
            if let (Some(instance), Some(state)) = (instance, pair.restored) {
                states.0.insert(instance, state);
            }
            old.push(pair.old);
        }
        Ok(Committed { engine, old, states, notes: std::mem::take(&mut self.notes) })
    }

    /// Lets calls begin on the old controllers again.
    fn open_gates(&self) {
        // What is held for one that was made after another stays so: there is nobody else.
        for pair in self.pairs.iter().filter(|pair| !matches!(pair.stop, Stop::Begun(_))) {
            pair.new.iter().chain([&pair.old]).for_each(|entry| entry.open_gate());
        }
    }
}

impl Life {
    /// Exchanges factories and controllers of one generation for those of the next.
    fn switch(&mut self, from: Source, to: Vec<KnownFactory>, pairs: &[Pair]) -> (Vec<KnownFactory>, Changes) {
        self.factories.add(to);
        let gone = self.factories.remove(from);
        self.leave(pairs.iter().map(|pair| &pair.old));
        let mut changes = Changes::default();
        for pair in pairs {
            let Some(id) = pair.old.instance() else { continue };
            let Some(instance) = self.configs.instances.get_mut(&id) else { continue };
            // One that nobody uses any more is ended by its keeper, whichever it is.
            match &pair.new {
                Some(new) if new.instance() == Some(id) => instance.run(new),
                _ => instance.stop(),
            }
            if let (Some(StagedConfig { instance: wanted, .. }), Some(new)) = (&pair.instead, &pair.new) {
                self.configs.instances.get_mut(wanted).into_iter().for_each(|instance| instance.run(new));
                self.configs.runs(*wanted, &mut changes);
            }
            if !pair.is_beside() {
                self.configs.unclaim(id, &mut changes);
            }
        }
        self.configs.factories_changed(&self.factories, &mut changes);
        (gone, changes)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.roll_back();
    }
}

impl Staged {
    fn roll_back(&mut self) {
        roll_back(&self.engine, std::mem::take(&mut self.pairs), &self.replacements, &self.activity);
    }
}

/// The old controllers go on as if nothing had happened, and the new ones end. An old one that has ended is made again, when
/// whatever was made in its place is over.
fn roll_back(engine: &Arc<Engine>, pairs: Vec<Pair>, replacements: &Replacements, activity: &Arc<Notify>) {
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

/// Controllers that are being made in the place of others, or were and are not over yet, by whose place that is.
type Replacements = Arc<Mutex<HashMap<u64, After>>>;

fn note_replacement(replacements: &Replacements, old: u64, after: After) {
    replacements.lock().unwrap_or_else(PoisonError::into_inner).insert(old, after);
}

/// A successor that is closed unless it is kept.
struct DiscardOnDrop {
    engine: Arc<Engine>,
    entry: Option<Arc<ControllerEntry>>,
    /// Where it is made in the place of one that has ended.
    claim: Option<Claim>,
}

impl DiscardOnDrop {
    fn keep(mut self) -> Arc<ControllerEntry> {
        self.entry.take().expect("it is kept once")
    }
}

impl Drop for DiscardOnDrop {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if let Some(claim) = self.claim.take() {
            entry.is_waited_for.store(true, Ordering::Release);
            self.engine.release_after(claim, vec![After::of(&entry)]);
        }
        self.engine.discard(entry);
    }
}

/// A controller that is to take over.
struct Successor {
    controller: DiscardOnDrop,
    /// What it has restored.
    state: Option<State>,
    has_own_state: bool,
    note: Option<String>,
}

/// What a successor is made from.
struct SuccessorSpec {
    engine: Arc<Engine>,
    known: KnownFactory,
    instance: u64,
    config: Vec<u8>,
    /// The controller that it replaces.
    old: u64,
}

impl SuccessorSpec {
    async fn construct(&self, state: Option<State>) -> Result<DiscardOnDrop, ConstructFailure> {
        let made = self.engine.make(&self.known, self.instance, self.config.clone(), state).await;
        let entry = made.map_err(|ConstructFailure { error, after }| {
            let what = format!("constructing {}", self.known.info.id);
            let said = error.message().starts_with("restoring") || error.message().starts_with(&what);
            ConstructFailure { error: with_advice(if said { error } else { error.context(what) }), after }
        })?;
        entry.handover.set_replaces(self.old);
        Ok(DiscardOnDrop { engine: Arc::clone(&self.engine), entry: Some(Arc::new(entry.staged())), claim: None })
    }

    /// One of an older generation that comes back: what the one before it has saved, or not, is no obstacle.
    async fn construct_back(
        &self,
        saved: Result<Option<State>>,
        last: Option<State>,
    ) -> Result<Successor, ConstructFailure> {
        let error = match saved {
            Ok(Some(state)) => match self.construct(Some(state.clone())).await {
                Ok(fresh) => {
                    return Ok(Successor { controller: fresh, state: Some(state), has_own_state: false, note: None });
                }
                Err(failure) if failure.after.is_some() => return Err(failure),
                Err(failure) => Some(failure.error),
            },
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let begins = if last.is_some() { "it begins with its own last state" } else { "it begins without a state" };
        let fresh = self.construct(last.clone()).await?;
        Ok(Successor {
            controller: fresh,
            state: last,
            has_own_state: true,
            note: error.map(|error| format!("{error}; {begins}")),
        })
    }
}

/// The controller that takes over from an old one, with its state. Where an older generation comes back, it begins with its
/// own `last` state if that of the old one is nothing to it.
async fn make_successor(
    spec: SuccessorSpec,
    old: Arc<ControllerEntry>,
    last: Option<Option<State>>,
) -> Result<Successor> {
    let made = match last {
        None => {
            // Before it is given the state it is there: what can fail by itself does so first.
            let fresh = spec.construct(None).await.map_err(|failure| failure.error)?;
            let state = save(&spec.engine, &old).await?;
            if let (Some(state), Some(entry)) = (state.clone(), &fresh.entry) {
                restore(&spec.engine, Arc::clone(&entry.controller), &entry.info.id, state).await?;
            }
            Ok(Successor { controller: fresh, state, has_own_state: false, note: None })
        }
        Some(last) => {
            let saved = save(&spec.engine, &old).await;
            spec.construct_back(saved, last).await
        }
    };
    made.map_err(|failure| failure.error)
}

/// The same where the old one has ended, and left its state.
async fn make_after_stop(
    spec: SuccessorSpec,
    state: Option<State>,
    last: Option<Option<State>>,
    claim: Claim,
    replacements: Replacements,
) -> Result<Successor> {
    let made = match last {
        None => {
            let made = spec.construct(state.clone()).await;
            made.map(|fresh| Successor { controller: fresh, state, has_own_state: false, note: None })
        }
        Some(last) => spec.construct_back(Ok(state), last).await,
    };
    match made {
        Ok(mut made) => {
            made.controller.claim = Some(claim);
            Ok(made)
        }
        Err(ConstructFailure { error, after }) => {
            if let Some(after) = after {
                note_replacement(&replacements, spec.old, after);
            }
            Err(error)
        }
    }
}

/// Ends a task that nobody waits for any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

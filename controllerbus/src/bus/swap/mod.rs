//! A generation of controllers takes over from another: made ready beside it, then switched in one step.

mod commit;
mod one_at_a_time;
mod ready;
mod roll_back;
mod successor;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use ready::StagedConfig;
use successor::Replacements;

use super::Source;
use super::engine::Engine;
use super::entry::ControllerEntry;
use super::factories::KnownFactory;
use super::standing::Standing;
use super::stop_first::{Claim, Fate};
use crate::Result;
use crate::controller::State;
use crate::controller::factory::Factory;

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
        last_states: Option<LastStates>,
    ) -> Result<Staged> {
        let mut staged = Staged {
            engine: Arc::clone(self),
            from,
            factories: KnownFactory::of(to, factories),
            pairs: Vec::new(),
            activity: Arc::default(),
            deadline: Instant::now() + grace,
            grace,
            last_states,
            notes: Vec::new(),
            replacements: Replacements::default(),
        };
        // An error drops `staged`, which takes back what was done.
        staged.make_ready().await?;
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.roll_back();
    }
}

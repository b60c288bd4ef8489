//! A generation of controllers takes over from another: it is prepared beside that, and then they are switched in one step.

mod commit;
mod one_at_a_time;
mod ready;
mod roll_back;
mod successor;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use ready::StagedConfig;
use successor::Replacements;

use super::Source;
use super::engine::Engine;
use super::entry::ControllerEntry;
use super::factories::KnownFactory;
use super::standing::Standing;
use super::stop_first::{Claim, Fate, Watching};
use crate::Result;
use crate::controller::State;
use crate::controller::factory::Factory;
use crate::sync::Notify;

/// How long an old answer may outlast a swap if its successor has none.
pub(super) const OUTLAST: Duration = Duration::from_secs(5);

/// A new generation that is ready beside the running one. Dropping it rolls the swap back.
#[must_use = "dropping it rolls the new generation back"]
pub struct Staged {
    engine: Arc<Engine>,
    from: Source,
    to: Source,
    factories: Vec<KnownFactory>,
    pairs: Vec<Pair>,
    /// Notified of changes of the controllers of both generations.
    activity: Arc<Notify>,
    /// When everything must be ready.
    deadline: Instant,
    grace: Duration,
    /// The last states of the new generation, if it is an older one that comes back.
    last_states: Option<LastStates>,
    /// What was done differently than usual.
    notes: Vec<String>,
    replacements: Replacements,
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").field("from", &self.from).field("notes", &self.notes).finish_non_exhaustive()
    }
}

/// The last states of a generation that was replaced, in case it has to come back: see [`super::Bus::stage_back`].
#[derive(Clone, Debug, Default)]
pub struct LastStates(HashMap<u64, State>);

/// An old controller and its successor; `None` if the new generation has no factory for it, or it is not constructed yet.
struct Pair {
    old: Arc<ControllerEntry>,
    new: Option<Arc<ControllerEntry>>,
    /// The state that the new one has restored.
    restored: Option<State>,
    /// The new one comes back, and has started with its own last state instead of the old one's.
    has_own_state: bool,
    stop: Stop,
    /// Set if the new one is constructed from the pending config of its keys, which the old one's code cannot use.
    instead: Option<StagedConfig>,
    /// The directives that the new one still has to answer, the next one last; `None` before the first look.
    unready: Option<Vec<Arc<Standing>>>,
}

/// Whether the old one of a pair ends before the new one is constructed.
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
    /// The state that it had saved before that.
    before: Option<State>,
}

impl Pair {
    fn new(old: Arc<ControllerEntry>, new: Option<Arc<ControllerEntry>>, stop: Stop) -> Self {
        Self { old, new, restored: None, has_own_state: false, stop, instead: None, unready: None }
    }

    /// Whether the new one is constructed beside the old one.
    fn is_beside(&self) -> bool {
        matches!(self.stop, Stop::Beside)
    }
}

/// A swap that has happened. The old controllers are on their way out.
pub struct Committed {
    engine: Arc<Engine>,
    old: Vec<Arc<ControllerEntry>>,
    states: LastStates,
    notes: Vec<String>,
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committed").field("notes", &self.notes).finish_non_exhaustive()
    }
}

impl Committed {
    /// The states that the old generation has handed over.
    pub fn last_states(&self) -> LastStates {
        self.states.clone()
    }

    /// What was done differently than usual, such as a state that was refused and replaced by another one.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Waits until nothing is pinned to the old controllers any more, which may take as long as
    /// [`Options::pin`](crate::directive::Options::pin) says. Cancel-safe.
    pub async fn unpinned(&self) {
        for entry in &self.old {
            let watching = Watching::of(entry);
            while entry.has_any_pinned() {
                watching.activity.notified().await;
            }
        }
    }

    /// Waits until the old controllers do not answer anything any more and are closed, or their limits have passed.
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
            to,
            factories: KnownFactory::of(to, factories),
            pairs: Vec::new(),
            activity: Arc::default(),
            deadline: Instant::now() + grace,
            grace,
            last_states,
            notes: Vec::new(),
            replacements: Replacements::default(),
        };
        self.life().factories.stage(to);
        // On an error `staged` is dropped, which rolls back.
        staged.make_ready().await?;
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.roll_back();
        let gone = self.engine.life().factories.unstage(self.to);
        if !gone.is_empty() {
            drop(gone);
            self.engine.notify_changed();
        }
    }
}

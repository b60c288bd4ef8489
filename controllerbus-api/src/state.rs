//! The states in the API's messages. They are words, so that clients of other versions can show them.

use controllerbus::plugin::Holders;
use hot_runtime::{GenerationState, Isolation};

use super::proto::{Config, Generation, Plugin};

/// Of a plugin: it is being built.
pub const BUILDING: &str = "building";
/// Of a plugin or a generation: new directives go to it.
pub const SERVING: &str = "serving";
/// Of a plugin, a generation, a controller, a resolver or a config.
pub const FAILED: &str = "failed";
/// Of a plugin or a generation: it was loaded.
pub const UNLOADED: &str = "unloaded";
/// Of a generation: it is being verified, opened or staged.
pub const LOADING: &str = "loading";
/// Of a generation: it was replaced, and is held.
pub const DRAINING: &str = "draining";
/// Of a generation or a controller: its code does not end.
pub const STUCK: &str = "stuck";

/// Of a controller or a config.
pub const RUNNING: &str = "running";
/// Of a controller that is made ready beside another.
pub const STAGED: &str = "staged";
/// Of a controller: its execution has ended.
pub const ENDED: &str = "ended";
/// Of a controller that is being taken off the bus.
pub const CLOSING: &str = "closing";

/// Of a config that waits for a factory.
pub const QUEUED: &str = "queued";
/// Of a config whose controller is being constructed.
pub const CONSTRUCTING: &str = "constructing";
/// Of a config whose controller was taken off the bus by hand.
pub const REMOVED: &str = "removed";
/// Of a config that waits, while the one before runs on.
pub const PENDING: &str = "pending";
/// Of a config that failed, while the one before runs on.
pub const REFUSED: &str = "refused";

/// Of a resolver that is looking.
pub const WORKING: &str = "working";
/// Of a resolver that has nothing more to add.
pub const IDLE: &str = "idle";
/// Of a resolver that was stopped: there are as many values as are wanted.
pub const HELD: &str = "held";

/// Of something in a state that this version does not know.
pub const UNKNOWN: &str = "unknown";

/// The word for a generation's state.
pub fn of_generation(state: GenerationState) -> String {
    match state {
        GenerationState::Loading => LOADING.to_owned(),
        GenerationState::Serving => SERVING.to_owned(),
        GenerationState::Draining => DRAINING.to_owned(),
        GenerationState::Stuck => STUCK.to_owned(),
        GenerationState::Unloaded => UNLOADED.to_owned(),
        GenerationState::Failed => FAILED.to_owned(),
        // One that a later runtime has.
        #[allow(unreachable_patterns)]
        other => format!("{other:?}").to_lowercase(),
    }
}

impl Plugin {
    /// The generation that serves.
    pub fn serving(&self) -> Option<&Generation> {
        self.generations.iter().rfind(|found| found.state == SERVING)
    }
}

impl Generation {
    /// Whether it was replaced, and is still loaded.
    pub fn is_leaving(&self) -> bool {
        self.state == DRAINING || self.state == STUCK
    }

    /// Whether it runs outside of the daemon's process.
    pub fn has_own_process(&self) -> bool {
        self.isolation == Isolation::Process.to_string()
    }

    /// What holds it.
    pub fn holders(&self) -> Holders {
        let mut holders = Holders::default();
        let counts = [
            (&mut holders.factories, self.factories),
            (&mut holders.controllers, self.controllers),
            (&mut holders.calls, self.calls),
            (&mut holders.wakers, self.wakers),
            (&mut holders.interfaces, self.interfaces),
            (&mut holders.connections, self.connections),
        ];
        counts.into_iter().for_each(|(held, count)| *held = count as usize);
        holders
    }

    /// How many hold it.
    pub fn leases(&self) -> usize {
        self.holders().to_drain() + self.wakers as usize
    }
}

impl Config {
    /// Whether it has failed.
    pub fn is_bad(&self) -> bool {
        self.state == FAILED || self.state == REFUSED
    }

    /// Whether it is not running because there is no factory for it, or only with what was applied before.
    pub fn is_waiting(&self) -> bool {
        self.state == QUEUED || self.state == PENDING
    }
}

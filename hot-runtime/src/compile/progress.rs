//! Reports and times the steps of a build.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::message::CompilerMessage;
use crate::phase::{BuildPhase, PhaseTime};

/// An event of a running build.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "build", rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuildEvent {
    /// A step started.
    Phase {
        /// The step.
        phase: BuildPhase,
        /// Since the start of the build; in JSON, milliseconds.
        #[serde(rename = "elapsed_ms", with = "crate::util::millis")]
        elapsed: Duration,
    },
    /// A crate was compiled.
    Compiled {
        /// Its package's name.
        package: String,
        /// Since the start of the build; in JSON, milliseconds.
        #[serde(rename = "elapsed_ms", with = "crate::util::millis")]
        elapsed: Duration,
    },
    /// The compiler emitted a message.
    Message {
        /// The message.
        message: CompilerMessage,
    },
}

/// Called with each event of a build. It must return quickly.
pub type Observer<'a> = &'a (dyn Fn(BuildEvent) + Send + Sync);

/// Reports and times the steps of one build.
pub(crate) struct Progress<'a> {
    observer: Observer<'a>,
    begun: Instant,
    since: Instant,
    current: Option<BuildPhase>,
    done: Vec<PhaseTime>,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(observer: Observer<'a>) -> Self {
        let now = Instant::now();
        Self { observer, begun: now, since: now, current: None, done: Vec::new() }
    }

    /// Ends the current step and starts another one.
    pub(crate) fn phase(&mut self, phase: BuildPhase) {
        self.end_phase();
        self.current = Some(phase);
        (self.observer)(BuildEvent::Phase { phase, elapsed: self.begun.elapsed() });
    }

    fn end_phase(&mut self) {
        let now = Instant::now();
        if let Some(phase) = self.current.take() {
            let took = now.duration_since(self.since);
            match self.done.iter_mut().find(|done| done.phase == phase) {
                Some(again) => again.took += took,
                None => self.done.push(PhaseTime { phase, took }),
            }
        }
        self.since = now;
    }

    pub(crate) fn compiled(&self, package: &str) {
        (self.observer)(BuildEvent::Compiled { package: package.to_owned(), elapsed: self.begun.elapsed() });
    }

    pub(crate) fn message(&self, message: &CompilerMessage) {
        (self.observer)(BuildEvent::Message { message: message.clone() });
    }

    /// The total time so far, and that of each step.
    pub(crate) fn end(&mut self) -> (Duration, Vec<PhaseTime>) {
        self.end_phase();
        (self.begun.elapsed(), std::mem::take(&mut self.done))
    }
}

//! How far a build is, and how long each step of it took.

use std::time::Instant;

use serde::Serialize;

use crate::message::CompilerMessage;
use crate::phase::{BuildPhase, PhaseTime};
use crate::util::millis;

/// What a build tells while it goes on.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "build", rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuildEvent {
    /// A step began.
    Phase {
        /// The step.
        phase: BuildPhase,
        /// Since the build's begin, in milliseconds.
        elapsed_ms: f64,
    },
    /// A crate is compiled.
    Compiled {
        /// Its package's name.
        package: String,
        /// Since the build's begin, in milliseconds.
        elapsed_ms: f64,
    },
    /// The compiler says something.
    Message {
        /// What.
        message: CompilerMessage,
    },
}

/// Called with what a build tells, as it happens. It must return soon.
pub type Observer<'a> = &'a (dyn Fn(BuildEvent) + Send + Sync);

/// Tells and times the steps of one build.
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

    /// The step before has ended, this one begins.
    pub(crate) fn phase(&mut self, phase: BuildPhase) {
        self.end_phase();
        self.current = Some(phase);
        (self.observer)(BuildEvent::Phase { phase, elapsed_ms: millis(self.begun) });
    }

    fn end_phase(&mut self) {
        let now = Instant::now();
        if let Some(phase) = self.current.take() {
            let ms = now.duration_since(self.since).as_secs_f64() * 1000.0;
            match self.done.iter_mut().find(|done| done.phase == phase) {
                Some(again) => again.ms += ms,
                None => self.done.push(PhaseTime { phase, ms }),
            }
        }
        self.since = now;
    }

    pub(crate) fn compiled(&self, package: &str) {
        (self.observer)(BuildEvent::Compiled { package: package.to_owned(), elapsed_ms: millis(self.begun) });
    }

    pub(crate) fn message(&self, message: &CompilerMessage) {
        (self.observer)(BuildEvent::Message { message: message.clone() });
    }

    /// The whole time so far, and that of each step.
    pub(crate) fn end(&mut self) -> (f64, Vec<PhaseTime>) {
        self.end_phase();
        (millis(self.begun), std::mem::take(&mut self.done))
    }
}

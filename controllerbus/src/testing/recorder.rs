//! What has happened on a bus under test: kept in order, asserted on and waited for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use semver::Version;
use tokio::sync::watch;

use super::event::TestEvent;
use super::limit::{STUCK, in_real_limit};
use crate::bus::{Bus, ConfigState, ControllerSnapshot, Execution, RunState};
use crate::error::ErrorKind;
use crate::{BusError, Error, Result};

/// How many events are kept: the last ones.
const KEPT: usize = 10_000;

/// How many of them an error shows.
const SHOWN: usize = 20;

/// What has happened on a [`TestBus`](super::TestBus), from the beginning: made by [`TestBus::events`](super::TestBus::events).
///
/// It reads on from what it found last, so a test that looks for one thing after another holds that they came in this order.
/// A state that lasts for no time may be missed; each failure lasts until its retry.
///
/// ```
/// # use std::sync::atomic::{AtomicBool, Ordering};
/// # use std::time::Duration;
/// # use controllerbus::prelude::*;
/// # use controllerbus::testing::{TestBus, TestEvent};
/// # #[derive(Config, Serialize, Deserialize, PartialEq)]
/// # #[config(id = "example/feed")]
/// # struct FeedConfig {}
/// # struct Feed { was_cut: AtomicBool }
/// # #[hot_plugin(id = "example/feed", version = "1.0.0")]
/// # impl Controller for Feed {
/// #     type Config = FeedConfig;
/// #     async fn construct(_: FeedConfig, _: &Context) -> Result<Self> { Ok(Self { was_cut: AtomicBool::new(false) }) }
/// #     async fn execute(&self, context: &Context) -> Result<()> {
/// #         tracing::info!(items = 3, "reading the feed");
/// #         tokio::time::sleep(Duration::from_secs(1)).await;
/// #         if !self.was_cut.swap(true, Ordering::Relaxed) { return Err(Error::msg("the connection was cut")) }
/// #         context.cancelled().await;
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<()> {
/// let bus = TestBus::new();
/// bus.run(FeedConfig {}).await?;
/// let mut events = bus.events();
/// events.until("example/feed 1.0.0 runs").await?;
/// events.until("the connection was cut; it is tried again").await?;
/// events.until("reading the feed items=3").await?;
///
/// bus.remove_config("example/feed").await;
/// events.until("example/feed 1.0.0 is closed").await?;
/// let failures = bus.events().seen().into_iter().filter(|event| matches!(event, TestEvent::Failed { .. })).count();
/// assert_eq!(failures, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    recorder: Arc<Recorder>,
    bus: Bus,
    /// The number of the next event.
    next: u64,
    limit: Duration,
    is_paused: bool,
}

impl Events {
    pub(super) fn new(recorder: Arc<Recorder>, bus: Bus, limit: Duration, is_paused: bool) -> Self {
        Self { recorder, bus, next: 0, limit, is_paused }
    }

    /// The next event whose text has this in it: one that has happened already, or the first one that does. Later looks begin behind
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when the limit has passed, with what happened instead.
    pub async fn until(&mut self, text: &str) -> Result<TestEvent, BusError> {
        self.find(&format!("`{text}`"), |event| event.to_string().contains(text)).await
    }

    /// The next event for which a function returns true. Later looks begin behind it.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # use controllerbus::testing::{TestBus, TestEvent};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<()> {
    /// let bus = TestBus::new();
    /// bus.apply(ConfigSet::from_json(r#"{ "lamp": { "id": "house/lamp" } }"#)?).await?;
    /// let event = bus.events().until_matching(|event| matches!(event, TestEvent::Waits { .. })).await?;
    /// assert!(event.to_string().starts_with("lamp: waits: "), "{event}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Events::until`].
    pub async fn until_matching(&mut self, is_it: impl FnMut(&TestEvent) -> bool) -> Result<TestEvent, BusError> {
        self.find("one that matches", is_it).await
    }

    /// Everything that has happened so far, oldest first: of more than 10,000 events the last ones.
    pub fn seen(&self) -> Vec<TestEvent> {
        self.recorder.look(&self.bus);
        self.recorder.kept().events.iter().cloned().collect()
    }

    async fn find(&mut self, what: &str, mut is_it: impl FnMut(&TestEvent) -> bool) -> Result<TestEvent, BusError> {
        let from = self.next;
        let mut news = self.recorder.news.subscribe();
        let looking = async {
            loop {
                news.borrow_and_update();
                self.recorder.look(&self.bus);
                // The function is the test's, so it is called without the lock.
                for event in self.recorder.since(&mut self.next) {
                    self.next += 1;
                    if is_it(&event) {
                        return event;
                    }
                }
                // The recorder is ours, and so the sender exists.
                let _ = news.changed().await;
            }
        };
        let waited = in_real_limit(self.is_paused, tokio::time::timeout(self.limit, looking)).await;
        let within = match waited {
            Some(Ok(event)) => return Ok(event),
            Some(Err(_)) => format!("within {:?}", self.limit),
            None => {
                format!("in {STUCK:?} of real time, because a task works without a pause, and the clock stands still")
            }
        };
        // What did not match is still there for the next look.
        self.next = from;
        let told = self.recorder.told_since(from);
        Err(Error::new(ErrorKind::TimedOut, format!("no event was {what} {within}; {told}")).into())
    }
}

/// Keeps what happens.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    kept: Mutex<Kept>,
    /// Incremented with each event.
    news: watch::Sender<u64>,
    /// What was seen of the bus last; taken before any lock of the bus.
    seen: Mutex<Seen>,
    records_logs: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<TestEvent>,
    /// The number of the first one.
    first: u64,
}

#[derive(Debug, Default)]
struct Seen {
    keys: BTreeMap<String, Key>,
    /// By id: plugin id and version.
    controllers: BTreeMap<u64, (String, Version)>,
}

/// What was seen of a key.
#[derive(Debug, Default, PartialEq)]
struct Key {
    state: State,
    /// When a config failed that was to replace the one that runs.
    pending_failed: Option<SystemTime>,
    has_ended: bool,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    /// It is being made, or nothing was seen of it yet.
    #[default]
    Unsettled,
    Waits,
    Runs(u64),
    Failed(SystemTime),
}

impl Recorder {
    pub(super) fn records_logs(&self, are_recorded: bool) {
        self.records_logs.store(are_recorded, Ordering::Relaxed);
    }

    pub(super) fn push(&self, events: impl IntoIterator<Item = TestEvent>) {
        let mut gone = Vec::new();
        let mut count = 0;
        {
            let mut kept = self.kept();
            for event in events {
                kept.events.push_back(event);
                count += 1;
                if kept.events.len() > KEPT {
                    gone.extend(kept.events.pop_front());
                    kept.first += 1;
                }
            }
        }
        if count > 0 {
            self.news.send_modify(|number| *number += count);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events from a number on, which becomes that of the first one that is kept if it is gone.
    fn since(&self, number: &mut u64) -> Vec<TestEvent> {
        let kept = self.kept();
        *number = (*number).max(kept.first);
        kept.events.iter().skip((*number - kept.first) as usize).cloned().collect()
    }

    fn told_since(&self, mut number: u64) -> String {
        let events = self.since(&mut number);
        let logs = if self.records_logs.load(Ordering::Relaxed) {
            ""
        } else {
            " (log lines are not recorded: the test has a subscriber of its own, or several threads)"
        };
        if events.is_empty() {
            return format!("nothing else has happened{logs}");
        }
        let left_out = events.len().saturating_sub(SHOWN);
        let mut told = format!("what happened instead{logs}:");
        if left_out > 0 {
            told += &format!("\n  .. {left_out} earlier ones");
        }
        events.iter().skip(left_out).for_each(|event| told += &format!("\n  {event}"));
        told
    }

    /// All of it, for a test that fails.
    pub(super) fn told(&self) -> String {
        let kept = self.kept();
        let mut told = "what happened on the bus:".to_owned();
        if kept.first > 0 {
            told += &format!("\n  .. {} earlier events", kept.first);
        }
        kept.events.iter().for_each(|event| told += &format!("\n  {event}"));
        told
    }

    /// Looks at each change of the bus.
    pub(super) async fn watch(recorder: Arc<Self>, bus: Bus) {
        let mut changes = bus.changes();
        loop {
            changes.borrow_and_update();
            recorder.look(&bus);
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Records what has changed on the bus since the last look.
    pub(super) fn look(&self, bus: &Bus) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (configs, controllers) = (bus.configs(), bus.controllers());
        let leaving = bus.leaving();
        let mut events = Vec::new();
        for config in &configs {
            let before = seen.keys.remove(&config.key).unwrap_or_default();
            let now = before.look_at(config, &controllers, &mut events);
            seen.keys.insert(config.key.clone(), now);
        }
        let is_gone = |key: &String| !configs.iter().any(|config| config.key == *key);
        let gone: Vec<_> = seen.keys.keys().filter(|key| is_gone(key)).cloned().collect();
        for key in gone {
            seen.keys.remove(&key);
            events.push(TestEvent::Removed { key });
        }
        for found in controllers.iter().chain(&leaving) {
            let who = || (found.info.id.clone(), found.info.version.clone());
            seen.controllers.entry(found.id.0).or_insert_with(who);
        }
        let is_there = |id: u64| controllers.iter().chain(&leaving).any(|found| found.id.0 == id);
        let over: Vec<_> = seen.controllers.keys().copied().filter(|id| !is_there(*id)).collect();
        for id in over {
            if let Some((controller, version)) = seen.controllers.remove(&id) {
                events.push(TestEvent::Closed { controller, version });
            }
        }
        // Under the lock, so that two looks do not change places.
        self.push(events);
    }
}

impl Key {
    /// Says what has changed since this was seen.
    fn look_at(self, config: &ConfigState, controllers: &[ControllerSnapshot], events: &mut Vec<TestEvent>) -> Self {
        let key = || config.key.clone();
        let failed = |error: &Error, retry_in: Option<Duration>| TestEvent::Failed {
            key: key(),
            error: error.clone(),
            retry_in,
        };
        let state = match &config.state {
            RunState::Running(id) => State::Runs(id.0),
            RunState::Failed { .. } => State::Failed(config.since),
            RunState::Queued => State::Waits,
            // Taken off by hand: its controller's end is an event.
            RunState::Constructing | RunState::Removed => State::Unsettled,
        };
        let own = |id: u64| controllers.iter().find(|found| found.id.0 == id);
        let is_news = state != self.state;
        match &config.state {
            RunState::Running(id) if is_news => {
                if let Some(ControllerSnapshot { info, .. }) = own(id.0) {
                    let (controller, version) = (info.id.clone(), info.version.clone());
                    events.push(TestEvent::Runs { key: key(), controller, version });
                }
            }
            RunState::Failed { error, retry_in } if is_news => events.push(failed(error, *retry_in)),
            RunState::Queued if is_news => {
                let why = config.problem.as_ref().map(ToString::to_string).unwrap_or_default();
                events.push(TestEvent::Waits { key: key(), why });
            }
            _ => {}
        }
        let pending = config.pending.as_ref();
        let pending_failed = pending.and_then(|pending| match &pending.state {
            RunState::Failed { error, retry_in } => Some((pending.since, error, *retry_in)),
            _ => None,
        });
        if let Some((since, error, retry_in)) = pending_failed
            && self.pending_failed != Some(since)
        {
            events.push(failed(error, retry_in));
        }
        let running = if let State::Runs(id) = state { own(id) } else { None };
        let ended = running.filter(|found| found.execution == Execution::Ended);
        if let Some(found) = ended.filter(|_| is_news || !self.has_ended) {
            events.push(TestEvent::Ended { key: key(), controller: found.info.id.clone() });
        }
        Self { state, pending_failed: pending_failed.map(|(since, ..)| since), has_ended: ended.is_some() }
    }
}

//! The thread that has the engine's session: opens it, uses it, and closes it.
//!
//! The engine blocks, and panics on a thread of a current-thread runtime; so it is called here, where there is no runtime. What is to be
//! declared waits until there is a session.
//!
//! A client's session is not opened without a hub: the engine would wait in there, for the first address of its list only, and could
//! not be ended. So it is told to try each address once, and is asked again here until a hub answers.
//!
//! A hub that does not hear another one any more (`hearing.rs`) opens its session anew, with all that was declared in it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use tokio::sync::oneshot;
use zenoh::{Session, Wait};

/// How long the engine may take to say that it has started, or that no hub has answered yet.
const OPENING: Duration = Duration::from_secs(10);

/// What each hub that swallows all that it is sent adds to it.
const OPENING_EACH: Duration = Duration::from_secs(4);

/// How long hubs are looked for by multicast at a time, and how long others may answer after the first.
const SCOUTING: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_millis(300));

/// How soon hubs are tried again, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

type Job = Box<dyn FnOnce(&Session) + Send>;

/// Declares something in a session, anew for each.
type Declare = Box<dyn FnMut(&Session) -> zenoh::Result<Kept> + Send>;

/// What is declared in a session, until it is dropped.
pub(crate) type Kept = Box<dyn Any + Send>;

/// Whether the session is to be opened anew, asked now and then.
pub(crate) type IsDeaf = Box<dyn FnMut(&Session) -> bool + Send>;

/// How often that is asked.
const ASKED: Duration = Duration::from_millis(500);

/// How long a session that is opened anew stays closed, so that others notice: within a tenth of a second they do not.
const CLOSED: Duration = Duration::from_millis(400);

/// How long what was sent last may take to leave this machine. With the fleet's farewell it is less than a daemon gives a controller to
/// close.
const FLUSHING: Duration = Duration::from_millis(300);

/// How long a hub, which is answered at once, waits for the same.
const LINGERING: Duration = Duration::from_millis(50);

/// What the thread is to do.
enum Command {
    Declare(u64, Declare),
    Undeclare(u64),
    Run(Job),
    Close,
}

/// The session's thread, as seen by whoever gives it something to do. It ends, and the session is closed, when it is told so or all
/// of these are gone.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    commands: mpsc::Sender<Command>,
    session: Place,
    /// The number of the next declaration.
    next: Arc<AtomicU64>,
}

/// Where the session is while it is open. The last one that has it must not drop it on a thread of a runtime, and so nobody else keeps it.
type Place = Arc<RwLock<Option<Session>>>;

/// How a host begins.
pub(crate) struct Start {
    pub(crate) settings: zenoh::Config,
    /// The hubs that are tried until one answers; none if the session can be opened without one.
    pub(crate) hubs: Vec<String>,
    /// How many addresses may be tried one after the other.
    pub(crate) tries: u32,
    /// Where hubs are looked for by multicast, the protocols by which they may be reached.
    pub(crate) scouts: Option<&'static [&'static str]>,
    /// A name of this host, which is looked for to know that what was sent before is on its way.
    pub(crate) fence: String,
}

impl Engine {
    /// Starts the thread, and waits until it has a session, or has tried each hub once. What is returned second is dropped once the
    /// thread has ended.
    pub(crate) async fn start(start: Start, is_deaf: IsDeaf) -> Result<(Self, oneshot::Receiver<()>)> {
        let (commands, todo) = mpsc::channel();
        let (begun, beginning) = oneshot::channel();
        let (over, ended) = oneshot::channel();
        let session = Place::default();
        let (opened, limit) = (Arc::clone(&session), OPENING + OPENING_EACH * start.tries);
        let run = move || {
            let (kept, waiting) = (BTreeMap::new(), VecDeque::new());
            Thread { todo, kept, waiting, session: opened, start, is_deaf }.run(begun);
            drop(over);
        };
        let spawned = std::thread::Builder::new().name("fleet engine".to_owned()).spawn(run);
        spawned.map_err(|error| Error::msg(format!("no thread can be started for the engine: {error}")))?;
        match tokio::time::timeout(limit, beginning).await {
            Ok(Ok(begun)) => begun?,
            Ok(Err(_)) => return Err(Error::msg("the engine panicked while it started; the program's log says where")),
            Err(_) => {
                let what = format!("the engine has not started within {} s", limit.as_secs());
                return Err(Error::new(ErrorKind::TimedOut, what));
            }
        }
        Ok((Self { commands, session, next: Arc::default() }, ended))
    }

    /// The session, while there is one. It is to be dropped where there is no runtime.
    pub(crate) fn session(&self) -> Option<Session> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the session, if there is one.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Session) -> T) -> Option<T> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    /// Uses the session on its thread, once there is one, and after what was to be done before.
    pub(crate) fn run(&self, job: impl FnOnce(&Session) + Send + 'static) {
        // Where the thread has ended, so has the session, and with it all that was declared.
        let _ = self.commands.send(Command::Run(Box::new(job)));
    }

    /// Declares something on the session's thread, in this session and in each that takes its place, until the number is taken back.
    pub(crate) fn declare(&self, declare: impl FnMut(&Session) -> zenoh::Result<Kept> + Send + 'static) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let _ = self.commands.send(Command::Declare(number, Box::new(declare)));
        number
    }

    /// Takes a declaration back.
    pub(crate) fn undeclare(&self, number: u64) {
        let _ = self.commands.send(Command::Undeclare(number));
    }

    /// Closes the session and ends the thread.
    pub(crate) fn close(&self) {
        let _ = self.commands.send(Command::Close);
    }
}

/// Whether a session could be opened.
enum Opened {
    Session(Session),
    /// No hub has answered, which is told at first.
    Not(Option<oneshot::Sender<Result<()>>>),
    /// It is to end.
    End,
}

/// Why a session is not used any more.
enum Over {
    Closed,
    Deaf,
}

struct Thread {
    todo: mpsc::Receiver<Command>,
    /// What is declared in each session, and what that has made.
    kept: BTreeMap<u64, (Declare, Option<Kept>)>,
    /// What waits for a session.
    waiting: VecDeque<Job>,
    session: Place,
    start: Start,
    is_deaf: IsDeaf,
}

impl Thread {
    fn run(mut self, begun: oneshot::Sender<Result<()>>) {
        let mut begun = Some(begun);
        loop {
            let Some(session) = self.opened(begun.take()) else { return };
            self.kept.values_mut().for_each(|kept| declare(&session, kept));
            self.waiting.drain(..).for_each(|job| job(&session));
            let over = self.used(&session);
            if matches!(over, Over::Deaf) {
                tracing::warn!(
                    "this hub is connected to another one, and does not hear of it any more: its connections are closed and opened anew"
                );
            } else if !self.is_alone(&session) {
                flush(&session, &self.start.fence);
            }
            let place = self.session.write().unwrap_or_else(PoisonError::into_inner).take();
            self.kept.values_mut().for_each(|(_, kept)| *kept = None);
            if let Err(error) = session.close().wait() {
                tracing::warn!("the engine's session was not closed well: {error}");
            }
            drop((place, session));
            if matches!(over, Over::Closed) || self.is_closed_within(CLOSED) {
                return;
            }
        }
    }

    /// Tries to open a session until there is one. `None` if it is to end.
    fn opened(&mut self, begun: Option<oneshot::Sender<Result<()>>>) -> Option<Session> {
        let (mut begun, mut pause) = (begun, RETRY.0);
        let is_first = begun.is_some();
        loop {
            match self.open(begun, is_first) {
                Opened::Session(session) => return Some(session),
                Opened::End => return None,
                Opened::Not(untold) => begun = untold,
            }
            if self.is_closed_within(pause) {
                return None;
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Uses a session until it is over.
    fn used(&mut self, session: &Session) -> Over {
        let mut next = Instant::now() + ASKED;
        loop {
            match self.todo.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Command::Run(job)) => job(session),
                Ok(Command::Declare(number, declaration)) => {
                    let mut kept = (declaration, None);
                    declare(session, &mut kept);
                    self.kept.insert(number, kept);
                }
                Ok(Command::Undeclare(number)) => drop(self.kept.remove(&number)),
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => return Over::Closed,
                Err(RecvTimeoutError::Timeout) => {
                    if (self.is_deaf)(session) {
                        return Over::Deaf;
                    }
                    next = Instant::now() + ASKED;
                }
            }
        }
    }

    /// Whether it is a client without a hub, which has nobody who could hear it.
    fn is_alone(&self, session: &Session) -> bool {
        !self.start.hubs.is_empty() && session.info().routers_zid().wait().next().is_none()
    }

    /// Tries to open a session once.
    fn open(&self, begun: Option<oneshot::Sender<Result<()>>>, is_first: bool) -> Opened {
        let is_wanted = |begun: Option<oneshot::Sender<_>>, told| begun.is_none_or(|begun| begun.send(told).is_ok());
        let start = &self.start;
        let opened = match found(start) {
            Ok(settings) => zenoh::open(settings).wait(),
            Err(error) => Err(error),
        };
        match opened {
            Ok(session) => {
                *self.session.write().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
                // Whoever waited for it may have given up.
                if is_wanted(begun, Ok(())) { Opened::Session(session) } else { Opened::End }
            }
            Err(error) if !start.hubs.is_empty() && error.to_string().contains(NO_HUB) => {
                if begun.is_some() {
                    let hubs = start.hubs.join(", ");
                    tracing::warn!(
                        "no hub answers: {hubs}; trying again until one does (`cbus fleet doctor` looks for the reason)"
                    );
                }
                if is_wanted(begun, Ok(())) { Opened::Not(None) } else { Opened::End }
            }
            // What worked before will again, such as to listen where the session before has not quite let go.
            Err(error) if !is_first => {
                tracing::warn!("the fleet is not joined again yet: {}", refused(&*error));
                Opened::Not(None)
            }
            Err(error) => {
                let error = refused(&*error);
                match begun {
                    Some(begun) => drop(begun.send(Err(error))),
                    None => tracing::error!("the fleet cannot be joined: {error}"),
                }
                Opened::End
            }
        }
    }

    /// Takes commands for a while. Whether one was to end.
    fn is_closed_within(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            match self.todo.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Command::Run(job)) => self.waiting.push_back(job),
                Ok(Command::Declare(number, declaration)) => drop(self.kept.insert(number, (declaration, None))),
                Ok(Command::Undeclare(number)) => drop(self.kept.remove(&number)),
                Err(RecvTimeoutError::Timeout) => return false,
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }
}

fn declare(session: &Session, (declare, kept): &mut (Declare, Option<Kept>)) {
    match declare(session) {
        Ok(new) => *kept = Some(new),
        Err(error) => tracing::error!("the engine refuses a declaration, and the fleet lacks it: {error}"),
    }
}

/// What the engine says where no hub answers.
const NO_HUB: &str = "Unable to connect to any";

/// The settings with the hubs that are there by multicast, if those are looked for. The engine itself would connect to the first that
/// answers, and never again once it is gone.
fn found(start: &Start) -> zenoh::Result<zenoh::Config> {
    let mut settings = start.settings.clone();
    let Some(protocols) = start.scouts else { return Ok(settings) };
    let (tell, told) = mpsc::channel();
    let scout = zenoh::scout(zenoh::config::WhatAmI::Router, settings.clone());
    let scout = scout.callback(move |hello| drop(tell.send(hello.locators().to_vec()))).wait()?;
    let mut until = Instant::now() + SCOUTING.0;
    let mut endpoints = BTreeSet::new();
    while let Ok(locators) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        let locators = locators.iter().map(ToString::to_string);
        endpoints.extend(
            locators.filter(|locator| protocols.iter().any(|protocol| locator.starts_with(&format!("{protocol}/")))),
        );
        until = until.min(Instant::now() + SCOUTING.1);
    }
    scout.stop();
    if endpoints.is_empty() {
        return Err(format!("{NO_HUB} by multicast").into());
    }
    settings.insert_json5("connect/endpoints", &serde_json::to_string(&endpoints)?)?;
    Ok(settings)
}

/// Waits until what was sent is on its way: a session that is closed throws away what is still queued, such as a goodbye.
fn flush(session: &Session, fence: &str) {
    let (asked, answered) = mpsc::channel::<()>();
    let question = session.liveliness().get(fence.to_owned()).timeout(FLUSHING).callback(move |_| {
        let _ = &asked;
    });
    if question.wait().is_ok() {
        // Until the callback is dropped: what comes is ignored.
        let _ = answered.recv_timeout(FLUSHING + LINGERING);
    }
    std::thread::sleep(LINGERING);
}

/// An error of the engine's start in words that say what to do.
fn refused(error: &(dyn std::error::Error + Send + Sync)) -> Error {
    let text = error.to_string();
    let has = |part: &str| text.to_lowercase().contains(part);
    let help = if has("already in use") || has("os error 98") {
        "; another program listens there: end it, or set another address in `listen`"
    } else if has("cannot assign requested address") || has("os error 99") {
        "; this machine does not have the address in `listen`"
    } else if has("permission denied") {
        "; this user may not use it"
    } else {
        ""
    };
    Error::msg(format!("the engine cannot start: {text}{help}"))
}

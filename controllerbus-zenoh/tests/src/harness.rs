//! Hosts as processes: started, commanded, stopped and killed by a test, with what they have said.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// The longest that a test waits for a state.
const LIMIT: Duration = Duration::from_secs(30);

/// What a host has said, and when.
#[derive(Default)]
struct Said {
    lines: Mutex<Vec<(Instant, Value)>>,
    more: Condvar,
}

impl Said {
    fn lines(&self) -> MutexGuard<'_, Vec<(Instant, Value)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A host of a fleet in a process of its own, which ends with this.
pub struct Host {
    name: String,
    child: Child,
    input: ChildStdin,
    said: Arc<Said>,
    next: u64,
}

/// Something that a host has been asked to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask(u64);

/// What has happened to an ask so far.
#[derive(Debug, Default, Clone)]
pub struct State {
    /// The values that stand, by number.
    pub values: BTreeMap<u64, Value>,
    /// The kinds of the errors, in their order.
    pub failed: Vec<String>,
    /// Whether nobody is at work.
    pub idle: bool,
    /// How many values were added and removed.
    pub told: (usize, usize),
    /// When the last of all this happened.
    pub last: Option<Instant>,
}

impl State {
    /// The values as texts, sorted.
    pub fn texts(&self) -> Vec<&str> {
        let mut texts: Vec<_> = self.values.values().filter_map(Value::as_str).collect();
        texts.sort_unstable();
        texts
    }
}

impl Host {
    /// Starts a host. It has not joined anything.
    pub fn start(program: &str, name: &str) -> Self {
        Self::start_in(&[], program, name)
    }

    /// The same behind another command, such as one that enters a namespace.
    pub fn start_in(before: &[&str], program: &str, name: &str) -> Self {
        let mut words = before.iter().copied().chain([program]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let said = Arc::new(Said::default());
        let hears = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                hears.lines().push((Instant::now(), line));
                hears.more.notify_all();
            }
        });
        Self { name: name.to_owned(), child, input, said, next: 0 }
    }

    /// Starts a host that joins a fleet, and answers in its own name.
    pub fn joined(program: &str, name: &str, config: Value) -> Self {
        let mut host = Self::start(program, name);
        host.answer(name);
        host.join(config);
        host
    }

    /// Joins a fleet.
    pub fn join(&mut self, mut config: Value) {
        config["host"] = self.name.clone().into();
        self.tell(json!({ "do": "join", "config": config }));
    }

    /// Has a controller answer.
    pub fn answer(&mut self, says: &str) {
        let revision = self.next;
        let set = json!({ "answerer": { "id": "test/answerer", "revision": revision, "config": { "says": says } } });
        self.tell(json!({ "do": "apply", "set": set }));
    }

    /// Says a command, and waits until it is done.
    pub fn tell(&mut self, command: Value) -> Value {
        self.try_tell(command.clone()).unwrap_or_else(|error| panic!("{}: {command}: {error}", self.name))
    }

    /// The same for a command that may fail.
    ///
    /// # Errors
    /// The host's error.
    pub fn try_tell(&mut self, command: Value) -> Result<Value, String> {
        let number = self.say(command);
        let done = self.wait("a command to be done", |lines| {
            lines.iter().find(|(_, line)| line["done"] == number).map(|(_, line)| line.clone())
        });
        match done["error"].as_str() {
            None => Ok(done["is"].clone()),
            Some(error) => Err(error.to_owned()),
        }
    }

    /// Says a command.
    pub fn say(&mut self, mut command: Value) -> u64 {
        self.next += 1;
        command["number"] = self.next.into();
        writeln!(self.input, "{command}").unwrap_or_else(|error| panic!("{} has ended: {error}", self.name));
        self.next
    }

    /// Asks a directive, which stands until it is released.
    pub fn ask(&mut self, id: &str, fields: Value) -> Ask {
        self.ask_with(id, fields, json!({}))
    }

    /// The same with options of the host's command: `paused`, `lengths`.
    pub fn ask_with(&mut self, id: &str, fields: Value, options: Value) -> Ask {
        let ask = Ask(self.next + 1);
        let mut command = options;
        command["do"] = "ask".into();
        command["ask"] = ask.0.into();
        command["id"] = id.into();
        command["fields"] = fields;
        self.tell(command);
        ask
    }

    /// Asks for a greeting.
    pub fn greet(&mut self, name: &str) -> Ask {
        self.ask("test/greet", json!({ "name": name }))
    }

    /// Releases an ask.
    pub fn release(&mut self, ask: Ask) {
        self.tell(json!({ "do": "release", "ask": ask.0 }));
    }

    /// What the host knows of itself.
    pub fn stats(&mut self) -> Value {
        self.tell(json!({ "do": "stats" }))
    }

    /// How often its resolvers have run.
    pub fn runs(&mut self) -> u64 {
        self.stats()["runs"].as_u64().expect("a number")
    }

    /// How an ask is. Fails if something was told twice.
    pub fn state(&self, ask: Ask) -> State {
        self.state_of(&self.said.lines(), ask)
    }

    fn state_of(&self, lines: &[(Instant, Value)], ask: Ask) -> State {
        let mut state = State::default();
        for (at, line) in lines.iter().filter(|(_, line)| line["ask"] == ask.0) {
            state.last = Some(*at);
            if let Some(id) = line["added"].as_u64() {
                state.told.0 += 1;
                let twice = state.values.insert(id, line["value"].clone());
                assert!(twice.is_none(), "{}: value {id} was added twice", self.name);
            } else if let Some(id) = line["removed"].as_u64() {
                state.told.1 += 1;
                assert!(
                    state.values.remove(&id).is_some(),
                    "{}: value {id} was removed twice, or never added",
                    self.name
                );
            } else if let Some(kind) = line["failed"].as_str() {
                state.failed.push(kind.to_owned());
            } else if let Some(word) = line["is"].as_str() {
                state.idle = word == "idle";
            }
        }
        state
    }

    /// Waits until an ask is as expected.
    pub fn until(&self, ask: Ask, what: &str, is: impl Fn(&State) -> bool) -> State {
        self.wait(what, |lines| Some(self.state_of(lines, ask)).filter(|state| is(state)))
    }

    /// Waits until an ask has exactly these values.
    pub fn until_values(&self, ask: Ask, texts: &[&str]) -> State {
        self.until(ask, &format!("the values {texts:?}"), |state| state.texts() == texts)
    }

    /// Waits for something among what was said.
    fn wait<T>(&self, what: &str, find: impl Fn(&[(Instant, Value)]) -> Option<T>) -> T {
        let limit = Instant::now() + LIMIT;
        let mut lines = self.said.lines();
        loop {
            if let Some(found) = find(&lines) {
                return found;
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let said: Vec<_> = lines.iter().rev().take(40).map(|(_, line)| line.to_string()).collect();
                panic!("{}: waited for {what} in vain; it said last (newest first):\n{}", self.name, said.join("\n"));
            }
            lines = self.said.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a state of the host itself.
    pub fn until_stats(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let limit = Instant::now() + LIMIT;
        loop {
            let stats = self.stats();
            if is(&stats) {
                return stats;
            }
            assert!(Instant::now() < limit, "{}: waited for {what} in vain: {stats}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")).expect("a process");
        kill_process(pid, signal).expect("it is there");
    }

    /// Freezes it.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) {
        let limit = Instant::now() + LIMIT;
        while self.child.try_wait().expect("it can be waited for").is_none() {
            assert!(Instant::now() < limit, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Its log, with RUST_LOG.
            for line in self.said.lines().iter().filter_map(|(_, line)| line.as_str()) {
                eprintln!("{}: {line}", self.name);
            }
        }
        self.kill();
    }
}

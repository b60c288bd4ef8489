//! The state of the bus for the page: encoded once for all viewers, and sent only where it has changed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::server::Service;

/// The pause between two looks at the state, at least.
const PAUSE: Duration = Duration::from_millis(100);

/// The pause between two looks at most, while there are viewers: leases, values and memory change without an event.
const CLOCK: Duration = Duration::from_secs(2);

/// The parts of the state, in the order in which they are sent.
const PARTS: [&str; 5] = ["info", "plugins", "controllers", "directives", "configs"];

/// One part, as JSON.
#[derive(Clone, Default, PartialEq)]
struct Part {
    /// Incremented with each change.
    version: u64,
    json: Arc<str>,
}

/// The state, part by part.
#[derive(Clone, Default, PartialEq)]
pub struct State([Part; PARTS.len()]);

impl State {
    /// The parts that are newer than `seen`, as a JSON object; none if nothing is.
    pub fn since(&self, seen: &mut [u64; PARTS.len()]) -> Option<String> {
        let mut object = String::new();
        for ((part, seen), name) in self.0.iter().zip(seen).zip(PARTS) {
            if part.version != *seen {
                *seen = part.version;
                let start = if object.is_empty() { '{' } else { ',' };
                object.push_str(&format!("{start}\"{name}\":{}", part.json));
            }
        }
        (!object.is_empty()).then(|| object + "}")
    }

    /// All of it.
    pub fn whole(&self) -> String {
        self.since(&mut Default::default()).unwrap_or_else(|| "{}".to_owned())
    }

    fn update(&mut self, encoded: [String; PARTS.len()]) -> bool {
        let mut changed = false;
        for (part, json) in self.0.iter_mut().zip(encoded) {
            if *part.json != *json {
                *part = Part { version: part.version + 1, json: json.into() };
                changed = true;
            }
        }
        changed
    }
}

/// Observes the state for as long as there are viewers.
pub struct Feed {
    state: watch::Sender<State>,
    /// Whether it is observed.
    running: Mutex<bool>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::default()), running: Mutex::new(false) }
    }
}

impl Feed {
    /// The state from now on.
    pub fn watch(self: &Arc<Self>, service: &Service) -> watch::Receiver<State> {
        let receiver = self.state.subscribe();
        let first = !std::mem::replace(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner), true);
        if first {
            // The first viewer sees the current state, not what the last one saw.
            let encoded = encoded(service);
            self.state.send_if_modified(|state| state.update(encoded));
            tokio::spawn(Arc::clone(self).run(service.clone()));
        }
        receiver
    }

    async fn run(self: Arc<Self>, service: Service) {
        let mut changes = service.host.bus.changes();
        let mut events = service.host.journal.events().1;
        let mut clock = tokio::time::interval(CLOCK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = events.recv() => {}
                _ = clock.tick() => {}
                () = service.end.cancelled() => return,
            }
            {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                if self.state.receiver_count() == 0 {
                    *running = false;
                    return;
                }
            }
            let encoded = encoded(&service);
            self.state.send_if_modified(|state| state.update(encoded));
            tokio::time::sleep(PAUSE).await;
            // The next look includes what has happened meanwhile.
            changes.mark_unchanged();
            while events.try_recv().is_ok() {}
            if service.host.bus.changes().has_changed().is_err() {
                return;
            }
        }
    }
}

/// An overview of the bus, without what changes all the time.
#[derive(Serialize)]
struct Info<'a> {
    version: &'a str,
    process_id: u32,
    /// In milliseconds since 1970.
    started_ms: u64,
    plugins: u32,
    controllers: u32,
    directives: u32,
    values: u32,
    configs: u32,
    allow_control: bool,
    allow_exec: bool,
    memory_mib: u64,
}

fn encoded(service: &Service) -> [String; PARTS.len()] {
    let shown = service.host.shown();
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        process_id: std::process::id(),
        started_ms: service.host.started_ms(),
        plugins: shown.plugins.len() as u32,
        controllers: shown.controllers.len() as u32,
        directives: shown.directives.len() as u32,
        values: shown.directives.iter().map(|found| found.values.len() as u32).sum(),
        configs: shown.configs.len() as u32,
        allow_control: service.allow_control,
        allow_exec: service.allow_exec,
        memory_mib: crate::daemon::memory_bytes() >> 20,
    };
    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
    }
    [json(&info), json(&shown.plugins), json(&shown.controllers), json(&shown.directives), json(&shown.configs)]
}

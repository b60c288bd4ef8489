//! Looks at the bus for the pages: as long as there are any, where something may have changed, and never for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::parts::{Items, Look, State};
use crate::daemon::{Shown, ShownDirective};
use crate::fleet::watching::{Seen, Watching};
use crate::server::Service;

/// The pause between two looks at the state, at least.
const PAUSE: Duration = Duration::from_millis(100);

/// A look is followed by a pause that is so many times as long: where there is much to see, it is looked at less often.
const SHARE: u32 = 20;

/// The longest pause after a look.
const LONGEST: Duration = Duration::from_secs(30);

/// How often it is looked at without any sign of a change, unless looks take long: leases and memory change without an event.
const CLOCK: Duration = Duration::from_secs(2);

/// Observes the state for as long as there are viewers.
pub struct Feed {
    state: Mutex<State>,
    /// How many directives and values there were at the last look at them.
    counts: Mutex<(usize, usize)>,
    /// Marked as changed with the state.
    changed: watch::Sender<()>,
    /// Whether it is observed.
    running: tokio::sync::Mutex<bool>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            counts: Mutex::default(),
            changed: watch::Sender::new(()),
            running: tokio::sync::Mutex::new(false),
        }
    }
}

impl Feed {
    /// Observes the state from now on, until the receiver is dropped.
    pub async fn watch(self: &Arc<Self>, service: &Service) -> watch::Receiver<()> {
        let receiver = self.changed.subscribe();
        let mut running = self.running.lock().await;
        if !*running {
            // The first viewer sees the current state, not what the last one saw.
            let directives = service.host.bus.directive_changes();
            let mut fleet = Watching::default();
            fleet.look(&service.host.bus);
            fleet.settled().await;
            let _ = self.look(service, true, fleet.seen()).await;
            *running = true;
            tokio::spawn(Arc::clone(self).run(service.clone(), directives, fleet));
        }
        receiver
    }

    /// What is newer than what a viewer has seen, as a JSON object.
    pub fn since(&self, seen: &mut u64) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).since(seen)
    }

    /// All of it.
    pub fn whole(&self) -> String {
        self.since(&mut 0).unwrap_or_else(|| "{}".to_owned())
    }

    /// Looks at the state, on a thread that may take its time; returns how long that took.
    async fn look(self: &Arc<Self>, service: &Service, directives: bool, fleet: Seen) -> Duration {
        let (this, service, begun) = (Arc::clone(self), service.clone(), Instant::now());
        let look = move || {
            let look = this.encoded(&service, directives, &fleet);
            let changed = this.state.lock().unwrap_or_else(PoisonError::into_inner).update(look);
            if changed {
                this.changed.send_replace(());
            }
        };
        let _ = spawn_blocking(look).await;
        begun.elapsed()
    }

    async fn run(self: Arc<Self>, service: Service, mut directives: watch::Receiver<u64>, mut fleet: Watching) {
        let mut changes = service.host.bus.changes();
        let mut events = service.host.journal.events().1;
        let mut clock = tokio::time::interval(CLOCK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = directives.changed() => {
                    if changed.is_err() { return }
                    directives.mark_changed();
                }
                event = events.recv() => {
                    if matches!(event, Err(tokio::sync::broadcast::error::RecvError::Closed)) { return }
                }
                () = fleet.changed() => {}
                _ = clock.tick() => {}
                () = service.end.cancelled() => return,
            }
            {
                let mut running = self.running.lock().await;
                if self.changed.receiver_count() == 0 {
                    *running = false;
                    return;
                }
            }
            // What changes while this looks is looked at again.
            changes.mark_unchanged();
            while events.try_recv().is_ok() {}
            // In one step: what changes after it counts as changed.
            let moved = directives.borrow_and_update().has_changed();
            fleet.look(&service.host.bus);
            let took = self.look(&service, moved, fleet.seen()).await;
            tokio::select! {
                () = tokio::time::sleep((took * SHARE).clamp(PAUSE, LONGEST)) => {}
                () = service.end.cancelled() => return,
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
    plugins: usize,
    controllers: usize,
    directives: usize,
    values: usize,
    configs: usize,
    allow_control: bool,
    allow_exec: bool,
    memory_mib: u64,
    /// Where relative paths begin.
    folder: String,
}

/// A directive, with what tells it apart.
#[derive(Serialize)]
struct Keyed<'a> {
    /// The same for the same directive after a restart.
    key: &'a str,
    #[serde(flatten)]
    shown: &'a ShownDirective,
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

impl Feed {
    fn encoded(&self, service: &Service, directives: bool, fleet: &Seen) -> Look {
        let host = &service.host;
        let Shown { plugins, controllers, directives, configs } = host.shown(directives);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &directives {
            *counts = (found.len(), found.iter().map(|found| found.directive.values.len()).sum());
        }
        let info = Info {
            version: env!("CARGO_PKG_VERSION"),
            process_id: std::process::id(),
            started_ms: host.started_ms(),
            plugins: plugins.len(),
            controllers: controllers.len(),
            directives: counts.0,
            values: counts.1,
            configs: configs.len(),
            allow_control: service.allow_control,
            allow_exec: service.allow_exec,
            memory_mib: crate::daemon::memory_bytes() >> 20,
            folder: std::env::current_dir().map(|folder| folder.display().to_string()).unwrap_or_default(),
        };
        drop(counts);
        let plugins = plugins.iter().map(|found| (found.plugin.id.clone(), json(found)));
        let controllers = controllers.iter().map(|found| (found.id.to_string(), json(found)));
        let configs = configs.iter().map(|found| (found.key.clone(), json(found)));
        let hosts = fleet.hosts.iter().map(|found| (format!("{} {}", found.host, found.epoch), json(found)));
        let offers = fleet.offers.iter().map(|found| (format!("{} {}", found.id, found.host), json(found)));
        let rollouts = fleet.rollouts.iter().map(|found| (found.plugin.clone(), json(found)));
        Look {
            info: json(&info),
            lists: [
                Some(plugins.collect()),
                Some(controllers.collect()),
                directives.map(|found| keyed(&found)),
                Some(configs.collect()),
                Some(hosts.collect()),
                Some(offers.collect()),
                Some(rollouts.collect()),
            ],
        }
    }
}

/// The directives, each with a key of its own. Two may look the same: what tells them apart need not be among what they show.
fn keyed(directives: &[ShownDirective]) -> Items {
    let mut keys = Keys::default();
    let item = |shown: &ShownDirective| {
        let key = keys.of([&shown.directive.id, &shown.directive.name, &shown.directive.about]);
        let text = json(&Keyed { key: &key, shown });
        (key, text)
    };
    directives.iter().map(item).collect()
}

/// Makes keys of texts.
#[derive(Default)]
struct Keys(HashMap<String, u32>);

impl Keys {
    /// A key that no other has, which is the same for the first, second, … of equal texts each time.
    fn of(&mut self, texts: [&str; 3]) -> String {
        let mut hash = blake3::Hasher::new();
        for text in texts {
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let key = hash.finalize().to_hex()[..16].to_owned();
        let count = self.0.entry(key.clone()).or_default();
        *count += 1;
        if *count > 1 { format!("{key}.{count}") } else { key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_that_look_the_same_are_told_apart_and_keep_their_keys() {
        let keys = |names: &[&str]| -> Vec<String> {
            let mut keys = Keys::default();
            names.iter().map(|name| keys.of(["example/greet", name, ""])).collect()
        };
        let both = keys(&["one", "one", "two"]);
        assert!(both[0] != both[1] && both[1] != both[2] && both[0] != both[2], "{both:?}");
        assert_eq!(keys(&["two", "one"]), [both[2].clone(), both[0].clone()]);
    }
}

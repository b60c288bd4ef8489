//! Requests without pause, each checked, during everything else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controllerbus_api::client::Client;
use tokio::task::JoinHandle;

use crate::Result;
use crate::api::{self, Told};

/// How long a request may take, also while a host freezes.
const LIMIT: Duration = Duration::from_secs(20);

/// A host that answers.
pub struct Answering {
    pub name: &'static str,
    /// Grows whenever it stops to be certain, or begins to be, that it answers.
    changes: AtomicU64,
}

impl Answering {
    fn new(name: &'static str) -> Self {
        Self { name, changes: AtomicU64::new(0) }
    }

    /// From now on it may answer or not, or twice.
    pub fn is_uncertain(&self) {
        self.changes.fetch_or(1, Ordering::SeqCst);
    }

    /// From now on it has to answer once.
    pub fn is_certain(&self) {
        if self.changes.load(Ordering::SeqCst) % 2 == 1 {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The results of the requests.
pub struct Counts {
    stop: AtomicBool,
    pub hosts: [Answering; 2],
    /// Requests that have ended.
    pub requests: AtomicU64,
    /// Those with an answer that is not right or came twice, or without one that had to come.
    pub wrong: AtomicU64,
    /// Those that were told that a host is out of reach.
    pub unreachable: AtomicU64,
    why: Mutex<Option<String>>,
}

impl Counts {
    /// Why the first one was wrong.
    pub fn first_wrong(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The host with this name.
    pub fn host(&self, name: &str) -> &Answering {
        self.hosts.iter().find(|host| host.name == name).unwrap_or(&self.hosts[0])
    }

    fn count(&self, judged: Result<bool>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match judged {
            Ok(was_unreachable) => drop(self.unreachable.fetch_add(u64::from(was_unreachable), Ordering::Relaxed)),
            Err(why) => {
                self.wrong.fetch_add(1, Ordering::Relaxed);
                self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why.to_string());
            }
        }
    }
}

/// A task that asks one request after another until it is stopped.
pub struct Load {
    pub counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Load {
    /// Asks a daemon what these hosts answer, both of which have to.
    pub fn start(mut client: Client, hosts: [&'static str; 2]) -> Self {
        let counts = Arc::new(Counts {
            stop: AtomicBool::new(false),
            hosts: hosts.map(Answering::new),
            requests: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            why: Mutex::new(None),
        });
        let shared = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            for number in 0_u64.. {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("guest {number}");
                let asked = tokio::time::timeout(LIMIT, one(&mut client, &name, &shared.hosts)).await;
                shared.count(
                    asked.unwrap_or_else(|_| Err(format!("`{name}` was not settled in {} s", LIMIT.as_secs()).into())),
                );
            }
        });
        Self { counts, task }
    }

    /// Stops it and waits for the last answer.
    pub async fn stop(mut self) -> Arc<Counts> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let _ = (&mut self.task).await;
        Arc::clone(&self.counts)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request: whether it was told that a host is out of reach, or what was wrong with its answers.
async fn one(client: &mut Client, name: &str, hosts: &[Answering; 2]) -> Result<bool> {
    let before = hosts.each_ref().map(|host| host.changes.load(Ordering::SeqCst));
    let Some(mut told) = api::greet(client, name).await? else { return Err("nobody of the fleet can be asked".into()) };
    let (mut standing, mut unreachable) = (BTreeMap::new(), false);
    loop {
        match api::next(&mut told).await? {
            Told::Added(value, greeting) => {
                let known = ["Hello", "Welcome"].map(|word| format!("{word}, {name}!"));
                if !known.contains(&greeting.text) || !hosts.iter().any(|host| host.name == greeting.host) {
                    return Err(format!("`{name}` was answered by {greeting:?}").into());
                }
                standing.insert(value, greeting.host);
            }
            Told::Failed(error) if error.contains("out of reach") => unreachable = true,
            Told::Failed(error) => return Err(format!("`{name}` failed: {error}").into()),
            Told::Removed(value) => drop(standing.remove(&value)),
            Told::Idle => break,
        }
    }
    for (host, before) in hosts.iter().zip(before) {
        // It had to answer all the time.
        let is_certain = before % 2 == 0 && host.changes.load(Ordering::SeqCst) == before;
        let answers = standing.values().filter(|by| *by == host.name).count();
        if is_certain && answers != 1 {
            return Err(format!("`{name}` has {answers} answers of `{}`: {standing:?}", host.name).into());
        }
    }
    Ok(unreachable)
}

//! Ends an exclusive controller, also one that does not want to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::bus::{ControllerSnapshot, RunState, Source};
use controllerbus::controller::BoxFuture;
use hot_runtime::{GenerationInfo, GenerationState, HotRuntime, Isolation, Moment};

use crate::error::{Error, Result};

/// What placement needs of a host to run what is exclusive.
pub trait Ends: Send + Sync + 'static {
    /// Whether the controller of a key, which is made from configs of this id, can be ended at any time. Asked before it runs, and
    /// again and again while it does.
    ///
    /// # Errors
    /// Why not, and what to do.
    fn check(&self, key: &str, id: &str) -> Result<()>;

    /// Has the processes of the plugins that make controllers from configs of this id end themselves at a moment, unless another one is
    /// set before: also if this host hangs, is frozen, or is gone. Said before the controller of a key is begun, and again and again
    /// while it runs. False if nothing makes it here, and so it cannot be begun yet.
    fn limit(&self, _key: &str, _id: &str, _at: Moment) -> bool {
        true
    }

    /// Kills the process of a controller that another config of its key has replaced, and that was about to end already when this was
    /// called before. False if something of it may still run.
    fn end_replaced<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }

    /// Ends the controller of a key within a time, which is shorter than the bus has patience, and kills its process if it does not end
    /// by itself. The config was removed from the bus already, or is at the same time. False if something of it may still run; called
    /// again then.
    fn end<'a>(&'a self, key: &'a str, within: Duration) -> BoxFuture<'a, bool>;
}

/// The plugins of a `hot-runtime` on a bus.
#[derive(Debug)]
pub struct RuntimeEnds {
    bus: Bus,
    runtime: HotRuntime,
    keys: Mutex<HashMap<String, Key>>,
}

/// What is known of a key until its controller has ended.
#[derive(Debug, Default)]
struct Key {
    /// The config ID.
    id: String,
    /// The plugins that have a deadline because of it.
    plugins: BTreeSet<String>,
    /// Processes that were to be killed.
    killed: BTreeSet<u32>,
    /// Controllers that were about to end when it was looked last.
    leaving: BTreeSet<u64>,
}

impl RuntimeEnds {
    /// Those of a runtime on a bus.
    pub fn new(bus: &Bus, runtime: &HotRuntime) -> Arc<Self> {
        Arc::new(Self { bus: bus.clone(), runtime: runtime.clone(), keys: Mutex::default() })
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the controller is from that runs for a key.
    fn running(&self, key: &str) -> Option<Source> {
        let RunState::Running(id) = self.bus.config(key)?.state else { return None };
        Some(self.bus.controllers().into_iter().find(|found| found.id == id)?.source)
    }

    /// Where controllers come from that are made from configs of an id.
    fn makers(&self, id: &str) -> BTreeSet<u64> {
        let factories = self.bus.factories();
        factories.iter().filter(|factory| factory.info.config_id == id).map(|factory| factory.source.0).collect()
    }

    /// The controllers made from configs of an id that are about to end.
    fn leaving(&self, id: &str) -> Vec<ControllerSnapshot> {
        self.bus.leaving().into_iter().filter(|found| found.info.config_id == id).collect()
    }

    /// The processes that may have something left of the controller of a key, which was taken off the bus. An error if something is
    /// left that has none.
    fn left(&self, key: &str, was_constructing: bool) -> std::result::Result<BTreeSet<u32>, ()> {
        let (id, plugins) = match self.keys().get(key) {
            Some(known) => (known.id.clone(), known.plugins.clone()),
            None => return Ok(BTreeSet::new()),
        };
        let generations = self.runtime.generations();
        let mut left = processes(&generations, self.leaving(&id).iter().map(|found| found.source.0))?;
        // Nobody can ask whether it has ended what has not come to be a controller yet.
        if was_constructing {
            left.extend(processes(&generations, self.makers(&id))?);
        }
        // What was replaced in a swap may be what hangs; the runtime ends its process, but some time later.
        let replaced = generations.iter().filter(|info| {
            let is_over = matches!(info.state, GenerationState::Draining | GenerationState::Stuck);
            is_over && plugins.contains(&info.plugin)
        });
        left.extend(replaced.filter_map(|info| info.pid));
        Ok(left)
    }

    /// Kills processes, and waits until they are gone. False if one is still there.
    async fn kill(&self, key: &str, pids: BTreeSet<u32>) -> bool {
        let to_kill: BTreeSet<u32> = {
            let mut keys = self.keys();
            let known = keys.entry(key.to_owned()).or_default();
            known.killed.extend(pids);
            known.killed.clone()
        };
        for number in to_kill {
            let Some(pid) = i32::try_from(number).ok().and_then(rustix::process::Pid::from_raw) else { continue };
            tracing::warn!(key, pid = number, "an exclusive controller did not end in time, and its process is killed");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            if !is_gone(pid).await {
                return false;
            }
            if let Some(known) = self.keys().get_mut(key) {
                known.killed.remove(&number);
            }
        }
        true
    }
}

/// The processes of generations, as far as they have one that runs. An error if one of them is in this process.
fn processes(
    generations: &[GenerationInfo],
    sources: impl IntoIterator<Item = u64>,
) -> std::result::Result<BTreeSet<u32>, ()> {
    let mut found = BTreeSet::new();
    for source in sources {
        let info = generations.iter().find(|info| info.generation == source && info.isolation == Isolation::Process);
        found.extend(info.ok_or(())?.pid);
    }
    Ok(found)
}

/// Waits until a process that was killed is gone. False if it is still there, because the system has not ended it yet.
async fn is_gone(pid: rustix::process::Pid) -> bool {
    for _ in 0..100 {
        if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

impl Ends for RuntimeEnds {
    fn check(&self, key: &str, id: &str) -> Result<()> {
        let generations = self.runtime.generations();
        let has_process = |source: u64| {
            let of_source = generations.iter().find(|info| info.generation == source);
            of_source.is_some_and(|info| info.isolation == Isolation::Process)
        };
        if self.makers(id).into_iter().all(has_process) && self.running(key).is_none_or(|source| has_process(source.0))
        {
            return Ok(());
        }
        let why = "an exclusive controller that hangs has to be killed before its lease ends: have its plugin run in a process of \
                   its own (`isolation: process`)";
        Err(Error::refused(format!("the exclusive entry `{key}`"), why))
    }

    fn limit(&self, key: &str, id: &str, at: Moment) -> bool {
        let makers = self.makers(id);
        let sources: BTreeSet<u64> = makers.iter().copied().chain(self.running(key).map(|source| source.0)).collect();
        let generations = self.runtime.generations();
        let found =
            generations.iter().filter(|info| sources.contains(&info.generation)).map(|info| info.plugin.clone());
        let plugins = {
            let mut keys = self.keys();
            let known = keys.entry(key.to_owned()).or_default();
            known.id = id.to_owned();
            // Also those that made it before: it may be there still.
            known.plugins.extend(found);
            known.plugins.clone()
        };
        for plugin in &plugins {
            self.runtime.set_deadline(plugin, key, Some(at));
        }
        !makers.is_empty()
    }

    fn end_replaced<'a>(&'a self, key: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Some(id) = self.keys().get(key).map(|known| known.id.clone()) else { return true };
            let leaving = self.leaving(&id);
            let before = match self.keys().get_mut(key) {
                Some(known) => std::mem::replace(&mut known.leaving, leaving.iter().map(|found| found.id.0).collect()),
                None => return true,
            };
            let hanging = leaving.iter().filter(|found| before.contains(&found.id.0)).map(|found| found.source.0);
            match processes(&self.runtime.generations(), hanging) {
                Ok(pids) => self.kill(key, pids).await,
                Err(()) => false,
            }
        })
    }

    fn end<'a>(&'a self, key: &'a str, within: Duration) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let before = self.bus.config(key);
            let was_constructing = before.is_some_and(|before| {
                let pending = before.pending.map(|pending| pending.state);
                before.state == RunState::Constructing || pending == Some(RunState::Constructing)
            });
            let _ = tokio::time::timeout(within, self.bus.remove_config(key)).await;
            let Ok(left) = self.left(key, was_constructing) else { return false };
            if !self.kill(key, left).await {
                return false;
            }
            let known = self.keys().remove(key);
            for plugin in known.into_iter().flat_map(|known| known.plugins) {
                self.runtime.set_deadline(&plugin, key, None);
            }
            true
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_gone_when_it_has_ended_and_was_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopping it");
        assert!(!is_gone(pid).await, "it is stopped, and there");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killing it");
        let gone = tokio::spawn(is_gone(pid));
        child.wait().expect("its end");
        assert!(gone.await.expect("looking"));
    }
}

//! Many daemons on this machine, one folder, and load on each of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use controllerbus_rollout::{Link, Rollouts, Stage};
use serde_json::Value;

use crate::load::{Counts, put_on};
use crate::process::Daemon;
use crate::releases::{PLUGIN, Releases, VERSION, at_version, keys, url};

/// How long a state is waited for. The machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(240);

/// Those that write rollouts, and run no plugin.
pub const LEADS: [&str; 2] = ["lead-1", "lead-2"];

/// One test at a time has many daemons.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hub, the leads, and hosts that run the plugin.
pub struct Fleet {
    pub folder: tempfile::TempDir,
    pub releases: Releases,
    pub daemons: BTreeMap<String, Daemon>,
    pub hosts: Vec<String>,
    pub counts: Arc<Counts>,
}

impl Fleet {
    /// Starts all of it, without a release.
    pub fn start(hosts: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let releases = Releases::below(folder.path());
        keys(folder.path(), "k");
        keys(folder.path(), "other");
        let hosts: Vec<String> = (0..hosts).map(|at| format!("edge-{at:02}")).collect();
        let mut fleet =
            Self { folder, releases, daemons: BTreeMap::new(), hosts: hosts.clone(), counts: Arc::default() };
        fleet.begin("hub");
        for lead in LEADS {
            fleet.begin(lead);
        }
        let at = fleet.folder.path();
        // A few at a time: they are many, and all compile nothing.
        for some in hosts.chunks(4) {
            let started: Vec<_> = std::thread::scope(|scope| {
                let starting: Vec<_> = some.iter().map(|host| scope.spawn(move || (host, started(at, host)))).collect();
                starting.into_iter().map(|one| one.join().expect("a daemon")).collect()
            });
            fleet.daemons.extend(started.into_iter().map(|(host, daemon)| (host.clone(), daemon)));
        }
        fleet
    }

    /// Starts one, again or for the first time.
    pub fn begin(&mut self, name: &str) {
        let daemon = started(self.folder.path(), name);
        self.daemons.insert(name.to_owned(), daemon);
    }

    /// Ends one at once, as the system would.
    pub fn kill(&mut self, name: &str) {
        drop(self.daemons.remove(name));
    }

    /// Asks every host, without pause.
    pub fn put_load_on(&self) {
        for host in &self.hosts {
            put_on(&self.releases.runtime, host, &self.daemons[host].address, &self.counts);
        }
    }

    /// Runs a command that knows the store, and asks the hub for the hosts.
    pub fn cbus(&self, arguments: &[&str]) -> String {
        let at = self.folder.path();
        let (store, hub) = (url(at), &self.daemons["hub"].address);
        crate::fine(at, &[arguments, &["--store", &store, "--connect", hub]].concat())
    }

    /// The newest step of the rollouts.
    pub fn newest(&self) -> Link {
        let rollouts = Rollouts::new(&self.releases.store, "a test");
        self.releases.runtime.block_on(rollouts.newest(PLUGIN)).expect("the store").expect("a rollout")
    }

    /// What `cbus rollout status` says.
    pub fn status(&self) -> Value {
        let all: Value = serde_json::from_str(&self.cbus(&["rollout", "status", PLUGIN, "--json"])).expect("JSON");
        all["rollouts"][0].clone()
    }

    /// Starts a rollout by its text.
    pub fn roll(&self, text: &str) {
        let file = self.folder.path().join("rollout.yaml");
        std::fs::write(&file, format!("plugin: {PLUGIN}\nrelease: {VERSION}\n{text}")).expect("writing");
        self.cbus(&["rollout", "start", "-f", "rollout.yaml"]);
    }

    /// Waits until a rollout is over and every host is as it is to be; its last step.
    pub fn over(&self) -> Link {
        let begun = Instant::now();
        loop {
            let link = self.newest();
            if link.stage.is_over() && self.status()["is_as_wanted"] == true {
                return link;
            }
            assert!(begun.elapsed() < LIMIT, "not over: {:#}", self.status());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until every host has answered with a number since now.
    pub fn all_answer(&self, number: u64) {
        self.counts.last.lock().expect("counts").clear();
        let begun = Instant::now();
        loop {
            let last = self.counts.last.lock().expect("counts").clone();
            if last.len() == self.hosts.len() && last.values().all(|answered| *answered == number) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{number} is not on all hosts: {last:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every host is in the fleet with its agent.
    pub fn met(&self) {
        let begun = Instant::now();
        loop {
            let planned: Value =
                serde_json::from_str(&self.cbus(&["rollout", "start", &at_version(), "--plan", "--json"]))
                    .expect("JSON");
            let groups = planned.as_array().into_iter().flatten().flat_map(|step| step["groups"].as_array());
            let met: usize = groups.flatten().map(|group| group.as_array().map_or(0, Vec::len)).sum();
            if met == self.hosts.len() {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{met} of {} hosts have met", self.hosts.len());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for a step of the newest rollout in this stage, or of one that is over.
    pub fn until(&self, stage: Stage) -> Link {
        let begun = Instant::now();
        loop {
            let link = self.newest();
            if link.stage == stage || link.stage.is_over() {
                return link;
            }
            assert!(begun.elapsed() < LIMIT, "it is not {stage}, but {link:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A daemon that runs, in a folder of its name.
fn started(all: &Path, name: &str) -> Daemon {
    let folder = all.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("cbus.yaml"), config(all, name)).expect("writing");
    let key = all.join("k.pub").display().to_string();
    let arguments = ["cbus.yaml", "--allow-exec", "--isolation", "process", "--trust-key", &key, "--require-signature"];
    Daemon::start_with(&folder, "run", &arguments, |run| {
        run.env("CBUS_LOG", "info,zenoh=warn").env("CBUS_NAME", format!("rollout-{}-{name}", std::process::id()));
    })
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in LEADS {
                let said = self.daemons.get_mut(name).map(Daemon::rest).unwrap_or_default();
                println!("{name} has said:\n{said}");
            }
        }
    }
}

/// For how long a host may be silent. Daemons that have to share a machine with others are that for seconds.
fn patience() -> Duration {
    Duration::from_millis(if is_at_rest() { 2_500 } else { 20_000 })
}

/// Whether the machine has nothing else to do, and times are what they are promised to be.
pub fn is_at_rest() -> bool {
    std::env::var_os("CBUS_TEST_TIMES").is_some()
}

/// Its config: the hub listens, the leads write rollouts, the others run what is rolled out.
fn config(all: &Path, name: &str) -> String {
    let (at, store) = (all.display(), url(all));
    let place = if name == "hub" { "listen" } else { "connect" };
    let both = "[fleet/plugin-health, fleet/rollout-step]";
    let (offers, asks) = match name {
        "hub" => ("[]", both),
        lead if LEADS.contains(&lead) => ("[fleet/rollout-step]", both),
        _ => (both, "[]"),
    };
    let fleet = format!(
        "fleet:\n  id: controllerbus/fleet\n  config:\n    name: test\n    host: {name}\n    {place}: [\"unix:{at}/hub.sock\"]\n    \
         offers: {offers}\n    asks: {asks}\n"
    );
    let more = match name {
        "hub" => String::new(),
        lead if LEADS.contains(&lead) => format!(
            "rollouts:\n  id: controllerbus/fleet/rollout\n  config: {{ store: \"{store}\", host: {name}, lease_ms: 5000, patience_ms: {} }}\n",
            patience().as_millis()
        ),
        _ => format!(
            "agent:\n  id: controllerbus/fleet/agent\n  config: {{ store: \"{store}\", host: {name}, labels: {{ role: edge }}, \
             keys: [\"{at}/k.pub\"], folder: fleet, poll_ms: 3000, look_ms: 300 }}\n\
             probe:\n  id: probe\n  config: {{ mode: quiet }}\n"
        ),
    };
    fleet + &more
}

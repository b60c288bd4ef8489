//! Daemons that follow a published set, and the log of what its controllers do: each of them writes the number of its lease into it
//! all the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::process::Daemon;
use crate::releases::{keys, url};

/// How long a state is waited for. The machine may be busy.
const LIMIT: Duration = Duration::from_secs(120);

/// The artifact of the `nightly` fixture, built once.
fn artifact() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
        runtime.block_on(tests::process::artifact("nightly", &["nightly"]))
    })
}

/// A host: its name and its labels, as in a config.
pub type Named = (&'static str, &'static str);

/// A line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    pub fence: u64,
    /// Nanoseconds since 1970.
    pub at: u64,
    pub pid: u32,
}

/// Daemons in a fleet, each with its own way to one store.
pub struct Placed {
    folder: tempfile::TempDir,
    hosts: Vec<Named>,
    daemons: BTreeMap<String, Daemon>,
    lease: Duration,
}

impl Placed {
    /// Starts a hub and the hosts, in which leases last for so long.
    pub fn start(hosts: &[Named], lease: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        std::fs::create_dir(at.join("store")).expect("a folder");
        std::fs::create_dir(at.join("plugins")).expect("a folder");
        let plugin = at.join("plugins").join(format!("nightly.cbus{}", std::env::consts::DLL_SUFFIX));
        std::fs::copy(artifact(), plugin).expect("copying the plugin");
        keys(at, "k");
        let mut placed = Self { folder, hosts: hosts.to_vec(), daemons: BTreeMap::new(), lease };
        placed.begin("hub");
        for (host, _) in hosts {
            std::fs::create_dir(placed.at(host)).expect("a folder");
            placed.heal(host);
            placed.begin(host);
        }
        placed
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where controllers that are told to keep a log have it.
    pub fn log(&self) -> String {
        self.at("log").display().to_string()
    }

    /// Starts a host, again or for the first time.
    pub fn begin(&mut self, name: &str) {
        let folder = self.at(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("cbus.yaml"), self.config(name)).expect("writing");
        let plugins = self.at("plugins").display().to_string();
        let arguments = ["cbus.yaml", "--allow-exec", "--isolation", "process", "--plugins", &plugins];
        let daemon = Daemon::start_with(&folder, "run", &arguments, |run| {
            let name = format!("placed-{}-{name}", std::process::id());
            run.env("CBUS_LOG", "info,zenoh=warn").env("CBUS_NAME", name);
        });
        self.daemons.insert(name.to_owned(), daemon);
    }

    fn config(&self, name: &str) -> String {
        let at = self.folder.path().display();
        let labels = self.hosts.iter().find(|(host, _)| *host == name).map(|(_, labels)| labels);
        let (place, offers) = if labels.is_some() { ("connect", "[fleet/placement-hosts]") } else { ("listen", "[]") };
        let fleet = format!(
            "fleet:\n  id: controllerbus/fleet\n  config: {{ name: test, host: {name}, {place}: [\"unix:{at}/hub.sock\"], \
             offers: {offers}, asks: [fleet/placement-hosts] }}\n"
        );
        let Some(labels) = labels else { return fleet };
        format!(
            "{fleet}placement:\n  id: controllerbus/fleet/placement\n  config: {{ store: \"file://{at}/{name}/store\", set: main, host: {name}, \
             labels: {labels}, keys: [\"{at}/k.pub\"], folder: fleet, poll_ms: 300, settle_ms: {}, lease_ms: {} }}\n",
            SETTLE.as_millis(),
            self.lease.as_millis()
        )
    }

    /// Ends a host at once, as the system would.
    pub fn kill(&mut self, name: &str) {
        drop(self.daemons.remove(name).expect("a daemon"));
    }

    /// Takes a host's store away, and nobody else's.
    pub fn cut(&self, name: &str) {
        let _ = std::fs::remove_file(self.at(name).join("store"));
    }

    /// Brings it back.
    pub fn heal(&self, name: &str) {
        let _ = std::os::unix::fs::symlink(self.at("store"), self.at(name).join("store"));
    }

    /// Freezes a daemon, and nothing that it has started; or has it go on.
    pub fn signal(&self, name: &str, signal: &str) {
        send(signal, self.daemons[name].process.id());
    }

    /// Publishes a set.
    pub fn push(&self, text: &str) {
        let at = self.folder.path();
        std::fs::write(at.join("main.yaml"), text).expect("writing");
        crate::fine(at, &["sets", "push", "main.yaml", "--store", &url(at), "--sign", "k.key"]);
    }

    /// Whether a host runs a key.
    pub fn runs(&self, host: &str, key: &str) -> bool {
        let said = self.daemons[host].json(&["controllers"]);
        let configs = said["configs"].as_array().expect("configs");
        configs.iter().any(|config| config["key"] == key && config["state"] == "running")
    }

    /// The hosts that run a key, of those that were not killed.
    pub fn running(&self, key: &str) -> Vec<&'static str> {
        let there = self.hosts.iter().map(|(host, _)| *host).filter(|host| self.daemons.contains_key(*host));
        there.filter(|host| self.runs(host, key)).collect()
    }

    /// The process of a host's plugin, if there is one.
    pub fn plugin(&self, host: &str) -> Option<u32> {
        let plugins = self.daemons[host].json(&["plugins"]);
        let generations = plugins[0]["generations"].as_array()?.clone();
        let serving = generations.iter().find(|found| found["state"] == "serving")?;
        serving["process_id"].as_u64().filter(|pid| *pid > 0).and_then(|pid| u32::try_from(pid).ok())
    }

    /// What a host has said by now.
    pub fn said(&mut self, host: &str) -> String {
        self.daemons.get_mut(host).expect("a daemon").rest()
    }

    /// The log, in which nothing is ever written under a number after a higher one.
    pub fn notes(&self) -> Vec<Note> {
        let text = std::fs::read_to_string(self.at("log")).unwrap_or_default();
        // The last line may be half there.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let notes: Vec<Note> =
            whole.lines().map(|line| note(line).unwrap_or_else(|| panic!("no note: {line}"))).collect();
        for pair in notes.windows(2) {
            let [a, b] = pair else { continue };
            assert!(a.fence <= b.fence, "two ran at a time: {a:?} and after it {b:?}");
            // Two processes that write under one number are two that run it on one host.
            assert!(
                a.fence < b.fence || a.pid == b.pid || !tests::process::runs(a.pid),
                "one number, two processes: {pair:?}"
            );
        }
        notes
    }

    /// The newest line of the log.
    pub fn last(&self) -> Option<Note> {
        self.notes().last().copied()
    }

    /// Waits until something is so.
    pub fn until<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; the last note is {:?}", self.last());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a controller runs under a higher number than this, and writes.
    pub fn above(&self, fence: u64) -> Note {
        self.until(&format!("one with a number above {fence}"), |placed| {
            placed.last().filter(|note| note.fence > fence)
        })
    }

    /// The host that runs what is exclusive, and what it has written last.
    pub fn holder(&self) -> (&'static str, Note) {
        self.until("a host whose plugin writes", |placed| {
            let note = placed.last()?;
            let mut there =
                placed.hosts.iter().map(|(host, _)| *host).filter(|host| placed.daemons.contains_key(*host));
            Some((there.find(|host| placed.plugin(host) == Some(note.pid))?, note))
        })
    }
}

/// For how long a host may be out of reach before others run what it ran.
pub const SETTLE: Duration = Duration::from_millis(1500);

fn note(line: &str) -> Option<Note> {
    let mut parts = line.split(' ');
    let mut next = || parts.next();
    Some(Note { fence: next()?.parse().ok()?, at: next()?.parse().ok()?, pid: next()?.parse().ok()? })
}

/// Sends a signal to a process; nothing happens if it has ended.
pub fn send(signal: &str, pid: u32) {
    let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(std::process::Stdio::null()).status();
}

impl Drop for Placed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hosts: Vec<String> = self.daemons.keys().cloned().collect();
            for host in hosts {
                println!("{host} has said:\n{}", self.said(&host));
            }
        }
    }
}

//! What a process-hosted plugin may use, and how it is watched and restarted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use controllerbus::Schema;
use serde::{Deserialize, Serialize};

/// Where a plugin runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Isolation {
    /// In the host's process: fast, and trusted like the host itself.
    #[default]
    None,
    /// In a process of its own: its crash is an event, not the host's end.
    Process,
}

impl std::str::FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "process" => Ok(Self::Process),
            other => Err(format!("`{other}` is no isolation; use `none` or `process`")),
        }
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Process => "process",
        })
    }
}

/// How a process-hosted plugin is run. The default limits what it can take from the host, not from the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProcessOptions {
    /// What it may use.
    pub limits: Limits,
    /// Variables of the host's environment that it gets, besides `PATH`, `LD_LIBRARY_PATH`, `HOME`, `TMPDIR`, `TZ`,
    /// `LANG`, `LC_*` and `RUST_BACKTRACE`. Everything else is kept from it.
    pub pass_env: Vec<String>,
    /// Variables of its own.
    pub env: BTreeMap<String, String>,
    /// Its working folder; the host's unless set.
    pub working_dir: Option<PathBuf>,
    /// Which files and networks it may reach; all that the host may unless set. Linux only (Landlock).
    pub sandbox: Option<Sandbox>,
    /// How long its threads may leave a heartbeat unanswered before it is killed and restarted, in milliseconds.
    pub watchdog_ms: u64,
    /// The longest time from a crash to the next start, in milliseconds. The first start is at once; each further crash
    /// within ten seconds doubles the time.
    pub backoff_ms: u64,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            pass_env: Vec::new(),
            env: BTreeMap::new(),
            working_dir: None,
            sandbox: None,
            watchdog_ms: 10_000,
            backoff_ms: 30_000,
        }
    }
}

impl ProcessOptions {
    /// Sets what it may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Passes on a variable of the host's environment.
    #[must_use]
    pub fn pass_env(mut self, name: impl Into<String>) -> Self {
        self.pass_env.push(name.into());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets its working directory.
    #[must_use]
    pub fn working_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(path.into());
        self
    }

    /// Restricts which files and networks it can reach.
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Sets how long a heartbeat may go unanswered before the process is killed and restarted, to the millisecond.
    #[must_use]
    pub fn watchdog(mut self, limit: Duration) -> Self {
        self.watchdog_ms = whole_millis(limit);
        self
    }

    /// Sets the longest time from a crash to the next start, to the millisecond.
    #[must_use]
    pub fn backoff(mut self, longest: Duration) -> Self {
        self.backoff_ms = whole_millis(longest);
        self
    }

    pub(crate) fn watchdog_time(&self) -> Duration {
        Duration::from_millis(self.watchdog_ms.max(10))
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a plugin's process may use. `None` is no limit but the host's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Address space in bytes (`RLIMIT_AS`): an allocation above it fails, and the plugin with it. Threads reserve more
    /// of it than they use, so leave 512 MiB for those.
    pub memory: Option<u64>,
    /// Open files (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// Processor time in seconds (`RLIMIT_CPU`), from each start on.
    pub cpu_seconds: Option<u64>,
    /// Processes and threads at a time, where a control group is delegated to the host.
    pub processes: Option<u64>,
    /// Bytes of values that may stand on the host's bus at a time; a plugin that floods is killed and restarted.
    pub standing_values: u64,
    /// Directives of the host's bus that it may refer to at a time; further ones fail.
    pub requests: u64,
    /// Bytes of one message: a value, a directive, a config or a state.
    pub message: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: None,
            open_files: None,
            cpu_seconds: None,
            processes: None,
            standing_values: 256 << 20,
            requests: 100_000,
            message: 64 << 20,
        }
    }
}

impl Limits {
    /// Limits the address space, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Limits the number of open files.
    #[must_use]
    pub fn open_files(mut self, files: u64) -> Self {
        self.open_files = Some(files);
        self
    }

    /// Limits the processor time, in seconds from each start.
    #[must_use]
    pub fn cpu_seconds(mut self, seconds: u64) -> Self {
        self.cpu_seconds = Some(seconds);
        self
    }

    /// Limits the number of processes and threads, where a control group is delegated to the host.
    #[must_use]
    pub fn processes(mut self, processes: u64) -> Self {
        self.processes = Some(processes);
        self
    }

    /// Limits the bytes of the values on the host's bus.
    #[must_use]
    pub fn standing_values(mut self, bytes: u64) -> Self {
        self.standing_values = bytes;
        self
    }

    /// Limits the number of references to directives of the host's bus.
    #[must_use]
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// Limits the bytes of one message.
    #[must_use]
    pub fn message(mut self, bytes: u64) -> Self {
        self.message = bytes;
        self
    }
}

/// Which files and networks a plugin may reach. The system's libraries, time zones, certificates and what name resolution
/// reads can always be read, and nothing else of `/etc` and `/usr`. From Linux 6.12 on it sends no signals to processes that
/// it has not started, and reaches no abstract sockets of theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Sandbox {
    /// Files and folders that it may read and execute, such as `/usr/bin` for one that starts programs.
    pub read: Vec<PathBuf>,
    /// Files and folders that it may read, write, create and remove.
    pub write: Vec<PathBuf>,
    /// Whether it may connect and listen on TCP and UDP.
    pub network: bool,
    /// Whether it may connect to and listen on Unix sockets. Those of the file system are beyond the rules for files: whatever
    /// listens there for this user can be asked, a session bus, a container engine, the daemon's own API.
    pub unix_sockets: bool,
}

impl Sandbox {
    /// Lets it read and execute a file, or what is in a folder.
    #[must_use]
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Lets it read, write, create and remove a file, or what is in a folder.
    #[must_use]
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Lets it use TCP and UDP, or not.
    #[must_use]
    pub fn network(mut self, allowed: bool) -> Self {
        self.network = allowed;
        self
    }

    /// Lets it use Unix sockets, or not.
    #[must_use]
    pub fn unix_sockets(mut self, allowed: bool) -> Self {
        self.unix_sockets = allowed;
        self
    }
}

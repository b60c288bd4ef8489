//! What a process-hosted plugin may use, and how it is watched and restarted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use controllerbus::Schema;
use serde::{Deserialize, Serialize};

/// Where a plugin runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(rename_all = "lowercase")]
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
    pub(crate) fn watchdog(&self) -> Duration {
        Duration::from_millis(self.watchdog_ms.max(10))
    }
}

/// What a plugin's process may use. `None` is no limit but the host's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
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

/// Which files and networks a plugin may reach. The system's libraries, time zones, certificates and what name resolution
/// reads can always be read, and nothing else of `/etc` and `/usr`. From Linux 6.12 on it sends no signals to processes that
/// it has not started, and reaches no abstract sockets of theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
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

//! Where a plugin runs, what a process-hosted one may use, and how it is monitored and restarted.

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
    /// In a process of its own: if it crashes, the host keeps running.
    Process,
}

impl std::str::FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "process" => Ok(Self::Process),
            other => Err(format!("`{other}` is not an isolation mode; use `none` or `process`")),
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

/// How a process-hosted plugin runs. The default limits what it can take from the host, not from the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProcessOptions {
    /// What it may use.
    pub limits: Limits,
    /// Variables of the host's environment to pass on, besides `PATH`, `LD_LIBRARY_PATH`, `HOME`, `TMPDIR`, `TZ`,
    /// `LANG`, `LC_*` and `RUST_BACKTRACE`. No others are passed on.
    pub pass_env: Vec<String>,
    /// Additional environment variables.
    pub env: BTreeMap<String, String>,
    /// Its working directory; the host's unless set.
    pub working_dir: Option<PathBuf>,
    /// Which files and networks it can reach; the same as the host unless set. Linux only (Landlock).
    pub sandbox: Option<Sandbox>,
    /// How long a heartbeat may go unanswered before the process is killed and restarted; in text, in milliseconds.
    #[serde(rename = "watchdog_ms", with = "crate::util::whole_millis")]
    #[config(schema = u64)]
    pub watchdog: Duration,
    /// The longest delay before a restart; in text, in milliseconds. The first restart is immediate; each further crash
    /// within ten seconds doubles the delay.
    #[serde(rename = "backoff_ms", with = "crate::util::whole_millis")]
    #[config(schema = u64)]
    pub backoff: Duration,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            pass_env: Vec::new(),
            env: BTreeMap::new(),
            working_dir: None,
            sandbox: None,
            watchdog: Duration::from_secs(10),
            backoff: Duration::from_secs(30),
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

    /// Sets how long a heartbeat may go unanswered before the process is killed and restarted.
    #[must_use]
    pub fn watchdog(mut self, limit: Duration) -> Self {
        self.watchdog = limit;
        self
    }

    /// Sets the longest time from a crash to the next start.
    #[must_use]
    pub fn backoff(mut self, longest: Duration) -> Self {
        self.backoff = longest;
        self
    }

    pub(crate) fn watchdog_time(&self) -> Duration {
        self.watchdog.max(Duration::from_millis(10))
    }
}

/// Limits of a plugin's process. `None` means the host's own limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Address space in bytes (`RLIMIT_AS`): an allocation beyond it fails, and the plugin with it. Threads reserve
    /// more than they use, so allow 512 MiB for them.
    pub memory: Option<u64>,
    /// Open files (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// Processor time in seconds (`RLIMIT_CPU`), counted from each start.
    pub cpu_seconds: Option<u64>,
    /// Processes and threads at any time, where a control group is delegated to the host.
    pub processes: Option<u64>,
    /// Bytes of values on the host's bus at any time; a plugin that exceeds this is killed and restarted.
    pub standing_values: u64,
    /// References to directives of the host's bus at any time; further requests fail.
    pub requests: u64,
    /// Bytes of one message: a value, directive, config or state.
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

/// Which files and networks a plugin can reach. It can always read the system's libraries, time zones, certificates and
/// name resolution files, but nothing else in `/etc` and `/usr`. From Linux 6.12, it cannot signal processes that it
/// has not started, nor reach their abstract sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Sandbox {
    /// Files and directories that it may read and execute, such as `/usr/bin` for a plugin that runs programs.
    pub read: Vec<PathBuf>,
    /// Files and directories that it may read, write, create and remove.
    pub write: Vec<PathBuf>,
    /// Whether it may use TCP and UDP.
    pub network: bool,
    /// Whether it may use Unix sockets. Those in the file system are not subject to the rules for files: it can then
    /// reach everything that listens for this user, such as a session bus, a container engine or the daemon's own API.
    pub unix_sockets: bool,
}

impl Sandbox {
    /// Lets it read and execute a file, or what is in a directory.
    #[must_use]
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Lets it read, write, create and remove a file, or what is in a directory.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_in_text_and_in_the_schema() {
        let options = ProcessOptions::default().watchdog(Duration::from_millis(1500));
        let text = serde_json::to_value(&options).expect("it is written");
        assert_eq!((&text["watchdog_ms"], &text["backoff_ms"]), (&1500.into(), &30_000.into()));
        assert_eq!(serde_json::from_value::<ProcessOptions>(text).expect("it is read"), options);
        let schema = <ProcessOptions as Schema>::NODE.to_json();
        let schema: serde_json::Value = serde_json::from_str(&schema).expect("a schema");
        assert_eq!(schema["properties"]["watchdog_ms"]["type"], "integer", "{schema}");
    }
}

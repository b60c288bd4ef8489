//! The daemons: `cbus` as processes, each with its config file, its plugins and its socket.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::{Error, Result};

/// How long a daemon may take to listen. The machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

const AGAIN: Duration = Duration::from_millis(20);

/// Where everything of this run is.
pub struct Place {
    pub cbus: PathBuf,
    pub folder: PathBuf,
}

/// A daemon. It ends when this is dropped.
pub struct Daemon {
    name: String,
    process: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Starts one with a config, and waits until its API listens.
    pub async fn start(place: &Place, name: &str, config: &str) -> Result<Self> {
        let folder = place.folder.join(name);
        fs::create_dir_all(folder.join("plugins"))?;
        fs::write(folder.join("cbus.yaml"), config)?;
        // What a daemon that was killed has left behind.
        let socket = folder.join("api.sock");
        let _ = fs::remove_file(&socket);
        let log = File::options().create(true).append(true).open(folder.join("log"))?;
        let mut command = Command::new(&place.cbus);
        command.args(["run", "cbus.yaml", "--plugins", "plugins", "--allow-exec", "--listen"]);
        command.arg(format!("unix:{}", socket.display())).current_dir(&folder);
        command.env("CBUS_WORK_DIR", folder.join("work")).env("XDG_RUNTIME_DIR", &place.folder);
        for name in
            ["CBUS_CONFIG", "CBUS_NAME", "CBUS_PLUGINS", "CBUS_TOKEN_FILE", "CBUS_API_TOKEN_FILE", "CBUS_LOG_FORMAT"]
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let process = command.spawn().map_err(|error| format!("cannot run {}: {error}", place.cbus.display()))?;
        let mut daemon = Self { name: name.to_owned(), process, folder };
        let listens = async {
            while tokio::net::UnixStream::connect(&socket).await.is_err() {
                if let Some(status) = daemon.process.try_wait()? {
                    return Err(daemon.wrong(&format!("ended with {status}")));
                }
                tokio::time::sleep(AGAIN).await;
            }
            Ok(())
        };
        match tokio::time::timeout(LIMIT, listens).await {
            Ok(listens) => listens?,
            Err(_) => return Err(daemon.wrong(&format!("does not listen after {} s", LIMIT.as_secs()))),
        }
        Ok(daemon)
    }

    /// An error about it, with the end of its log.
    pub fn wrong(&self, what: &str) -> Error {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
        format!("the daemon `{}` {what}; its log ends with:\n  {last}", self.name).into()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    pub fn process_id(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }

    /// Ends it at once, as the system would, without a word to anybody.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

/// Puts a plugin file into a daemon's folder, in one step.
pub fn put(place: &Place, name: &str, plugin: &Path) -> Result<()> {
    let folder = place.folder.join(name).join("plugins");
    fs::create_dir_all(&folder)?;
    let part = folder.join(".part");
    fs::copy(plugin, &part)?;
    fs::rename(&part, folder.join("greeter.cbus.so"))?;
    Ok(())
}

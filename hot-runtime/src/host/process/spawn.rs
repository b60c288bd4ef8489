//! Starts plugin hosts, all from one thread that lives as long as the process.
//!
//! Linux signals a child when the *thread* that started it ends (PR_SET_PDEATHSIG): unlike threads of a runtime's
//! pools, this one does not.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::MARKER;
use crate::sys::process::own_group;

/// What a plugin host is started with.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    /// What process lists show.
    pub(super) title: String,
    pub(super) env: BTreeMap<String, String>,
    pub(super) pass_env: Vec<String>,
    pub(super) working_dir: Option<PathBuf>,
}

/// The host's variables that a plugin host always gets.
const PASSED: [&str; 7] = ["PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "TZ", "LANG", "RUST_BACKTRACE"];

impl Launch {
    fn command(&self, socket: OwnedFd) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("plugin-host").arg0(&self.title).env_clear();
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let named = self.pass_env.iter().any(|passed| *passed == text);
            if named || PASSED.contains(&text.as_ref()) || text.starts_with("LC_") {
                command.env(&name, value);
            }
        }
        command.envs(&self.env).env(MARKER, "stdin");
        if let Some(folder) = &self.working_dir {
            command.current_dir(folder);
        }
        command.stdin(Stdio::from(socket)).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A process group of its own can be killed with everything in it, and does not get a terminal's Ctrl-C.
        command.kill_on_drop(true);
        own_group(&mut command);
        command
    }
}

type Job = Box<dyn FnOnce() + Send>;

fn spawner() -> std::io::Result<Sender<Job>> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender.lock().unwrap_or_else(PoisonError::into_inner).clone());
    }
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new().name("plugin-spawner".to_owned()).spawn(move || {
        for job in jobs {
            job();
        }
    })?;
    // If two threads race here, one of the started threads ends because its sender is dropped.
    Ok(SPAWNER.get_or_init(|| Mutex::new(sender)).lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Starts a plugin host; returns it with the runtime's end of its socket. Must be called inside a tokio runtime.
pub(super) async fn spawn(launch: Launch) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let (answer, spawned) = oneshot::channel();
    let runtime = Handle::current();
    let job = move || {
        let _runtime = runtime.enter();
        let _ = answer.send(launch.command(theirs.into()).spawn());
    };
    let closed = || std::io::Error::other("the thread that starts plugin hosts has ended");
    spawner()?.send(Box::new(job)).map_err(|_| closed())?;
    Ok((spawned.await.map_err(|_| closed())??, ours))
}

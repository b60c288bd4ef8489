//! A control group for each plugin's process, where one is delegated to the host: it limits memory and processes in
//! total, and everything that the plugin has started ends with it, even in another process group or session.
//!
//! The delegated group is the one that the variable `CBUS_CGROUP` names or, under systemd with `Delegate=yes`, the
//! unit's own: with `DelegateSubgroup=` the parent of this process's group, which has no processes of its own and so
//! can set limits.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::options::Limits;
use crate::util::text_of;

/// A plugin's group. Dropping it kills everything in it and removes it.
pub(super) struct Cgroup {
    dir: PathBuf,
    /// The limits that are set.
    pub(super) limits: Vec<&'static str>,
}

impl Cgroup {
    /// Creates a group for a plugin; `None` if no group is delegated.
    ///
    /// # Errors
    /// Why it cannot be created.
    pub(super) fn make(name: &str, limits: &Limits) -> io::Result<Option<Self>> {
        let Some(parent) = delegated() else { return Ok(None) };
        remove_abandoned(&parent);
        let dir = parent.join(format!("cbus-{}-{}", std::process::id(), crate::util::slug(name)));
        std::fs::create_dir(&dir)?;
        let mut made = Self { dir, limits: Vec::new() };
        // This works only if the parent group has no processes of its own.
        let _ = std::fs::write(parent.join("cgroup.subtree_control"), "+memory +pids");
        if let Some(bytes) = limits.memory
            && made.set("memory.max", bytes)
        {
            made.set("memory.oom.group", 1);
            made.limits.push("memory");
        }
        if let Some(count) = limits.processes
            && made.set("pids.max", count)
        {
            made.limits.push("processes");
        }
        Ok(Some(made))
    }

    fn set(&self, file: &str, value: u64) -> bool {
        std::fs::write(self.dir.join(file), value.to_string()).is_ok()
    }

    /// Moves a process into it, before any of the plugin's code runs there.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        std::fs::write(self.dir.join("cgroup.procs"), process.to_string())
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) {
        kill(&self.dir);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        let dir = std::mem::take(&mut self.dir);
        // It may take a moment, and must not block the task that drops it.
        drop(std::thread::Builder::new().name("cgroup".to_owned()).spawn(move || remove(&dir)));
    }
}

fn kill(dir: &Path) {
    let _ = std::fs::write(dir.join("cgroup.kill"), "1");
}

/// Removes an empty group; a later host removes one that is not empty yet.
fn remove(dir: &Path) {
    for _ in 0..20 {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                // Killed processes are gone in a moment, but there is nothing to wait on.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            _ => return,
        }
    }
}

/// Kills and removes what killed hosts have left behind.
fn remove_abandoned(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let host = name.strip_prefix("cbus-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if host.is_some_and(|host| !Path::new("/proc").join(host.to_string()).exists()) {
            kill(&entry.path());
            remove(&entry.path());
        }
    }
}

/// The group that is delegated to this process.
fn delegated() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CBUS_CGROUP") {
        return Some(PathBuf::from(named)).filter(|dir| dir.join("cgroup.procs").is_file());
    }
    let mounts = text_of("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let groups = text_of("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = Path::new(mount).join(own);
    [own.parent(), Some(own.as_path())].into_iter().flatten().find(|dir| is_delegated(dir)).map(Path::to_owned)
}

/// Whether systemd has marked a group as delegated.
fn is_delegated(dir: &Path) -> bool {
    let mut value = [0_u8; 8];
    ["user.delegate", "trusted.delegate"]
        .iter()
        .any(|name| rustix::fs::getxattr(dir, *name, &mut value).is_ok_and(|length| value[..length].starts_with(b"1")))
}

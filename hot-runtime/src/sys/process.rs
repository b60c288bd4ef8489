//! Process groups, to kill a process with everything that it started.

use tokio::process::Command;

/// Gives a command a process group of its own, where the system has them.
pub(crate) fn own_group(command: &mut Command) {
    #[cfg(unix)]
    command.process_group(0);
    let _ = command;
}

/// Kills all of a process group, by its leader's number: while the leader has not been waited for, or right after,
/// before another process gets its number.
///
/// # Errors
/// The system's error. Without process groups it does nothing.
pub(crate) fn kill_group(leader: u32) -> std::io::Result<()> {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
    }
    let _ = leader;
    Ok(())
}

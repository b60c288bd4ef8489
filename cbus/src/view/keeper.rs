//! Restores the terminal however the process of the live view ends.
//!
//! A plugin's abort or invalid memory access kills the process it runs in, which then cannot restore the terminal itself. So
//! `cbus dev` starts a second process of itself for the view, and waits for it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::ExitStatus;

use miette::{IntoDiagnostic, Result};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::{report, text};

/// How many lines of it are printed if the process ends unexpectedly.
const LINES: usize = 20;

/// Runs `cbus dev` with its view in another process, and exits with the same status.
///
/// # Errors
/// The process could not be started.
pub async fn run() -> Result<std::convert::Infallible> {
    let terminal = Kept::of_the_terminal();
    let words = NamedTempFile::with_prefix("cbus-dev-").into_diagnostic()?;
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(std::env::current_exe().into_diagnostic()?);
    command.args(arguments.next()).arg("--last-words").arg(words.path()).args(arguments);
    let mut process = command.spawn().into_diagnostic()?;
    let pid = process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let pass_on = |signal| pid.map(|pid| kill_process(pid, signal));
    let listen = |kind| signal(kind).into_diagnostic();
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    // The terminal sends these to both processes.
    let (mut interrupt, mut quit) = (listen(SignalKind::interrupt())?, listen(SignalKind::quit())?);
    let status = loop {
        tokio::select! {
            status = process.wait() => break status.into_diagnostic()?,
            _ = terminate.recv() => drop(pass_on(Signal::TERM)),
            _ = hang_up.recv() => drop(pass_on(Signal::HUP)),
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    };
    let code = end(terminal, words.path(), status);
    // Nothing is dropped after this.
    let _ = words.close();
    std::process::exit(code)
}

/// Makes this process, which shows the view, receive SIGTERM when its keeper is gone.
pub fn end_with_it() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
}

/// Restores the terminal if the process has not, reports why it ended if it did not itself, and returns the exit status.
fn end(terminal: Option<Kept>, words: &Path, status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let left = terminal.is_some_and(Kept::put_back);
    if left || status.signal().is_some() {
        let said = tail(words).unwrap_or_default();
        if !said.is_empty() {
            eprintln!("Last output:\n{said}");
        }
        report::failed(&report::report(
            format!("cbus dev ended unexpectedly: it was {}", hot_runtime::ending(status)),
            "code in this process ended it; with --isolation process, each plugin runs in its own process",
        ));
    }
    // As shells report it.
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()).max(i32::from(left))
}

/// The terminal's original settings.
struct Kept {
    terminal: File,
    settings: Termios,
}

impl Kept {
    fn of_the_terminal() -> Option<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let settings = tcgetattr(&terminal).ok()?;
        Some(Self { terminal, settings })
    }

    /// Restores the settings; returns whether that was necessary.
    fn put_back(mut self) -> bool {
        let changed = tcgetattr(&self.terminal).is_ok_and(|now| {
            (now.local_modes, now.input_modes) != (self.settings.local_modes, self.settings.input_modes)
        });
        if changed {
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.settings);
            // The original screen, no colours, and the cursor.
            let _ = self.terminal.write_all(b"\x1b[?1049l\x1b[0m\x1b[?25h");
        }
        changed
    }
}

/// The last lines of a file.
fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
    let mut bytes = Vec::new();
    file.take(16 << 10).read_to_end(&mut bytes)?;
    let text = text::plain(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LINES)..].join("\n"))
}

//! A plugin host's output: it is passed on as it comes, and the last lines are kept for a crash report.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinHandle;

use crate::output::{self, To};
use crate::text::coloured_text;

/// How many lines to keep, and how many bytes of each.
const LINES: usize = 20;
const LENGTH: usize = 1000;

/// How long to read a dead process's output; a process that it started may keep it open.
const PATIENCE: Duration = Duration::from_millis(200);

type Last = Arc<Mutex<VecDeque<String>>>;

/// The output of one process.
pub(super) struct Output {
    last: Last,
    readers: Vec<JoinHandle<()>>,
}

impl Output {
    /// Takes over a process's standard output and standard error.
    pub(super) fn of(child: &mut Child) -> Self {
        let last = Last::default();
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(pass_on(stdout, Arc::clone(&last), To::Stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(pass_on(stderr, Arc::clone(&last), To::Stderr)));
        }
        Self { last, readers }
    }

    /// The last lines, once the process has ended.
    pub(super) async fn last_lines(self) -> Vec<String> {
        for mut reader in self.readers {
            if tokio::time::timeout(PATIENCE, &mut reader).await.is_err() {
                reader.abort();
            }
        }
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// How long a line may be before it is split.
const PIECE: usize = 16 << 10;

fn print(to: To, line: &[u8]) {
    let colours = match to {
        To::Stdout => std::io::stdout().is_terminal(),
        To::Stderr => std::io::stderr().is_terminal(),
    };
    // Whatever a plugin prints can do nothing to the terminal but colour its own line.
    output::print(to, coloured_text(&String::from_utf8_lossy(line), colours));
}

async fn pass_on(mut from: impl AsyncRead + Unpin, last: Last, to: To) {
    let mut chunk = vec![0; 8192];
    let mut line = Vec::new();
    let keep = |line: &mut Vec<u8>| {
        print(to, line);
        line.truncate(LENGTH);
        let text = String::from_utf8_lossy(line).into_owned();
        line.clear();
        if is_of_a_backtrace(&text) {
            return;
        }
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LINES {
            last.pop_front();
        }
        last.push_back(text);
    };
    while let Ok(read) = from.read(&mut chunk).await {
        if read == 0 {
            break;
        }
        for byte in &chunk[..read] {
            match byte {
                b'\n' => keep(&mut line),
                _ => line.push(*byte),
            }
            if line.len() >= PIECE {
                keep(&mut line);
            }
        }
    }
    if !line.is_empty() {
        keep(&mut line);
    }
}

/// Whether a line is part of std's backtrace, which would push the reason of a crash out of the last lines.
fn is_of_a_backtrace(line: &str) -> bool {
    let inside = line.trim_start();
    if inside.len() == line.len() {
        return line == "stack backtrace:" || line.starts_with("note: Some details are omitted");
    }
    let number = inside.trim_start_matches(|c: char| c.is_ascii_digit());
    inside.starts_with("at ") || (number.len() < inside.len() && number.starts_with(": "))
}

/// Describes how a process ended: `killed by SIGSEGV, a bad memory access (signal 11)`.
pub fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => match signal_name(signal) {
            Some(name) => format!("killed by {name} (signal {signal})"),
            None => format!("killed by signal {signal}"),
        },
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    use rustix::process::Signal;
    const NAMES: [(Signal, &str); 13] = [
        (Signal::SEGV, "SIGSEGV, a bad memory access"),
        (Signal::ABORT, "SIGABRT, an abort"),
        (Signal::KILL, "SIGKILL, from outside or for want of memory"),
        (Signal::BUS, "SIGBUS, a bad memory access"),
        (Signal::ILL, "SIGILL, an illegal instruction"),
        (Signal::FPE, "SIGFPE, an arithmetic fault"),
        (Signal::SYS, "SIGSYS, a forbidden system call"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::XCPU, "SIGXCPU, its processor time is used up"),
        (Signal::XFSZ, "SIGXFSZ, a file grew too large"),
    ];
    NAMES.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name)
}

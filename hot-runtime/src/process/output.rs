//! What a plugin host prints: passed on as it comes, with the last lines kept for the report of a crash.

use std::collections::VecDeque;
use std::io::Write;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinHandle;

/// How many lines are kept, and how many bytes of each.
const LINES: usize = 20;
const LENGTH: usize = 1000;

/// How long a dead process's output may take to be read; a process that it started may hold it open.
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
            readers.push(tokio::spawn(pass_on(stdout, Arc::clone(&last), |line| {
                let _ = std::io::stdout().lock().write_all(line);
            })));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(pass_on(stderr, Arc::clone(&last), |line| {
                let _ = std::io::stderr().lock().write_all(line);
            })));
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

async fn pass_on(mut from: impl AsyncRead + Unpin, last: Last, write: fn(&[u8])) {
    let mut chunk = vec![0; 8192];
    let mut line = Vec::new();
    let keep = |line: &mut Vec<u8>| {
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
        write(&chunk[..read]);
        for byte in &chunk[..read] {
            match byte {
                b'\n' => keep(&mut line),
                _ if line.len() < LENGTH => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        keep(&mut line);
    }
}

/// Whether std's backtrace has printed this line: with `RUST_BACKTRACE` set it would push the reason out of the last lines.
fn is_of_a_backtrace(line: &str) -> bool {
    let inside = line.trim_start();
    if inside.len() == line.len() {
        return line == "stack backtrace:" || line.starts_with("note: Some details are omitted");
    }
    let number = inside.trim_start_matches(|c: char| c.is_ascii_digit());
    inside.starts_with("at ") || (number.len() < inside.len() && number.starts_with(": "))
}

/// How a process ended, in words.
pub(super) fn ending(status: ExitStatus) -> String {
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

//! Runs a compiler in a process group of its own, so that it can be stopped with everything that it started.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::sys::process::{kill_group, own_group};

/// How a process ended.
pub(crate) enum Ended<T> {
    /// By itself.
    Exited(std::process::ExitStatus),
    /// It was stopped, for this reason.
    Stopped(T),
}

/// Gives a command pipes and a process group of its own.
pub(crate) fn prepare(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    own_group(command);
}

/// Which of a process's outputs is read line by line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// Standard output; the other one is collected.
    Stdout,
    /// Standard error; the other one is collected.
    Stderr,
}

/// Passes each line of one output to `line` as it comes, collects the other output, and waits for the process to end.
/// If `stop` completes first, the whole process group is killed.
pub(crate) async fn run<T>(
    mut child: Child,
    lines: Lines,
    mut line: impl FnMut(&[u8]),
    stop: impl Future<Output = T>,
) -> std::io::Result<(Ended<T>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut kept = Vec::new();
    let reading = async {
        match lines {
            Lines::Stdout => tokio::join!(each_line(stdout, &mut line), keep(stderr, &mut kept)),
            Lines::Stderr => tokio::join!(each_line(stderr, &mut line), keep(stdout, &mut kept)),
        };
        child.wait().await
    };
    let stopped = tokio::select! {
        biased;
        status = reading => return Ok((Ended::Exited(status?), kept)),
        reason = stop => reason,
    };
    kill(&mut child).await;
    Ok((Ended::Stopped(stopped), kept))
}

async fn each_line(from: Option<impl tokio::io::AsyncRead + Unpin>, line: &mut impl FnMut(&[u8])) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut text = Vec::new();
    while from.read_until(b'\n', &mut text).await.is_ok_and(|read| read > 0) {
        line(&text);
        text.clear();
    }
}

async fn keep(from: Option<impl tokio::io::AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    if let Some(mut from) = from {
        // Unreadable output is only missing from a message.
        let _ = from.read_to_end(kept).await;
    }
}

/// Kills a process and its whole group, linkers included, and waits for it to end.
async fn kill(child: &mut Child) {
    if let Some(leader) = child.id()
        && let Err(error) = kill_group(leader)
    {
        tracing::warn!(%error, "cannot kill the compiler's process group; killing only the compiler");
    }
    let _ = child.kill().await;
}

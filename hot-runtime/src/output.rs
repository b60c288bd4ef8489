//! This process's standard outputs, written by a thread that does nothing else.
//!
//! A terminal that is stopped, or a pipe that nobody reads, blocks whoever writes to it. Here that is one thread: what
//! it can't write in time waits, and beyond a limit is dropped and counted.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// One of the process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Standard output.
    #[cfg(feature = "process")]
    Stdout,
    /// Standard error.
    Stderr,
}

/// How many lines may wait to be written.
const WAITING: usize = 256;

static LINES: LazyLock<Lines> = LazyLock::new(|| {
    Lines::written_by(|to, line| {
        // Without that output there is nobody to tell.
        let _ = match to {
            #[cfg(feature = "process")]
            To::Stdout => writeln!(std::io::stdout(), "{line}"),
            To::Stderr => writeln!(std::io::stderr(), "{line}"),
        };
    })
});

/// Prints a line, now or soon. Never blocks.
pub(crate) fn print(to: To, line: String) {
    LINES.print(to, line);
}

/// Waits until what was printed is written, for as long as a reader that reads can need.
pub(crate) async fn written() {
    // Nothing was printed yet: no thread is needed to know that it is written.
    if LazyLock::get(&LINES).is_some() {
        LINES.written(Duration::from_secs(1)).await;
    }
}

enum Job {
    Line(To, String),
    Written(tokio::sync::oneshot::Sender<()>),
}

struct Lines {
    jobs: SyncSender<Job>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    fn written_by(write: impl FnMut(To, &str) + Send + 'static) -> Self {
        let (jobs, waiting) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        // Without the thread the lines are dropped.
        let _ = std::thread::Builder::new()
            .name("plugin-output".to_owned())
            .spawn(move || write_all(&waiting, &counted, write));
        Self { jobs, lost }
    }

    fn print(&self, to: To, line: String) {
        if self.jobs.try_send(Job::Line(to, line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn written(&self, limit: Duration) {
        let asking = async {
            let (done, written) = tokio::sync::oneshot::channel();
            let mut job = Job::Written(done);
            // While the writer is behind, there is no place for one more.
            while let Err(TrySendError::Full(back)) = self.jobs.try_send(job) {
                job = back;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = written.await;
        };
        let _ = tokio::time::timeout(limit, asking).await;
    }
}

fn write_all(waiting: &Receiver<Job>, lost: &AtomicU64, mut write: impl FnMut(To, &str)) {
    for job in waiting {
        if let Job::Line(to, line) = &job {
            write(*to, line);
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            write(To::Stderr, &format!("({lost} lines were dropped: they came faster than they could be printed)"));
        }
        if let Job::Written(done) = job {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn an_output_that_nobody_reads_blocks_nobody_and_what_is_dropped_is_counted() {
        let (go_on, reads) = channel::<()>();
        let written = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&written);
        let lines = Lines::written_by(move |_, line| {
            // As a pipe that is full, until somebody reads.
            let _ = reads.recv();
            into.lock().expect("nobody panics").push(line.to_owned());
        });
        let all = WAITING + 100;
        for number in 0..all {
            lines.print(To::Stderr, number.to_string());
        }
        // Neither does this wait for longer than its limit.
        lines.written(Duration::from_millis(10)).await;
        drop(go_on);
        // The first line makes place for one that asks.
        while lines.jobs.try_send(Job::Line(To::Stderr, "end".to_owned())).is_err() {
            tokio::task::yield_now().await;
        }
        lines.written(Duration::from_secs(60)).await;
        let written = written.lock().expect("nobody panics");
        let (said, kept): (Vec<_>, Vec<_>) = written.iter().partition(|line| line.starts_with('('));
        let dropped: usize = said.iter().filter_map(|line| line[1..].split(' ').next()?.parse::<usize>().ok()).sum();
        assert_eq!(kept.len() - 1 + dropped, all, "{written:?}");
        assert!(dropped >= 99 && kept[0] == "0" && kept[1] == "1", "{written:?}");
    }
}

//! Watches files: one watcher for any number of followers.
//!
//! A [`Watcher`] requests the system's events for just the directories in which a watched path is, or would appear, and
//! never recursively. A path that does not exist is watched in its nearest existing parent, and a path through links
//! wherever one of them could change (`places.rs`). Folders that are removed and come back are watched again.
//!
//! Events are hints, and may be lost: a queue overflows, the system runs out of watches, a file system does not report
//! what others write to it. So the stamps of all watched paths are checked whenever the system reports lost events, and
//! from time to time without that (`task.rs`). If such a check finds a change without an event, this is logged once,
//! with how to notice such changes sooner: [`Watcher::polling`].

mod places;
mod task;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use task::{Message, Task};

/// A watched path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Watched {
    /// A file: its content, or its appearance.
    File(PathBuf),
    /// A directory: its entries and their contents, but not those of directories in it.
    Folder(PathBuf),
}

impl Watched {
    /// The path.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::File(path) | Self::Folder(path) => path,
        }
    }
}

/// A possible change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The watched paths that may have changed; empty if events were lost, so that it may be any of them.
    pub paths: Vec<PathBuf>,
    /// When it was noticed.
    pub at: Instant,
}

/// Watches files for any number of followers. Cheap to clone; watching ends with the last clone and the last follower.
#[derive(Clone, Debug)]
pub struct Watcher(Arc<Sender>);

#[derive(Debug)]
struct Sender(mpsc::Sender<Message>);

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.send(Message::End);
    }
}

impl Default for Watcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Watcher {
    /// A watcher that uses the system's events. If there are none, it polls once a second and logs why.
    #[must_use]
    pub fn new() -> Self {
        Self::start(None)
    }

    /// A watcher that polls the stamps of all watched paths at this interval: for file systems without events, such as
    /// network mounts and directories shared with a container or a virtual machine.
    #[must_use]
    pub fn polling(every: Duration) -> Self {
        Self::start(Some(every))
    }

    fn start(polling: Option<Duration>) -> Self {
        let (sender, messages) = mpsc::channel();
        let task = Task::new(polling, &sender);
        let spawned = std::thread::Builder::new().name("cbus-watch".to_owned()).spawn(move || task.run(&messages));
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start the watcher's thread; nothing is watched");
        }
        Self(Arc::new(Sender(sender)))
    }

    fn set(&self, id: u64, watched: impl IntoIterator<Item = Watched>) {
        let watched = watched.into_iter().map(absolute).collect();
        let _ = self.0.0.send(Message::Set(id, watched));
    }

    /// Adds a follower, which watches nothing yet.
    #[must_use]
    pub fn follow(&self) -> Following {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        let _ = self.0.0.send(Message::Follow(id, sender));
        Following { id, watcher: self.clone(), changes }
    }
}

/// A follower, which waits for changes of its files until it is dropped.
#[derive(Debug)]
pub struct Following {
    id: u64,
    watcher: Watcher,
    changes: tokio::sync::mpsc::UnboundedReceiver<Change>,
}

impl Following {
    /// Sets what to watch from now on. Changes during this call are reported as well.
    pub fn set(&self, watched: impl IntoIterator<Item = Watched>) {
        self.watcher.set(self.id, watched);
    }

    /// A function that sets what to watch, even while `self` waits for a change.
    pub(crate) fn setter(&self) -> impl Fn(Vec<Watched>) + use<> {
        let (id, watcher) = (self.id, self.watcher.clone());
        move |watched| watcher.set(id, watched)
    }

    /// Waits for a change. Cancel-safe.
    pub async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            // The thread could not be started, which was logged.
            None => std::future::pending().await,
        }
    }

    /// Waits until there was no further change for `quiet`, at most for `most`: one save gives several events.
    pub async fn settle(&mut self, quiet: Duration, most: Duration) {
        let settled = async { while tokio::time::timeout(quiet, self.changed()).await.is_ok() {} };
        let _ = tokio::time::timeout(most, settled).await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.watcher.0.0.send(Message::Leave(self.id));
    }
}

/// How many directories have to be watched for these.
pub(crate) fn folders(watched: impl IntoIterator<Item = Watched>) -> usize {
    let mut names = places::Names::default();
    let mut folders = std::collections::HashSet::new();
    for one in watched.into_iter().map(absolute) {
        let (places, real) = names.places(one.path());
        folders.extend(places.into_iter().map(|place| place.folder));
        folders.extend(real.filter(|_| matches!(one, Watched::Folder(_))));
    }
    folders.len()
}

fn absolute(watched: Watched) -> Watched {
    let in_full = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    match watched {
        Watched::File(path) => Watched::File(in_full(path)),
        Watched::Folder(path) => Watched::Folder(in_full(path)),
    }
}

#[cfg(test)]
mod tests;

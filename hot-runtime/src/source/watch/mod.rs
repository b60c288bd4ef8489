//! Hints that files may have changed, from one watcher for all who wait for some.
//!
//! A [`Watcher`] asks the system for events of just the folders in which something wanted is, or would come: each folder
//! by itself, never with all below it. A path that is not there is watched in its nearest existing parent, and one
//! behind links wherever each of them could be changed (`places.rs`). Folders that go and come back are watched anew.
//!
//! Events are hints, and may be lost: a queue runs over, the system has no watches left, a file system tells nothing of
//! what others write to it. So there is a look at the stamps of all that is wanted whenever the system says that
//! something was lost, and now and then without that (`task.rs`). A look that finds what no event told of says so, once,
//! and how to be told sooner: [`Watcher::polling`].

mod places;
mod task;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use task::{Message, Task};

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Watched {
    /// A file's content, or that it comes.
    File(PathBuf),
    /// Which entries a folder has, and their content. Not those of folders in it.
    Folder(PathBuf),
}

impl Watched {
    /// Its path.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::File(path) | Self::Folder(path) => path,
        }
    }
}

/// Something may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The watched paths; none if events were lost, so that it may be any of them.
    pub paths: Vec<PathBuf>,
    /// When that was noticed.
    pub at: Instant,
}

/// Watches files for any number of followers. Cheap to clone; the watching ends with the last clone and the last follower.
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
    /// Goes by the system's events. Where there are none to be had it looks once a second, and says why in the log.
    #[must_use]
    pub fn new() -> Self {
        Self::start(None)
    }

    /// Goes by looks at the stamps of all that is watched, this often: for file systems that tell of no changes, such as
    /// network mounts and folders shared with a container or a virtual machine.
    #[must_use]
    pub fn polling(every: Duration) -> Self {
        Self::start(Some(every))
    }

    fn start(polling: Option<Duration>) -> Self {
        let (sender, messages) = mpsc::channel();
        let task = Task::new(polling, &sender);
        let spawned = std::thread::Builder::new().name("cbus-watch".to_owned()).spawn(move || task.run(&messages));
        if let Err(error) = spawned {
            tracing::error!(%error, "nothing is watched: no thread could be started");
        }
        Self(Arc::new(Sender(sender)))
    }

    fn set(&self, id: u64, watched: impl IntoIterator<Item = Watched>) {
        let watched = watched.into_iter().map(absolute).collect();
        let _ = self.0.0.send(Message::Set(id, watched));
    }

    /// A follower, which watches nothing yet.
    #[must_use]
    pub fn follow(&self) -> Following {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, changes) = tokio::sync::mpsc::unbounded_channel();
        let _ = self.0.0.send(Message::Follow(id, sender));
        Following { id, watcher: self.clone(), changes }
    }
}

/// One who waits for changes of some files. Dropping it ends that.
#[derive(Debug)]
pub struct Following {
    id: u64,
    watcher: Watcher,
    changes: tokio::sync::mpsc::UnboundedReceiver<Change>,
}

impl Following {
    /// Watches these from now on, and no others. What changes while the system is being asked is told as well.
    pub fn set(&self, watched: impl IntoIterator<Item = Watched>) {
        self.watcher.set(self.id, watched);
    }

    /// What sets what it watches, while somebody waits.
    pub(crate) fn setter(&self) -> impl Fn(Vec<Watched>) + use<> {
        let (id, watcher) = (self.id, self.watcher.clone());
        move |watched| watcher.set(id, watched)
    }

    /// Waits for a change. Cancelling this loses nothing.
    pub async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            // There was no thread to be had, which was said.
            None => std::future::pending().await,
        }
    }

    /// Reads on until no change has come for `quiet`, at most for `most`: a save is several events in a row.
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

fn absolute(watched: Watched) -> Watched {
    let in_full = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    match watched {
        Watched::File(path) => Watched::File(in_full(path)),
        Watched::Folder(path) => Watched::Folder(in_full(path)),
    }
}

#[cfg(test)]
mod tests;

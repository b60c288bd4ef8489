//! Writers of notes, and a check that all acknowledged notes are there.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use controllerbus::prelude::*;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The same directive as in the controller's crate.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/note", value = Noted)]
pub struct Note {
    /// The text.
    pub text: String,
}

/// The acknowledgement of a note.
#[derive(Serialize, Deserialize)]
pub struct Noted {
    /// How many notes there are.
    pub notes: u64,
    /// The version of the code that wrote it.
    pub version: String,
}

/// The results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// How often the controller was swapped.
    pub swaps: u64,
    /// How many notes were acknowledged.
    pub acknowledged: u64,
    /// How many notes got an error.
    pub failed: u64,
    /// How many notes were acknowledged, but are missing.
    pub lost: u64,
}

/// Writers that write until they are stopped.
pub struct Writers {
    shared: Arc<Shared>,
    writers: JoinSet<Vec<String>>,
}

struct Shared {
    bus: Bus,
    stop: AtomicBool,
    failed: AtomicU64,
    /// The version that answered last.
    version: watch::Sender<String>,
}

impl Writers {
    /// Starts this many writers.
    pub fn new(bus: &Bus, count: usize) -> Self {
        let (stop, failed, version) = Default::default();
        let shared = Arc::new(Shared { bus: bus.clone(), stop, failed, version });
        let mut writers = JoinSet::new();
        for number in 0..count {
            writers.spawn(write(Arc::clone(&shared), number));
        }
        Self { shared, writers }
    }

    /// Waits until a version has written a note.
    pub async fn answered_by(&self, version: &str) {
        // Cannot fail: `self` holds the sender.
        let _ = self.shared.version.subscribe().wait_for(|last| last == version).await;
    }

    /// Stops the writers. Returns the acknowledged notes, and how many got an error.
    pub async fn end(self) -> (Vec<String>, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.writers.join_all().await.into_iter().flatten().collect();
        (acknowledged, self.shared.failed.load(Ordering::Relaxed))
    }
}

async fn write(shared: Arc<Shared>, writer: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("note {number} of {writer}");
        match shared.bus.resolve(Note { text: text.clone() }).await {
            Ok(noted) => {
                acknowledged.push(text);
                shared.version.send_if_modified(|last| {
                    let is_new = *last != noted.version;
                    if is_new {
                        last.clone_from(&noted.version);
                    }
                    is_new
                });
            }
            Err(error) => {
                eprintln!("{text}: {error}");
                shared.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    acknowledged
}

/// Counts the acknowledged notes that are missing. Writing a note again does not add one: so if there are more notes
/// afterwards, those were lost.
///
/// # Errors
/// Fails if the controller returns an error.
pub async fn check(bus: &Bus, acknowledged: &[String]) -> Result<u64> {
    let last = bus.resolve(Note { text: "the last note".to_owned() }).await?.notes;
    let mut most = last;
    for text in acknowledged.iter().collect::<HashSet<_>>() {
        most = most.max(bus.resolve(Note { text: text.clone() }).await?.notes);
    }
    Ok(most - last)
}

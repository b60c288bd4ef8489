//! The thread of a watcher: requests the system's events, checks stamps, and notifies followers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::{EventKind, RecursiveMode};

use super::places::Names;
use super::{Change, Watched};
use crate::sys::files::identity;

/// How often stamps are checked although there are events.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// How often stamps are checked if there are no events.
const OFTEN: Duration = Duration::from_secs(1);

/// A check may take at most this fraction of the time: one part in `SHARE`.
const SHARE: u32 = 100;

pub(super) enum Message {
    Follow(u64, tokio::sync::mpsc::UnboundedSender<Change>),
    Set(u64, BTreeSet<Watched>),
    Leave(u64),
    Event(notify::Result<notify::Event>),
    End,
}

struct Follower {
    changes: tokio::sync::mpsc::UnboundedSender<Change>,
    watched: BTreeSet<Watched>,
}

/// A directory that is watched.
#[derive(Default)]
struct Folder {
    /// The identity of the directory that is watched; another one may have its name by now. `None` if it is not watched, or
    /// if an event named it: notify stops watching a path that was moved or removed, whatever has that path by then.
    identity: Option<(u64, u64)>,
    /// The names that matter, with the watched paths that they are part of.
    names: HashMap<OsString, Vec<Watched>>,
    /// The names whose change may lead to other places.
    lead_on: HashSet<OsString>,
    /// The watched directories, for which every name matters.
    all: Vec<Watched>,
}

/// What requests the system's events, and what it calls with each.
pub(super) type System = Box<dyn notify::Watcher + Send>;
pub(super) type Handler = Box<dyn FnMut(notify::Result<notify::Event>) + Send>;

pub(super) struct Task {
    /// `None` if there are no events, or they are not wanted.
    system: Option<System>,
    polling: Option<Duration>,
    followers: HashMap<u64, Follower>,
    folders: HashMap<PathBuf, Folder>,
    /// The directories that the system refused to watch.
    refused: HashSet<PathBuf>,
    /// The last stamps of all watched paths.
    stamps: HashMap<Watched, u64>,
    /// What a check found and no event has reported yet.
    untold: HashSet<Watched>,
    /// What was logged already.
    said: HashSet<&'static str>,
    next_look: Instant,
}

impl Task {
    pub(super) fn new(polling: Option<Duration>, messages: &Sender<Message>) -> Self {
        Self::with_system(polling, messages, |handler| Ok(Box::new(notify::recommended_watcher(handler)?)))
    }

    pub(super) fn with_system(
        polling: Option<Duration>,
        messages: &Sender<Message>,
        system: impl FnOnce(Handler) -> notify::Result<System>,
    ) -> Self {
        let messages = messages.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            // Opening or reading a file changes nothing.
            if !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_))) {
                let _ = messages.send(Message::Event(event));
            }
        };
        let mut said = HashSet::new();
        let system = match polling {
            Some(_) => None,
            None => system(Box::new(handler)).map_err(|error| say_no_events(&error, &mut said)).ok(),
        };
        let first = polling.unwrap_or(if system.is_some() { NOW_AND_THEN } else { OFTEN });
        Self {
            system,
            polling,
            followers: HashMap::new(),
            folders: HashMap::new(),
            refused: HashSet::new(),
            stamps: HashMap::new(),
            untold: HashSet::new(),
            said,
            next_look: Instant::now() + first,
        }
    }

    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let mut batch = Vec::new();
            if self.stamps.is_empty() {
                // There is nothing to look at.
                let Ok(message) = messages.recv() else { return };
                batch.push(message);
            } else {
                match messages.recv_timeout(self.next_look.saturating_duration_since(Instant::now())) {
                    Ok(message) => batch.push(message),
                    Err(RecvTimeoutError::Timeout) => self.look(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            // Collects the events of one save or checkout.
            batch.extend(messages.try_iter());
            if !self.take(batch) {
                return;
            }
        }
    }

    /// Processes messages; false at the end.
    pub(super) fn take(&mut self, batch: Vec<Message>) -> bool {
        let mut changed = BTreeSet::new();
        let mut anew = false;
        let mut lost = false;
        for message in batch {
            match message {
                Message::Follow(id, changes) => {
                    self.followers.insert(id, Follower { changes, watched: BTreeSet::new() });
                }
                Message::Set(id, watched) => {
                    let Some(follower) = self.followers.get_mut(&id) else { continue };
                    if follower.watched != watched {
                        // Changes before the system watches them give no events, so they count as changed.
                        changed.extend(watched.difference(&follower.watched).cloned());
                        follower.watched = watched;
                        anew = true;
                    }
                }
                Message::Leave(id) => {
                    self.followers.remove(&id);
                    anew = true;
                }
                Message::Event(Ok(event)) => {
                    lost |= event.need_rescan();
                    for path in &event.paths {
                        anew |= self.is_told_of(path, &mut changed);
                    }
                }
                Message::Event(Err(error)) => {
                    tracing::debug!(%error, "the system's watcher reported an error");
                    lost = true;
                }
                Message::End => return false,
            }
        }
        if lost {
            self.folders.values_mut().for_each(|folder| folder.identity = None);
        }
        if anew || lost {
            self.place();
        }
        for watched in &changed {
            self.stamps.insert(watched.clone(), stamp(watched));
            self.untold.remove(watched);
        }
        if lost {
            tracing::debug!("file events were lost");
            self.tell_all();
        } else {
            self.tell(&changed);
        }
        true
    }

    /// Processes an event for a path; true if it may lead to other places.
    fn is_told_of(&mut self, path: &Path, changed: &mut BTreeSet<Watched>) -> bool {
        let mut anew = false;
        // An event of a folder itself: it went, or was moved. It may be back already, with the same identity.
        if let Some(folder) = self.folders.get_mut(path) {
            folder.identity = None;
            anew = true;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return anew };
        let Some(folder) = self.folders.get(parent) else { return anew };
        if let Some(watched) = folder.names.get(name) {
            changed.extend(watched.iter().cloned());
            anew |= folder.lead_on.contains(name) || path.is_symlink();
        }
        changed.extend(folder.all.iter().cloned());
        anew
    }

    /// Has the system watch exactly the places that decide now.
    fn place(&mut self) {
        let all: BTreeSet<Watched> =
            self.followers.values().flat_map(|follower| follower.watched.iter().cloned()).collect();
        self.stamps.retain(|watched, _| all.contains(watched));
        self.untold.retain(|watched| all.contains(watched));
        for watched in &all {
            if !self.stamps.contains_key(watched) {
                self.stamps.insert(watched.clone(), stamp(watched));
            }
        }
        if self.system.is_none() {
            return;
        }
        // A folder may appear while its parent is being added.
        for _ in 0..5 {
            let mut wanted: HashMap<PathBuf, Folder> = HashMap::new();
            let mut names = Names::default();
            for watched in &all {
                let (places, at) = names.places(watched.path());
                for place in places {
                    let folder = wanted.entry(place.folder).or_default();
                    if place.leads_on {
                        folder.lead_on.insert(place.name.clone());
                    }
                    folder.names.entry(place.name).or_default().push(watched.clone());
                }
                if let (Watched::Folder(_), Some(at)) = (watched, at) {
                    wanted.entry(at).or_default().all.push(watched.clone());
                }
            }
            if !self.ask_for(wanted) {
                break;
            }
        }
    }

    /// Has the system watch exactly these directories; true if one was not watched before.
    fn ask_for(&mut self, wanted: HashMap<PathBuf, Folder>) -> bool {
        let Some(system) = &mut self.system else { return false };
        let mut more = false;
        let mut before = std::mem::take(&mut self.folders);
        self.refused.retain(|path| wanted.contains_key(path));
        for (path, mut folder) in wanted {
            folder.identity = identity_at(&path);
            let known = before.remove(&path).and_then(|known| known.identity);
            if folder.identity.is_some() && folder.identity != known {
                if known.is_some() {
                    let _ = system.unwatch(&path);
                }
                match system.watch(&path, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        more = true;
                        self.refused.remove(&path);
                    }
                    Err(error) => {
                        folder.identity = None;
                        // A folder that is only on the path need not be readable: what is below it is watched
                        // separately.
                        let only_on_the_way = folder.names.keys().all(|name| folder.lead_on.contains(name));
                        if !only_on_the_way || matches!(error.kind, notify::ErrorKind::MaxFilesWatch) {
                            say_no_events(&error, &mut self.said);
                            self.refused.insert(path.clone());
                            self.next_look = self.next_look.min(Instant::now() + OFTEN);
                        }
                    }
                }
            }
            self.folders.insert(path, folder);
        }
        for path in before.keys() {
            let _ = system.unwatch(path);
        }
        more
    }

    /// Checks all stamps, and reports what has changed.
    pub(super) fn look(&mut self) {
        let begun = Instant::now();
        let events = self.polling.is_none() && self.system.is_some() && self.refused.is_empty();
        for watched in std::mem::take(&mut self.untold) {
            // It was found a whole interval ago, and there still was no event.
            if events && self.said.insert("untold") {
                tracing::warn!(
                    path = %watched.path().display(),
                    "a file changed without an event from the system, as on network mounts and in folders shared with a \
                     container, so it was noticed late; poll to notice such changes sooner (`cbus --poll`, or \
                     `Builder::poll`)"
                );
            }
        }
        let mut changed = BTreeSet::new();
        for (watched, then) in &mut self.stamps {
            let now = stamp(watched);
            if std::mem::replace(then, now) != now {
                changed.insert(watched.clone());
            }
        }
        if events {
            self.untold.clone_from(&changed.iter().cloned().collect());
        }
        if !changed.is_empty() {
            self.place();
            self.tell(&changed);
        }
        let often = if self.system.is_none() || !self.refused.is_empty() { OFTEN } else { NOW_AND_THEN };
        let wanted = self.polling.unwrap_or(often);
        // An interval that the user set is kept.
        let least = if self.polling.is_some() { Duration::ZERO } else { begun.elapsed() * SHARE };
        self.next_look = Instant::now() + wanted.max(least);
    }

    fn tell(&self, changed: &BTreeSet<Watched>) {
        let at = Instant::now();
        for follower in self.followers.values() {
            let paths: Vec<_> =
                changed.iter().filter(|one| follower.watched.contains(one)).map(|one| one.path().clone()).collect();
            if !paths.is_empty() {
                let _ = follower.changes.send(Change { paths, at });
            }
        }
    }

    fn tell_all(&self) {
        for follower in self.followers.values() {
            let _ = follower.changes.send(Change { paths: Vec::new(), at: Instant::now() });
        }
    }
}

/// Logs, once for each reason, why there are no events.
fn say_no_events(error: &notify::Error, said: &mut HashSet<&'static str>) {
    let full = matches!(error.kind, notify::ErrorKind::MaxFilesWatch)
        || matches!(&error.kind, notify::ErrorKind::Io(error) if matches!(error.raw_os_error(), Some(23 | 24)));
    if said.insert(if full { "full" } else { "refused" }) {
        let help = if full {
            "; raise the limit with `sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=1024`"
        } else {
            ""
        };
        tracing::warn!(%error, "some files cannot be watched; they are polled once a second instead{help}");
    }
}

/// The state of a watched path, as a hash. It leaves out what gives no events, such as another name of the same file,
/// or the entries of directories in a watched directory.
fn stamp(watched: &Watched) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let mut add = |path: &Path| {
        let found = std::fs::metadata(path).ok();
        let size = found.as_ref().filter(|found| found.is_file()).map(|found| (found.modified().ok(), found.len()));
        (path, found.as_ref().map(identity), size).hash(&mut hasher);
    };
    match watched {
        Watched::File(path) => add(path),
        Watched::Folder(path) => {
            let mut entries: Vec<_> = std::fs::read_dir(path).into_iter().flatten().flatten().collect();
            entries.sort_by_key(std::fs::DirEntry::file_name);
            entries.iter().for_each(|entry| add(&entry.path()));
        }
    }
    hasher.finish()
}

/// The identity of the directory at a path.
fn identity_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir).as_ref().map(identity)
}

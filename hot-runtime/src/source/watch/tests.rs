//! What followers are told, and what they are not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, WatcherKind};

use super::task::{Handler, Message, System, Task};
use super::{Change, Following, Watched, Watcher};

const LIMIT: Duration = Duration::from_secs(30);

async fn next(following: &mut Following) -> Change {
    tokio::time::timeout(LIMIT, following.changed()).await.expect("a change is told")
}

/// Waits until a change of a path is told.
async fn told(following: &mut Following, path: &Path) {
    while !next(following).await.paths.iter().any(|told| told == path) {}
}

/// A follower of some files, which has been told what there was to tell at the beginning.
async fn following(watcher: &Watcher, watched: &[Watched]) -> Following {
    let mut following = watcher.follow();
    following.set(watched.iter().cloned());
    next(&mut following).await;
    following
}

fn file(path: impl AsRef<Path>) -> Watched {
    Watched::File(path.as_ref().to_owned())
}

/// Writes as an editor does, in four ways.
fn save(path: &Path, how: usize, text: &str) {
    let beside = path.with_extension("new");
    match how % 4 {
        0 => std::fs::write(path, text).expect("writing"),
        1 => {
            std::fs::write(&beside, text).expect("writing");
            std::fs::rename(&beside, path).expect("renaming");
        }
        2 => {
            let _ = std::fs::remove_file(path);
            std::fs::write(path, text).expect("writing");
        }
        _ => {
            let _ = std::fs::rename(path, path.with_extension("old"));
            std::fs::write(path, text).expect("writing");
        }
    }
}

#[tokio::test]
async fn a_save_in_any_manner_is_told_and_what_lies_beside_it_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let lib = folder.path().join("lib.rs");
    let watcher = Watcher::new();
    let mut following = following(&watcher, &[file(&lib)]).await;
    for how in 0..8 {
        std::fs::write(folder.path().join("app.log"), format!("{how}")).expect("writing");
        save(&lib, how, &format!("text {how}"));
        let change = next(&mut following).await;
        assert_eq!(change.paths, [lib.as_path()]);
        while let Ok(change) = following.changes.try_recv() {
            assert_eq!(change.paths, [lib.as_path()]);
        }
    }
}

#[tokio::test]
async fn folders_that_go_and_come_back_with_all_their_parents_are_watched_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |inside: &str| folder.path().join(inside);
    let lib = at("work/crate/src/lib.rs");
    let make = || std::fs::create_dir_all(at("work/crate/src")).expect("a folder");
    make();
    std::fs::write(&lib, "one").expect("writing");
    let watcher = Watcher::new();
    let mut following = following(&watcher, &[file(&lib)]).await;
    for round in 0..3 {
        std::fs::rename(at("work/crate"), at("away")).expect("moving");
        told(&mut following, &lib).await;
        std::fs::rename(at("away"), at("work/crate")).expect("moving");
        told(&mut following, &lib).await;
        std::fs::remove_dir_all(at("work")).expect("removing");
        told(&mut following, &lib).await;
        make();
        std::fs::write(&lib, format!("back {round}")).expect("writing");
        told(&mut following, &lib).await;
        save(&lib, round, &format!("again {round}"));
        told(&mut following, &lib).await;
    }
}

/// Drives a watcher's thread by hand, so that events are processed when the test says so, and stamps are never checked.
struct ByHand {
    task: Task,
    messages: std::sync::mpsc::Receiver<Message>,
}

impl ByHand {
    /// Processes what there is, and what comes of it, until an event names this path.
    fn until_an_event_of(&mut self, path: &Path) {
        loop {
            let mut batch = vec![self.messages.recv_timeout(LIMIT).expect("an event")];
            batch.extend(self.messages.try_iter());
            let named = batch.iter().any(
                |message| matches!(message, Message::Event(Ok(event)) if event.paths.iter().any(|named| named == path)),
            );
            self.task.take(batch);
            if named {
                return;
            }
        }
    }
}

#[test]
fn a_folder_that_is_back_before_its_going_was_noticed_is_watched_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |inside: &str| folder.path().join(inside);
    let lib = at("work/src/lib.rs");
    std::fs::create_dir_all(at("work/src")).expect("a folder");
    std::fs::write(&lib, "one").expect("writing");
    let (sender, messages) = std::sync::mpsc::channel();
    let mut by_hand = ByHand { task: Task::new(None, &sender), messages };
    let (changes, _told) = tokio::sync::mpsc::unbounded_channel();
    by_hand.task.take(vec![Message::Follow(0, changes), Message::Set(0, [file(&lib)].into())]);
    for round in 0..3 {
        std::fs::rename(at("work"), at("away")).expect("moving");
        std::fs::rename(at("away"), at("work")).expect("moving");
        by_hand.until_an_event_of(&at("work"));
        std::fs::rename(at("work/src"), at("work/away")).expect("moving");
        std::fs::rename(at("work/away"), at("work/src")).expect("moving");
        by_hand.until_an_event_of(&at("work/src"));
        std::fs::write(&lib, format!("moved {round}")).expect("writing");
        by_hand.until_an_event_of(&lib);
        // The new folders may have the identities of the old ones.
        std::fs::remove_dir_all(at("work")).expect("removing");
        std::fs::create_dir_all(at("work/src")).expect("a folder");
        by_hand.until_an_event_of(&at("work"));
        std::fs::write(&lib, format!("new {round}")).expect("writing");
        by_hand.until_an_event_of(&lib);
    }
}

#[tokio::test]
async fn what_is_not_there_yet_is_told_when_it_comes_and_folders_tell_of_new_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("a/b/.cargo/config.toml");
    let names = folder.path().join("plugins/here");
    let watcher = Watcher::new();
    let mut following = following(&watcher, &[file(&config), Watched::Folder(names.clone())]).await;
    std::fs::create_dir_all(config.parent().expect("a parent")).expect("a folder");
    std::fs::write(&config, "[env]").expect("writing");
    told(&mut following, &config).await;
    std::fs::create_dir_all(&names).expect("a folder");
    told(&mut following, &names).await;
    std::fs::write(names.join("new"), "").expect("writing");
    told(&mut following, &names).await;
    std::fs::remove_dir_all(folder.path().join("plugins")).expect("removing");
    told(&mut following, &names).await;
    std::fs::create_dir_all(&names).expect("a folder");
    std::fs::write(names.join("new"), "").expect("writing");
    told(&mut following, &names).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_that_leads_elsewhere_and_what_is_written_where_it_leads_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |inside: &str| folder.path().join(inside);
    for release in ["releases/1", "releases/2"] {
        std::fs::create_dir_all(at(release)).expect("a folder");
        std::fs::write(at(release).join("x"), release).expect("writing");
    }
    std::os::unix::fs::symlink("releases/1", at("current")).expect("a link");
    std::os::unix::fs::symlink("current/x", at("x")).expect("a link");
    let watcher = Watcher::new();
    let mut following = following(&watcher, &[file(at("x")), Watched::Folder(at("current"))]).await;
    std::fs::write(at("releases/1/x"), "written").expect("writing");
    told(&mut following, &at("x")).await;
    // As a deployment does it: another link takes the name.
    std::os::unix::fs::symlink("releases/2", at("next")).expect("a link");
    std::fs::rename(at("next"), at("current")).expect("renaming");
    told(&mut following, &at("x")).await;
    std::fs::write(at("releases/2/x"), "written").expect("writing");
    told(&mut following, &at("x")).await;
    std::fs::write(at("releases/2/y"), "new").expect("writing");
    told(&mut following, &at("current")).await;
}

#[tokio::test]
async fn polling_tells_the_same_and_followers_are_told_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    for watcher in [Watcher::new(), Watcher::polling(Duration::from_millis(20))] {
        let mut first = following(&watcher, &[file(&one)]).await;
        let mut second = following(&watcher, &[file(&one), file(&other)]).await;
        std::fs::write(&other, "text").expect("writing");
        told(&mut second, &other).await;
        std::fs::write(&one, "text").expect("writing");
        told(&mut second, &one).await;
        let change = next(&mut first).await;
        assert_eq!(change.paths, [one.as_path()]);
        second.set([file(&one)]);
        std::fs::remove_file(&one).expect("removing");
        told(&mut second, &one).await;
        std::fs::remove_file(&other).expect("removing");
    }
}

#[tokio::test]
async fn what_is_written_while_it_begins_to_be_watched_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let watcher = Watcher::new();
    for round in 0..50 {
        let path = folder.path().join(format!("file-{round}"));
        let mut following = watcher.follow();
        following.set([file(&path)]);
        std::fs::write(&path, "text").expect("writing");
        // What is told last is told after it was written.
        while std::fs::read_to_string(&path).unwrap_or_default() != "text" {
            next(&mut following).await;
        }
        next(&mut following).await;
    }
}

/// A system whose events get lost, and whose watches run out, when a test says so.
struct Wanting {
    system: RecommendedWatcher,
    wants: Arc<Wants>,
}

#[derive(Default)]
struct Wants {
    loses_events: AtomicBool,
    /// The paths of the events that were lost.
    lost: Mutex<Vec<PathBuf>>,
    has_no_watches: AtomicBool,
    /// The directories that it was asked to watch when it had no watches left.
    refused: Mutex<Vec<PathBuf>>,
}

impl Wanting {
    fn system(wants: &Arc<Wants>, mut handler: Handler) -> notify::Result<System> {
        let (wants, loses) = (Arc::clone(wants), Arc::clone(wants));
        let system = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if !loses.loses_events.load(Ordering::Relaxed) {
                return handler(event);
            }
            loses.lost.lock().expect("no panic").extend(event.into_iter().flat_map(|event| event.paths));
        });
        Ok(Box::new(Self { system: system?, wants }))
    }
}

impl notify::Watcher for Wanting {
    fn new<F: notify::EventHandler>(_: F, _: Config) -> notify::Result<Self> {
        Err(notify::Error::generic("made by a test only"))
    }

    fn watch(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
        if self.wants.has_no_watches.load(Ordering::Relaxed) {
            self.wants.refused.lock().expect("no panic").push(path.to_owned());
            return Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        }
        self.system.watch(path, mode)
    }

    fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
        self.system.unwatch(path)
    }

    fn kind() -> WatcherKind {
        RecommendedWatcher::kind()
    }
}

/// The messages of what was logged as a warning.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl tracing::Subscriber for &'static Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().expect("no panic").push(message.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A watcher on such a system, its thread, and the warnings that this logs.
fn wanting(wants: &Arc<Wants>) -> (Watcher, std::thread::JoinHandle<()>, &'static Warnings) {
    let warnings: &'static Warnings = Box::leak(Box::default());
    let (sender, messages): (_, Receiver<Message>) = std::sync::mpsc::channel();
    let task = Task::with_system(None, &sender, |handler| Wanting::system(wants, handler));
    let thread = std::thread::spawn(move || tracing::subscriber::with_default(warnings, || task.run(&messages)));
    (Watcher(Arc::new(super::Sender(sender))), thread, warnings)
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("in time");
}

#[tokio::test]
async fn when_events_are_lost_all_may_have_changed_and_is_looked_at_and_all_is_watched_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |inside: &str| folder.path().join(inside);
    std::fs::create_dir(at("src")).expect("a folder");
    std::fs::write(at("src/lib.rs"), "one").expect("writing");
    let wants = Arc::<Wants>::default();
    let (watcher, thread, _) = wanting(&wants);
    let mut first = following(&watcher, &[file(at("src/lib.rs")), file(at("last"))]).await;
    let mut second = following(&watcher, &[file(at("other"))]).await;
    wants.loses_events.store(true, Ordering::Relaxed);
    // The folder that was watched is not there any more, and nobody has told.
    std::fs::remove_dir_all(at("src")).expect("removing");
    std::fs::create_dir(at("src")).expect("a folder");
    std::fs::write(at("src/lib.rs"), "two").expect("writing");
    std::fs::write(at("last"), "").expect("writing");
    until(|| wants.lost.lock().expect("no panic").contains(&at("last"))).await;
    wants.loses_events.store(false, Ordering::Relaxed);
    // As inotify tells that its queue was full.
    let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
    watcher.0.0.send(Message::Event(Ok(overflow))).expect("it runs");
    for following in [&mut first, &mut second] {
        // On a busy machine the look that is taken now and then may come first.
        while !next(following).await.paths.is_empty() {}
    }
    std::fs::write(at("src/lib.rs"), "three").expect("writing");
    assert_eq!(next(&mut first).await.paths, [at("src/lib.rs")]);
    drop((first, second, watcher));
    thread.join().expect("its end");
}

#[tokio::test]
async fn where_no_watches_are_left_it_is_said_once_and_what_is_not_watched_is_polled_until_there_are_some() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |inside: &str| folder.path().join(inside);
    for inside in ["watched", "polled", "later"] {
        std::fs::create_dir(at(inside)).expect("a folder");
    }
    let wants = Arc::<Wants>::default();
    let (watcher, thread, warnings) = wanting(&wants);
    let mut watched = following(&watcher, &[file(at("watched/lib.rs"))]).await;
    wants.has_no_watches.store(true, Ordering::Relaxed);
    let mut polled = following(&watcher, &[file(at("polled/lib.rs"))]).await;
    let later = following(&watcher, &[file(at("later/lib.rs"))]).await;
    for text in ["one", "other"] {
        std::fs::write(at("polled/lib.rs"), text).expect("writing");
        told(&mut polled, &at("polled/lib.rs")).await;
        std::fs::write(at("watched/lib.rs"), text).expect("writing");
        told(&mut watched, &at("watched/lib.rs")).await;
    }
    assert!(wants.refused.lock().expect("no panic").contains(&at("polled")));
    // They are asked for again, without a word, and with success at last.
    wants.has_no_watches.store(false, Ordering::Relaxed);
    std::fs::write(at("polled/lib.rs"), "third").expect("writing");
    told(&mut polled, &at("polled/lib.rs")).await;
    drop((watched, polled, later, watcher));
    thread.join().expect("its end");
    let warnings = warnings.0.lock().expect("no panic");
    let [said] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(said.contains("polled once a second") && said.contains("fs.inotify.max_user_watches"), "{said}");
}

#[test]
fn a_change_without_an_event_is_found_and_how_to_notice_such_changes_sooner_is_said_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let lib = folder.path().join("lib.rs");
    let wants = Arc::<Wants>::default();
    let warnings: &'static Warnings = Box::leak(Box::default());
    let (sender, _messages) = std::sync::mpsc::channel();
    let mut task = Task::with_system(None, &sender, |handler| Wanting::system(&wants, handler));
    let (changes, mut told) = tokio::sync::mpsc::unbounded_channel();
    task.take(vec![Message::Follow(0, changes), Message::Set(0, [file(&lib)].into())]);
    told.try_recv().expect("all is new to it");
    tracing::subscriber::with_default(warnings, || {
        // As on a network mount.
        wants.loses_events.store(true, Ordering::Relaxed);
        for text in ["one", "other"] {
            std::fs::write(&lib, text).expect("writing");
            task.look();
            assert_eq!(told.try_recv().expect("a change").paths, [lib.as_path()]);
        }
        // One that is told of after it was found says nothing.
        std::fs::write(&lib, "third").expect("writing");
        task.look();
        task.take(vec![Message::Event(Ok(Event::new(EventKind::Any).add_path(lib.clone())))]);
        task.look();
    });
    let warnings = warnings.0.lock().expect("no panic");
    let [said] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(said.contains("without an event") && said.contains("cbus --poll"), "{said}");
}

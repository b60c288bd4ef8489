//! What followers are told, and what they are not.

use std::path::Path;
use std::time::Duration;

use super::task::{Message, Task};
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

//! The states of controllers with `persist`, as files in the work directory.
//!
//! ```text
//! WORK/states/PLUGIN.KEY.state             a line of JSON (whose it is, its length and its hash), then the state as it was saved
//! WORK/states/PLUGIN.KEY.state.refused     one that was set aside; more of them have numbers
//! WORK/states/lock                         held by the process that keeps its states here
//! ```
//!
//! Only this user can read them. A file is written beside the one before, synced, and takes its name.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use controllerbus::bus::{StateName, StateStore};
use controllerbus::controller::State;
use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::sys::files::{create_private, create_private_dir, sync_dir};
use crate::sys::scratch::has_no_locks;
use crate::util::slug;

/// More than the largest state that the bus keeps, with its first line.
const LARGEST: u64 = (16 << 20) + (64 << 10);

/// How many states of one controller are set aside, at most.
const ASIDE: usize = 9;

/// How long the name of a file may be without its ending. Systems allow 255 bytes.
const LONGEST: usize = 200;

/// The directory.
pub(super) struct KeptStates {
    folder: PathBuf,
    /// Held from the first use on.
    lock: Mutex<Option<File>>,
}

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Always [`KIND`].
    kind: String,
    plugin: String,
    key: String,
    /// Of the controller that has saved it.
    version: Version,
    schema: u32,
    /// Of the state, in bytes.
    length: u64,
    /// Of the state and of all above.
    hash: String,
}

const KIND: &str = "controllerbus state 1";

impl Head {
    fn of(name: &StateName, version: &Version, state: &State) -> Self {
        let mut head = Self {
            kind: KIND.to_owned(),
            plugin: name.plugin.clone(),
            key: name.key.clone(),
            version: version.clone(),
            schema: state.schema,
            length: state.bytes.len() as u64,
            hash: String::new(),
        };
        head.hash = head.hash_with(&state.bytes);
        head
    }

    fn hash_with(&self, bytes: &[u8]) -> String {
        let Self { kind, plugin, key, version, schema, length, hash: _ } = self;
        let mut hasher = blake3::Hasher::new();
        for part in [kind, plugin, key, &version.to_string(), &schema.to_string(), &length.to_string()] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        hasher.update(bytes);
        hasher.finalize().to_hex().to_string()
    }
}

impl KeptStates {
    /// The states below a work directory. Nothing is there before the first one is stored.
    pub(super) fn new(work_dir: &Path) -> Self {
        Self { folder: work_dir.join("states"), lock: Mutex::default() }
    }

    fn path(&self, name: &StateName) -> PathBuf {
        let plain = format!("{}.{}", slug(&name.plugin), slug(&name.key));
        let short = if plain.len() <= LONGEST {
            plain
        } else {
            let hash = blake3::hash(format!("{}\0{}", name.plugin, name.key).as_bytes());
            // Slugs are ASCII.
            format!("{}-{}", &plain[..LONGEST - 65], hash.to_hex())
        };
        self.folder.join(format!("{short}.state"))
    }

    /// Makes sure that no other process keeps its states here.
    fn lock(&self) -> Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            return Ok(());
        }
        create_private_dir(&self.folder).map_err(failed("creating", &self.folder))?;
        let path = self.folder.join("lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(failed("opening", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) if has_no_locks(&error) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("another host keeps its states in {}", self.folder.display());
                return Err(Error::new(ErrorKind::Closed, what));
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking", &path)(error)),
        }
        *lock = Some(file);
        Ok(())
    }
}

fn failed(doing: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::msg(format!("{doing} {}: {error}", path.display()))
}

/// Reads a file as the state of a name.
fn read(path: &Path, name: &StateName, bytes: &[u8]) -> Result<State> {
    let refused = |why: String| Error::new(ErrorKind::Invalid, format!("{} {why}", path.display()));
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (head, body) = end.map(|end| (&bytes[..end], &bytes[end + 1..])).unwrap_or_default();
    let head: Head =
        serde_json::from_slice(head).map_err(|_| refused("is no state that was kept, or is torn".to_owned()))?;
    if head.kind != KIND {
        return Err(refused(format!("is of another kind: `{}`", head.kind)));
    }
    if (&head.plugin, &head.key) != (&name.plugin, &name.key) {
        return Err(refused(format!("is the state of `{}` for the config `{}`", head.plugin, head.key)));
    }
    if head.length != body.len() as u64 {
        return Err(refused(format!("is torn: {} of its {} bytes are there", body.len(), head.length)));
    }
    if head.hash != head.hash_with(body) {
        return Err(refused("was damaged: its hash is another one".to_owned()));
    }
    Ok(State { schema: head.schema, bytes: body.to_vec() })
}

impl StateStore for KeptStates {
    fn load(&self, name: &StateName) -> Result<Option<State>> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("opening", &path)(error)),
        };
        self.lock()?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed("reading", &path))?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is larger than any state", path.display())));
        }
        read(&path, name, &bytes).map(Some)
    }

    fn store(&self, name: &StateName, version: &Version, state: &State) -> Result<()> {
        self.lock()?;
        let path = self.path(name);
        let next = path.with_extension("next");
        let head = serde_json::to_string(&Head::of(name, version, state))?;
        // Of a process that was killed, if there is one.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &next)(error)),
            _ => {}
        }
        let written = create_private(&next).and_then(|mut file| {
            file.write_all(head.as_bytes())?;
            file.write_all(b"\n")?;
            file.write_all(&state.bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            let _ = fs::remove_file(&next);
            return Err(failed("writing", &next)(error));
        }
        fs::rename(&next, &path).map_err(failed("renaming", &next))?;
        sync_dir(&self.folder).map_err(failed("syncing", &self.folder))
    }

    fn set_aside(&self, name: &StateName) -> Result<String> {
        self.lock()?;
        let path = self.path(name);
        let aside = |number: usize| {
            let more = if number == 1 { String::new() } else { format!("-{number}") };
            path.with_extension(format!("state.refused{more}"))
        };
        let place = (1..ASIDE).map(aside).find(|place| !place.exists()).unwrap_or_else(|| aside(ASIDE));
        match fs::rename(&path, &place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok("nowhere, because it was not stored".to_owned())
            }
            renamed => renamed.map(|()| place.display().to_string()).map_err(failed("renaming", &path)),
        }
    }

    fn forget(&self, key: &str) -> Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("reading", &self.folder)(error)),
        };
        self.lock()?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "state") {
                continue;
            }
            // The name may be shortened, so what counts is what is inside.
            let mut head = Vec::new();
            let reading = File::open(&path).and_then(|file| file.take(64 << 10).read_to_end(&mut head));
            if reading.is_err() {
                continue;
            }
            let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
            if serde_json::from_slice::<Head>(line).is_ok_and(|head| head.key == key) {
                fs::remove_file(&path).map_err(failed("removing", &path))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> StateName {
        StateName::new("example/counter", "the counter")
    }

    fn state(text: &str) -> State {
        State { schema: 3, bytes: text.as_bytes().to_vec() }
    }

    fn version() -> Version {
        Version::new(1, 2, 3)
    }

    /// The only file that is there besides the lock.
    fn only(work: &Path) -> PathBuf {
        let mut all: Vec<_> =
            fs::read_dir(work.join("states")).expect("the folder").map(|found| found.expect("a file").path()).collect();
        all.retain(|path| !path.ends_with("lock"));
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn what_was_stored_last_is_loaded_and_nobody_else_can_read_it_or_keep_his_own_there() {
        let work = tempfile::tempdir().expect("a folder");
        let states = KeptStates::new(work.path());
        assert_eq!(states.load(&name()).expect("nothing"), None);
        assert!(!work.path().join("states").exists(), "nothing was stored");
        states.store(&name(), &version(), &state("one")).expect("storing");
        states.store(&name(), &version(), &state("two\nlines")).expect("storing");
        assert_eq!(states.load(&name()).expect("loading"), Some(state("two\nlines")));
        #[cfg(unix)]
        for (path, mode) in [(only(work.path()), 0o600), (work.path().join("states"), 0o700)] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(path).expect("it is there").permissions().mode() & 0o777, mode);
        }
        let other = KeptStates::new(work.path());
        for error in [other.load(&name()).map(drop), other.store(&name(), &version(), &state("three"))] {
            let error = error.expect_err("another host");
            assert!(error.to_string().contains("another host keeps its states in"), "{error}");
            assert_ne!(error.kind(), ErrorKind::Invalid, "it is not set aside");
        }
        drop(states);
        assert_eq!(other.load(&name()).expect("it has ended"), Some(state("two\nlines")));
    }

    #[test]
    fn a_torn_a_damaged_and_a_foreign_file_are_refused_with_a_sentence_and_set_aside() {
        let work = tempfile::tempdir().expect("a folder");
        let states = KeptStates::new(work.path());
        states.store(&name(), &version(), &state("a state of some length")).expect("storing");
        let path = only(work.path());
        let whole = fs::read(&path).expect("reading");
        let last = whole.len() - 1;
        let foreign = {
            let other = tempfile::tempdir().expect("a folder");
            let of_another = KeptStates::new(other.path());
            let name = StateName::new("example/other", "other");
            of_another.store(&name, &version(), &state("theirs")).expect("storing");
            fs::read(only(other.path())).expect("reading")
        };
        let schema = String::from_utf8(whole.clone()).expect("text").replace("\"schema\":3", "\"schema\":4");
        let cases = [
            (whole[..last - 4].to_vec(), "is torn: 17 of its 22 bytes are there"),
            (whole[..20].to_vec(), "is no state that was kept, or is torn"),
            (Vec::new(), "is no state that was kept, or is torn"),
            ([&whole[..last], b"X"].concat(), "was damaged: its hash is another one"),
            (schema.into_bytes(), "was damaged: its hash is another one"),
            (foreign, "is the state of `example/other` for the config `other`"),
        ];
        let count = cases.len();
        for (bytes, expected) in cases {
            fs::write(&path, &bytes).expect("writing");
            let error = states.load(&name()).expect_err(expected);
            assert!(error.to_string().ends_with(expected) && error.kind() == ErrorKind::Invalid, "{error}");
            let place = states.set_aside(&name()).expect("it is set aside");
            assert_eq!(fs::read(&place).expect("it is there"), bytes);
            assert_eq!(states.load(&name()).expect("nothing is left"), None);
        }
        let aside = fs::read_dir(work.path().join("states")).expect("the folder").flatten();
        assert_eq!(aside.filter(|found| found.path().to_string_lossy().contains(".refused")).count(), count);
    }

    #[test]
    fn only_the_states_of_a_key_that_is_removed_are_forgotten_whatever_the_names() {
        let work = tempfile::tempdir().expect("a folder");
        let states = KeptStates::new(work.path());
        let long = "key".repeat(200);
        let names = [
            StateName::new("a", "key"),
            StateName::new("b", "key"),
            StateName::new("a", "other/key"),
            StateName::new("a", "other-key"),
            StateName::new("a", long.clone()),
            StateName::new("a", format!("{long}s")),
        ];
        let store = |name: &StateName| states.store(name, &version(), &state(&name.key)).expect("storing");
        names.iter().for_each(store);
        states.forget("key").expect("forgetting");
        states.forget(&long).expect("forgetting");
        let left: Vec<_> = names.iter().map(|name| states.load(name).expect("loading").is_some()).collect();
        assert_eq!(left, [false, false, true, true, false, true]);
    }

    /// As on a full disk, nothing can be written.
    #[cfg(target_os = "linux")]
    #[test]
    fn where_nothing_can_be_written_the_last_state_stays_and_the_error_says_why() {
        let work = tempfile::tempdir().expect("a folder");
        let states = KeptStates::new(work.path());
        states.store(&name(), &version(), &state("one")).expect("storing");
        // A folder in the place of the file that is written.
        let next = only(work.path()).with_extension("next");
        fs::create_dir(&next).expect("a folder");
        let error = states.store(&name(), &version(), &state("two")).expect_err("it cannot be written").to_string();
        assert!(error.contains(".next") && !error.contains('\n'), "{error}");
        assert_eq!(states.load(&name()).expect("loading"), Some(state("one")));
        fs::remove_dir(&next).expect("removing");
        states.store(&name(), &version(), &state("two")).expect("there is room again");
        assert_eq!(states.load(&name()).expect("loading"), Some(state("two")));
    }
}

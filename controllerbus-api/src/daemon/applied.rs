//! What clients have applied, in files, so that a daemon that is started anew goes on with it.
//!
//! ```text
//! FOLDER/KEY-HASH.yaml    a config set with one key; the hash is that of the key, which may have characters that names cannot
//! FOLDER/lock             held by the daemon that keeps its configs here
//! ```
//!
//! They may have secrets in them: only this user can read them. A file is written beside the one before, synced, and takes its name.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use controllerbus::error::ErrorKind;
use controllerbus::{ConfigSet, Error, Result};

/// How much of a key is in the name of its file, in bytes.
const SHOWN: usize = 64;

/// The folder.
pub struct Applied {
    folder: PathBuf,
    known: Mutex<Known>,
    /// Held as long as this.
    _lock: File,
}

struct Known {
    /// The revision that is kept of each key.
    revisions: BTreeMap<String, u64>,
    /// What was there at the start and is not applied yet.
    before: ConfigSet,
}

impl Applied {
    /// Opens a folder, which is made if there is none, and reads what is in it. A file that cannot be used is an error of its own, and
    /// stays as it is.
    ///
    /// # Errors
    /// The folder cannot be used, or another daemon uses it.
    pub fn open(folder: &Path) -> Result<(Self, Vec<Error>)> {
        private_folder(folder)?;
        let path = folder.join("lock");
        let lock = private(OpenOptions::new().create(true).truncate(false)).open(&path);
        let lock = lock.map_err(failed("opening", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("another daemon keeps its configs in {}", folder.display());
                return Err(Error::new(ErrorKind::Closed, what));
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking", &path)(error)),
        }
        let (mut before, mut errors) = (ConfigSet::new(), Vec::new());
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<_> =
            entries.map_err(failed("listing", folder))?.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "yaml")) {
            match read(folder, &path) {
                Ok(set) => before.merge(set),
                Err(error) => errors.push(error),
            }
        }
        let revisions = before.iter().map(|(key, entry)| (key.to_owned(), entry.revision)).collect();
        let known = Mutex::new(Known { revisions, before });
        Ok((Self { folder: folder.to_owned(), known, _lock: lock }, errors))
    }

    /// What was there at the start, and that nobody has applied or removed since; only once.
    pub fn take_before(&self) -> ConfigSet {
        std::mem::take(&mut self.lock().before)
    }

    /// Keeps the entries of a set, in place of those of the same keys with the same or lower revisions. Blocks.
    pub fn keep(&self, set: &ConfigSet) -> Result<()> {
        let mut known = self.lock();
        for (key, entry) in set.iter() {
            if known.revisions.get(key).is_some_and(|kept| *kept > entry.revision) {
                continue;
            }
            let mut one = ConfigSet::new();
            one.set(key, entry.clone());
            let path = path_of(&self.folder, key);
            write(&path, &one.to_yaml()).map_err(failed("writing", &path))?;
            known.revisions.insert(key.to_owned(), entry.revision);
            known.before.remove(key);
        }
        sync(&self.folder).map_err(failed("writing", &self.folder))
    }

    /// Forgets a key. Blocks.
    pub fn forget(&self, key: &str) -> Result<()> {
        let mut known = self.lock();
        known.before.remove(key);
        known.revisions.remove(key);
        let path = path_of(&self.folder, key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync(&self.folder)).map_err(failed("removing", &path)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(doing: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::msg(format!("{doing} {}: {error}", path.display()))
}

/// The file of a key.
fn path_of(folder: &Path, key: &str) -> PathBuf {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let shown: String = key.chars().map(|c| if is_plain(c) { c } else { '-' }).take(SHOWN).collect();
    let hash = blake3::hash(key.as_bytes()).to_hex();
    folder.join(format!("{shown}-{}.yaml", &hash[..16]))
}

fn read(folder: &Path, path: &Path) -> Result<ConfigSet> {
    let refused = |why: &str| Error::new(ErrorKind::Invalid, format!("{} {why}", path.display()));
    let found = fs::symlink_metadata(path).map_err(failed("reading", path))?;
    if !found.is_file() {
        return Err(refused("is not a file"));
    }
    if !is_only_ours(&found) {
        return Err(refused("can be written by others"));
    }
    let text = fs::read_to_string(path).map_err(failed("reading", path))?;
    let set = ConfigSet::parse(&path.to_string_lossy(), &text)?;
    let keys: Vec<&str> = set.iter().map(|(key, _)| key).collect();
    match keys[..] {
        [key] if path_of(folder, key) == path => Ok(set),
        [key] => Err(refused(&format!("has the config `{key}`, whose file has another name"))),
        _ => Err(refused(&format!("has {} configs instead of one", keys.len()))),
    }
}

/// Written whole, or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(OpenOptions::new().create_new(true)).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// For writing by this user only, where the system knows users.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn private_folder(folder: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(failed("creating", folder))?;
    let found = fs::metadata(folder).map_err(failed("opening", folder))?;
    if is_only_ours(&found) {
        return Ok(());
    }
    let what = format!("{} can be written by others; who can write there can run code in the daemon", folder.display());
    Err(Error::new(ErrorKind::Invalid, what))
}

/// Whether nobody else can write to something.
fn is_only_ours(found: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        true
    }
}

/// Has the names in a folder written to the disk, where the system does that by itself later.
fn sync(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    let _ = folder;
    Ok(())
}

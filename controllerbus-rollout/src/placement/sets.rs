//! Published config sets: numbered objects, signed, whose first line says which set and which number it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hot_runtime::sign::{self, PublicKey, SecretKey, verify_bytes};

use super::{PlacedSet, rows};
use crate::blocking;
use crate::error::{Error, Result};
use crate::store::{Created, LARGEST_DOCUMENT, Store};

/// How many other publishers may come first.
const TRIES: usize = 16;

/// The first line: what is signed as one set is never read as another, or as an older one.
fn head(name: &str, number: u64) -> String {
    format!("# controllerbus set 1: {} {number}\n", crate::store::part(name))
}

/// Publishes config sets to a fleet.
#[derive(Debug)]
pub struct SetPublisher {
    store: Store,
    key: Arc<SecretKey>,
}

impl SetPublisher {
    /// A publisher with a key.
    pub fn new(store: &Store, key: SecretKey) -> Self {
        Self { store: store.clone(), key: Arc::new(key) }
    }

    /// Publishes a set under a name, in place of what is there. Returns its number.
    ///
    /// # Errors
    /// What is wrong with the text, and the store's.
    pub async fn publish(&self, name: &str, text: &str) -> Result<u64> {
        PlacedSet::parse(name, text)?;
        let (documents, signatures) = rows(&self.store, name);
        for _ in 0..TRIES {
            let number = documents.numbers(0).await?.last().map_or(1, |last| last + 1);
            let bytes = Bytes::from(head(name, number) + text);
            let (key, signed) = (Arc::clone(&self.key), bytes.clone());
            let about = format!("set:{} number:{number}", crate::store::part(name));
            let signature = blocking(move || Ok(sign::sign_bytes(&signed, &about, &key)?)).await?;
            match self.store.create(&documents.path(number), bytes.clone()).await? {
                Created::Existed(found) if found != bytes => {}
                _ => {
                    self.store.write(&signatures.path(number), signature.into_bytes().into()).await?;
                    return Ok(number);
                }
            }
        }
        Err(Error::NotNow(format!("others publish the set {name} all the time; try again")))
    }
}

/// A set that an accepted key has signed.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustedSet {
    /// Its number.
    pub number: u64,
    /// The set.
    pub set: PlacedSet,
    bytes: Bytes,
    signature: Bytes,
}

impl TrustedSet {
    /// The newest set after `known`, if there is one.
    ///
    /// # Errors
    /// The store's, and [`Error::Refused`] for one that no accepted key has signed.
    pub async fn newest(store: &Store, name: &str, known: u64, keys: &[PublicKey]) -> Result<Option<Self>> {
        let (documents, signatures) = rows(store, name);
        let Some((number, bytes)) = documents.newest(known).await? else { return Ok(None) };
        let signature = store.read(&signatures.path(number), LARGEST_DOCUMENT).await?;
        let unsigned = || Error::refused(format!("set {name}, number {number}"), "it is not signed; publish it again");
        Self::trusted(name, number, bytes, signature.ok_or_else(unsigned)?, keys).map(Some)
    }

    fn trusted(name: &str, number: u64, bytes: Bytes, signature: Bytes, keys: &[PublicKey]) -> Result<Self> {
        let what = format!("set {name}, number {number}");
        verify_bytes(Path::new(&what), &bytes, &String::from_utf8_lossy(&signature), keys)
            .map_err(|error| Error::refused(what.clone(), error.with_causes().to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::refused(what.clone(), "it is no text"))?;
        if !text.starts_with(&head(name, number)) {
            return Err(Error::refused(what, "it was signed as another set, or another number of it"));
        }
        Ok(Self { number, set: PlacedSet::parse(name, text)?, bytes, signature })
    }
}

/// The last set that this host has applied, on its own disk: so that it starts without the store, and never goes back.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    folder: PathBuf,
}

impl Kept {
    pub(super) fn in_folder(folder: &Path, name: &str) -> Result<Self> {
        let folder = folder.join("sets").join(crate::store::part(name));
        crate::cache::private_dir(&folder)?;
        Ok(Self { folder })
    }

    /// Reads it. Blocks.
    pub(super) fn read(&self, name: &str, keys: &[PublicKey]) -> Result<Option<TrustedSet>> {
        let mut newest = None;
        for file in std::fs::read_dir(&self.folder).map_err(Error::io("reading", &self.folder))?.flatten() {
            let path = file.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".yaml")?.parse::<u64>().ok());
            newest = newest.max(number);
        }
        let Some(number) = newest else { return Ok(None) };
        let read = |ending: &str| {
            let path = self.path(number, ending);
            std::fs::read(&path).map(Bytes::from).map_err(Error::io("reading", &path))
        };
        TrustedSet::trusted(name, number, read("yaml")?, read("yaml.minisig")?, keys).map(Some)
    }

    fn path(&self, number: u64, ending: &str) -> PathBuf {
        self.folder.join(format!("{number}.{ending}"))
    }

    /// Writes it, the signature first. Blocks.
    pub(super) fn write(&self, set: &TrustedSet) -> Result<()> {
        for (ending, bytes) in [("yaml.minisig", &set.signature), ("yaml", &set.bytes)] {
            let path = self.path(set.number, ending);
            let write = || -> std::io::Result<()> {
                let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
                std::io::Write::write_all(&mut file, bytes)?;
                file.as_file().sync_all()?;
                file.persist(&path).map_err(|error| error.error)?;
                std::fs::File::open(&self.folder)?.sync_all()
            };
            write().map_err(Error::io("writing", &path))?;
        }
        for old in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            if name
                .split('.')
                .next()
                .and_then(|number| number.parse::<u64>().ok())
                .is_some_and(|number| number < set.number)
            {
                let _ = std::fs::remove_file(old.path());
            }
        }
        Ok(())
    }
}

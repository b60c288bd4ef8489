//! The store: immutable objects in a folder, in S3 and its kind, in GCS or in Azure, by one URL.
//!
//! What counts is written with [`Store::create`], which never overwrites: of two writers of one name only one can win. Every call
//! has a time limit and is tried again a few times; a store that is away is an error that says so.

mod numbered;
mod objects;
mod opened;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};

pub(crate) use numbered::{Numbered, encoded, token};
pub use objects::{Fault, Got, Objects, Put};

/// How long one call may take, unless set.
const LIMIT: Duration = Duration::from_secs(10);

/// How long to wait before each further try.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// The largest document: rollouts of ten thousand hosts have some hundred KiB.
pub(crate) const LARGEST_DOCUMENT: u64 = 4 << 20;

/// A store. Cheap to clone; every clone is the same store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> controllerbus_rollout::Result<()> {
/// use controllerbus_rollout::store::{Created, Store};
///
/// let store = Store::open("memory://an-example")?;
/// assert_eq!(store.create("leases/x/1.json", "mine".into()).await?, Created::New);
/// assert_eq!(store.create("leases/x/1.json", "yours".into()).await?, Created::Existed("mine".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn Objects>,
    url: Arc<str>,
    limit: Duration,
    /// What may be why it does not answer.
    hint: Option<&'static str>,
}

/// What came of [`Store::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is there, and this call has written it.
    New,
    /// There was one before; these are its bytes.
    Existed(Bytes),
}

impl Store {
    /// Opens a store: `file:///mnt/share/cbus`, `memory://NAME` (of this process), and with the features of this crate
    /// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` and `az://CONTAINER/PREFIX`, whose credentials are in the variables that
    /// their own tools use, such as `AWS_ACCESS_KEY_ID`. Nothing is read yet: a store may be away for now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a URL that is none, or whose kind this program was built without.
    pub fn open(url: &str) -> Result<Self> {
        Self::open_with(url, opened::environment())
    }

    /// Opens a store as [`Store::open`] does, with these variables instead of those of the process.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(url: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let variables: Vec<_> = variables.into_iter().collect();
        let hint = opened::hint(url, &variables);
        Ok(Self { hint, ..Self::over(url, opened::open(url, variables)?) })
    }

    /// A store over objects that are kept in another way. `url` names it in messages.
    pub fn over(url: &str, objects: Arc<dyn Objects>) -> Self {
        Self { objects, url: url.into(), limit: LIMIT, hint: None }
    }

    /// The same store with another time limit for each call; 10 s unless set. A call is tried three times.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads an object of at most so many bytes; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Denied`], or [`Error::Refused`] for one that is larger.
    pub async fn read(&self, path: &str, largest: u64) -> Result<Option<Bytes>> {
        let got = self.tried(&format!("reading {path}"), || self.objects.get(path, None, largest)).await?;
        Ok(got.map(|got| got.bytes))
    }

    /// Reads a part of an object, and how large the object is.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn read_part(&self, path: &str, part: Range<u64>) -> Result<Option<Got>> {
        let largest = part.end - part.start;
        self.tried(&format!("reading {path}"), || self.objects.get(path, Some(part.clone()), largest)).await
    }

    /// Writes a new object. One that is there is left alone, and read: so whoever loses sees who has won, and a refusal
    /// without an object behind it, as S3 gives to writers who collide, is tried again.
    ///
    /// # Errors
    /// [`Error::Away`] or [`Error::Denied`]. It may have been written all the same.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created> {
        let doing = format!("writing {path}");
        let mut pauses = PAUSES.iter();
        loop {
            let written = self.tried(&doing, || self.objects.put(path, bytes.clone(), Put::Create)).await?;
            if written {
                return Ok(Created::New);
            }
            // Artifacts are compared as well, and may be larger than any document.
            let largest = LARGEST_DOCUMENT.max(bytes.len() as u64);
            if let Some(found) = self.read(path, largest).await? {
                return Ok(Created::Existed(found));
            }
            let Some(pause) = pauses.next() else {
                let why = "it says that the object exists, but there is none".to_owned();
                return Err(self.away(doing, why));
            };
            tokio::time::sleep(jittered(*pause)).await;
        }
    }

    /// Writes an object, over one that is there. Only for what proves itself, such as signatures.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let doing = format!("writing {path}");
        self.tried(&doing, || self.objects.put(path, bytes.clone(), Put::Overwrite)).await.map(drop)
    }

    /// The names of the objects directly in a folder, those after `after`, in their order.
    ///
    /// # Errors
    /// [`Error::Away`] or [`Error::Denied`].
    pub async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<String>> {
        self.tried(&format!("listing {folder}"), || self.objects.list(folder, after)).await
    }

    /// The names of the folders directly in a folder, in their order.
    ///
    /// # Errors
    /// [`Error::Away`] or [`Error::Denied`].
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.tried(&format!("listing {folder}"), || self.objects.folders(folder)).await
    }

    /// Deletes an object, if it is there.
    ///
    /// # Errors
    /// [`Error::Away`] or [`Error::Denied`].
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.tried(&format!("deleting {path}"), || self.objects.delete(path)).await
    }

    async fn tried<'a, T, F>(&self, doing: &str, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>> + 'a,
    {
        let mut pauses = PAUSES.iter();
        loop {
            let why = match tokio::time::timeout(self.limit, call()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(Fault::Denied(why))) => {
                    let why = self.hinted(why);
                    return Err(Error::Denied { store: self.url.to_string(), doing: doing.to_owned(), why });
                }
                Ok(Err(Fault::TooLarge(size, largest))) => {
                    let why = format!("it has {size} bytes, and at most {largest} are expected");
                    return Err(Error::refused(format!("what the store {} gives ({doing})", self.url), why));
                }
                Ok(Err(Fault::Away(why))) => why,
                Err(_) => format!("no answer within {:?}", self.limit),
            };
            let Some(pause) = pauses.next() else { return Err(self.away(doing.to_owned(), why)) };
            tokio::time::sleep(jittered(*pause)).await;
        }
    }

    fn hinted(&self, why: String) -> String {
        match self.hint {
            Some(hint) => format!("{why}; {hint}"),
            None => why,
        }
    }

    fn away(&self, doing: String, why: String) -> Error {
        let why = self.hinted(why);
        Error::Away { store: self.url.to_string(), doing, why }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A time between 75 and 125 % of another, so that hosts do not come all at once.
pub(crate) fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// A name as one part of a path: everything but letters, digits, `-`, `_` and `.` is written as `%2F` is.
pub(crate) fn part(name: &str) -> String {
    let mut part = String::new();
    for byte in name.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && !part.is_empty());
        match is_plain {
            true => part.push(byte as char),
            false => part.push_str(&format!("%{byte:02X}")),
        }
    }
    part
}

/// The name that [`part`] has written; `None` for what it would not write.
pub(crate) fn name(of: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = of.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok().filter(|name| part(name) == of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_part_of_a_path_and_comes_back() {
        for plain in ["greeter", "example/greeter", "..", ".", "a b%c", "größer", "x.y", ""] {
            let part = part(plain);
            assert!(!part.contains('/') && !part.starts_with('.'), "{part}");
            assert_eq!(name(&part).as_deref(), Some(plain));
        }
        for strange in ["%", "%2", "%zz", "%61", "a/b", "%FF"] {
            assert_eq!(name(strange), None, "{strange}");
        }
    }
}

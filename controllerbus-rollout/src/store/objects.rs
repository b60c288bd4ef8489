//! What a store has to do, and how the crate `object_store` does it.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use controllerbus::controller::BoxFuture;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, PutMode, PutOptions};

/// What a store has to do. Paths are names with `/` between them.
pub trait Objects: fmt::Debug + Send + Sync + 'static {
    /// An object, or a part of it; `None` if there is none. What is larger than `largest` is not read.
    fn get<'a>(
        &'a self,
        path: &'a str,
        part: Option<Range<u64>>,
        largest: u64,
    ) -> BoxFuture<'a, Result<Option<Got>, Fault>>;

    /// Writes an object as a whole. False if there is one already, and it was not to be overwritten; or if the store says so
    /// because others write it at the same time.
    fn put<'a>(&'a self, path: &'a str, bytes: Bytes, how: Put) -> BoxFuture<'a, Result<bool, Fault>>;

    /// The names of the objects directly in a folder, those after `after`, in their order.
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, Fault>>;

    /// The names of the folders directly in a folder, in their order.
    fn folders<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<String>, Fault>>;

    /// Deletes an object, if it is there.
    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), Fault>>;
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The bytes.
    pub bytes: Bytes,
    /// How many bytes the whole object has.
    pub size: u64,
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Only if there is none.
    Create,
    /// In any case.
    Overwrite,
}

/// Why a call of a store failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It may succeed later.
    Away(String),
    /// It is not allowed.
    Denied(String),
    /// The object has so many bytes, which are more than so many.
    TooLarge(u64, u64),
}

/// Objects in a store of the crate `object_store`.
#[derive(Debug)]
pub(super) struct In(pub(super) Arc<dyn ObjectStore>);

fn fault(error: object_store::Error) -> Fault {
    use object_store::Error as E;
    let why = error.to_string();
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::NotImplemented { .. } | E::NotSupported { .. } => {
            Fault::Denied(why)
        }
        E::Generic { source, .. } if is_denied(&*source) => Fault::Denied(why),
        // Of a list it says so in words only.
        E::Generic { .. } if ["401 Unauthorized", "403 Forbidden"].iter().any(|status| why.contains(status)) => {
            Fault::Denied(why)
        }
        _ => Fault::Away(why),
    }
}

/// Whether a folder's rights are the cause.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn at(path: &str) -> Result<Path, Fault> {
    Path::parse(path).map_err(|error| Fault::Denied(error.to_string()))
}

impl Objects for In {
    fn get<'a>(
        &'a self,
        path: &'a str,
        part: Option<Range<u64>>,
        largest: u64,
    ) -> BoxFuture<'a, Result<Option<Got>, Fault>> {
        Box::pin(async move {
            let options = GetOptions { range: part.map(GetRange::Bounded), ..GetOptions::default() };
            let got = match self.0.get_opts(&at(path)?, options).await {
                Ok(got) => got,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(fault(error)),
            };
            let (size, length) = (got.meta.size, got.range.end - got.range.start);
            if length > largest {
                return Err(Fault::TooLarge(length, largest));
            }
            Ok(Some(Got { bytes: got.bytes().await.map_err(fault)?, size }))
        })
    }

    fn put<'a>(&'a self, path: &'a str, bytes: Bytes, how: Put) -> BoxFuture<'a, Result<bool, Fault>> {
        Box::pin(async move {
            let mode = match how {
                Put::Create => PutMode::Create,
                Put::Overwrite => PutMode::Overwrite,
            };
            let options = PutOptions { mode, ..PutOptions::default() };
            match self.0.put_opts(&at(path)?, bytes.into(), options).await {
                Ok(_) => Ok(true),
                // S3 says either for a condition that does not hold, and 409 also where nobody has written anything.
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
                    if how == Put::Create =>
                {
                    Ok(false)
                }
                Err(error) => Err(fault(error)),
            }
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            let folder = at(folder)?;
            let mut found = match after {
                Some(after) => self.0.list_with_offset(Some(&folder), &folder.clone().join(after)),
                None => self.0.list(Some(&folder)),
            };
            let mut names = Vec::new();
            while let Some(next) = poll_fn(|cx| found.as_mut().poll_next(cx)).await {
                let meta = match next {
                    Ok(meta) => meta,
                    Err(object_store::Error::NotFound { .. }) => continue,
                    Err(error) => return Err(fault(error)),
                };
                let mut rest = meta.location.prefix_match(&folder).into_iter().flatten();
                if let (Some(name), None) = (rest.next(), rest.next()) {
                    names.push(name.as_ref().to_owned());
                }
            }
            names.sort_unstable();
            Ok(names)
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            let found = match self.0.list_with_delimiter(Some(&at(folder)?)).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
                Err(error) => return Err(fault(error)),
            };
            let mut names: Vec<_> =
                found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
            names.sort_unstable();
            Ok(names)
        })
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            match object_store::ObjectStoreExt::delete(&*self.0, &at(path)?).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(fault(error)),
            }
        })
    }
}

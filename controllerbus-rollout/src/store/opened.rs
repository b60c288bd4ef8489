//! Makes a store of a URL.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use controllerbus::controller::BoxFuture;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use url::Url;

use super::objects::{Fault, Got, In, Objects, Put};
use crate::error::{Error, Result};

pub(super) fn open(text: &str, variables: Vec<(String, String)>) -> Result<Arc<dyn Objects>> {
    let refuse = |why: String| {
        let kinds = "file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, memory://NAME";
        Error::Invalid(format!("`{text}` is not a store: {why}; a store is one of {kinds}"))
    };
    let url = Url::parse(text).map_err(|error| refuse(error.to_string()))?;
    let cloud = |name: &str, feature: &str, prefixes: &[&str]| {
        let reads = |(name, _): &(String, String)| prefixes.iter().any(|prefix| name.starts_with(prefix));
        prepare();
        match object_store::parse_url_opts(&url, variables.into_iter().filter(reads)) {
            Ok((store, prefix)) => Ok(Arc::new(In(Arc::new(PrefixStore::new(store, prefix)))) as Arc<dyn Objects>),
            Err(object_store::Error::Generic { source, .. }) if source.to_string().contains("not enabled") => {
                Err(refuse(format!("this program was built without {name}; build it with the feature `{feature}`")))
            }
            Err(error) => Err(refuse(error.to_string())),
        }
    };
    match url.scheme() {
        "memory" => Ok(memory(text)),
        "file" => {
            let path = url.to_file_path().map_err(|()| refuse("a folder's URL has three slashes".to_owned()))?;
            Ok(Arc::new(Folder { path, opened: OnceLock::new() }))
        }
        // What else is in the environment is not meant for the store: `object_store` would take a `TOKEN` or `TIMEOUT` for its own.
        "s3" | "s3a" => cloud("S3", "s3", &["AWS_"]),
        "gs" => cloud("GCS", "gcs", &["GOOGLE_"]),
        "az" | "azure" | "abfs" | "abfss" => cloud("Azure", "azure", &["AZURE_", "IDENTITY_", "MSI_"]),
        other => Err(refuse(format!("`{other}` is unknown"))),
    }
}

/// TLS by `ring`, unless the program has chosen something else.
#[cfg(feature = "cloud")]
fn prepare() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // If another thread was faster, there is one now.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(not(feature = "cloud"))]
fn prepare() {}

/// The variables of this process, as far as they are text.
pub(super) fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// What may be why a store does not answer.
pub(super) fn hint(url: &str, variables: &[(String, String)]) -> Option<&'static str> {
    let gives_credentials = |(name, _): &(String, String)| {
        ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_", "AWS_SKIP_SIGNATURE"]
            .iter()
            .any(|known| name.starts_with(known))
    };
    let is_without = url.starts_with("s3") && !variables.iter().any(gives_credentials);
    is_without.then_some(
        "there is no AWS_ACCESS_KEY_ID among the variables, and so this machine was asked for credentials, as only those of \
         a cloud have them",
    )
}

/// All that this process opens by one name are one store.
fn memory(url: &str) -> Arc<dyn Objects> {
    static OPENED: OnceLock<Mutex<HashMap<String, Arc<InMemory>>>> = OnceLock::new();
    let mut opened = OPENED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    Arc::new(In(Arc::clone(opened.entry(url.to_owned()).or_default()) as Arc<dyn object_store::ObjectStore>))
}

/// A folder, which may not be there yet, such as a share that is not mounted. It is never made: what would be written there
/// then, nobody else would see.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    opened: OnceLock<In>,
}

impl Folder {
    fn objects(&self) -> Result<&In, Fault> {
        if !Path::new(&self.path).is_dir() {
            let path = self.path.display();
            return Err(Fault::Away(format!("the folder {path} is not there; make it once, or mount the share")));
        }
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = LocalFileSystem::new_with_prefix(&self.path).map_err(|error| Fault::Away(error.to_string()))?;
        Ok(self.opened.get_or_init(|| In(Arc::new(opened.with_fsync(true)))))
    }
}

impl Objects for Folder {
    fn get<'a>(
        &'a self,
        path: &'a str,
        part: Option<Range<u64>>,
        largest: u64,
    ) -> BoxFuture<'a, Result<Option<Got>, Fault>> {
        Box::pin(async move { self.objects()?.get(path, part, largest).await })
    }

    fn put<'a>(&'a self, path: &'a str, bytes: Bytes, how: Put) -> BoxFuture<'a, Result<bool, Fault>> {
        Box::pin(async move { self.objects()?.put(path, bytes, how).await })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            self.objects()?;
            // An empty folder is not a store that is away.
            if !self.path.join(folder).is_dir() {
                return Ok(Vec::new());
            }
            self.objects()?.list(folder, after).await
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            self.objects()?;
            if !self.path.join(folder).is_dir() {
                return Ok(Vec::new());
            }
            self.objects()?.folders(folder).await
        })
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move { self.objects()?.delete(path).await })
    }
}

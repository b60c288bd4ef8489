//! Marks on artifacts that have failed a rollout: they never come back by themselves.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::release::{Release, ReleaseName};
use crate::store::{LARGEST_DOCUMENT, Store, encoded, part};

/// Why an artifact is marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BadMark {
    /// The release whose rollout failed.
    pub release: ReleaseName,
    /// Who has marked it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Why.
    pub why: String,
}

impl BadMark {
    pub(crate) fn new(release: ReleaseName, by: &str, at_ms: u64, why: &str) -> Self {
        Self { release, by: by.to_owned(), at_ms, why: why.to_owned() }
    }
}

fn path(plugin: &str, blake3: &str) -> String {
    format!("bad/{}/{}.json", part(plugin), part(blake3))
}

/// Marks the artifacts of a release. Marks that are there stay.
pub(crate) async fn mark(store: &Store, release: &Release, mark: &BadMark) -> Result<()> {
    for artifact in &release.artifacts {
        store.create(&path(&release.plugin, &artifact.blake3), encoded(mark)?).await?;
    }
    Ok(())
}

/// The mark of an artifact.
pub(crate) async fn marked(store: &Store, plugin: &str, blake3: &str) -> Result<Option<BadMark>> {
    let found: Option<Bytes> = store.read(&path(plugin, blake3), LARGEST_DOCUMENT).await?;
    // What cannot be read is a mark all the same.
    let unknown = || BadMark::new(ReleaseName::new(0, semver::Version::new(0, 0, 0)), "", 0, "the mark cannot be read");
    Ok(found.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_else(|_| unknown())))
}

/// Refuses a release that has a mark.
pub(crate) fn refusal(plugin: &str, mark: &BadMark) -> Error {
    let why = format!(
        "it failed a rollout as {} ({}); publish a better one, or start the rollout with `despite: true`",
        mark.release, mark.why
    );
    Error::refused(format!("an artifact of {plugin}"), why)
}

//! Releases: signed documents that say which artifact is which version of a plugin, and for whom.
//!
//! There is one way from what the store gives to what is loaded, and each step of it is a type: [`Signed`] is what was read,
//! [`Trusted`] is a document that an accepted key has signed, that is about what was asked for, and that has not expired.

use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use controllerbus::plugin::manifest::ACCEPTED;
use hot_runtime::sign::{PublicKey, verify_bytes};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::{LARGEST_DOCUMENT, Numbered, Store, part};

/// The first field of each release document: what is signed as something else is never read as a release.
const KIND: &str = "controllerbus release 1";

/// A signature has some hundred bytes.
const LARGEST_SIGNATURE: u64 = 64 << 10;

/// How many artifacts a release may have.
const MOST: usize = 1000;

/// A version of a plugin, as its publisher has signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Release {
    /// What kind of document it is.
    kind: String,
    /// The plugin's id.
    pub plugin: String,
    /// Its version.
    pub version: semver::Version,
    /// Rises with each release of the plugin. Hosts refuse a lower one than they have seen.
    pub sequence: u64,
    /// After this time it is not installed any more, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The files, for each kind of host.
    pub artifacts: Vec<Artifact>,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Artifact {
    /// The target triple that it was built for.
    pub target: String,
    /// The version of its boundary.
    pub boundary: u32,
    /// The fingerprint of the types that cross the boundary.
    pub fingerprint: String,
    /// The hash of the whole file, as 64 hexadecimal digits. It is its name in the store.
    pub blake3: String,
    /// The size of the whole file, in bytes.
    pub size: u64,
}

/// A release by its number and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReleaseName {
    /// [`Release::sequence`].
    pub sequence: u64,
    /// [`Release::version`].
    pub version: semver::Version,
}

impl ReleaseName {
    /// A release.
    pub fn new(sequence: u64, version: semver::Version) -> Self {
        Self { sequence, version }
    }
}

impl std::fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (release {})", self.version, self.sequence)
    }
}

/// The time, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Release {
    pub(crate) fn new(plugin: &str, version: semver::Version, sequence: u64, lasts: Duration) -> Self {
        Self {
            kind: KIND.to_owned(),
            plugin: plugin.to_owned(),
            version,
            sequence,
            expires_ms: now_ms().saturating_add(millis(lasts)),
            artifacts: Vec::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> ReleaseName {
        ReleaseName::new(self.sequence, self.version.clone())
    }

    /// The artifact for this program: for its target, with a boundary that it accepts.
    ///
    /// # Errors
    /// [`Error::Refused`] that says what there is instead.
    pub fn artifact(&self) -> Result<&Artifact> {
        self.artifact_for(hot_runtime::artifact::TARGET, |artifact| {
            ACCEPTED.iter().any(|of| of.version == artifact.boundary && of.fingerprint == artifact.fingerprint)
        })
    }

    fn artifact_for(&self, target: &str, accepts: impl Fn(&Artifact) -> bool) -> Result<&Artifact> {
        let of_target: Vec<_> = self.artifacts.iter().filter(|artifact| artifact.target == target).collect();
        if let Some(found) = of_target.iter().find(|artifact| accepts(artifact)) {
            return Ok(found);
        }
        let what = format!("release {} of {}", self.sequence, self.plugin);
        let why = match of_target.first() {
            Some(other) => format!(
                "its artifacts for {target} have another boundary than this host (version {}, fingerprint {}); publish one that was \
                 built with this host's version of controllerbus",
                other.boundary, other.fingerprint
            ),
            None => {
                let mut targets: Vec<_> = self.artifacts.iter().map(|artifact| artifact.target.as_str()).collect();
                targets.dedup();
                format!("it has no artifact for {target}, only for {}; publish one", targets.join(", "))
            }
        };
        Err(Error::refused(what, why))
    }
}

/// A release document as it was read, with its signature. Nothing is known about it.
#[derive(Clone, Debug)]
pub struct Signed {
    plugin: String,
    sequence: u64,
    bytes: Bytes,
    signature: Bytes,
}

impl Signed {
    /// Reads the document of a release.
    ///
    /// # Errors
    /// The store's, and [`Error::Refused`] if there is no such release, or no signature.
    pub async fn read(store: &Store, plugin: &str, sequence: u64) -> Result<Self> {
        let releases = Releases::new(store, plugin);
        let what = || format!("release {sequence} of {plugin}");
        let missing = |why: &str| Error::refused(what(), why.to_owned());
        let bytes = releases.documents.read(sequence).await?.ok_or_else(|| missing("the store has no such release"))?;
        let signature = store.read(&releases.signatures.path(sequence), LARGEST_SIGNATURE).await?;
        let signature = signature.ok_or_else(|| missing("it is not signed; publish it again"))?;
        Ok(Self { plugin: plugin.to_owned(), sequence, bytes, signature })
    }

    /// Believes the document if one of the keys has signed it, and it is about this plugin and release.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong.
    pub fn trusted(self, keys: &[PublicKey]) -> Result<Trusted> {
        let what = format!("release {} of {}", self.sequence, self.plugin);
        let signature = String::from_utf8_lossy(&self.signature);
        let key = verify_bytes(Path::new(&what), &self.bytes, &signature, keys)
            .map_err(|error| Error::refused(what.clone(), error.with_causes().to_string()))?;
        let release: Release = serde_json::from_slice(&self.bytes)
            .map_err(|error| Error::refused(what.clone(), format!("it cannot be read: {error}; update this host")))?;
        let Release { kind, plugin, sequence, artifacts, .. } = &release;
        let wrong = if kind != KIND {
            Some(format!("it is a `{kind}`; update this host"))
        } else if (plugin, *sequence) != (&self.plugin, self.sequence) {
            Some(format!("the document is that of release {sequence} of {plugin}, in another one's place"))
        } else if artifacts.is_empty() || artifacts.len() > MOST {
            Some(format!("it has {} artifacts", artifacts.len()))
        } else {
            let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let bad = artifacts.iter().find(|artifact| !is_hash(&artifact.blake3) || artifact.size == 0);
            bad.map(|bad| format!("`{}` of {} bytes is no artifact", bad.blake3.escape_debug(), bad.size))
        };
        match wrong {
            Some(why) => Err(Error::refused(what, why)),
            None => Ok(Trusted { release, key }),
        }
    }
}

/// A release document that an accepted key has signed.
#[derive(Clone, Debug)]
pub struct Trusted {
    release: Release,
    key: String,
}

impl Trusted {
    /// The id of the key.
    pub fn signed_by(&self) -> &str {
        &self.key
    }

    /// Checks that it may still be installed.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has expired.
    pub fn check_fresh(&self) -> Result<()> {
        self.check_fresh_at(now_ms())
    }

    fn check_fresh_at(&self, now_ms: u64) -> Result<()> {
        if now_ms <= self.release.expires_ms {
            return Ok(());
        }
        let hours = (now_ms - self.release.expires_ms) / 3_600_000;
        let what = format!("release {} of {}", self.release.sequence, self.release.plugin);
        Err(Error::refused(what, format!("it expired {hours} hours ago by this host's clock; publish it again")))
    }
}

impl Deref for Trusted {
    type Target = Release;

    fn deref(&self) -> &Release {
        &self.release
    }
}

/// The releases of a plugin in a store.
#[derive(Debug)]
pub(crate) struct Releases {
    pub(crate) documents: Numbered,
    pub(crate) signatures: Numbered,
}

impl Releases {
    pub(crate) fn new(store: &Store, plugin: &str) -> Self {
        let folder = format!("releases/{}", part(plugin));
        let of = |ending| Numbered::new(store, folder.clone(), ending);
        Self { documents: of(".json"), signatures: of(".json.minisig") }
    }

    /// The document of a release; `None` if there is none that can be read. It is not verified: hosts do that.
    pub(crate) async fn of_sequence(&self, sequence: u64) -> Result<Option<Release>> {
        let bytes = self.documents.read(sequence).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The newest release of a version, among those whose document can be read. It is not verified: hosts do that.
    pub(crate) async fn of_version(&self, plugin: &str, version: &semver::Version) -> Result<Release> {
        let mut known = Vec::new();
        for sequence in self.documents.numbers(0).await?.into_iter().rev() {
            let Some(bytes) = self.documents.read(sequence).await? else { continue };
            let Ok(release) = serde_json::from_slice::<Release>(&bytes) else { continue };
            if release.version == *version {
                return Ok(release);
            }
            known.push(release.version.to_string());
        }
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        Err(Error::NotNow(format!("{plugin} {version} was not published; there is {known}")))
    }
}

/// Where an artifact is.
pub(crate) fn artifact_path(blake3: &str) -> String {
    format!("artifacts/{blake3}")
}

/// Where its signature is.
pub(crate) fn artifact_signature_path(blake3: &str) -> String {
    format!("artifacts/{blake3}.minisig")
}

/// Reads an artifact's signature.
pub(crate) async fn artifact_signature(store: &Store, blake3: &str) -> Result<Bytes> {
    let largest = LARGEST_SIGNATURE.min(LARGEST_DOCUMENT);
    let found = store.read(&artifact_signature_path(blake3), largest).await?;
    found.ok_or_else(|| Error::refused(format!("artifact {blake3}"), "it is not signed; publish it again"))
}

//! Puts artifacts and the release document that names them into a store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hot_runtime::artifact::{Inspected, LARGEST, Read};
use hot_runtime::sign::{self, SecretKey};

use crate::blocking;
use crate::error::{Error, Result};
use crate::release::{Artifact, Release, Releases, artifact_path, artifact_signature_path};
use crate::store::{Created, Numbered, Store, part};

/// How many other publishers may come first before one gives up.
const TRIES: usize = 16;

/// A release lasts for so long, unless set.
const LASTS: Duration = Duration::from_secs(365 * 24 * 3600);

/// Puts releases into a store, signed with a key.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use controllerbus_rollout::{Publisher, Store};
/// use hot_runtime::sign::SecretKey;
///
/// let store = Store::open("file:///mnt/share/cbus")?;
/// let publisher = Publisher::new(&store, SecretKey::read("minisign.key".as_ref(), None)?);
/// let release = publisher.publish(["target/greeter.cbus.so"]).await?;
/// println!("{} {} is release {}", release.plugin, release.version, release.sequence);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Publisher {
    store: Store,
    key: std::sync::Arc<SecretKey>,
    lasts: Duration,
    above: u64,
}

impl Publisher {
    /// A publisher with a key.
    pub fn new(store: &Store, key: SecretKey) -> Self {
        Self { store: store.clone(), key: std::sync::Arc::new(key), lasts: LASTS, above: 0 }
    }

    /// Sets for how long hosts install what is published; a year unless set. What runs already runs on after that.
    #[must_use]
    pub fn lasting(mut self, lasts: Duration) -> Self {
        self.lasts = lasts;
        self
    }

    /// Gives releases numbers above this one: for a new store in the place of a lost one, because hosts refuse lower numbers than
    /// they have seen.
    #[must_use]
    pub fn above(mut self, sequence: u64) -> Self {
        self.above = sequence;
        self
    }

    /// Publishes a version of a plugin: one artifact for each target and boundary. Nothing runs it before a rollout is started.
    /// Published again, it gets a new number: so one goes back to an older version that was `done` before.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they are not one version of one plugin, what is wrong with a file, and the store's.
    pub async fn publish(&self, artifacts: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Release> {
        let mut read = Vec::new();
        for path in artifacts {
            let path: PathBuf = path.as_ref().to_owned();
            read.push(blocking(move || Ok(Read::file(&path, LARGEST)?.inspect()?)).await?);
        }
        let mut release = self.describe(&read)?;
        for artifact in &read {
            self.upload(artifact).await?;
        }
        let releases = Releases::new(&self.store, &release.plugin);
        for _ in 0..TRIES {
            let last = releases.documents.numbers(0).await?.last().copied().unwrap_or(0);
            release.sequence = last.max(self.above) + 1;
            // Another publisher's document differs at least in its signature; ours is known by what is in it.
            if releases.documents.create(release.sequence, &release).await? {
                self.sign(&releases.signatures, &release).await?;
                return Ok(release);
            }
        }
        Err(Error::NotNow(format!("others publish {} all the time; try again", release.plugin)))
    }

    fn describe(&self, read: &[Inspected]) -> Result<Release> {
        let Some(first) = read.first() else {
            return Err(Error::Invalid("there is nothing to publish; name at least one artifact".to_owned()));
        };
        let mut release = Release::new(&first.bundle.id, first.bundle.version.clone(), 0, self.lasts);
        for one in read {
            let bundle = &one.bundle;
            if (&bundle.id, &bundle.version) != (&release.plugin, &release.version) {
                let why = format!(
                    "{} is {} {}, and {} is {} {}; a release is one version of one plugin",
                    first.path.display(),
                    release.plugin,
                    release.version,
                    one.path.display(),
                    bundle.id,
                    bundle.version
                );
                return Err(Error::Invalid(why));
            }
            let artifact = Artifact {
                target: bundle.target.clone(),
                boundary: bundle.boundary,
                fingerprint: bundle.abi.clone(),
                blake3: blake3::hash(one.file()).to_hex().to_string(),
                size: one.file().len() as u64,
            };
            let for_same = |other: &&Artifact| {
                (&other.target, other.boundary, &other.fingerprint)
                    == (&artifact.target, artifact.boundary, &artifact.fingerprint)
            };
            if release.artifacts.iter().any(|other| for_same(&other)) {
                let why = format!("two artifacts are for {}, with the same boundary; leave one out", artifact.target);
                return Err(Error::Invalid(why));
            }
            release.artifacts.push(artifact);
        }
        Ok(release)
    }

    async fn upload(&self, artifact: &Inspected) -> Result<()> {
        let bytes = Bytes::copy_from_slice(artifact.file());
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let about = format!("plugin:{} version:{} blake3:{hash}", artifact.bundle.id, artifact.bundle.version);
        let (key, signed) = (std::sync::Arc::clone(&self.key), bytes.clone());
        let signature = blocking(move || Ok(sign::sign_bytes(&signed, &about, &key)?)).await?;
        match self.store.create(&artifact_path(&hash), bytes.clone()).await? {
            Created::Existed(found) if found != bytes => {
                let why = "the store has something else in its place; delete that object, and ask who has written it";
                return Err(Error::refused(format!("artifact {hash}"), why));
            }
            _ => {}
        }
        // Another key may have signed it before. Hosts accept only keys that they know.
        self.store.write(&artifact_signature_path(&hash), signature.into_bytes().into()).await
    }

    async fn sign(&self, signatures: &Numbered, release: &Release) -> Result<()> {
        let bytes = crate::store::encoded(release)?;
        let about = format!("release:{} of:{} version:{}", release.sequence, part(&release.plugin), release.version);
        let key = std::sync::Arc::clone(&self.key);
        let signature = blocking(move || Ok(sign::sign_bytes(&bytes, &about, &key)?)).await?;
        self.store.write(&signatures.path(release.sequence), signature.into_bytes().into()).await
    }
}

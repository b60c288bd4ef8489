//! A host's own copies of artifacts, by hash: so that it starts, and goes back, without the store.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use crate::blocking;
use crate::error::{Error, Result};
use crate::release::{Artifact, artifact_path, artifact_signature};
use crate::store::Store;

/// How much is read of a store in one call: what was read before a connection broke is not read again.
const PIECE: u64 = 4 << 20;

/// The copies of a host.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    most: u64,
}

impl Cache {
    /// The cache in a folder, of about so many bytes. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be made.
    pub(crate) fn open(folder: PathBuf, most: u64) -> Result<Self> {
        private_dir(&folder)?;
        Ok(Self { folder, most })
    }

    fn path(&self, blake3: &str) -> PathBuf {
        self.folder.join(format!("{blake3}.cbus{}", std::env::consts::DLL_SUFFIX))
    }

    /// The file of an artifact that was fetched before, if it is whole. Blocks.
    pub(crate) fn get(&self, blake3: &str) -> Option<PathBuf> {
        let path = self.path(blake3);
        (hash_of(&path).ok()? == blake3).then_some(path)
    }

    /// Fetches an artifact with its signature, unless it is here; then it waits for its turn first. What was read of it before is
    /// not read again. `keep` are the hashes that are not removed to make room.
    ///
    /// # Errors
    /// The store's, which may pass; [`Error::Refused`] if what the store has is not what the release says.
    pub(crate) async fn fetch<T>(
        &self,
        store: &Store,
        artifact: &Artifact,
        keep: &[String],
        turn: impl Future<Output = T>,
    ) -> Result<PathBuf> {
        let signature = artifact_signature(store, &artifact.blake3).await?;
        let (this, wanted) = (self.clone(), artifact.clone());
        let found = blocking(move || Ok(this.get(&wanted.blake3))).await?;
        if found.is_none() {
            let _turn = turn.await;
            self.download(store, artifact).await?;
        }
        let (this, hash, keep) = (self.clone(), artifact.blake3.clone(), keep.to_vec());
        blocking(move || this.put(&hash, &signature, &keep)).await
    }

    async fn download(&self, store: &Store, artifact: &Artifact) -> Result<()> {
        let refused = |why: String| Error::refused(format!("artifact {}", artifact.blake3), why);
        let partial = self.path(&artifact.blake3).with_extension("part");
        let (path, size) = (partial.clone(), artifact.size);
        let mut have = blocking(move || Ok(length_of(&path, size))).await?;
        while have < artifact.size {
            let piece = have..(have + PIECE).min(artifact.size);
            let got = store.read_part(&artifact_path(&artifact.blake3), piece.clone()).await?;
            let got = got.ok_or_else(|| refused("the store does not have it; publish it again".to_owned()))?;
            if got.size != artifact.size || got.bytes.len() as u64 != piece.end - piece.start {
                let why = format!("the release says {} bytes, and the store has {}", artifact.size, got.size);
                return Err(refused(why));
            }
            let path = partial.clone();
            blocking(move || append(&path, have, &got.bytes)).await?;
            have = piece.end;
        }
        let (path, whole) = (partial, self.path(&artifact.blake3));
        let hash = artifact.blake3.clone();
        let is_right = blocking(move || {
            let is_right = hash_of(&path).map_err(Error::io("reading", &path))? == hash;
            match is_right {
                true => fs::rename(&path, &whole).map_err(Error::io("renaming", &path))?,
                false => fs::remove_file(&path).map_err(Error::io("removing", &path))?,
            }
            Ok(is_right)
        });
        if is_right.await? { Ok(()) } else { Err(refused("the store has other bytes than its hash says".to_owned())) }
    }

    /// Adds the signature to a whole artifact, and makes room.
    fn put(&self, blake3: &str, signature: &Bytes, keep: &[String]) -> Result<PathBuf> {
        let path = self.path(blake3);
        let beside = hot_runtime::sign::signature_path(&path);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(signature)?;
            file.as_file().sync_all()?;
            file.persist(&beside).map_err(|error| error.error)?;
            // So that the one that was used last is removed last.
            File::options().append(true).open(&path)?.set_modified(SystemTime::now())
        };
        write().map_err(Error::io("writing", &beside))?;
        self.make_room(blake3, keep);
        Ok(path)
    }

    /// Removes what was used the longest time ago, as far as it is not kept. What cannot be removed stays.
    fn make_room(&self, newest: &str, keep: &[String]) {
        let found = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut all: Vec<_> = found
            .filter_map(|file| {
                let meta = file.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), file.path()))
            })
            .collect();
        all.sort();
        let mut sum: u64 = all.iter().map(|(_, size, _)| size).sum();
        let is_kept = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(newest) || keep.iter().any(|kept| name.starts_with(kept.as_str()))
        };
        for (_, size, path) in all {
            if sum <= self.most {
                break;
            }
            if !is_kept(&path) && fs::remove_file(&path).is_ok() {
                sum -= size;
            }
        }
    }
}

/// Makes a folder that only its owner can enter, with those above it. Blocks.
pub(crate) fn private_dir(folder: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(Error::io("making the folder", folder))
}

/// How much of a file of this size is here.
fn length_of(partial: &Path, size: u64) -> u64 {
    fs::metadata(partial).map(|meta| meta.len()).ok().filter(|have| *have < size).unwrap_or(0)
}

/// Writes at a place in a file, which ends there afterwards.
fn append(partial: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(partial)?;
        file.set_len(at)?;
        file.write_all(bytes)?;
        file.sync_data()
    };
    write().map_err(Error::io("writing", partial))
}

fn hash_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            read => hasher.update(&buffer[..read]),
        };
    }
}

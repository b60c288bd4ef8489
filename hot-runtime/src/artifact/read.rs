//! Reads files once, hashing them as they are read, and inspects them.

use std::fs::File;
use std::io::Read as _;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use controllerbus::error::Code;

use super::arrival::Arrival;
use super::buffer::Buffer;
use super::io::open_bounded;
use super::manifest::{BundleRecord, FactoryRecord, compatible, described};
use super::private::private_folder;
use super::trailer::{self, TRAILER};
use super::{LARGEST, PrivateCopy, refused};
use crate::error::{Error, Result};

/// Where the bytes of a file are.
pub(super) enum Bytes {
    Memory(Buffer),
    Arrived(Arrival),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Arrived(bytes) => bytes,
        }
    }
}

impl Bytes {
    /// Reads so many bytes of a file, with room for `more`, and passes each part to `look`; into a directory for private copies, if one
    /// is given and its files can be mapped. Returns also how many there were, which may be one more.
    pub(super) fn read(
        file: &File,
        (length, more): (u64, usize),
        into: Option<&Path>,
        look: impl FnMut(&[u8]),
    ) -> Result<(Self, u64), std::io::Error> {
        // Where that is not possible, such as on a file system without views, it is written there later.
        let arrival = into.and_then(|dir| Arrival::with_room(length + more as u64, dir).ok());
        if let Some(mut arrival) = arrival {
            let copied = arrival.copy_in_steps(file.take(length), look)? as u64;
            // One more than there should be.
            return Ok((Self::Arrived(arrival), copied + file.take(1).read(&mut [0])? as u64));
        }
        let mut bytes = Buffer::with_room(length as usize + more.max(1))?;
        bytes.read_in_steps(file.take(length + 1), look)?;
        let read = bytes.len() as u64;
        Ok((bytes.into(), read))
    }

    /// Writes over what was read.
    pub(super) fn write_at(&mut self, at: usize, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Memory(memory) => memory[at..at + bytes.len()].copy_from_slice(bytes),
            Self::Arrived(arrival) => arrival.write_at(at, bytes)?,
        }
        Ok(())
    }

    /// Adds bytes behind those that were read, for which there must be room.
    pub(super) fn add(&mut self, length: usize, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Memory(memory) => memory.add(bytes),
            Self::Arrived(arrival) => arrival.write_at(length, bytes)?,
        }
        Ok(())
    }
}

impl From<Buffer> for Bytes {
    fn from(bytes: Buffer) -> Self {
        Self::Memory(bytes)
    }
}

/// The bytes of a file, and the hash of what would be the library in it. Nothing else is known about them.
pub struct Read {
    /// Where it was read from, for messages.
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    pub(super) hash: blake3::Hash,
}

impl Read {
    /// Reads a regular file of at most `largest` bytes in one pass. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Artifact`] if it is too large or not a regular file.
    pub fn file(path: &Path, largest: u64) -> Result<Self> {
        let (file, found) = open_bounded(path, largest, "reading the plugin file")?;
        Self::open_file(path, &file, found.len(), None, |_| {})
    }

    /// Takes bytes that were read already; `path` is for messages.
    pub fn bytes(path: &Path, bytes: Vec<u8>) -> Self {
        let hash = blake3::hash(&bytes[..bytes.len().saturating_sub(TRAILER)]);
        Self { path: path.to_owned(), bytes: Buffer::from(bytes).into(), hash }
    }

    /// Reads a private copy, which is the library alone, and adds its trailer.
    pub(super) fn private_copy(copy: &PrivateCopy) -> Result<Self> {
        let path = copy.path();
        let failed = || Error::io("reading the private copy of a plugin", path);
        let (file, found) = open_bounded(path, u64::MAX, "reading the private copy of a plugin")?;
        let mut bytes = Buffer::with_room(found.len() as usize + TRAILER).map_err(failed())?;
        let mut hasher = blake3::Hasher::new();
        let read = bytes.read_in_steps(file.take(found.len()), |part| {
            hasher.update(part);
        });
        read.map_err(failed())?;
        let hash = hasher.finalize();
        bytes.add(&trailer::trailer(&hash, bytes.len()));
        Ok(Self { path: copy.shown().to_owned(), bytes: bytes.into(), hash })
    }

    /// Reads an open file of this length, and passes each part to `look`; into a directory for private copies, if one is given.
    pub(super) fn open_file(
        path: &Path,
        file: &File,
        length: u64,
        into: Option<&Path>,
        mut look: impl FnMut(&[u8]),
    ) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let mut left = (length as usize).saturating_sub(TRAILER);
        let look = |part: &[u8]| {
            let body = &part[..part.len().min(left)];
            hasher.update(body);
            left -= body.len();
            look(part);
        };
        let dir = into.map(private_folder).transpose()?;
        let what = match dir {
            Some(_) => "copying the plugin file to where only this user can write (is the disk full?)",
            None => "reading the plugin file",
        };
        let (bytes, read) = Bytes::read(file, (length, 0), dir.as_deref(), look).map_err(Error::io(what, path))?;
        if read != length {
            let reason = "it changed while it was being read".to_owned();
            return Err(refused(
                path,
                (Code::BEING_WRITTEN, reason, "write it under another name, and rename it when it is complete"),
            ));
        }
        Ok(Self { path: path.to_owned(), bytes, hash: hasher.finalize() })
    }

    /// The whole file, as it was read.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks that the file is complete and describes itself: trailer, hash, format, manifest. It may be for another
    /// machine or another version of the boundary. None of its code runs.
    ///
    /// # Errors
    /// [`Error::Artifact`] with what is wrong and what to do.
    pub fn inspect(self) -> Result<Inspected> {
        let inspected = trailer::check(&self.bytes, &self.hash).and_then(|()| described(self.library()));
        match inspected {
            Ok((bundle, factories)) => {
                let Self { path, bytes, hash } = self;
                Ok(Inspected { path, bytes, hash: hash.to_hex().to_string(), bundle, factories })
            }
            Err(refusal) => Err(refused(&self.path, refusal)),
        }
    }

    fn library(&self) -> &[u8] {
        &self.bytes[..self.bytes.len().saturating_sub(TRAILER)]
    }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, bytes, hash } = self;
        f.debug_struct("Read").field("path", path).field("bytes", &bytes.len()).field("hash", hash).finish()
    }
}

/// Reads a file and checks that it is complete and describes itself, whoever made it and whatever machine it is for.
/// Blocks.
///
/// # Errors
/// As [`Read::file`] and [`Read::inspect`].
pub fn inspect(path: &Path) -> Result<Inspected> {
    Read::file(path, LARGEST)?.inspect()
}

/// A complete artifact with a valid manifest. It can be looked at, but not loaded.
#[non_exhaustive]
pub struct Inspected {
    /// Where it was read from.
    pub path: PathBuf,
    bytes: Bytes,
    /// The BLAKE3 hash of the library, as hex.
    pub hash: String,
    /// The record of the whole plugin.
    pub bundle: BundleRecord,
    /// The records of its factories.
    pub factories: Vec<FactoryRecord>,
}

impl std::fmt::Debug for Inspected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, bytes, hash, bundle, factories } = self;
        f.debug_struct("Inspected")
            .field("path", path)
            .field("bytes", &bytes.len())
            .field("hash", hash)
            .field("bundle", bundle)
            .field("factories", factories)
            .finish()
    }
}

impl Inspected {
    /// Checks that this process could load it: architecture, target, boundary, types, runtime version.
    ///
    /// # Errors
    /// [`Error::Artifact`] with what does not match and what to do.
    pub fn check_compatible(&self) -> Result<()> {
        compatible(self.library(), &self.bundle).map_err(|refusal| refused(&self.path, refusal))
    }

    /// The library alone, without the trailer.
    pub fn library(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - TRAILER]
    }

    /// The whole file, as it was read.
    pub fn file(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the bytes are in this directory for private copies.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        matches!(&self.bytes, Bytes::Arrived(arrival) if arrival.dir() == Some(dir))
    }

    /// Gives the library, in the directory where it is, a name.
    pub(super) fn into_named(self, name: &Path) -> std::io::Result<()> {
        let length = self.size() as u64;
        match self.bytes {
            Bytes::Arrived(arrival) => arrival.name(length, name),
            Bytes::Memory(_) => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    /// The size of the library in bytes.
    pub fn size(&self) -> usize {
        self.library().len()
    }
}

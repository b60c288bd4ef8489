//! The checks that a file must pass before it is loaded, in their order.

use std::ops::Deref;
use std::path::Path;

use controllerbus::error::Code;

use super::io::open_bounded;
use super::read::{Inspected, Read};
use super::{LARGEST, PrivateCopy, Trust, place, refused};
use crate::error::Result;

/// The checks that a file must pass before it is loaded: its size, who can write to it, and who signed it.
#[derive(Clone, Debug)]
pub struct Checks {
    trust: Trust,
    largest: u64,
    anywhere: bool,
}

impl Checks {
    /// Accepts files of at most [`LARGEST`] bytes to which only this user or the administrator can write, and that
    /// `trust` accepts.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self { trust, largest: LARGEST, anywhere: false }
    }

    /// Sets whose files are accepted.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Sets the size in bytes above which a file is refused without being read.
    #[must_use]
    pub fn largest(mut self, bytes: u64) -> Self {
        self.largest = bytes;
        self
    }

    /// Also accepts files to which other users can write.
    #[must_use]
    pub fn allow_world_writable(mut self, allowed: bool) -> Self {
        self.anywhere = allowed;
        self
    }

    /// Whether no file could ever pass.
    pub fn accept_nothing(&self) -> bool {
        self.trust.accepts_nothing()
    }

    /// Whether the host has not set whom to trust.
    pub(crate) fn are_undecided(&self) -> bool {
        self.trust.is_undecided()
    }

    /// Checks a directory whose files are to be loaded: whoever can write to it can run code in this process.
    pub(crate) fn check_folder(&self, folder: &Path) -> Result<()> {
        if self.anywhere { Ok(()) } else { place::check_folder(folder) }
    }

    /// Reads a file and checks, in this order: its size; who can write to it and to the directories above it; its
    /// signature, if one is required; its hash; its format and its manifest; that it fits this process. The bytes are
    /// read once, and none of its code runs. Blocks.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if it cannot be read, [`crate::Error::Artifact`] or [`crate::Error::Folder`] with what is
    /// wrong and what to do.
    pub fn verify(&self, path: &Path) -> Result<Verified> {
        self.verified(path, None)
    }

    /// The same, with the bytes copied to a directory for private copies as they are read. Blocks.
    ///
    /// # Errors
    /// As [`Checks::verify`], and what is wrong with that directory.
    pub(crate) fn verify_into(&self, path: &Path, dir: &Path) -> Result<Verified> {
        self.verified(path, Some(dir))
    }

    fn verified(&self, path: &Path, into: Option<&Path>) -> Result<Verified> {
        let (file, found) = open_bounded(path, self.largest, "reading the plugin file")?;
        if !self.anywhere {
            place::check_file(path, &found)?;
        }
        let claim = self.trust.claim(path)?;
        let mut verifier = claim.verifier(path)?;
        let read = Read::open_file(path, &file, found.len(), into, |part| {
            if let Some(verifier) = &mut verifier {
                verifier.update(part);
            }
        })?;
        if let Some(verifier) = verifier {
            verifier.finish(path)?;
        }
        let inspected = read.inspect()?;
        inspected.check_compatible()?;
        let signed_by = claim.key().map(|key| key.id().to_owned());
        Ok(Verified { inspected, signed_by })
    }
}

/// An artifact that this process may load. The bytes in memory here are what was checked, and what is loaded.
#[derive(Debug)]
pub struct Verified {
    inspected: Inspected,
    signed_by: Option<String>,
}

impl Verified {
    /// The id of the accepted key that signed it, if one did.
    pub fn signed_by(&self) -> Option<&str> {
        self.signed_by.as_deref()
    }

    /// Accepts what this process just built and sealed: whoever can change its sources can change what it runs anyway.
    pub(crate) fn just_built(inspected: Inspected) -> Result<Self> {
        inspected.check_compatible()?;
        Ok(Self { inspected, signed_by: None })
    }

    /// Accepts the file that a build of this process wrote, if it still has the hash that it was sealed with, and copies it to a
    /// directory for private copies. Blocks.
    pub(crate) fn of_build(path: &Path, hash: &str, dir: &Path) -> Result<Self> {
        let (file, found) = open_bounded(path, u64::MAX, "reading the plugin file")?;
        let inspected = Read::open_file(path, &file, found.len(), Some(dir), |_| {})?.inspect()?;
        if inspected.hash != hash {
            let reason = "it was changed since it was built".to_owned();
            return Err(refused(
                path,
                (Code::CHANGED_SINCE, reason, "another program writes to the work folder; build again"),
            ));
        }
        Self::just_built(inspected)
    }

    /// Accepts what was verified before, from its private copy, if that still has the verified hash. Blocks.
    pub(crate) fn again(copy: &PrivateCopy) -> Result<Self> {
        let read = Read::private_copy(copy)?;
        if *read.hash.to_hex() != *copy.hash() {
            let reason = "its private copy was changed since it was verified".to_owned();
            return Err(refused(copy.shown(), (Code::CHANGED_SINCE, reason, "load the plugin again")));
        }
        Self::just_built(read.inspect()?)
    }

    /// Gives the library, in the directory for private copies where it is, a name.
    pub(super) fn into_named(self, name: &Path) -> std::io::Result<()> {
        self.inspected.into_named(name)
    }
}

impl Deref for Verified {
    type Target = Inspected;

    fn deref(&self) -> &Inspected {
        &self.inspected
    }
}

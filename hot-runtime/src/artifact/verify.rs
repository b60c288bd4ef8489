//! What a file must be before it is loaded, in the order in which it is asked.

use std::ops::Deref;
use std::path::Path;

use super::io::open_bounded;
use super::read::{Inspected, Read};
use super::{LARGEST, PrivateCopy, Trust, place, refused};
use crate::error::Result;

/// What a file must be before it is loaded: of a certain size, where nobody else may write, and by whom the host trusts.
#[derive(Clone, Debug)]
pub struct Checks {
    trust: Trust,
    largest: u64,
    anywhere: bool,
}

impl Checks {
    /// Files of at most [`LARGEST`] bytes, that lie where only this user or the administrator may write, by those whom
    /// `trust` names.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self { trust, largest: LARGEST, anywhere: false }
    }

    /// Sets whom the host trusts.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Sets the size above which a file is refused without being read, in bytes.
    #[must_use]
    pub fn largest(mut self, bytes: u64) -> Self {
        self.largest = bytes;
        self
    }

    /// Accepts files from where others may write, too.
    #[must_use]
    pub fn allow_world_writable(mut self, allowed: bool) -> Self {
        self.anywhere = allowed;
        self
    }

    /// Whether no file at all could pass.
    pub fn accept_nothing(&self) -> bool {
        self.trust.accepts_nothing()
    }

    /// Whether nobody has said whom to trust.
    pub(crate) fn are_undecided(&self) -> bool {
        self.trust.is_undecided()
    }

    /// Checks a folder whose files are to be loaded: whoever may write to it may run code in this process.
    pub(crate) fn check_folder(&self, folder: &Path) -> Result<()> {
        if self.anywhere { Ok(()) } else { place::check_folder(folder) }
    }

    /// Reads a file and checks, in this order: its size; who may write to it and to the folders that it is in; that it is
    /// signed, if that is asked for; its hash; its format and its manifest; that it fits this process. Its bytes are read
    /// once, and none of it is executed. Blocks.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when it cannot be read, [`crate::Error::Artifact`] or [`crate::Error::Folder`] with what is
    /// wrong and what to do.
    pub fn verify(&self, path: &Path) -> Result<Verified> {
        let (file, found) = open_bounded(path, self.largest, "reading the plugin file")?;
        if !self.anywhere {
            place::check_file(path, &found)?;
        }
        let claim = self.trust.claim(path)?;
        let mut verifier = claim.verifier(path)?;
        let read = Read::open_file(path, file, found.len(), |part| {
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

/// An artifact that this process may load. What was checked is what is in memory here, and what is loaded.
#[derive(Debug)]
pub struct Verified {
    inspected: Inspected,
    signed_by: Option<String>,
}

impl Verified {
    /// The id of the accepted key that has signed it, if one has.
    pub fn signed_by(&self) -> Option<&str> {
        self.signed_by.as_deref()
    }

    /// What this process has just built and sealed: who may write its sources may write the program.
    pub(crate) fn just_built(inspected: Inspected) -> Result<Self> {
        inspected.check_compatible()?;
        Ok(Self { inspected, signed_by: None })
    }

    /// What a build of this process has left in a file, if the file still has the hash that it was sealed with. Blocks.
    pub(crate) fn of_build(path: &Path, hash: &str) -> Result<Self> {
        let inspected = Read::file(path, u64::MAX)?.inspect()?;
        if inspected.hash != hash {
            let reason = "it is not what was built".to_owned();
            return Err(refused(path, (reason, "somebody else writes to the work folder; build again")));
        }
        Self::just_built(inspected)
    }

    /// What was verified before, from its private copy, if that still has the hash that was verified. Blocks.
    pub(crate) fn again(copy: &PrivateCopy) -> Result<Self> {
        let read = Read::private_copy(copy)?;
        if *read.hash.to_hex() != *copy.hash() {
            let reason = "the private copy of it is not what was verified".to_owned();
            return Err(refused(copy.shown(), (reason, "load the plugin again")));
        }
        Self::just_built(read.inspect()?)
    }
}

impl Deref for Verified {
    type Target = Inspected;

    fn deref(&self) -> &Inspected {
        &self.inspected
    }
}

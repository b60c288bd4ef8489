//! Artifacts: built libraries with a hash and a manifest, which are sealed, read, inspected and verified without any of
//! their code being executed.
//!
//! One way leads from bytes to code, and each step of it is a type:
//!
//! | type | what is known |
//! |---|---|
//! | [`Read`] | the bytes are in memory, all of them, and their hash was computed as they came |
//! | [`Inspected`] | the hash is the trailer's, it is a library, and its manifest is understood: good enough to be looked at |
//! | [`Verified`] | besides, it lies where nobody else may write, is by whom the host trusts, and fits this process |
//! | [`PrivateCopy`] | the verified bytes, where only this user can write: what is opened |
//!
//! Nothing but [`Checks`] and this crate's own builds make a [`Verified`], and nothing but a [`PrivateCopy`] of one can be opened.

mod io;
mod manifest;
mod place;
mod private;
mod read;
mod seal;
pub mod sign;
mod trailer;
mod trust;
pub(crate) mod unmap;
pub(crate) mod unwind;
mod verify;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::error::Error;

pub use manifest::{BundleRecord, FactoryRecord};
pub use private::PrivateCopy;
pub use read::{Inspected, Read, inspect};
pub(crate) use seal::seal_and_keep;
pub use seal::{Sealed, seal};
pub use trailer::with_trailer;
pub use trust::Trust;
pub use verify::{Checks, Verified};

/// The largest file that is read as an artifact unless the host says otherwise, in bytes. Real ones have a few megabytes.
pub const LARGEST: u64 = 64 << 20;

/// What is wrong, and what to do about it.
type Refusal = (String, &'static str);

fn refused(path: &Path, (reason, help): Refusal) -> Error {
    Error::Artifact { path: path.to_owned(), reason, help: help.to_owned() }
}

/// Whether a file is called like a plugin.
pub(crate) fn is_artifact(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".cbus.so", ".cbus.dylib", ".cbus.dll"].iter().any(|ending| name.ends_with(ending))
}

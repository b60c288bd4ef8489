//! Artifacts: built libraries with a hash and a manifest, which are sealed, read, inspected and verified without
//! running any of their code.
//!
//! There is one way from bytes to code, and each step of it is a type:
//!
//! | type | what is known |
//! |---|---|
//! | [`Read`] | all bytes are in memory, or where only this user can write, and were hashed as they were read |
//! | [`Inspected`] | the hash is the trailer's, it is a library, and its manifest is valid: it can be looked at |
//! | [`Verified`] | also, nobody else can write to it, it comes from someone whom the host trusts, and it fits this process |
//! | [`PrivateCopy`] | the verified bytes where only this user can write: this is what is opened |
//!
//! Only [`Checks`] and this crate's own builds make a [`Verified`], and only a [`PrivateCopy`] of one can be opened.

mod arrival;
mod buffer;
mod conflicts;
mod io;
mod manifest;
mod needed;
mod place;
mod private;
mod read;
mod seal;
pub mod sign;
pub(crate) mod symbols;
mod trailer;
mod trust;
pub(crate) mod unmap;
pub(crate) mod unwind;
mod verify;

#[cfg(test)]
mod tests;

use std::path::Path;

use controllerbus::error::Code;

use crate::error::Error;

pub(crate) use conflicts::conflicts_with_this_program;
pub use conflicts::{Conflict, conflicts};
pub use manifest::{BundleRecord, DirectiveTypes, FactoryRecord};
pub(crate) use needed::needed;
pub use private::PrivateCopy;
pub(crate) use private::remove_spare;
pub use read::{Inspected, Read, inspect};
pub(crate) use seal::seal_and_keep;
pub use seal::{Sealed, seal};
pub use symbols::symbols_path;
pub use trailer::with_trailer;
pub use trust::Trust;
pub use verify::{Checks, Verified};

/// The default limit for the size of an artifact, in bytes. Typical ones have a few megabytes.
pub const LARGEST: u64 = 64 << 20;

/// The target triple that this program was built for: plugins have to be built for it, too.
pub const TARGET: &str = env!("CBUS_TARGET");

/// The code of what is wrong, what is wrong, and what to do about it.
type Refusal = (Code, String, &'static str);

fn refused(path: &Path, (code, reason, help): Refusal) -> Error {
    Error::Artifact { path: path.to_owned(), code, reason, help: help.to_owned() }
}

/// Whether a file has the name of a plugin, or of what is beside one: its signature or its symbols.
pub(crate) fn is_of_artifact(path: &Path) -> bool {
    let is_beside = path.extension().is_some_and(|ending| ending == "minisig" || ending == "debug");
    is_artifact(path) || (is_beside && is_artifact(&path.with_extension("")))
}

/// Whether a file has the name of a plugin.
pub(crate) fn is_artifact(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".cbus.so", ".cbus.dylib", ".cbus.dll"].iter().any(|ending| name.ends_with(ending))
}

//! Seals built libraries: a trailer with the hash, the length and a magic word makes an artifact of one.

use std::io::{Read as _, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use controllerbus::error::Code;

use super::buffer::Buffer;
use super::io::write_in_steps;
use super::read::{Inspected, Read};
use super::refused;
use super::trailer::{TRAILER, trailer};
use crate::artifact::unmap::{self, Patch};
use crate::artifact::unwind::Tables;
use crate::error::{Error, Result};
use crate::sys::files::{make_readable, replace};

/// A sealed artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
    /// The hash of the library, as hex.
    pub hash: String,
    /// Its size in bytes, with the trailer.
    pub size: u64,
}

/// Copies a built library to `out` with a trailer that holds its BLAKE3 hash. Readers see the old file or the complete
/// new one.
///
/// # Errors
/// [`Error::Io`] with the file that could not be read or written, [`Error::Artifact`] for a library without unwind
/// tables.
pub fn seal(library: &Path, out: &Path) -> Result<Sealed> {
    let (sealed, told, _) = sealed(library)?;
    check(library, sealed.as_bytes())?;
    write_sealed(sealed.as_bytes(), out)?;
    Ok(told)
}

/// As [`seal`], and returns what was sealed, so that it need not be read again; `None` if it is not a plugin. A library
/// that is `ours` becomes the artifact itself where possible. Blocks.
pub(crate) fn seal_and_keep(library: &Path, out: &Path, ours: bool) -> Result<(Sealed, Option<Inspected>)> {
    let (mut sealed, told, patches) = sealed(library)?;
    if !ours {
        // What was linked here was checked already.
        check(library, sealed.as_bytes())?;
    }
    if !(ours && make_sealed(library, sealed.as_bytes(), &patches, out).is_ok()) {
        write_sealed(sealed.as_bytes(), out)?;
    }
    sealed.path = out.to_owned();
    Ok((told, sealed.inspect().ok()))
}

/// Refuses a library whose panics would abort the host, or whose memory the host cannot free.
fn check(library: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(reason) = Tables::of(bytes).and_then(|found| found.wrong()) {
        return Err(refused(
            library,
            (Code::NO_UNWINDING, reason, "build and link it in a way that keeps `.eh_frame`"),
        ));
    }
    if unmap::has_malloc(bytes) {
        let reason = "it has its own `malloc`, but memory that it hands over is freed by the C library's".to_owned();
        let help = "use the allocator only as `#[global_allocator]`, without the feature that replaces `malloc` (`override`, \
                    `unprefixed_malloc_on_supported_platforms`)";
        return Err(refused(library, (Code::OWN_MALLOC, reason, help)));
    }
    Ok(())
}

/// Reads a library and adds its trailer; returns also what was changed so that it can be unmapped.
fn sealed(library: &Path) -> Result<(Read, Sealed, Vec<Patch>)> {
    let failed = || Error::io("reading the built library", library);
    let file = std::fs::File::open(library).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len() as usize;
    let mut bytes = Buffer::with_room(length + TRAILER).map_err(failed())?;
    let mut hasher = blake3::Hasher::new();
    let read = bytes.read_in_steps(file.take(length as u64), |part| {
        hasher.update(part);
    });
    read.map_err(failed())?;
    let patches = unmap::to_be_unmapped(&bytes);
    if !patches.is_empty() {
        tracing::info!(library = %library.display(), "the library is marked as never to be unmapped; the artifact is not");
        patches.iter().for_each(|patch| bytes[patch.at] = patch.byte);
        hasher.reset().update(&bytes);
    }
    let hash = hasher.finalize();
    let trailer = trailer(&hash, bytes.len());
    bytes.add(&trailer);
    let told = Sealed { hash: hash.to_hex().to_string(), size: bytes.len() as u64 };
    Ok((Read { path: PathBuf::new(), bytes: bytes.into(), hash }, told, patches))
}

fn write_sealed(bytes: &[u8], out: &Path) -> Result<()> {
    let folder = out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("creating the artifact's directory", folder))?;
    let failed = || Error::io("writing the artifact", out);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed())?;
    write_in_steps(file.as_file_mut(), bytes).map_err(failed())?;
    make_readable(file.as_file()).map_err(failed())?;
    file.persist(out).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// Adds the trailer to the library in place and moves it to `out`; fails if that is on another file system.
fn make_sealed(library: &Path, bytes: &[u8], patches: &[Patch], out: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(out.parent().unwrap_or(Path::new(".")))?;
    let mut file = std::fs::OpenOptions::new().write(true).open(library)?;
    for patch in patches {
        file.seek(SeekFrom::Start(patch.at as u64))?;
        file.write_all(&[patch.byte])?;
    }
    file.seek(SeekFrom::End(0))?;
    file.write_all(&bytes[bytes.len() - TRAILER..])?;
    make_readable(&file)?;
    replace(library, out)
}

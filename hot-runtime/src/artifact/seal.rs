//! Seals built libraries: a trailer with the hash, the length and a magic word makes an artifact of one.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use controllerbus::error::Code;

use super::io::write_in_steps;
use super::private::private_folder;
use super::read::{Bytes, Inspected, Read};
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
    let (sealed, told, _) = sealed(library, None)?;
    check(library, sealed.as_bytes())?;
    write_sealed(sealed.as_bytes(), out)?;
    Ok(told)
}

/// As [`seal`], and returns what was sealed, so that it need not be read again; `None` if it is not a plugin. It is in a directory for
/// private copies, if one is given. A library that is `ours` becomes the artifact itself where possible. Blocks.
pub(crate) fn seal_and_keep(
    library: &Path,
    out: &Path,
    ours: bool,
    into: Option<&Path>,
) -> Result<(Sealed, Option<Inspected>)> {
    let (mut sealed, told, patches) = sealed(library, into)?;
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
pub(super) fn check(library: &Path, bytes: &[u8]) -> Result<()> {
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
fn sealed(library: &Path, into: Option<&Path>) -> Result<(Read, Sealed, Vec<Patch>)> {
    let into = into.map(private_folder).transpose()?;
    let failed = || match into {
        Some(_) => {
            Error::io("copying the built library to where only this user can write (is the disk full?)", library)
        }
        None => Error::io("reading the built library", library),
    };
    let file = std::fs::File::open(library).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let mut hasher = blake3::Hasher::new();
    let read = Bytes::read(&file, (length, TRAILER), into.as_deref(), |part| {
        hasher.update(part);
    });
    let (mut bytes, read) = read.map_err(failed())?;
    if read != length {
        let reason = "it changed while it was being read".to_owned();
        return Err(refused(library, (Code::BEING_WRITTEN, reason, "build again")));
    }
    let length = length as usize;
    let patches = unmap::to_be_unmapped(&bytes[..length]);
    if !patches.is_empty() {
        tracing::info!(library = %library.display(), "the library is marked as never to be unmapped; the artifact is not");
        patches.iter().try_for_each(|patch| bytes.write_at(patch.at, &[patch.byte])).map_err(failed())?;
        hasher.reset().update(&bytes[..length]);
    }
    let hash = hasher.finalize();
    let trailer = trailer(&hash, length);
    bytes.add(length, &trailer).map_err(failed())?;
    let told = Sealed { hash: hash.to_hex().to_string(), size: bytes.len() as u64 };
    Ok((Read { path: PathBuf::new(), bytes, hash }, told, patches))
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::artifact::Verified;
    use crate::tiny::Tiny;

    #[test]
    fn what_was_linked_is_sealed_into_the_private_folder_as_it_is_sealed_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let dir = path("loaded");
        for (round, more) in [0, 3, 700_000, 70_000].into_iter().enumerate() {
            let library = [Tiny::default().library(), vec![b'x'; more]].concat();
            let sealed = |into: Option<&Path>, name: &str| {
                let (body, out) = (path(&format!("{name}-{round}.body")), path(&format!("{name}-{round}.so")));
                std::fs::write(&body, &library).expect("writing");
                let (told, kept) = seal_and_keep(&body, &out, true, into).expect("sealing");
                let kept = kept.expect("a plugin");
                assert_eq!(std::fs::read(&out).expect("the artifact"), kept.file(), "{name}, {more} more");
                (told, kept)
            };
            let ((in_memory, _), (told, kept)) = (sealed(None, "memory"), sealed(Some(&dir), "private"));
            assert_eq!(told, in_memory);
            let copy =
                Verified::just_built(kept).and_then(|built| built.into_private(&dir)).expect("a copy").kept_here();
            assert_eq!(std::fs::read(copy.path()).expect("reading"), library, "{more} more");
            // The next one takes its file.
            copy.remove();
            assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 1);
        }
    }

    #[test]
    fn what_keeps_a_library_mapped_is_cleared_in_the_artifact_and_in_the_private_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("made.c"), "int answer(void) { return 42; }").expect("writing");
        let mut cc = std::process::Command::new("cc");
        cc.current_dir(folder.path()).args([
            "-shared",
            "-fPIC",
            "-nostdlib",
            "-Wl,-z,nodelete",
            "made.c",
            "-o",
            "made.so",
        ]);
        assert!(cc.status().expect("cc").success());
        let (read, _, patches) = sealed(&path("made.so"), Some(&path("loaded"))).expect("sealing");
        assert_eq!(patches.len(), 1);
        assert!(unmap::to_be_unmapped(&read.bytes[..read.bytes.len() - TRAILER]).is_empty());
        let (in_memory, ..) = sealed(&path("made.so"), None).expect("sealing");
        assert!(read.as_bytes() == in_memory.as_bytes() && read.hash == in_memory.hash);
    }
}

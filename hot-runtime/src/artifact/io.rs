//! Bytes of artifacts in and out of memory, in steps between which others may run.

use std::io::{Read, Write};
use std::path::Path;

use super::refused;
use crate::error::{Error, Result};
use crate::sys::files::open_nonblocking;
use crate::util::yield_core;

/// How many bytes are read, hashed or written before others are given way: less than half a millisecond's work.
const STEP: usize = 512 << 10;

/// Room for a file's bytes, which is given back to the system when it is dropped. Of smaller pieces glibc keeps twice the
/// largest, in each of its arenas; those of more than 32 MiB it maps and unmaps. Room that is not used takes no memory.
pub(super) fn buffer_for(length: usize) -> Vec<u8> {
    let small = length < STEP;
    Vec::with_capacity(if small { length } else { length.max(33 << 20) })
}

/// Reads to the end, and shows each part, while it is still in the processor's cache, to who computes something of it.
pub(super) fn read_in_steps(
    mut from: impl Read,
    bytes: &mut Vec<u8>,
    mut look: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    loop {
        let before = bytes.len();
        if from.by_ref().take(STEP as u64).read_to_end(bytes)? == 0 {
            return Ok(());
        }
        look(&bytes[before..]);
        yield_core();
    }
}

pub(super) fn write_in_steps(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    bytes.chunks(STEP).try_for_each(|part| {
        yield_core();
        to.write_all(part)
    })
}

/// Opens a regular file of at most so many bytes. A pipe or a device is not waited for.
pub(super) fn open_bounded(path: &Path, limit: u64, what: &str) -> Result<(std::fs::File, std::fs::Metadata)> {
    let file = open_nonblocking(path).map_err(Error::io(what, path))?;
    // Of the open file, not of the path, which may be another by now.
    let found = file.metadata().map_err(Error::io(what, path))?;
    if !found.is_file() {
        return Err(refused(path, ("it is not a regular file".to_owned(), "give the path of a built plugin")));
    }
    if found.len() > limit {
        let reason = format!("it has {} bytes, and at most {limit} are read", found.len());
        return Err(refused(path, (reason, "build it again without debug information, or raise the limit")));
    }
    Ok((file, found))
}

/// Reads a small file that stands beside an artifact.
pub(super) fn read_bounded(path: &Path, limit: u64, what: &str) -> Result<Vec<u8>> {
    let (file, _) = open_bounded(path, limit, what)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(Error::io(what, path))?;
    Ok(bytes)
}

//! Reads and writes artifacts in steps, between which other threads can run.

use std::io::{Read, Write};
use std::path::Path;

use controllerbus::error::Code;

use super::refused;
use crate::error::{Error, Result};
use crate::sys::files::open_nonblocking;
use crate::util::Pace;

/// How many bytes are read, hashed or written in one step: less than half a millisecond's work.
pub(super) const STEP: usize = 512 << 10;

pub(super) fn write_in_steps(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    let mut pace = Pace::new();
    bytes.chunks(STEP).try_for_each(|part| {
        to.write_all(part)?;
        pace.step();
        Ok(())
    })
}

/// Opens a regular file of at most `limit` bytes, without waiting for a pipe or a device.
pub(super) fn open_bounded(path: &Path, limit: u64, what: &str) -> Result<(std::fs::File, std::fs::Metadata)> {
    let file = open_nonblocking(path).map_err(Error::io(what, path))?;
    // Of the open file: the path may lead to another one by now.
    let found = file.metadata().map_err(Error::io(what, path))?;
    if !found.is_file() {
        return Err(refused(
            path,
            (Code::NOT_A_FILE, "it is not a regular file".to_owned(), "give the path of a built plugin"),
        ));
    }
    if found.len() > limit {
        let reason = format!("it has {} bytes, and the limit is {limit}", found.len());
        return Err(refused(
            path,
            (Code::TOO_LARGE, reason, "rebuild it without debug information, or raise the limit"),
        ));
    }
    Ok((file, found))
}

/// Reads a small file beside an artifact.
pub(super) fn read_bounded(path: &Path, limit: u64, what: &str) -> Result<Vec<u8>> {
    let (file, _) = open_bounded(path, limit, what)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(Error::io(what, path))?;
    Ok(bytes)
}

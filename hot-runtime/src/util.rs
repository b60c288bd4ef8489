//! Small helpers that several modules share.

use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use crate::error::{Error, Result};

/// Milliseconds since `from`.
pub(crate) fn millis(from: Instant) -> f64 {
    from.elapsed().as_secs_f64() * 1000.0
}

/// Lets another thread run on this core.
///
/// A thread that works for milliseconds delays requests even if another core is free: where the kernel does not
/// preempt, a thread that wakes up on its core waits for the next tick, 4 ms at 250 Hz. So loading and unloading yield
/// between steps.
pub(crate) fn yield_core() {
    std::thread::yield_now();
}

/// Runs blocking work on the runtime's pool of threads; a panic in it continues here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}

/// An id as a file name; different ids give different names.
pub(crate) fn slug(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let slug: String = id.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    if slug == id { slug } else { format!("{slug}-{}", &blake3::hash(id.as_bytes()).to_hex()[..6]) }
}

/// A path as cargo names it: absolute, without `..`.
pub(crate) fn in_full(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

//! Small helpers that several modules share.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys::turns::ShortTurns;

/// For `#[serde(with)]`: a duration as milliseconds, with a fraction.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64() * 1000.0)
    }
}

/// The same for a duration that there may not be.
pub(crate) mod millis_if_any {
    use std::time::Duration;

    use serde::{Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64() * 1000.0).serialize(serializer)
    }
}

/// The same as a whole number, which is also read.
pub(crate) mod whole_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Lets another thread run on this core.
///
/// A thread that works for milliseconds delays requests even if another core is free: where the kernel does not
/// preempt, a thread that wakes up on its core waits for the next tick, 4 ms at 250 Hz. So loading and unloading yield
/// between steps.
pub(crate) fn yield_core() {
    std::thread::yield_now();
}

/// Yields the core between short steps of a long work, as long as that helps.
///
/// While there is a core to spare, others need this one only for as long as a request takes. Where all cores are taken, each yield costs
/// the thread somebody else's whole turn, and requests are served no sooner for it: then it takes turns as others do.
pub(crate) struct Pace {
    since: Instant,
    /// While it yields.
    turns: Option<ShortTurns>,
}

/// How long a thread works until it yields its core.
const WORK: Duration = Duration::from_micros(500);

/// If it gets the core back later than that, the cores are all taken.
const AWAY: Duration = Duration::from_micros(300);

impl Pace {
    /// Begins the work.
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), turns: Some(ShortTurns::begin()) }
    }

    /// Ends a step, of well below half a millisecond.
    pub(crate) fn step(&mut self) {
        if self.turns.is_some() && self.since.elapsed() >= WORK {
            let yielded = Instant::now();
            yield_core();
            self.since = Instant::now();
            if self.since - yielded > AWAY {
                self.turns = None;
            }
        }
    }
}

/// Runs blocking work on the runtime's pool of threads; a panic in it continues here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}

/// A file of the system's, whatever the bytes of the names in it: a thread's name may end within a character, and a path may be of any
/// bytes.
pub(crate) fn text_of(path: impl AsRef<Path>) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

/// A path with something more at its end, such as that of a file that belongs to another.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_utf_8_hides_nothing_else_of_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), b"root:x:0:0::/root\nren\xe9:x:1000:1000:Ren\xe9:/home\n").expect("writing");
        let text = text_of(file.path()).expect("its text");
        assert_eq!(text.lines().map(|line| line.split(':').nth(2)).collect::<Vec<_>>(), [Some("0"), Some("1000")]);
    }

    #[test]
    fn ids_that_differ_have_file_names_that_differ() {
        let ids = ["team/a", "team-a", "team.a", "team a", "tëam-a", "Team-a", "../team-a", ""];
        let names: std::collections::BTreeSet<_> = ids.iter().map(|id| slug(id)).collect();
        assert_eq!(names.len(), ids.len(), "{names:?}");
        assert!(names.iter().all(|name| !name.contains(['/', '.', ' '])), "{names:?}");
        assert_eq!(slug("team-a"), "team-a");
    }
}

//! What a host remembers of a plugin's releases, on its own disk: so that whoever can write to the store cannot bring an old
//! release back, and so that the host starts without the store.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::release::ReleaseName;

/// What a host remembers of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    /// The highest release that it has ever tried.
    pub(crate) highest: u64,
    /// What it runs.
    pub(crate) runs: Option<Ran>,
    /// What it ran well before the release that is being rolled out.
    pub(crate) before: Option<Ran>,
    /// The last release that failed here.
    pub(crate) failed: Option<Failed>,
    /// A release is being tried, and the host has not ended as it should since.
    pub(crate) open: bool,
}

/// A release that this host runs or ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ran {
    pub(crate) release: ReleaseName,
    /// The artifact.
    pub(crate) blake3: String,
    /// Whether its rollout was done while this host ran it.
    pub(crate) well: bool,
    /// The number of the first step of the rollout that brought it.
    pub(crate) rollout: u64,
}

/// A release that failed on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) sequence: u64,
    /// The number of the rollout's first step: another rollout may try it again.
    pub(crate) rollout: u64,
    pub(crate) why: String,
    /// Whether it ran, and crashed.
    #[serde(default)]
    pub(crate) crashed: bool,
}

impl Seen {
    /// Whether a release may be installed: none older than what was seen.
    pub(crate) fn check(&self, plugin: &str, release: &ReleaseName) -> Result<()> {
        let is_own = self.runs.as_ref().is_some_and(|ran| ran.release == *release);
        if release.sequence >= self.highest || is_own {
            return Ok(());
        }
        let why = format!(
            "this host has seen release {} already, and goes back only to what it ran right before a rollout that is not over; \
             publish the older version again to go back to it",
            self.highest
        );
        Err(Error::refused(format!("release {} of {plugin}", release.sequence), why))
    }

    /// What it may go back to, if that is this release.
    pub(crate) fn back_to(&self, release: &ReleaseName) -> Option<&Ran> {
        self.before.as_ref().filter(|before| before.release == *release)
    }

    /// A release is about to be tried.
    pub(crate) fn begins(&mut self, ran: Ran) {
        self.highest = self.highest.max(ran.release.sequence);
        if let Some(now) = self.runs.take_if(|now| now.well && now.release != ran.release) {
            self.before = Some(now);
        }
        self.runs = Some(ran);
        self.open = true;
    }

    /// What runs now was rolled out everywhere: from now on there is no way back.
    pub(crate) fn is_done(&mut self) {
        self.before = None;
        self.open = false;
        if let Some(runs) = &mut self.runs {
            runs.well = true;
        }
    }

    /// The release that was tried is gone, and the one before serves again.
    pub(crate) fn went_back(&mut self) {
        self.runs = self.before.take();
        self.open = false;
    }
}

/// Where it is remembered.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    path: PathBuf,
}

impl Memory {
    /// The memory of a plugin, in a folder of the host.
    pub(crate) fn of(folder: &Path, plugin: &str) -> Self {
        Self { path: folder.join(format!("{}.json", crate::store::part(plugin))) }
    }

    /// The plugins that are remembered in a folder.
    pub(crate) fn all(folder: &Path) -> Vec<String> {
        let found = fs::read_dir(folder).into_iter().flatten().flatten();
        let name = |file: fs::DirEntry| crate::store::name(file.file_name().to_str()?.strip_suffix(".json")?);
        found.filter_map(name).collect()
    }

    /// Reads it. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Refused`] for one that is damaged: without it, this host cannot know what is old.
    pub(crate) fn read(&self) -> Result<Seen> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Seen::default()),
            Err(error) => return Err(Error::io("reading what this host remembers,", &self.path)(error)),
        };
        serde_json::from_slice(&text).map_err(|error| {
            let why = format!(
                "it is damaged ({error}), and this host cannot know which releases are old; delete it to trust the store once"
            );
            Error::refused(self.path.display().to_string(), why)
        })
    }

    /// Writes it: afterwards either the old or the new content is there, also when the power fails. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn write(&self, seen: &Seen) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec_pretty(seen)?)?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|error| error.error)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(Error::io("writing what this host remembers,", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(sequence: u64, well: bool) -> Ran {
        let release = ReleaseName::new(sequence, semver::Version::new(1, sequence, 0));
        Ran { release, blake3: format!("{sequence:064x}"), well, rollout: 1 }
    }

    #[test]
    fn an_older_release_is_refused_but_for_the_one_before_while_the_new_one_is_tried() {
        let mut seen = Seen::default();
        seen.begins(ran(4, false));
        seen.is_done();
        assert_eq!(seen.back_to(&ran(3, true).release), None);
        seen.begins(ran(5, false));
        assert!(seen.back_to(&ran(4, true).release).is_some());
        assert!(seen.back_to(&ran(3, true).release).is_none());
        let error = seen.check("greeter", &ran(3, true).release).expect_err("it is old").to_string();
        assert!(error.contains("has seen release 5") && error.contains("publish"), "{error}");
        seen.went_back();
        assert_eq!(seen.runs, Some(ran(4, true)));
        seen.check("greeter", &ran(4, true).release).expect("it runs");
        assert!(seen.check("greeter", &ran(3, true).release).is_err());
        seen.begins(ran(6, false));
        seen.is_done();
        assert!(seen.back_to(&ran(4, true).release).is_none(), "there is no way back after it is done");
        assert!(seen.check("greeter", &ran(5, true).release).is_err());
    }

    #[test]
    fn two_releases_that_are_tried_one_after_the_other_leave_the_last_that_was_done_as_the_way_back() {
        let mut seen = Seen::default();
        seen.begins(ran(4, false));
        seen.is_done();
        seen.begins(ran(5, false));
        seen.begins(ran(6, false));
        assert_eq!(seen.before, Some(ran(4, true)));
    }

    #[test]
    fn a_memory_comes_back_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::of(folder.path(), "example/greeter");
        assert_eq!(memory.read().expect("nothing yet"), Seen::default());
        let mut seen = Seen::default();
        seen.begins(ran(7, false));
        memory.write(&seen).expect("writing");
        assert_eq!(memory.read().expect("reading"), seen);
        assert_eq!(Memory::all(folder.path()), ["example/greeter"]);
        fs::write(&memory.path, "{").expect("damaging it");
        let error = memory.read().expect_err("damaged").to_string();
        assert!(error.contains("damaged") && error.contains("delete it"), "{error}");
    }
}

//! Caches the artifacts of earlier builds by their inputs, so that returning to earlier sources needs no compiler.

use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::Sealed;
use crate::message::CompilerMessage;
use crate::source::inputs::Snapshot;
use crate::sys::scratch::ScratchDir;

/// The cached artifacts, in a directory that is removed with the builder.
pub(crate) struct ArtifactCache {
    /// Where the directory is created when it is needed.
    parent: PathBuf,
    folder: Option<ScratchDir>,
    /// The limit for their total size in bytes.
    limit: u64,
    artifacts: Vec<Entry>,
    /// Counts uses, to find the least recently used one.
    used: u64,
}

struct Entry {
    build_hash: String,
    sealed: Sealed,
    messages: Vec<CompilerMessage>,
    /// The inputs, including files that did not exist.
    inputs: Snapshot,
    environment: blake3::Hash,
    last_use: u64,
}

/// A cached artifact, put in the place of the output.
pub(crate) struct Found {
    pub(crate) artifact: PathBuf,
    pub(crate) build_hash: String,
    pub(crate) sealed: Sealed,
    pub(crate) messages: Vec<CompilerMessage>,
    pub(crate) inputs: Snapshot,
}

impl ArtifactCache {
    pub(crate) fn new(parent: PathBuf, limit: u64) -> Self {
        Self { parent, folder: None, limit, artifacts: Vec::new(), used: 0 }
    }

    fn folder(&mut self) -> io::Result<PathBuf> {
        if self.folder.is_none() {
            let folder = ScratchDir::reserve(&self.parent, "kept-")?;
            std::fs::create_dir_all(folder.path())?;
            self.folder = Some(folder);
        }
        Ok(self.folder.as_ref().map(|folder| folder.path().to_owned()).unwrap_or_default())
    }

    /// Caches an artifact with its messages and inputs, and removes the least recently used ones for it if necessary.
    /// Blocks.
    pub(crate) fn add(
        &mut self,
        build_hash: &str,
        artifact: &Path,
        sealed: &Sealed,
        messages: &[CompilerMessage],
        (inputs, environment): (&Snapshot, blake3::Hash),
    ) {
        if sealed.size > self.limit || self.artifacts.iter().any(|kept| kept.build_hash == build_hash) {
            return;
        }
        // Without it a later build only takes longer.
        let made = self.folder().and_then(|folder| second_name(artifact, &folder.join(build_hash)).map(|()| folder));
        let folder = match made {
            Ok(folder) => folder,
            Err(error) => {
                tracing::debug!(%error, path = %artifact.display(), "cannot cache the artifact");
                return;
            }
        };
        self.used += 1;
        self.artifacts.push(Entry {
            build_hash: build_hash.to_owned(),
            sealed: sealed.clone(),
            messages: messages.to_vec(),
            inputs: inputs.clone(),
            environment,
            last_use: self.used,
        });
        while self.artifacts.iter().map(|kept| kept.sealed.size).sum::<u64>() > self.limit {
            let oldest = self.artifacts.iter().enumerate().min_by_key(|(_, kept)| kept.last_use).map(|(at, _)| at);
            let Some(oldest) = oldest else { break };
            let gone = self.artifacts.swap_remove(oldest);
            let _ = std::fs::remove_file(folder.join(gone.build_hash));
        }
    }

    /// Puts the artifact of the current inputs in the place of the output, if there is one. Blocks.
    pub(crate) fn find(
        &mut self,
        holds: impl Fn(&Snapshot, &blake3::Hash) -> bool,
        wanted: impl Fn(&str) -> PathBuf,
    ) -> Option<Found> {
        let folder = self.folder.as_ref()?.path().to_owned();
        let kept = self.artifacts.iter_mut().find(|kept| holds(&kept.inputs, &kept.environment))?;
        let artifact = wanted(&kept.build_hash);
        if let Err(error) = second_name(&folder.join(&kept.build_hash), &artifact) {
            tracing::debug!(%error, path = %artifact.display(), "cannot use a cached artifact");
            return None;
        }
        self.used += 1;
        kept.last_use = self.used;
        let (sealed, messages) = (kept.sealed.clone(), kept.messages.clone());
        Some(Found { artifact, build_hash: kept.build_hash.clone(), sealed, messages, inputs: kept.inputs.clone() })
    }
}

/// Links a file to a second name, or copies it where that is not possible. Readers of the name see the old file or the
/// complete new one.
fn second_name(file: &Path, name: &Path) -> io::Result<()> {
    let folder = name.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = tempfile::Builder::new().prefix(".kept-").tempdir_in(folder)?;
    let new = beside.path().join("file");
    std::fs::hard_link(file, &new).or_else(|_| std::fs::copy(file, &new).map(drop))?;
    std::fs::rename(&new, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::inputs::{InputSet, Inputs};

    #[test]
    fn an_artifact_is_found_while_all_that_it_was_made_of_holds_and_the_least_recently_used_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let (artifact, source) = (folder.path().join("artifact"), folder.path().join("source"));
        let inputs = Inputs::new(&folder.path().join("target"));
        let set = InputSet { files: [source.clone(), folder.path().join("absent")].into(), ..InputSet::default() };
        let mut kept = ArtifactCache::new(folder.path().to_owned(), 25);
        let environment = blake3::hash(b"");
        let put = |kept: &mut ArtifactCache, text: &str| {
            std::fs::write(&source, text).expect("writing");
            let nothing = Snapshot::default();
            let holds =
                |snapshot: &Snapshot, then: &blake3::Hash| *then == environment && inputs.holds(snapshot, &nothing);
            kept.find(holds, |hash| folder.path().join("out").join(hash)).map(|found| found.sealed.hash)
        };
        for text in ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "a large one that does not fit at all"] {
            assert_eq!(put(&mut kept, text), None);
            // As artifacts are written: a new file takes the name.
            let _ = std::fs::remove_file(&artifact);
            std::fs::write(&artifact, text).expect("writing");
            let sealed = Sealed { hash: text.to_owned(), size: text.len() as u64 };
            kept.add(&text[..1], &artifact, &sealed, &[], (&inputs.begin(set.clone()), environment));
            if text.starts_with('b') {
                assert_eq!(put(&mut kept, "aaaaaaaaaa").as_deref(), Some("aaaaaaaaaa"));
                assert_eq!(std::fs::read_to_string(folder.path().join("out/a")).expect("a file"), "aaaaaaaaaa");
            }
        }
        // `a` was used after `b`, which had to go for `c`.
        assert_eq!(put(&mut kept, "bbbbbbbbbb"), None);
        assert!(put(&mut kept, "aaaaaaaaaa").is_some() && put(&mut kept, "aaaaaaaaaa").is_some());
        assert!(put(&mut kept, "cccccccccc").is_some());
        assert_eq!(std::fs::read_dir(folder.path().join("out")).expect("the folder").count(), 2);
        // What was not there counts, too.
        std::fs::write(folder.path().join("absent"), "").expect("writing");
        assert_eq!(put(&mut kept, "cccccccccc"), None);
    }

    #[test]
    fn an_artifact_is_not_found_where_a_file_has_come_that_it_would_be_made_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |inside: &str| folder.path().join(inside);
        std::fs::create_dir_all(at("assets/deep")).expect("a folder");
        std::fs::write(at("assets/one.txt"), "one").expect("writing");
        std::fs::write(at("artifact"), "bytes").expect("writing");
        let inputs = Inputs::new(&at("target"));
        let set = InputSet { trees: [at("assets"), at("later")].into(), ..InputSet::default() };
        let mut kept = ArtifactCache::new(folder.path().to_owned(), 1000);
        let sealed = Sealed { hash: "bytes".to_owned(), size: 5 };
        kept.add("hash", &at("artifact"), &sealed, &[], (&inputs.begin(set), blake3::hash(b"")));
        let nothing = Snapshot::default();
        let mut is_found =
            || kept.find(|snapshot, _| inputs.holds(snapshot, &nothing), |hash| at("out").join(hash)).is_some();
        assert!(is_found());
        for new in ["assets/deep/two.txt", "assets/.three", "later/four.txt"] {
            std::fs::create_dir_all(at(new).parent().expect("a parent")).expect("a folder");
            std::fs::write(at(new), "").expect("writing");
            assert!(!is_found(), "{new}");
            std::fs::remove_file(at(new)).expect("removing");
            assert!(is_found());
        }
    }
}

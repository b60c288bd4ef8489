//! Artifacts of earlier builds, by what they were built from: to go back to a source needs no compiler.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::Sealed;
use crate::build::message::CompilerMessage;

/// The artifacts, in a folder that is removed with the session that they are of.
pub(crate) struct Kept {
    folder: PathBuf,
    /// How many bytes they may have together.
    limit: u64,
    artifacts: HashMap<String, Artifact>,
    /// Counts uses.
    used: u64,
}

struct Artifact {
    sealed: Sealed,
    messages: Vec<CompilerMessage>,
    last_use: u64,
}

impl Kept {
    pub(crate) fn new(folder: PathBuf, limit: u64) -> Self {
        Self { folder, limit, artifacts: HashMap::new(), used: 0 }
    }

    fn path(&self, build_hash: &str) -> PathBuf {
        self.folder.join(build_hash)
    }

    /// Keeps an artifact with what the compiler said of it; those that were not used for longest go for it. Blocks.
    pub(crate) fn add(&mut self, build_hash: &str, artifact: &Path, sealed: &Sealed, messages: &[CompilerMessage]) {
        if sealed.size > self.limit || self.artifacts.contains_key(build_hash) {
            return;
        }
        let path = self.path(build_hash);
        // Without it a later build takes longer, and that is all.
        let made = std::fs::create_dir_all(&self.folder).and_then(|()| second_name(artifact, &path));
        if let Err(error) = made {
            tracing::debug!(%error, path = %path.display(), "the artifact is not kept");
            return;
        }
        self.used += 1;
        let kept = Artifact { sealed: sealed.clone(), messages: messages.to_vec(), last_use: self.used };
        self.artifacts.insert(build_hash.to_owned(), kept);
        while self.artifacts.values().map(|kept| kept.sealed.size).sum::<u64>() > self.limit {
            let oldest = self.artifacts.iter().min_by_key(|(_, kept)| kept.last_use).map(|(hash, _)| hash.clone());
            let Some(oldest) = oldest else { break };
            let _ = std::fs::remove_file(self.path(&oldest));
            self.artifacts.remove(&oldest);
        }
    }

    /// Puts the artifact of a build hash where it is wanted, if it is there. Blocks.
    pub(crate) fn put(&mut self, build_hash: &str, wanted: &Path) -> Option<(Sealed, Vec<CompilerMessage>)> {
        let path = self.path(build_hash);
        let kept = self.artifacts.get_mut(build_hash)?;
        if let Err(error) = second_name(&path, wanted) {
            tracing::debug!(%error, path = %path.display(), "a kept artifact cannot be used");
            return None;
        }
        self.used += 1;
        kept.last_use = self.used;
        Some((kept.sealed.clone(), kept.messages.clone()))
    }
}

/// Gives a file another name too, or copies it where that is not possible. Readers of the name see what was there or
/// the whole new file.
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

    #[test]
    fn the_least_recently_used_go_when_there_are_too_many() {
        let folder = tempfile::tempdir().expect("a folder");
        let (artifact, wanted) = (folder.path().join("artifact"), folder.path().join("out/wanted"));
        let mut kept = Kept::new(folder.path().join("kept"), 25);
        for text in ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "a large one that does not fit at all"] {
            // As artifacts are written: a new file takes the name.
            let _ = std::fs::remove_file(&artifact);
            std::fs::write(&artifact, text).expect("writing");
            let sealed = Sealed { hash: text.to_owned(), size: text.len() as u64 };
            kept.add(&text[..1], &artifact, &sealed, &[]);
            if text.starts_with('b') {
                assert_eq!(kept.put("a", &wanted).expect("it is there").0.hash, "aaaaaaaaaa");
                assert_eq!(std::fs::read_to_string(&wanted).expect("a file"), "aaaaaaaaaa");
            }
        }
        // `a` was used after `b`, which had to go for `c`.
        assert!(kept.put("b", &wanted).is_none());
        assert!(kept.put("a", &wanted).is_some() && kept.put("a", &wanted).is_some());
        assert!(kept.put("c", &wanted).is_some());
        assert_eq!(std::fs::read_to_string(&wanted).expect("a file"), "cccccccccc");
        assert_eq!(std::fs::read_dir(folder.path().join("kept")).expect("the folder").count(), 2);
        assert_eq!(std::fs::read_dir(folder.path().join("out")).expect("the folder").count(), 1);
    }
}

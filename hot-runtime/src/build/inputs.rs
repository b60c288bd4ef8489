//! The build hash: over everything that a plugin is built from, so that equal inputs give equal names.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// Hashes the files of the local packages, the lock file and some texts, to 16 hex digits.
pub(crate) fn hash(workspace: &Workspace, texts: &[&str]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for text in texts {
        add(text.as_bytes());
    }
    for root in &workspace.watched {
        let mut files = Vec::new();
        collect(root, &mut files)?;
        files.sort();
        for file in files {
            add(file.strip_prefix(root).unwrap_or(&file).to_string_lossy().as_bytes());
            match std::fs::read(&file) {
                Ok(bytes) => add(&bytes),
                // An editor may have taken a file away since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("reading a source file", &file)(error)),
            }
        }
    }
    let mut hash = hasher.finalize().to_hex()[..16].to_owned();
    if hash.bytes().all(|digit| digit.is_ascii_digit()) {
        // A number with a leading zero would be no identifier of a semantic version.
        hash.replace_range(..1, "a");
    }
    Ok(hash)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(Error::io("listing a source folder", path))? {
        let entry = entry.map_err(Error::io("listing a source folder", path))?;
        let kind = entry.file_type().map_err(Error::io("listing a source folder", path))?;
        if ignored(&entry.path()) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Whether a file or folder is none of a crate's sources: build outputs, version control, editors' own files.
pub(crate) fn ignored(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "target"
        || name == "4913"
        || name.starts_with('.')
        || name.starts_with('#')
        || name.ends_with('~')
        || name.ends_with(".swp")
}

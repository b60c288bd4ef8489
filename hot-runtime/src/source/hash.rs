//! The build hash, over everything that a build read. It does not depend on where the crates are.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::source::inputs::Snapshot;

/// The names of directories in a build hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Folders with their names; the longest match counts.
    pub(crate) folders: Vec<(PathBuf, String)>,
    /// What other paths are relative to.
    pub(crate) root: PathBuf,
    /// Files that the hash does not cover.
    pub(crate) apart: BTreeSet<PathBuf>,
}

impl Names {
    /// The name of a path.
    pub(crate) fn of(&self, path: &Path) -> String {
        let path = without_dots(path);
        let fits =
            self.folders.iter().filter_map(|(folder, name)| Some((path.strip_prefix(folder).ok()?, folder, name)));
        if let Some((inside, _, name)) = fits.max_by_key(|(_, folder, _)| folder.as_os_str().len()) {
            let parts = inside.components().map(|part| without_hash(&part.as_os_str().to_string_lossy()));
            return std::iter::once(name.clone()).chain(parts).collect::<Vec<_>>().join("/");
        }
        let shared = self.root.components().zip(path.components()).take_while(|(one, other)| one == other).count();
        if shared < 2 {
            return path.to_string_lossy().into_owned();
        }
        let up = "../".repeat(self.root.components().count() - shared);
        up + &path.components().skip(shared).collect::<PathBuf>().to_string_lossy()
    }

    /// Replaces directories in a text by their names.
    pub(crate) fn in_text(&self, text: &str) -> String {
        let mut folders: Vec<_> = self.folders.iter().collect();
        folders.sort_by_key(|(folder, _)| std::cmp::Reverse(folder.as_os_str().len()));
        let named = folders.into_iter().fold(text.to_owned(), |text, (folder, name)| {
            text.replace(&*folder.to_string_lossy(), &format!("<{name}>"))
        });
        named.split('/').map(without_hash).collect::<Vec<_>>().join("/")
    }
}

/// Removes the digits from `name-0123456789abcdef`, which cargo derives from where a crate is.
fn without_hash(part: &str) -> String {
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match part.rsplit_once('-') {
        Some((name, hash)) if is_hash(hash) => name.to_owned(),
        _ if is_hash(part) => String::new(),
        _ => part.to_owned(),
    }
}

/// `a/b/../c` as `a/c`, without following links.
fn without_dots(path: &Path) -> PathBuf {
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

/// The hash of the existing inputs and some texts, as 16 hex digits.
pub(crate) fn build_hash(texts: &[String], snapshot: &Snapshot, names: &Names) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for text in texts {
        add(text.as_bytes());
    }
    let present = snapshot.present().filter(|(path, _)| !names.apart.contains(*path));
    let mut present: Vec<_> = present.map(|(path, content)| (names.of(path), content)).collect();
    // Sorted by name, so that the order does not depend on the folders.
    present.sort_by(|one, other| (&one.0, one.1.as_bytes()).cmp(&(&other.0, other.1.as_bytes())));
    for (name, content) in present {
        add(name.as_bytes());
        add(content.as_bytes());
    }
    let mut hash = hasher.finalize().to_hex()[..16].to_owned();
    if hash.bytes().all(|digit| digit.is_ascii_digit()) {
        // In a semantic version a number must not have a leading zero.
        hash.replace_range(..1, "a");
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::inputs::{InputSet, Inputs};

    #[test]
    fn the_build_hash_does_not_depend_on_the_folder_and_depends_on_which_file_has_which_content() {
        let hash = |one: &str, other: &str| {
            let folder = tempfile::tempdir().expect("a folder");
            let root = folder.path().join("root/crate");
            std::fs::create_dir_all(root.join("src")).expect("a folder");
            let files = [root.join("src/lib.rs"), root.join("../a/x.txt"), folder.path().join("root/b/x.txt")];
            for (file, text) in files.iter().zip(["text", one, other]) {
                std::fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
                std::fs::write(file, text).expect("writing");
            }
            let inputs = Inputs::new(&root.join("target"));
            let snapshot = inputs.begin(InputSet { files: files.into_iter().collect(), ..InputSet::default() });
            let names = Names { folders: vec![(root.clone(), "crate".to_owned())], root, ..Names::default() };
            build_hash(&["id".to_owned()], &snapshot, &names)
        };
        assert_eq!(hash("one", "other"), hash("one", "other"));
        assert_ne!(hash("one", "other"), hash("other", "one"));
    }

    #[test]
    fn a_name_says_neither_where_a_crate_is_nor_what_cargo_made_of_that() {
        let folders =
            vec![("/home/me/crate".into(), "crate".to_owned()), ("/there/target".into(), "target".to_owned())];
        let names = Names { folders, root: "/home/me/crate".into(), ..Names::default() };
        assert_eq!(names.of(Path::new("/home/me/crate/src/../a.txt")), "crate/a.txt");
        assert_eq!(names.of(Path::new("/home/me/outside.txt")), "../outside.txt");
        assert_eq!(names.of(Path::new("/etc/hosts")), "/etc/hosts");
        let out = "/there/target/debug/build/crate-0123456789abcdef/out/made.rs";
        assert_eq!(names.of(Path::new(out)), "target/debug/build/crate/out/made.rs");
        assert_eq!(names.in_text(&format!("-L {out}")), "-L <target>/debug/build/crate/out/made.rs");
    }
}

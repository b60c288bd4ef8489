//! Finds the names in directories that decide what is at a path.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The most links to follow for one path.
const MOST_LINKS: usize = 40;

/// A name in an existing directory, which is given by its real path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) name: OsString,
    /// Whether a change of it may move what the path leads to.
    pub(super) leads_on: bool,
}

/// What a name refers to.
#[derive(Clone, Debug)]
enum Kind {
    Nothing,
    File,
    Folder,
    Link(PathBuf),
}

/// Caches what names refer to, while nothing changes.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<PathBuf, Kind>);

impl Names {
    fn kind(&mut self, path: &Path) -> Kind {
        if let Some(known) = self.0.get(path) {
            return known.clone();
        }
        let kind = match std::fs::symlink_metadata(path) {
            Err(_) => Kind::Nothing,
            Ok(found) if found.is_symlink() => std::fs::read_link(path).map_or(Kind::Nothing, Kind::Link),
            Ok(found) if found.is_dir() => Kind::Folder,
            Ok(_) => Kind::File,
        };
        self.0.insert(path.to_owned(), kind.clone());
        kind
    }

    /// The places that decide what is at an absolute path, and its real path if it is a directory.
    pub(super) fn places(&mut self, path: &Path) -> (Vec<Place>, Option<PathBuf>) {
        let mut places = Vec::new();
        let mut real = PathBuf::new();
        let mut rest: VecDeque<_> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            let name = match part {
                Part::Root(root) => {
                    real = root;
                    continue;
                }
                Part::Up => {
                    real.pop();
                    continue;
                }
                Part::Name(name) => name,
            };
            let next = real.join(&name);
            let kind = self.kind(&next);
            let leads_on = !rest.is_empty() || matches!(kind, Kind::Link(_) | Kind::Folder);
            places.push(Place { folder: real.clone(), name, leads_on });
            match kind {
                Kind::Folder => real = next,
                Kind::Link(target) if links < MOST_LINKS => {
                    links += 1;
                    let mut through = parts(&target);
                    through.append(&mut rest);
                    rest = through;
                }
                // Nothing can be watched beyond.
                Kind::Nothing | Kind::File | Kind::Link(_) => return (places, None),
            }
        }
        (places, Some(real))
    }
}

enum Part {
    Root(PathBuf),
    Up,
    Name(OsString),
}

fn parts(path: &Path) -> VecDeque<Part> {
    let mut parts = VecDeque::new();
    let mut root = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Prefix(_) | Component::RootDir => root.push(part),
            Component::CurDir => {}
            Component::ParentDir => parts.push_back(Part::Up),
            Component::Normal(name) => parts.push_back(Part::Name(name.to_owned())),
        }
    }
    if !root.as_os_str().is_empty() {
        parts.push_front(Part::Root(root));
    }
    parts
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_path_behind_links_is_decided_where_they_are_and_where_they_lead() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        std::fs::create_dir_all(root.join("releases/1")).expect("a folder");
        std::fs::create_dir_all(root.join("app/src")).expect("a folder");
        std::fs::write(root.join("releases/1/x.txt"), "").expect("writing");
        std::os::unix::fs::symlink("releases/1", root.join("current")).expect("a link");
        std::os::unix::fs::symlink("../../current/x.txt", root.join("app/src/x.txt")).expect("a link");
        let (places, at) = Names::default().places(&root.join("app/src/x.txt"));
        let decides = |inside: &str, name: &str, leads_on: bool| {
            places.contains(&Place { folder: root.join(inside), name: name.into(), leads_on })
        };
        assert!(decides("", "app", true) && decides("app", "src", true) && decides("app/src", "x.txt", true));
        assert!(decides("", "current", true) && decides("", "releases", true) && decides("releases", "1", true));
        assert!(decides("releases/1", "x.txt", false), "{places:?}");
        assert_eq!(at, None);
        assert_eq!(Names::default().places(&root.join("current")).1, Some(root.join("releases/1")));
    }

    #[test]
    fn what_is_not_there_is_decided_in_its_nearest_parent_and_a_circle_of_links_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        let (places, at) = Names::default().places(&root.join("a/b/c.txt"));
        let last = Place { folder: root.clone(), name: "a".into(), leads_on: true };
        assert_eq!((places.last(), at), (Some(&last), None));
        std::os::unix::fs::symlink("there", root.join("here")).expect("a link");
        std::os::unix::fs::symlink("here", root.join("there")).expect("a link");
        assert_eq!(Names::default().places(&root.join("here/x")).1, None);
    }
}

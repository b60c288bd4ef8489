//! Which files' code is mapped in this process.

use std::path::Path;

/// Whether code of this file is mapped in this process; `None` where the system does not say.
pub(crate) fn is_mapped(path: &Path) -> Option<bool> {
    Maps::read().map(|maps| maps.contain(path))
}

/// Whether a file with this name before its ending may be in this process's memory, code or not; true where the system does not
/// say.
pub(crate) fn may_be_viewed(stem: &str) -> bool {
    let Ok(maps) = std::fs::read("/proc/self/maps") else { return true };
    String::from_utf8_lossy(&maps).contains(&format!("/{stem}."))
}

/// The files whose code is mapped in this process.
///
/// Only executable mappings count: a plugin that printed a backtrace leaves a read-only view of its file behind, for
/// the line numbers, which the standard library's symbolizer keeps.
pub(crate) struct Maps(Vec<String>);

impl Maps {
    /// The current mappings; `None` where there is no `/proc/self/maps` to read.
    pub(crate) fn read() -> Option<Self> {
        // One file whose name is not UTF-8 must not hide the others.
        let maps = std::fs::read("/proc/self/maps").ok()?;
        Some(Self::parse(&String::from_utf8_lossy(&maps)))
    }

    fn parse(maps: &str) -> Self {
        let executable = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|bits| bits.contains('x')));
        let files = executable.filter_map(|line| line.find('/').map(|at| &line[at..]));
        Self(files.map(|file| file.strip_suffix(" (deleted)").unwrap_or(file).to_owned()).collect())
    }

    /// Whether a file, by its canonical path, is among them.
    pub(crate) fn contain(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        self.0.iter().any(|file| *file == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_mappings_count_and_a_deleted_file_is_still_mapped() {
        let maps = Maps::parse(
            "7f00-7f01 r-xp 00000000 00:1f 1 /plugins/a b.so\n7f01-7f02 r--p 00000000 00:1f 2 /plugins/read.so\n\
             7f02-7f03 r-xp 00000000 00:1f 3 /plugins/gone.so (deleted)\n7f03-7f04 r-xp 00000000 00:00 0 [vdso]\n",
        );
        assert!(maps.contain(Path::new("/plugins/a b.so")) && maps.contain(Path::new("/plugins/gone.so")));
        assert!(!maps.contain(Path::new("/plugins/read.so")) && !maps.contain(Path::new("/plugins/other.so")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_executable_is_mapped_and_a_file_that_is_not_there_is_not() {
        let own = std::env::current_exe().and_then(std::fs::canonicalize).expect("this executable");
        assert_eq!(is_mapped(&own), Some(true));
        assert_eq!(is_mapped(Path::new("/there/is/none.so")), Some(false));
    }
}

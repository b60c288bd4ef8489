//! Which files' code is mapped in this process.

use std::path::Path;

/// Whether code of this file is mapped in this process. Always false where there is no /proc/self/maps to ask.
pub fn is_mapped(path: &Path) -> bool {
    Maps::read().contain(path)
}

/// The files whose code is mapped in this process.
///
/// Only executable mappings count: a plugin that printed a backtrace leaves a read-only view of its file behind, for
/// the line numbers, which the standard library's symbolizer keeps.
pub(crate) struct Maps(Vec<String>);

impl Maps {
    /// The mappings of now.
    pub(crate) fn read() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let executable = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|bits| bits.contains('x')));
        let files = executable.filter_map(|line| line.find('/').map(|at| &line[at..]));
        Self(files.map(|file| file.strip_suffix(" (deleted)").unwrap_or(file).to_owned()).collect())
    }

    /// Whether a file, by its canonical path, is among them.
    pub(crate) fn contain(&self, path: &Path) -> bool {
        self.0.iter().any(|file| Path::new(file) == path)
    }
}

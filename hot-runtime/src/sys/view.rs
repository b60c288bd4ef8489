//! Views of files in memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

/// A view of a file's bytes. They are in memory as long as the system has room for them.
pub(crate) struct View(memmap2::Mmap);

impl View {
    /// A view of all of a file that this process has made, in a directory that only this user can enter.
    ///
    /// # Errors
    /// The system's, if it is empty, or such files cannot be mapped.
    pub(crate) fn of_own(file: &File) -> io::Result<Self> {
        // SAFETY: nobody else can open the file. This process writes to it only through what owns the view as well, while no part of
        // that is borrowed, and never makes it shorter while there is one. What another program of this user may do to it, it may do to a library that
        // is open as well, or to this process itself.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

impl Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

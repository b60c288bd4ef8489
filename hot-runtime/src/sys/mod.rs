//! What differs between systems: the one folder to edit for a port. Elsewhere a `cfg` is needed for process hosting
//! only (`host/process`, which is for Unix), and by the recorder that stands between cargo and rustc, which is compiled
//! alone.
//!
//! | file | what a port says there |
//! |---|---|
//! | `access` | who else may write to a file, and so run code in this process |
//! | `files` | which file it is, who may read it, how one takes the name of another |
//! | `library` | how a plugin's library is opened, and whether it can be closed |
//! | `maps` | which libraries are mapped |
//! | `process` | how a process is ended with those that it has started |
//! | `scratch` | folders of one process's own, and locks |

pub(crate) mod access;
pub(crate) mod files;
pub(crate) mod library;
pub(crate) mod maps;
pub(crate) mod process;
pub(crate) mod scratch;

//! What differs between systems: the directory to edit for a port. Elsewhere there is a `cfg` only for process hosting
//! (`host/process`, for Unix), for the linker's arguments (`compile/cargo.rs`), and in the recorder between cargo and
//! rustc (`compile/shim`), which is compiled by itself.
//!
//! | file | what a port provides |
//! |---|---|
//! | `access` | who else can write to a file, and so run code in this process |
//! | `disk` | what is known of a file system, and how many files may be watched |
//! | `files` | the identity and permissions of files, and how one replaces another |
//! | `library` | how a plugin's library is opened, and whether it can be closed |
//! | `maps` | which libraries are mapped |
//! | `memory` | what using memory costs |
//! | `process` | how a process is killed with everything that it started |
//! | `scratch` | scratch directories, and locks |
//! | `turns` | how long a thread's turns on a core are |
//! | `view` | views of files in memory |

pub(crate) mod access;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod library;
pub(crate) mod maps;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod scratch;
pub(crate) mod turns;
pub(crate) mod view;

//! Why a daemon cannot be reached, or refuses.

use std::path::{Path, PathBuf};

use controllerbus::error::Code;

/// Why a daemon cannot be reached, or refuses, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory cannot be used.
    #[error("{what}: {}", path.display())]
    #[non_exhaustive]
    Io {
        /// What was being done.
        what: String,
        /// With which file or directory.
        path: PathBuf,
        /// What the system reported.
        source: std::io::Error,
    },
    /// There is no such daemon, it cannot be reached, or it refuses.
    #[error("{message}")]
    #[non_exhaustive]
    Refused {
        /// The code by which it can be looked up, if it has one.
        code: Option<Code>,
        /// What is wrong.
        message: String,
        /// What to do about it; may be empty.
        help: String,
    },
}

/// The result of what can fail with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Refused { code: Some(code), message: message.into(), help: help.into() }
    }

    /// One without a code: a word on the command line that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Refused { code: None, message: message.into(), help: String::new() }
    }

    pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let (what, path) = (what.to_owned(), path.to_owned());
        move |source| Self::Io { what, path, source }
    }

    /// The code by which it can be looked up, if it has one: `cbus explain` prints what it means and what to do.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Io { .. } => Some(Code::IO),
            Self::Refused { code, .. } => *code,
        }
    }

    /// What to do about it; empty if that is not known.
    pub fn help(&self) -> &str {
        match self {
            Self::Io { .. } => "",
            Self::Refused { help, .. } => help,
        }
    }
}

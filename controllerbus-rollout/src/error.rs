//! What can go wrong between a store and a swapped plugin: what, where, and what to do about it.

use std::path::{Path, PathBuf};

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a store, a release or a rollout. Whatever it is, what runs goes on running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store did not answer.
    #[error("the store {store} is out of reach ({doing}: {why}); what runs goes on running, and this is tried again")]
    Away {
        /// Its URL.
        store: String,
        /// What was being done.
        doing: String,
        /// Why.
        why: String,
    },
    /// The store does not allow it.
    #[error(
        "the store {store} does not allow {doing}: {why}; check this host's credentials and the rights of the folder"
    )]
    Denied {
        /// Its URL.
        store: String,
        /// What was being done.
        doing: String,
        /// Why.
        why: String,
    },
    /// What the store has cannot be used.
    #[error("{what} is refused: {why}")]
    Refused {
        /// What is refused.
        what: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// What was asked for makes no sense, such as a rollout's text.
    #[error("{0}")]
    Invalid(String),
    /// It does not fit the state of the rollout.
    #[error("{0}")]
    NotNow(String),
    /// A file of this host cannot be read or written.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The runtime could not load a plugin, or use a key.
    #[error("{}", .0.with_causes())]
    Runtime(#[from] hot_runtime::Error),
    /// The bus refused something.
    #[error("{0}")]
    Bus(#[from] controllerbus::BusError),
}

impl Error {
    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Away { .. })
    }

    /// Why a release failed on a host. That the host has taken it back before is known; what counts is why.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Runtime(hot_runtime::Error::TakenBack { reason, .. }) => reason.clone(),
            _ => self.to_string(),
        }
    }

    pub(crate) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), why: why.into() }
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

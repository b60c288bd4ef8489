//! The steps of a build, and how long each took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuildPhase {
    /// Waiting for another build in the same target directory.
    Waiting,
    /// Finding out what the plugin is made of and what changed.
    Reading,
    /// Compiling the crates.
    Compiling,
    /// Linking them into a library.
    Linking,
    /// Hashing the library and writing the artifact.
    Sealing,
}

impl std::fmt::Display for BuildPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for another build",
            Self::Reading => "reading",
            Self::Compiling => "compiling",
            Self::Linking => "linking",
            Self::Sealing => "sealing",
        })
    }
}

/// What compiled a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuiltBy {
    /// Cargo, which linked it too.
    Cargo,
    /// Rustc, called as cargo called it before, for just what changed.
    Rustc,
    /// Nothing: an artifact of the same sources was still cached.
    Kept,
}

impl std::fmt::Display for BuiltBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cargo => "cargo",
            Self::Rustc => "rustc",
            Self::Kept => "kept from before",
        })
    }
}

/// How long a step took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PhaseTime {
    /// The step.
    pub phase: BuildPhase,
    /// How long it took; in JSON, milliseconds.
    #[serde(rename = "ms", with = "crate::util::millis")]
    pub took: Duration,
}

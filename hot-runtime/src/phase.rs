//! The steps of a build, and how long each took.

use serde::Serialize;

/// A step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuildPhase {
    /// Waits for others that build in the same target folder.
    Waiting,
    /// Finds out what the plugin is made of and what has changed.
    Reading,
    /// Compiles the crates.
    Compiling,
    /// Links them to a library.
    Linking,
    /// Hashes the library and writes the artifact.
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

/// Who compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuiltBy {
    /// Cargo, which also links.
    Cargo,
    /// The compiler, called as cargo called it before, for just what has changed.
    Rustc,
    /// Nobody: the sources are what an artifact was built from that was kept.
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
    /// Its length in milliseconds.
    pub ms: f64,
}

//! A host's description of a plugin: what it is built from, and where it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::host::capability::Capabilities;
use crate::host::{Isolation, ProcessOptions};
use crate::util::slug;

/// What a plugin is built from, and where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginSpec {
    /// The plugin's id, such as `demo`.
    pub id: String,
    /// The plugin's version.
    pub version: semver::Version,
    /// The directories of its controller crates.
    pub crates: Vec<PathBuf>,
    /// Features of its crates: `name` for every crate that has it, or `crate/name`.
    pub features: Vec<String>,
    /// Whether its crates' default features are enabled.
    pub default_features: bool,
    /// Profile settings that override those of its workspace, each with its value as TOML, such as `opt-level` and `3`.
    pub profile: BTreeMap<String, String>,
    /// Whether to build with the release profile.
    pub release: bool,
    /// Whether to rebuild on changes.
    pub watch: bool,
    /// Where it runs; the runtime's default unless set.
    pub isolation: Option<Isolation>,
    /// How it runs in a process of its own; the runtime's default unless set.
    pub process: Option<ProcessOptions>,
    /// What it may do on the bus; the runtime's default unless set.
    pub capabilities: Option<Capabilities>,
}

impl PluginSpec {
    /// A watched plugin with version 0.1.0 and no crates yet.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            version: semver::Version::new(0, 1, 0),
            crates: Vec::new(),
            features: Vec::new(),
            default_features: true,
            profile: BTreeMap::new(),
            release: false,
            watch: true,
            isolation: None,
            process: None,
            capabilities: None,
        }
    }

    /// Adds a controller crate by its directory.
    #[must_use]
    pub fn crate_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.crates.push(path.into());
        self
    }

    /// Sets the plugin's version.
    #[must_use]
    pub fn version(mut self, version: semver::Version) -> Self {
        self.version = version;
        self
    }

    /// Sets a version in which `{buildHash}` stands for the build hash, such as `1.2.0+{buildHash}`.
    ///
    /// # Errors
    /// It is not a semantic version.
    pub fn version_text(self, text: &str) -> Result<Self, semver::Error> {
        // A placeholder that is valid wherever a hash is.
        Ok(self.version(text.replace(BUILD_HASH, HASH_IN_VERSION).parse()?))
    }

    /// Enables a feature: `name` in every crate that has it, or `crate/name`.
    #[must_use]
    pub fn feature(mut self, feature: impl Into<String>) -> Self {
        self.features.push(feature.into());
        self
    }

    /// Enables the crates' default features, or not.
    #[must_use]
    pub fn default_features(mut self, on: bool) -> Self {
        self.default_features = on;
        self
    }

    /// Sets a profile setting, with its value as TOML: `("opt-level", "3")`.
    #[must_use]
    pub fn profile(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.profile.insert(key.into(), value.into());
        self
    }

    /// Builds with the release profile, or not.
    #[must_use]
    pub fn release(mut self, release: bool) -> Self {
        self.release = release;
        self
    }

    /// Rebuilds on changes, or not.
    #[must_use]
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// The name of its profile in a manifest.
    pub(crate) fn profile_name(&self) -> &'static str {
        if self.release { "release" } else { "dev" }
    }

    /// Sets where it runs.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// Sets how it runs in a process of its own.
    #[must_use]
    pub fn process_options(mut self, options: ProcessOptions) -> Self {
        self.process = Some(options);
        self
    }

    /// Sets what it may do on the bus.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// The id as a file name.
    pub(crate) fn slug(&self) -> String {
        slug(&self.id)
    }
}

/// The placeholder for the build hash in an output's path or a plugin's version.
pub const BUILD_HASH: &str = "{buildHash}";

/// The placeholder for the build hash in a [`PluginSpec::version`], where braces are not allowed.
pub(super) const HASH_IN_VERSION: &str = "cbus-build-hash";

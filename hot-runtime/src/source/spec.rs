//! What a plugin is built from, and where it runs, in a host's words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::host::capability::Capabilities;
use crate::host::{Isolation, ProcessOptions};
use crate::util::slug;

/// What a plugin is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginSpec {
    /// The plugin's id, such as `demo`.
    pub id: String,
    /// The plugin's version.
    pub version: semver::Version,
    /// The folders of its controller crates.
    pub crates: Vec<PathBuf>,
    /// Features of its crates: `name` for each crate that has it, or `crate/name`.
    pub features: Vec<String>,
    /// Whether its crates' default features are on.
    pub default_features: bool,
    /// Settings of the profile that it is built with, over those of its workspace, each as TOML: `opt-level` to `3`.
    pub profile: BTreeMap<String, String>,
    /// Whether to build with the release profile.
    pub release: bool,
    /// Whether to rebuild on changes.
    pub watch: bool,
    /// Where it runs; where the runtime says unless set.
    pub isolation: Option<Isolation>,
    /// How it runs in a process of its own; as the runtime says unless set.
    pub process: Option<ProcessOptions>,
    /// What it may do on the bus; as the runtime says unless set.
    pub capabilities: Option<Capabilities>,
}

impl PluginSpec {
    /// A watched plugin of version 0.1.0 without crates yet.
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

    /// Adds a controller crate by its folder.
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
    /// What is wrong with it as a semantic version.
    pub fn version_text(self, text: &str) -> Result<Self, semver::Error> {
        // Letters are allowed wherever a hash is.
        Ok(self.version(text.replace(BUILD_HASH, HASH_IN_VERSION).parse()?))
    }

    /// Turns a feature on: `name` in each crate that has it, or `crate/name`.
    #[must_use]
    pub fn feature(mut self, feature: impl Into<String>) -> Self {
        self.features.push(feature.into());
        self
    }

    /// Turns the crates' default features on, or off.
    #[must_use]
    pub fn default_features(mut self, on: bool) -> Self {
        self.default_features = on;
        self
    }

    /// Sets a key of the profile that it is built with, the value as TOML: `("opt-level", "3")`.
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

    /// The name of its profile's section in a manifest.
    pub(crate) fn profile_name(&self) -> &'static str {
        if self.release { "release" } else { "dev" }
    }

    /// Runs it in the host's process, or in one of its own.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// What it may use in a process of its own, and how it is watched there.
    #[must_use]
    pub fn process_options(mut self, options: ProcessOptions) -> Self {
        self.process = Some(options);
        self
    }

    /// What it may do on the bus.
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

/// What stands for the build hash in an output's name or a plugin's version.
pub const BUILD_HASH: &str = "{buildHash}";

/// What stands for the build hash in a [`PluginSpec::version`], where braces are not allowed.
pub(super) const HASH_IN_VERSION: &str = "cbus-build-hash";

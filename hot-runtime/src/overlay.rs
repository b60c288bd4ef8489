//! Generates the overlay: the small crate that bundles controller crates into one plugin.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::build::BUILD_HASH;
use crate::build::hash::{self, Names};
use crate::build::inputs::Snapshot;
use crate::capability::Capabilities;
use crate::error::{Error, Result};
use crate::process::{Isolation, ProcessOptions};
use crate::workspace::{Toolchain, Workspace};

/// What a plugin is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What stands for the build hash in a [`PluginSpec::version`], where braces are not allowed.
const HASH_IN_VERSION: &str = "cbus-build-hash";

/// An id as a file name: no two ids have the same.
pub(crate) fn slug(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let slug: String = id.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    if slug == id { slug } else { format!("{slug}-{}", &blake3::hash(id.as_bytes()).to_hex()[..6]) }
}

/// A generated overlay crate.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Its folder.
    pub dir: PathBuf,
    /// Where cargo is to be run, so that the settings of its crates' workspace count: that workspace's root.
    pub root: PathBuf,
    /// The hash of everything that it is built from, as 16 hex digits; of what is known of that, before its first build.
    pub build_hash: String,
}

impl Overlay {
    /// The hash of everything that a plugin is built from: what is in its inputs, and some texts. It does not depend on
    /// where its crates are.
    pub(crate) fn build_hash(
        workspace: &Workspace,
        spec: &PluginSpec,
        texts: &[String],
        inputs: &Snapshot,
        names: &Names,
    ) -> Result<String> {
        let toolchain = Toolchain::of(&workspace.root)?;
        let mut all = vec![names.in_text(&manifest(workspace, spec)?), spec.id.clone(), spec.version.to_string()];
        all.extend([toolchain.version, toolchain.target, spec.profile_name().to_owned()]);
        all.extend_from_slice(texts);
        Ok(hash::build_hash(&all, inputs, names))
    }

    /// Writes the overlay of a plugin into a folder. Files that would not change are not touched. Blocks.
    pub(crate) fn write(workspace: &Workspace, spec: &PluginSpec, dir: &Path, build_hash: String) -> Result<Self> {
        let manifest = manifest(workspace, spec)?;
        let source = source(workspace, spec, &Toolchain::of(&workspace.root)?, &build_hash);
        let sources = dir.join("src");
        std::fs::create_dir_all(&sources).map_err(Error::io("creating the overlay's folder", &sources))?;
        write_if_changed(&dir.join("Cargo.toml"), &manifest)?;
        write_if_changed(&sources.join("lib.rs"), &source)?;
        if let Some(lock_file) = &workspace.lock_file {
            copy_lock_file(lock_file, dir)?;
        }
        Ok(Self { dir: dir.to_owned(), root: workspace.root.clone(), build_hash })
    }
}

fn manifest(workspace: &Workspace, spec: &PluginSpec) -> Result<String> {
    let mut settings = workspace.settings.clone();
    // It stands before all sections.
    let features = settings.remove("cargo-features").map_or(String::new(), |all| format!("cargo-features = {all}\n\n"));
    let mut text = format!(
        "# Generated by hot-runtime: bundles controller crates into the plugin `{}`.\n\n{features}\
         [package]\nname = \"cbus-overlay-{}\"\nversion = \"{}\"\nedition = \"2024\"\npublish = false\n\n\
         [workspace]\nresolver = \"{}\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n[dependencies]\ncontrollerbus = {}\n",
        spec.id,
        spec.slug(),
        spec.version,
        workspace.resolver,
        workspace.controllerbus,
    );
    let features = features_of_each(workspace, spec)?;
    for (found, features) in workspace.crates.iter().zip(features) {
        let path = toml::Value::String(found.dir.to_string_lossy().into_owned());
        let defaults = if spec.default_features { "" } else { ", default-features = false" };
        let features = if features.is_empty() { String::new() } else { format!(", features = {features:?}") };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} = {{ path = {path}{defaults}{features} }}", found.name);
    }
    override_profile(&mut settings, spec)?;
    unwind(&mut settings, spec);
    fill_in_profile(&mut settings, &workspace.local);
    if !spec.watch {
        set_apart(&mut settings, spec, &workspace.local);
    }
    let settings = toml::to_string(&settings)
        .map_err(|error| Error::Metadata { path: "Cargo.toml".into(), message: error.to_string() })?;
    text.push('\n');
    text.push_str(&settings);
    Ok(text)
}

/// Which of the wanted features goes to which crate.
fn features_of_each<'a>(workspace: &Workspace, spec: &'a PluginSpec) -> Result<Vec<Vec<&'a str>>> {
    let mut given = vec![Vec::new(); workspace.crates.len()];
    for wanted in &spec.features {
        let (owner, name) = match wanted.split_once('/') {
            Some((owner, name)) => (Some(owner), name),
            None => (None, wanted.as_str()),
        };
        let mut found = false;
        for (candidate, given) in workspace.crates.iter().zip(&mut given) {
            let meant = owner.is_none_or(|owner| owner == candidate.name);
            if meant && candidate.features.contains(name) {
                given.push(name);
                found = true;
            }
        }
        if !found {
            let known: Vec<_> = workspace
                .crates
                .iter()
                .flat_map(|owner| owner.features.iter().map(move |name| format!("{}/{name}", owner.name)))
                .collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            return Err(Error::Feature { plugin: spec.id.clone(), feature: wanted.clone(), known });
        }
    }
    Ok(given)
}

/// The spec's own settings of its profile win over the workspace's.
fn override_profile(settings: &mut toml::Table, spec: &PluginSpec) -> Result<()> {
    for (key, value) in &spec.profile {
        let wrong = |message: String| Error::Profile { plugin: spec.id.clone(), key: key.clone(), message };
        let given: toml::Table =
            toml::from_str(&format!("value = {value}")).map_err(|error| wrong(error.message().to_owned()))?;
        let (Some(value), 1) = (given.get("value"), given.len()) else {
            return Err(wrong("one TOML value is wanted".to_owned()));
        };
        if key == "panic" && value.as_str() != Some("unwind") {
            return Err(wrong("a plugin must unwind from a panic, or one in it would end the host".to_owned()));
        }
        let profile = table_in(settings, "profile").and_then(|profiles| table_in(profiles, spec.profile_name()));
        let Some(profile) = profile else { return Err(wrong("the workspace's [profile] is no table".to_owned())) };
        profile.insert(key.clone(), value.clone());
    }
    Ok(())
}

/// Whatever the workspace's programs do about a panic, the plugin has to unwind from it: it must not end the host.
fn unwind(settings: &mut toml::Table, spec: &PluginSpec) {
    let Some(profiles) = settings.get_mut("profile").and_then(toml::Value::as_table_mut) else { return };
    // One of them may inherit from another.
    for (name, profile) in profiles.iter_mut() {
        let Some(profile) = profile.as_table_mut() else { continue };
        if profile.get("panic").is_some_and(|panic| panic.as_str() != Some("unwind")) {
            tracing::debug!(plugin = spec.id, profile = name, "a plugin unwinds, whatever the profile says of panics");
            profile.insert("panic".to_owned(), toml::Value::String("unwind".to_owned()));
        }
    }
}

/// What the workspace leaves open of its dev profile is set for short links: line tables for the plugin's own
/// crates, so that backtraces name their lines, and no debug information for anything else, the framework included.
fn fill_in_profile(settings: &mut toml::Table, local: &BTreeMap<String, PathBuf>) {
    let Some(profiles) = table_in(settings, "profile") else { return };
    let Some(dev) = table_in(profiles, "dev") else { return };
    if dev.contains_key("debug") && dev.contains_key("package") {
        return;
    }
    let own = dev.get("debug").cloned().unwrap_or_else(|| toml::Value::String("line-tables-only".to_owned()));
    dev.insert("debug".to_owned(), own.clone());
    let Some(packages) = table_in(dev, "package") else { return };
    let others = [("*".to_owned(), toml::Value::Boolean(false))];
    let local = local.keys().filter(|name| !is_framework(name));
    for (name, debug) in local.map(|name| (name.clone(), own.clone())).chain(others) {
        if let Some(package) = table_in(packages, &name) {
            package.entry("debug").or_insert(debug);
        }
    }
}

/// Whether a package is `controllerbus` or its macros.
pub(crate) fn is_framework(package: &str) -> bool {
    matches!(package, "controllerbus" | "controllerbus-macros")
}

/// What is built once does not name the folders that it was built in, and what is rebuilt for a developer does. A
/// setting to what it is anyway lets cargo tell the two apart, so that neither is taken for the other.
fn set_apart(settings: &mut toml::Table, spec: &PluginSpec, local: &BTreeMap<String, PathBuf>) {
    let profile = table_in(settings, "profile").and_then(|profiles| table_in(profiles, spec.profile_name()));
    let Some(packages) = profile.and_then(|profile| table_in(profile, "package")) else { return };
    for name in local.keys() {
        if let Some(package) = table_in(packages, name) {
            package.entry("codegen-units").or_insert(toml::Value::Integer(16));
        }
    }
}

fn table_in<'a>(table: &'a mut toml::Table, key: &str) -> Option<&'a mut toml::Table> {
    table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new())).as_table_mut()
}

fn source(workspace: &Workspace, spec: &PluginSpec, toolchain: &Toolchain, build_hash: &str) -> String {
    let (profile, version) = (spec.profile_name(), spec.version.to_string().replace(HASH_IN_VERSION, build_hash));
    let mut text =
        format!("//! Generated by hot-runtime: bundles controller crates into the plugin `{}`.\n\n", spec.id);
    for found in &workspace.crates {
        // Without being named, a crate and its factories would be dropped by the linker.
        let _ = writeln!(text, "extern crate {} as _;", found.library);
    }
    let _ = write!(
        text,
        "\ncontrollerbus::plugin_bundle! {{\n    id: {:?},\n    version: \"{version}\",\n    build_hash: \"{build_hash}\",\n    \
         target: {:?},\n    toolchain: {:?},\n    profile: \"{profile}\",\n    entry: \"controllerbus_plugin_{build_hash}\",\n}}\n",
        spec.id, toolchain.target, toolchain.version,
    );
    text
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text).map_err(Error::io("writing the overlay", path))
}

/// Gives the overlay the workspace's versions; again only when the workspace's lock file has changed,
/// because cargo adds the overlay's own entries to the copy.
fn copy_lock_file(from: &Path, dir: &Path) -> Result<()> {
    let (seen, copy) = (dir.join("Cargo.lock.origin"), dir.join("Cargo.lock"));
    let text = std::fs::read_to_string(from).map_err(Error::io("reading the lock file", from))?;
    if copy.is_file() && std::fs::read_to_string(&seen).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(&copy, &text).map_err(Error::io("copying the lock file", &copy))?;
    std::fs::write(&seen, &text).map_err(Error::io("copying the lock file", &seen))
}

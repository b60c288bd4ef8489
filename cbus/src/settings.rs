//! What a crate sets for `cbus` in `[package.metadata.cbus]` of its manifest, and what the command line sets for all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hot_runtime::workspace::ControllerCrate;
use hot_runtime::{Isolation, PluginSpec, ProcessOptions};
use miette::Result;
use serde::Deserialize;

use crate::cli::Compiling;
use crate::pipeline::read_crates;
use crate::report::{io, report};

/// When a crate's tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// After the new code has taken over
    After,
    /// Before it takes over, which it does not if a test fails
    Before,
}

/// A crate's own defaults. What the command line says comes first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Settings {
    /// Its config file, relative to the crate; `config.yaml` if that exists.
    pub config: Option<PathBuf>,
    /// Features to enable.
    pub features: Vec<String>,
    /// Whether its default features are enabled.
    pub default_features: bool,
    /// Whether to optimise.
    pub release: bool,
    /// Profile settings that override those of its workspace.
    pub profile: BTreeMap<String, toml::Value>,
    /// Where it runs.
    pub isolation: Option<Isolation>,
    /// How it runs in a process of its own, as in a config of `hot-runtime/plugin`.
    pub process: Option<ProcessOptions>,
    /// When its tests run.
    pub test: Option<When>,
    /// Where the places of its errors are written, relative to the crate.
    pub locations: Option<PathBuf>,
}

/// The keys.
const KEYS: [&str; 9] =
    ["config", "features", "default-features", "release", "profile", "isolation", "process", "test", "locations"];

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: None,
            features: Vec::new(),
            default_features: true,
            release: false,
            profile: BTreeMap::new(),
            isolation: None,
            process: None,
            test: None,
            locations: None,
        }
    }
}

impl Settings {
    /// Those of the crate in a directory.
    ///
    /// # Errors
    /// Its manifest cannot be read, or sets what there is not.
    pub fn of(dir: &Path) -> Result<Self> {
        let path = dir.join("Cargo.toml");
        let text = std::fs::read_to_string(&path).map_err(io("reading the manifest", &path))?;
        Self::parse(&text)
            .map_err(|(what, help)| report(format!("{}: [package.metadata.cbus]: {what}", path.display()), help))
    }

    /// From a manifest. An error is what is wrong, and what to do.
    fn parse(manifest: &str) -> Result<Self, (String, String)> {
        let manifest: toml::Table =
            manifest.parse().map_err(|error: toml::de::Error| (error.to_string(), String::new()))?;
        let manifest = toml::Value::Table(manifest);
        let own = ["package", "metadata", "cbus"].iter().try_fold(&manifest, |at, key| at.get(key)).cloned();
        let Some(own) = own else { return Ok(Self::default()) };
        let keys = own.as_table().into_iter().flat_map(|table| table.keys());
        let unknown: Vec<&str> = keys.map(String::as_str).filter(|key| !KEYS.contains(key)).collect();
        if let [first, ..] = unknown.as_slice() {
            let known = || KEYS.map(|key| format!("`{key}`")).join(", ");
            let help = match controllerbus::__private::nearest(first, KEYS) {
                Some(near) => format!("did you mean `{near}`? The keys are {}", known()),
                None => format!("the keys are {}", known()),
            };
            let named = unknown.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            return Err((format!("there is no {named}"), help));
        }
        own.try_into().map_err(|error: toml::de::Error| (error.to_string().trim().to_owned(), String::new()))
    }

    /// Adds what concerns how a plugin is compiled, but for features.
    pub fn compile(&self, spec: PluginSpec) -> PluginSpec {
        let (release, defaults) = (spec.release || self.release, spec.default_features && self.default_features);
        let spec = spec.release(release).default_features(defaults);
        self.profile.iter().fold(spec, |spec, (key, value)| spec.profile(key, value.to_string()))
    }
}

/// A crate that is built as a plugin of its own.
pub struct Crate {
    /// Under the crate's name.
    pub spec: PluginSpec,
    /// Its directory.
    pub dir: PathBuf,
    /// What it sets of itself.
    pub settings: Settings,
}

/// One plugin for each crate, as the command line and the crates themselves say.
///
/// # Errors
/// A crate cannot be read, sets what there is not, or no crate has a feature.
pub async fn crates(paths: &[PathBuf], compiling: &Compiling, isolation: Option<Isolation>) -> Result<Vec<Crate>> {
    let mut found = Vec::new();
    for path in paths {
        let workspace = read_crates(std::slice::from_ref(path)).await?;
        let Some(read) = workspace.crates.into_iter().next() else { continue };
        found.push((path, Settings::of(&read.dir)?, read));
    }
    for feature in &compiling.features {
        if !found.iter().any(|(_, _, read)| enables(read, feature).is_some()) {
            let known: Vec<&str> =
                found.iter().flat_map(|(_, _, read)| read.features.iter().map(String::as_str)).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            return Err(report(format!("no crate has the feature `{feature}`"), format!("known features: {known}")));
        }
    }
    let spec = |(path, settings, read): (&PathBuf, Settings, ControllerCrate)| {
        let spec = PluginSpec::new(&read.name).version(read.version.clone()).crate_path(path.clone());
        let spec = spec.release(compiling.release).default_features(!compiling.no_default_features);
        let mut spec = settings.compile(spec);
        let given = compiling.features.iter().filter_map(|feature| enables(&read, feature));
        for feature in given.chain(settings.features.iter().map(String::as_str)) {
            spec = spec.feature(feature);
        }
        if let (Some(own), None) = (settings.isolation, isolation) {
            spec = spec.isolation(own);
        }
        if let Some(process) = &settings.process {
            spec = spec.process_options(process.clone());
        }
        Crate { spec, dir: read.dir, settings }
    };
    Ok(found.into_iter().map(spec).collect())
}

/// The feature's name, if a crate has it and is meant: `FEATURE`, or `CRATE/FEATURE`.
fn enables<'a>(read: &ControllerCrate, feature: &'a str) -> Option<&'a str> {
    let name = match feature.split_once('/') {
        Some((whose, name)) if whose == read.name => name,
        Some(_) => return None,
        None => feature,
    };
    read.features.contains(name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_sets_a_crates_defaults_and_what_it_cannot_set_is_an_error_that_names_it() {
        let parse = |own: &str| Settings::parse(&format!("[package]\nname = \"a\"\n{own}"));
        assert_eq!(parse(""), Ok(Settings::default()));
        let read = parse(
            "[package.metadata.cbus]\nconfig = \"dev.yaml\"\nfeatures = [\"fast\"]\ndefault-features = false\n\
             isolation = \"process\"\ntest = \"before\"\nprofile = { opt-level = 1 }\n\
             [package.metadata.cbus.process.limits]\nopen_files = 64\n",
        )
        .expect("settings");
        assert_eq!(read.config, Some("dev.yaml".into()));
        assert_eq!((read.isolation, read.test), (Some(Isolation::Process), Some(When::Before)));
        assert_eq!(read.process.as_ref().and_then(|process| process.limits.open_files), Some(64));
        let spec = read.compile(PluginSpec::new("a"));
        assert!(!spec.default_features && !spec.release);
        assert_eq!(spec.profile.get("opt-level").map(String::as_str), Some("1"));

        let (what, help) = parse("[package.metadata.cbus]\nfeaturs = []\nspeed = 3\n").expect_err("unknown keys");
        assert_eq!(what, "there is no `featurs`, `speed`");
        assert!(help.starts_with("did you mean `features`? The keys are `config`, "), "{help}");
        let (what, _) = parse("[package.metadata.cbus]\ntest = \"never\"\n").expect_err("no such time");
        assert!(what.contains("never") && what.contains("before"), "{what}");
        let limits = "[package.metadata.cbus.process.limits]\nmemry = 1\n";
        let (what, _) = parse(limits).expect_err("an unknown limit");
        assert!(what.contains("memry"), "{what}");
    }
}

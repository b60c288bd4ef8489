//! The files and variables that decide how cargo and rustup work, apart from manifests and sources.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::util::in_full;

/// The files by which a directory pins its toolchain.
pub(super) const PINS: [&str; 2] = ["rust-toolchain.toml", "rust-toolchain"];

/// Variables that the cargo, clippy or rustup that runs this process sets for it, and that must not be passed on.
const CALLERS: [&str; 6] =
    ["RUSTC_WORKSPACE_WRAPPER", "CARGO_MAKEFLAGS", "MAKEFLAGS", "CARGO", "CLIPPY_ARGS", "RUSTUP_TOOLCHAIN_SOURCE"];

fn is_the_callers(name: &str) -> bool {
    let about_this_process = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    CALLERS.contains(&name)
        || about_this_process.iter().any(|start| name.starts_with(start))
        || (name == "RUSTUP_TOOLCHAIN" && !toolchain_was_asked_for())
}

/// Whether the user set the variable that chooses a toolchain. Rustup sets it too, for the processes that its cargo
/// starts: then it names that cargo's toolchain, and must not override the one that a plugin's directory pins.
fn toolchain_was_asked_for() -> bool {
    match std::env::var("RUSTUP_TOOLCHAIN_SOURCE") {
        Ok(source) => source == "env",
        // Older than rustup 1.29.
        Err(_) => std::env::var_os("CARGO").is_none(),
    }
}

/// Whether a variable of this process decides how cargo builds.
fn decides(name: &str) -> bool {
    (name.starts_with("CARGO") || name.starts_with("RUST")) && !is_the_callers(name) && !name.starts_with("RUST_LOG")
}

/// The variables of this process that decide how cargo builds.
pub(crate) fn variables() -> BTreeMap<OsString, OsString> {
    std::env::vars_os().filter(|(name, _)| decides(&name.to_string_lossy())).collect()
}

/// Those of them that affect the code, not just where outputs go or how packages are fetched.
pub(crate) fn variables_in_code() -> Vec<String> {
    let matters = |name: &str| {
        name.starts_with("CARGO_PROFILE_")
            || name.ends_with("RUSTFLAGS")
            || (name.starts_with("CARGO_TARGET_") && name != "CARGO_TARGET_DIR")
            || matches!(name, "RUSTC" | "RUSTC_BOOTSTRAP" | "CARGO_BUILD_TARGET" | "CARGO_BUILD_RUSTC")
    };
    let said = |(name, value): (OsString, OsString)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
    variables().into_iter().filter(|(name, _)| matters(&name.to_string_lossy())).map(said).collect()
}

/// The environment of this process, without the variables that are about this process.
pub(crate) fn callers_environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !is_the_callers(&name.to_string_lossy())).collect()
}

/// Removes the variables that are about this process from a command's environment.
pub(crate) fn scrub_cargo_env(command: &mut std::process::Command) {
    for (name, _) in std::env::vars_os() {
        if is_the_callers(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
}

/// A tool's directory in the user's home.
fn home(variable: &str, default: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).filter(|set| !set.is_empty()).map(PathBuf::from);
    set.or_else(|| Some(std::env::home_dir()?.join(default)))
}

/// Cargo's home directory, with downloads and the user's settings.
pub(crate) fn cargo_home() -> PathBuf {
    home("CARGO_HOME", ".cargo").unwrap_or_default()
}

/// Cargo's config files for a directory, in all its parents and for the user, whether they exist or not, and the programs
/// that they name.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let configs: Vec<_> = configs(root).into_iter().flat_map(|config| with_included(&config)).collect();
    let programs: Vec<_> = configs.iter().flat_map(|config| programs_in(config)).collect();
    configs.into_iter().chain(programs).collect()
}

/// The files with which a directory or its parents pin a toolchain, whether they exist or not.
pub(crate) fn pins(root: &Path) -> impl Iterator<Item = PathBuf> {
    root.ancestors().filter(|folder| folder.has_root()).flat_map(|folder| PINS.map(|name| folder.join(name)))
}

/// Files that count but are not watched: they rarely change, and their directories are busy.
pub(crate) fn quiet() -> BTreeSet<PathBuf> {
    home("RUSTUP_HOME", ".rustup").map(|home| home.join("settings.toml")).into_iter().collect()
}

/// Cargo's config files for a directory.
fn configs(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<_> = root.ancestors().map(|folder| folder.join(".cargo")).collect();
    let home = cargo_home();
    if !folders.contains(&home) {
        folders.push(home);
    }
    folders.into_iter().flat_map(|folder| ["config", "config.toml"].map(|name| folder.join(name))).collect()
}

fn read(config: &Path) -> Option<toml::Table> {
    toml::from_str(&std::fs::read_to_string(config).ok()?).ok()
}

/// A config and the configs that it includes, directly or not; each comes before those that it includes.
fn with_included(config: &Path) -> Vec<PathBuf> {
    let mut all = vec![config.to_owned()];
    let mut at = 0;
    while let Some(config) = all.get(at) {
        let included: Vec<_> = included_in(config).into_iter().filter(|path| !all.contains(path)).collect();
        all.extend(included);
        at += 1;
    }
    all
}

fn included_in(config: &Path) -> Vec<PathBuf> {
    let folder = config.parent().unwrap_or(Path::new("/"));
    let include = read(config).and_then(|mut table| table.remove("include"));
    let each = match include {
        Some(toml::Value::Array(all)) => all,
        one => one.into_iter().collect(),
    };
    let path = |one: &toml::Value| Some(in_full(&folder.join(one.as_str().or_else(|| one.get("path")?.as_str())?)));
    each.iter().filter_map(path).collect()
}

/// A value in a config's `[build]` section.
fn of_build(config: &Path, key: &str) -> Option<String> {
    Some(read(config)?.get("build")?.get(key)?.as_str()?.to_owned())
}

/// The programs that a config names.
fn programs_in(config: &Path) -> Vec<PathBuf> {
    let named = ["rustc", "rustc-wrapper"].into_iter().filter_map(|key| of_build(config, key));
    named.filter_map(|program| program_at(&program, config)).collect()
}

/// The path of a program that a config names with a slash, which is relative to the parent of the config's directory.
fn program_at(program: &str, config: &Path) -> Option<PathBuf> {
    let from = config.parent()?.parent()?;
    program.contains('/').then(|| from.join(program))
}

/// The compiler wrapper that cargo would use in a directory.
pub(crate) fn wrapper(root: &Path) -> Option<OsString> {
    for name in ["RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"] {
        if let Some(set) = std::env::var_os(name) {
            return Some(set).filter(|set| !set.is_empty());
        }
    }
    configs(root).iter().flat_map(|config| with_included(config)).find_map(|config| {
        let set = of_build(&config, "rustc-wrapper")?;
        Some(program_at(&set, &config).map_or_else(|| OsString::from(set), PathBuf::into_os_string))
    })
}

/// What sets a compiler wrapper for workspace members only, which does not apply to plugins: they are bundled outside.
pub(crate) fn wrapper_of_members(root: &Path) -> Option<String> {
    let variable = "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER";
    if std::env::var_os(variable).is_some_and(|set| !set.is_empty()) {
        return Some(variable.to_owned());
    }
    let mut files = configs(root).into_iter().flat_map(|config| with_included(&config));
    let config = files.find(|config| of_build(config, "rustc-workspace-wrapper").is_some_and(|set| !set.is_empty()))?;
    Some(format!("`build.rustc-workspace-wrapper` in {}", config.display()))
}

/// Whether a setting replaces packages with local ones without a word in the lock file.
pub(crate) fn overrides_packages(root: &Path) -> bool {
    let mut files = configs(root).into_iter().flat_map(|config| with_included(&config));
    files.any(|config| read(&config).is_some_and(|table| table.contains_key("paths")))
}

/// Whether a wrapper is just a compiler cache, so that leaving it out changes only the time.
pub(crate) fn only_remembers(wrapper: &OsStr) -> bool {
    let name = Path::new(wrapper).file_stem().unwrap_or_default();
    ["sccache", "ccache", "cachepot"].iter().any(|known| name == *known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_config_names_the_wrapper_and_what_configs_name_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("a/b");
        std::fs::create_dir_all(root.join(".cargo")).expect("a folder");
        std::fs::create_dir_all(folder.path().join(".cargo")).expect("a folder");
        let outer = folder.path().join(".cargo/config.toml");
        std::fs::write(&outer, "include = \"more.toml\"\n[build]\nrustc-wrapper = \"tools/wrap\"\n").expect("writing");
        // One that includes another, which includes the first; and one that need not be there.
        let more = folder.path().join(".cargo/more.toml");
        std::fs::write(&more, "include = [\"deep/most.toml\", { path = \"none.toml\", optional = true }]\n")
            .expect("writing");
        std::fs::create_dir(folder.path().join(".cargo/deep")).expect("a folder");
        let most = folder.path().join(".cargo/deep/most.toml");
        std::fs::write(&most, "include = \"../more.toml\"\n[build]\nrustc = \"tools/rustc\"\n").expect("writing");
        let named = files(&root);
        for path in
            [".cargo/more.toml", ".cargo/deep/most.toml", ".cargo/none.toml", "tools/wrap", ".cargo/tools/rustc"]
        {
            assert!(named.contains(&folder.path().join(path)), "{path}: {named:?}");
        }
        assert_eq!(wrapper_of_members(&root), None);
        assert!(named.contains(&root.join(".cargo/config.toml")));
        assert!(pins(&root).any(|pin| pin == folder.path().join("rust-toolchain")));
        assert_eq!(wrapper(&root), Some(folder.path().join("tools/wrap").into_os_string()));
        std::fs::write(root.join(".cargo/config.toml"), "[build]\nrustc-wrapper = \"sccache\"\n").expect("writing");
        assert_eq!(wrapper(&root), Some("sccache".into()));
        std::fs::write(&most, "[build]\nrustc-workspace-wrapper = \"clippy-driver\"\n").expect("writing");
        assert!(wrapper_of_members(&root).is_some_and(|said| said.contains("most.toml")));
        assert!(only_remembers(OsStr::new("/usr/bin/sccache")) && !only_remembers(OsStr::new("tools/wrap")));
    }
}

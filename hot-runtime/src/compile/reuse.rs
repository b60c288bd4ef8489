//! What cargo has compiled for the workspace itself: a plugin's first build begins with it.
//!
//! A host and its plugins in one workspace have dependencies in common, and a first build would compile each of them a second time.
//! Cargo recognises what it can use by its fingerprints, wherever the directory lies: so what the plugin's crates depend on, and is not
//! local, is copied into a target directory that is still empty. Where features or profiles differ, cargo compiles again, as it does
//! without this. They are copies, because a link to a file that one of two directories writes to would change the other one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use crate::source::environment;
use crate::source::workspace::Workspace;

/// Lists what was taken over, by the names of fingerprints.
const TAKEN: &str = ".cbus-taken-over";

/// Takes over what there is of a profile's directory (`debug` or `release`) where cargo builds a plugin's workspace. Blocks. It is no error
/// if there is nothing, or if it cannot be copied: then cargo compiles it. While cargo builds there, nothing is taken over; nor where packages
/// may be local ones without a word in the lock file.
pub(super) fn take_over(workspace: &Workspace, target_dir: &Path, profile: &str) {
    let (from, to) = (workspace.build_dir.join(profile), target_dir.join(profile));
    let lock_file = workspace.lock_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    if to.exists() || !from.join(".fingerprint").is_dir() || environment::overrides_packages(&workspace.root) {
        return;
    }
    let packages = others(&lock_file.unwrap_or_default(), workspace.crates.iter().map(|one| one.name.as_str()));
    if packages.is_empty() {
        return;
    }
    let profile = Profile { from: &from, to: &to, packages: &packages };
    match profile.take_over() {
        Ok(units) => tracing::debug!(units, from = %from.display(), "what is compiled there is used"),
        Err(error) => tracing::debug!(%error, from = %from.display(), "what is compiled there is not used"),
    }
}

/// Makes cargo compile what was taken over, which contains paths of this machine, and whatever depends on it; nothing is taken over there
/// from then on. False if that needs cargo's lock of that profile, which the caller has not got. Blocks.
pub(super) fn forget_taken_over(target_dir: &Path, profile: &str, is_locked: bool) -> io::Result<bool> {
    let profile = target_dir.join(profile);
    let list = profile.join(TAKEN);
    let taken = std::fs::read_to_string(&list).unwrap_or_default();
    if taken.is_empty() {
        // Without a wait for another build there.
        std::fs::create_dir_all(&profile)?;
        std::fs::write(list, "")?;
        return Ok(true);
    }
    // A cargo that builds there relies on its fingerprints.
    if !is_locked {
        return Ok(false);
    }
    for unit in taken.lines() {
        match std::fs::remove_dir_all(profile.join(".fingerprint").join(unit)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::write(list, "")?;
    Ok(true)
}

/// The packages that some crates depend on by a lock file, but for local ones.
fn others<'a>(lock_file: &str, crates: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let table: toml::Table = toml::from_str(lock_file).unwrap_or_default();
    let mut known: BTreeMap<&str, (bool, Vec<&str>)> = BTreeMap::new();
    for package in table.get("package").and_then(toml::Value::as_array).into_iter().flatten() {
        let Some(name) = package.get("name").and_then(toml::Value::as_str) else { continue };
        let dependencies = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        // Where there are several of a name, its version follows, and its source.
        let dependencies = dependencies.filter_map(|it| it.as_str()?.split(' ').next());
        let (is_local, all) = known.entry(name).or_default();
        *is_local |= package.get("source").is_none();
        all.extend(dependencies);
    }
    let mut waiting: Vec<&str> = crates.filter_map(|name| Some(*known.get_key_value(name)?.0)).collect();
    let mut found = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if found.insert(name)
            && let Some((_, dependencies)) = known.get(name)
        {
            waiting.extend(dependencies);
        }
    }
    found.into_iter().filter(|name| known.get(name).is_some_and(|(is_local, _)| !is_local)).map(str::to_owned).collect()
}

/// The directory of a profile, and where it is copied to.
struct Profile<'a> {
    from: &'a Path,
    to: &'a Path,
    packages: &'a BTreeSet<String>,
}

impl Profile<'_> {
    fn take_over(&self) -> io::Result<usize> {
        let lock = File::options().create(true).append(true).open(self.from.join(".cargo-lock"))?;
        lock.try_lock()?;
        let parent = self.to.parent().unwrap_or(self.to);
        std::fs::create_dir_all(parent)?;
        // Under its name all at once: another build may begin there meanwhile.
        let scratch = tempfile::Builder::new().prefix(".cbus-").tempdir_in(parent)?;
        let whole = scratch.path().join("profile");
        // First: what has a fingerprint is complete.
        let mut units = self.units()?;
        let mut unusual = BTreeSet::new();
        for unit in &units {
            if !self.copy_build(unit, &whole)? {
                unusual.insert(unit.package.clone());
            }
        }
        units.retain(|unit| !unusual.contains(&unit.package));
        let hashes: BTreeSet<&str> = units.iter().map(|unit| unit.hash.as_str()).collect();
        for entry in entries(&self.from.join("deps"))? {
            let name = entry.file_name();
            let stem = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy();
            if stem.rsplit_once('-').is_some_and(|(_, hash)| hashes.contains(hash)) {
                copy_file(&entry.path(), &whole.join("deps").join(&name))?;
            }
        }
        for unit in &units {
            let below = Path::new(".fingerprint").join(unit.name());
            copy_all(&self.from.join(&below), &whole.join(&below))?;
        }
        let taken: String = units.iter().map(|unit| unit.name() + "\n").collect();
        std::fs::create_dir_all(&whole)?;
        std::fs::write(whole.join(TAKEN), taken)?;
        std::fs::rename(&whole, self.to)?;
        Ok(units.len())
    }

    /// What is compiled of the packages.
    fn units(&self) -> io::Result<Vec<Unit>> {
        let unit = |entry: &std::fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (package, hash) = name.rsplit_once('-')?;
            let unit = || Unit { package: package.to_owned(), hash: hash.to_owned() };
            self.packages.contains(package).then(unit)
        };
        Ok(entries(&self.from.join(".fingerprint"))?.iter().filter_map(unit).collect())
    }

    /// A build script, or what it left, if the unit is one; false if that cannot be copied.
    fn copy_build(&self, unit: &Unit, whole: &Path) -> io::Result<bool> {
        let below = Path::new("build").join(unit.name());
        let (from, to) = (self.from.join(&below), whole.join(&below));
        if !copy_all(&from, &to)? {
            return Ok(false);
        }
        // They name the directory, and so does what is compiled by them.
        for name in ["output", "root-output"] {
            let file = to.join(name);
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let there = self.to.join(&below);
            let modified = std::fs::metadata(&file)?.modified()?;
            std::fs::write(&file, text.replace(&*from.to_string_lossy(), &there.to_string_lossy()))?;
            set_modified(&file, modified)?;
        }
        Ok(true)
    }
}

/// What cargo compiles at once.
struct Unit {
    package: String,
    hash: String,
}

impl Unit {
    fn name(&self) -> String {
        format!("{}-{}", self.package, self.hash)
    }
}

/// What is in a directory; nothing if it is not there.
fn entries(dir: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Copies a directory, if it is there; false if it has something else in it than files and directories.
fn copy_all(from: &Path, to: &Path) -> io::Result<bool> {
    for entry in entries(from)? {
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_file() {
            copy_file(&entry.path(), &to)?;
        } else if !kind.is_dir() || !copy_all(&entry.path(), &to)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a file with the time that cargo compares.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    to.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::copy(from, to)?;
    set_modified(to, std::fs::metadata(from)?.modified()?)
}

fn set_modified(path: &Path, time: std::time::SystemTime) -> io::Result<()> {
    // Some systems want to write for it; others let the owner of a read-only file.
    let file = File::options().write(true).open(path).or_else(|_| File::open(path))?;
    file.set_times(std::fs::FileTimes::new().set_modified(time))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::source::workspace::ControllerCrate;

    const LOCK: &str = r#"
version = 4
[[package]]
name = "host"
dependencies = ["other", "mine"]
[[package]]
name = "mine"
dependencies = ["serde", "both 0.1.0", "near"]
[[package]]
name = "near"
dependencies = ["far-away 2.0.0 (registry+https://example.org)"]
[[package]]
name = "serde"
source = "registry+https://example.org"
[[package]]
name = "far-away"
source = "registry+https://example.org"
[[package]]
name = "other"
source = "registry+https://example.org"
[[package]]
name = "both"
[[package]]
name = "both"
source = "registry+https://example.org"
"#;

    /// A workspace that was not built yet.
    fn workspace() -> (tempfile::TempDir, Workspace) {
        let own = tempfile::tempdir().expect("a folder");
        let folder = own.path();
        let lock_file = folder.join("Cargo.lock");
        std::fs::write(&lock_file, LOCK).expect("writing");
        let mine = ControllerCrate {
            name: "mine".to_owned(),
            library: "mine".to_owned(),
            dir: folder.join("mine"),
            version: semver::Version::new(0, 1, 0),
            features: BTreeSet::new(),
        };
        let mut workspace = Workspace::default();
        workspace.crates.push(mine);
        workspace.lock_file = Some(lock_file);
        folder.clone_into(&mut workspace.root);
        workspace.build_dir = folder.join("target");
        (own, workspace)
    }

    const READ_ONLY: &str = "build/serde-3c/out/generated.rs";

    /// A target directory after a build of the workspace, an hour ago.
    fn built(workspace: &Workspace) {
        let debug = workspace.build_dir.join("debug");
        let there = debug.join("build/serde-3c/out").display().to_string();
        let files = [
            (".fingerprint/serde-1a/lib-serde", "f"),
            (".fingerprint/far-away-9a/lib-far_away", "f"),
            (".fingerprint/mine-2b/lib-mine", "f"),
            (".fingerprint/near-2d/lib-near", "f"),
            (".fingerprint/both-2e/lib-both", "f"),
            (".fingerprint/other-2c/lib-other", "f"),
            (".fingerprint/serde-3c/run-build-script", "f"),
            ("deps/libserde-1a.rlib", "code"),
            ("deps/serde-1a.d", "paths"),
            ("deps/libmine-2b.rlib", "code"),
            ("deps/app-5e", "program"),
            ("build/serde-3c/output", &format!("cargo:rustc-link-search={there}\n")),
            ("build/serde-3c/root-output", &there),
            (READ_ONLY, "generated"),
            ("build/mine-4d/output", "said"),
        ];
        let before = SystemTime::now() - Duration::from_secs(3600);
        for (name, text) in files {
            let file = debug.join(name);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(&file, text).expect("writing");
            set_modified(&file, before).expect("its time");
        }
        std::fs::set_permissions(debug.join(READ_ONLY), std::fs::Permissions::from_mode(0o444)).expect("read-only");
    }

    fn files(dir: &Path) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![dir.to_owned()];
        while let Some(next) = waiting.pop() {
            for entry in std::fs::read_dir(next).expect("a folder").map(|entry| entry.expect("an entry")) {
                if entry.path().is_dir() {
                    waiting.push(entry.path());
                } else {
                    found.insert(entry.path().strip_prefix(dir).expect("below it").display().to_string());
                }
            }
        }
        found
    }

    #[test]
    fn what_the_plugin_depends_on_and_is_not_local_is_copied_with_its_times_and_new_paths() {
        let (_folder, workspace) = workspace();
        built(&workspace);
        let target = workspace.build_dir.join("controllerbus/target");
        take_over(&workspace, &target, "debug");
        let (from, to) = (workspace.build_dir.join("debug"), target.join("debug"));
        let taken = [
            TAKEN,
            ".fingerprint/serde-1a/lib-serde",
            ".fingerprint/far-away-9a/lib-far_away",
            ".fingerprint/serde-3c/run-build-script",
            "deps/libserde-1a.rlib",
            "deps/serde-1a.d",
            "build/serde-3c/output",
            "build/serde-3c/root-output",
            READ_ONLY,
        ];
        assert_eq!(files(&to), taken.map(str::to_owned).into());
        let modified = |path: PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).expect("a time");
        for name in &taken[1..] {
            assert_eq!(modified(from.join(name)), modified(to.join(name)), "{name}");
        }
        let there = to.join("build/serde-3c/out").display().to_string();
        let read = |name: &str| std::fs::read_to_string(to.join(name)).expect("reading");
        assert_eq!(read("build/serde-3c/root-output"), there);
        assert_eq!(read("build/serde-3c/output"), format!("cargo:rustc-link-search={there}\n"));
        assert_eq!(std::fs::read_dir(&target).expect("a folder").count(), 1, "nothing but the profile's directory");

        // A single build compiles it itself, and so does every build after that.
        assert!(!forget_taken_over(&target, "debug", false).expect("it asks for the lock"));
        assert!(files(&to).iter().any(|name| name.starts_with(".fingerprint")));
        assert!(forget_taken_over(&target, "debug", true).expect("forgetting"));
        assert!(!files(&to).iter().any(|name| name.starts_with(".fingerprint")));
        assert!(from.join(".fingerprint/serde-1a").is_dir());
    }

    #[test]
    fn a_package_whose_script_left_links_is_compiled_again() {
        let (folder, workspace) = workspace();
        built(&workspace);
        let out = workspace.build_dir.join("debug/build/serde-3c/out");
        std::os::unix::fs::symlink("libz.so.1", out.join("libz.so")).expect("a link");
        let target = folder.path().join("plugins");
        take_over(&workspace, &target, "debug");
        let fingerprints = files(&target.join("debug")).into_iter().filter(|name| name.starts_with(".fingerprint"));
        assert_eq!(fingerprints.collect::<Vec<_>>(), [".fingerprint/far-away-9a/lib-far_away"]);
    }

    #[test]
    fn a_single_build_does_not_wait_for_another_one_where_nothing_was_taken_over() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("debug")).expect("a folder");
        let lock = File::create(folder.path().join("debug/.cargo-lock")).expect("the lock");
        lock.lock().expect("locking");
        for _ in 0..2 {
            assert!(forget_taken_over(folder.path(), "debug", false).expect("it goes on"));
        }
    }

    #[test]
    fn nothing_is_taken_over_where_one_of_both_is_in_use_or_packages_are_overridden() {
        let (folder, workspace) = workspace();
        let target = folder.path().join("plugins");
        let take = || take_over(&workspace, &target, "debug");
        take();
        assert!(!target.exists(), "there is nothing");
        built(&workspace);
        take_over(&workspace, &target, "release");
        assert!(!target.exists(), "of another profile");
        let lock = File::create(workspace.build_dir.join("debug/.cargo-lock")).expect("the lock");
        lock.lock().expect("locking");
        take();
        assert!(!target.join("debug").exists(), "cargo builds");
        drop(lock);
        let settings = workspace.root.join(".cargo/config.toml");
        std::fs::create_dir(workspace.root.join(".cargo")).expect("a folder");
        std::fs::write(&settings, "paths = [\"serde\"]\n").expect("writing the settings");
        take();
        assert!(!target.join("debug").exists(), "a package may be a local one");
        std::fs::remove_file(settings).expect("removing the settings");
        // A single build begins.
        assert!(forget_taken_over(&target, "debug", false).expect("forgetting"));
        take();
        assert!(!target.join("debug/deps").exists(), "what a single build leaves has no other paths in it");
        std::fs::remove_dir_all(&target).expect("removing");
        take();
        assert!(target.join("debug/deps/libserde-1a.rlib").exists());
    }
}

//! Looks at what builds and reloads depend on, and says what stops them, what slows them down, and what to do about it:
//! `cbus doctor` prints it.
//!
//! ```no_run
//! use hot_runtime::doctor::{Level, examine};
//!
//! for finding in examine("target/controllerbus".as_ref(), "target/controllerbus/target".as_ref(), &[]) {
//!     if finding.level != Level::Ok {
//!         println!("{}: {}; {}", finding.what, finding.found, finding.remedy);
//!     }
//! }
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use controllerbus::Schema;
use serde::Serialize;

use crate::compile::learned::Learned;
use crate::compile::trial::{self, Linking};
use crate::error::Result;
use crate::source::environment;
use crate::source::inputs::Inputs;
use crate::source::watch;
use crate::source::workspace::{Toolchain, Workspace};
use crate::sys::disk;
use crate::text::duration;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Schema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// It works, but slower or with less than there could be.
    Warn,
    /// It does not work.
    Fail,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Schema)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at, such as `rustc`.
    pub what: String,
    /// What was found.
    pub found: String,
    /// How bad that is.
    pub level: Level,
    /// What to do about it; empty if nothing has to be done.
    pub remedy: String,
}

impl Finding {
    /// It is as it should be.
    pub fn ok(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.to_owned(), found: found.into(), level: Level::Ok, remedy: String::new() }
    }

    /// It works, but slower or with less than there could be.
    pub fn warn(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), level: Level::Warn, ..Self::ok(what, found) }
    }

    /// It does not work.
    pub fn fail(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(what, found, remedy) }
    }
}

/// Looks at the toolchain, the system, and the directories that builds use; and at crates that are to be plugins. Builds an empty
/// library, and so takes a second. Blocks.
#[must_use]
pub fn examine(work_dir: &Path, target_dir: &Path, crates: &[PathBuf]) -> Vec<Finding> {
    let workspace = (!crates.is_empty()).then(|| Workspace::read(crates));
    let here = || std::env::current_dir().unwrap_or_default();
    let root = match &workspace {
        Some(Ok(workspace)) => workspace.root.clone(),
        _ => here(),
    };
    let mut found = vec![rustc(&root), cargo(&root)];
    found.extend(settings(&root));
    found.extend(trial(&root));
    found.extend(folders(work_dir, target_dir));
    found.push(watches(workspace.as_ref().and_then(|read| read.as_ref().ok()), crates, target_dir));
    found.push(c_library());
    found.extend(processes());
    if let Some(workspace) = &workspace {
        found.push(framework(workspace));
    }
    found
}

/// The oldest compiler that this version supports.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

fn rustc(root: &Path) -> Finding {
    const INSTALL: &str = "install Rust from https://rustup.rs, and put ~/.cargo/bin into PATH";
    let toolchain = match Toolchain::of(root) {
        Ok(toolchain) if !toolchain.version.is_empty() => toolchain,
        Ok(_) => return Finding::fail("rustc", "it does not say its version", "`rustc -vV` says why"),
        Err(error) => return Finding::fail("rustc", error.with_causes().to_string(), INSTALL),
    };
    let found = format!("{}, {}", toolchain.version, toolchain.target);
    let number = toolchain.version.split(' ').nth(1).unwrap_or_default();
    if is_older(number, OLDEST) {
        return Finding::fail("rustc", found, format!("update to {OLDEST} or later: `rustup update`"));
    }
    if toolchain.target != env!("CBUS_TARGET") {
        let remedy = "plugins are built for the compiler's own machine, and this program is another one's: install the cbus of that machine";
        return Finding::fail("rustc", found, remedy);
    }
    Finding::ok("rustc", found)
}

/// Whether a version such as `1.94.0-nightly` is older than one such as `1.95`. What is no version is not.
fn is_older(version: &str, least: &str) -> bool {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(['.', '-']).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    matches!((numbers(version), numbers(least)), (Some(found), Some(least)) if found < least)
}

fn cargo(root: &Path) -> Finding {
    let mut command = Command::new("cargo");
    environment::scrub_cargo_env(&mut command);
    let asked = command.arg("-V").current_dir(root).stdin(Stdio::null()).output();
    let remedy = "install Rust from https://rustup.rs, and put ~/.cargo/bin into PATH";
    match asked {
        Ok(said) if said.status.success() => Finding::ok("cargo", String::from_utf8_lossy(&said.stdout).trim()),
        Ok(said) => Finding::fail("cargo", String::from_utf8_lossy(&said.stderr).trim(), remedy),
        Err(error) => Finding::fail("cargo", format!("it cannot be run: {error}"), remedy),
    }
}

/// What the environment and cargo's settings change about builds.
fn settings(root: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let wrapper = environment::wrapper(root);
    found.push(match &wrapper {
        None => Finding::ok("compiler wrapper", "none"),
        Some(wrapper) if environment::only_remembers(wrapper) => Finding::ok(
            "compiler wrapper",
            format!("{}; cargo uses it, and direct builds go without", wrapper.to_string_lossy()),
        ),
        Some(wrapper) => Finding::warn(
            "compiler wrapper",
            format!("{}, which is run for each crate, also in direct builds", wrapper.to_string_lossy()),
            "each edit waits for it once for each crate that it recompiles",
        ),
    });
    if let Some(said) = environment::wrapper_of_members(root) {
        let remedy =
            "plugins are bundled outside of the workspace; to apply it to them, set it as `build.rustc-wrapper`";
        found.push(Finding::warn("workspace wrapper", format!("{said} does not apply to plugins"), remedy));
    }
    let variables = environment::variables_in_code();
    let set = if variables.is_empty() { "none".to_owned() } else { variables.join(", ") };
    found.push(Finding::ok("build variables", set));
    found
}

/// Which linker is used and what that costs, and whether rustc can be called directly.
fn trial(root: &Path) -> Vec<Finding> {
    let trial = match trial::build(root) {
        Ok(trial) => trial,
        Err(said) => {
            let remedy = "plugins cannot be built before an empty library can; a linker comes with `apt install gcc` or its like";
            return vec![Finding::fail("building a library", said, remedy)];
        }
    };
    let mut found = vec![Finding::ok("building a library", format!("an empty one, in {}", duration(trial.took)))];
    let direct = match (&trial.linking, trial.is_recorded) {
        (Some(_), true) => Finding::ok("direct builds", "after the first build, rustc is called without cargo"),
        (None, _) => Finding::warn(
            "direct builds",
            "it is not understood how rustc calls the linker, so cargo builds each edit",
            "remove `linker` from .cargo/config.toml if it is set there",
        ),
        (_, false) => Finding::warn(
            "direct builds",
            "how cargo calls rustc cannot be recorded, so cargo builds each edit",
            "the recorder is a small program that rustc compiles; `RUST_LOG=debug` shows what it says",
        ),
    };
    found.push(direct);
    if let Some(linking) = &trial.linking {
        found.push(linker(linking));
    }
    found
}

/// The last part of a program's path.
fn name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn linker(linking: &Linking) -> Finding {
    let driver = &linking.driver;
    match (linking.chosen.as_deref(), &linking.linker, &linking.gnu) {
        (Some("lld"), Some(linker), Some(gnu)) => {
            Finding::ok("linker", format!("{}, called directly; {gnu} prelinks dependencies", name(linker)))
        }
        (Some("lld"), linker, None) => Finding::warn(
            "linker",
            format!("{}; there is no GNU ld, so dependencies are not prelinked", linker.as_deref().map_or("lld", name)),
            "install GNU ld (`ld.bfd`, in the package binutils): each edit is linked in full until then, which takes several times longer",
        ),
        (Some("lld"), None, Some(_)) => Finding::warn(
            "linker",
            format!("lld, called through {driver}"),
            "the driver takes a third of each link; a `cc` that is gcc or clang shows how it calls lld (`-###`)",
        ),
        (chosen, ..) if cfg!(target_os = "linux") => Finding::warn(
            "linker",
            format!(
                "{}, called through {driver}: dependencies are not prelinked",
                chosen.unwrap_or("the driver's own choice")
            ),
            "use lld: it is rustc's own choice on x86_64 where `linker` and `-fuse-ld` are not set; elsewhere install it and set \
             `-Clink-arg=-fuse-ld=lld`. Each link takes several times longer until then",
        ),
        (chosen, ..) => {
            Finding::ok("linker", format!("{}, called through {driver}", chosen.unwrap_or("the driver's own choice")))
        }
    }
}

/// The nearest directory above a path that exists.
fn existing(path: &Path) -> PathBuf {
    let path = crate::util::in_full(path);
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// How much room builds need, at least.
const ROOM: u64 = 2 << 30;

fn folders(work_dir: &Path, target_dir: &Path) -> Vec<Finding> {
    const WHAT: &str = "work folder";
    let (work, target) = (existing(work_dir), existing(target_dir));
    let at = work_dir.display();
    let mut found = Vec::new();
    let tried = tempfile::Builder::new().prefix(".cbus-doctor-").tempfile_in(&work);
    let locks = tried.as_ref().ok().map(|file| match file.as_file().try_lock() {
        Err(std::fs::TryLockError::Error(error)) => !crate::sys::scratch::has_no_locks(&error),
        _ => true,
    });
    found.push(match (disk::of(&work), &tried) {
        (_, Err(error)) => {
            Finding::fail(WHAT, format!("{at}: nothing can be written there: {error}"), "choose another one with --work-dir")
        }
        (Ok(disk), _) if disk.is_no_exec => Finding::fail(
            WHAT,
            format!("{at} on {}, mounted with noexec: no plugin can be opened there", disk.kind),
            "choose another one with --work-dir, or mount it without noexec",
        ),
        (Ok(disk), _) if disk.free < ROOM => Finding::warn(
            WHAT,
            format!("{at} on {}, with {} MiB free", disk.kind, disk.free >> 20),
            "builds need some GiB: free some space, or choose another one with --work-dir",
        ),
        (Ok(disk), _) if disk.is_remote => Finding::warn(
            WHAT,
            format!("{at} on {}, a file system of another machine or program", disk.kind),
            "builds are slower there, and changes of others give no events (--poll): choose a local one with --work-dir",
        ),
        (Ok(disk), _) if disk.is_memory => Finding::warn(
            WHAT,
            format!("{at} on {}, in memory", disk.kind),
            "what was built is gone after a restart, and takes memory until then",
        ),
        (Ok(disk), _) => Finding::ok(WHAT, format!("{at} on {}, {} GiB free", disk.kind, disk.free >> 30)),
        (Err(_), _) => Finding::ok(WHAT, at.to_string()),
    });
    if locks == Some(false) {
        let remedy = "what killed processes leave there is not removed by itself";
        found.push(Finding::warn("locks", format!("the file system of {at} has none"), remedy));
    }
    if disk::is_same(&work, &target) == Some(false) {
        let remedy = "each build is copied instead of moved; put both on one file system (--target-dir)";
        found.push(Finding::warn(
            "target folder",
            format!("{} is on another file system", target_dir.display()),
            remedy,
        ));
    }
    found
}

/// How many directories a program without crates to look at may watch.
const SOME: u64 = 500;

fn watches(workspace: Option<&Workspace>, crates: &[PathBuf], target_dir: &Path) -> Finding {
    const WHAT: &str = "file watches";
    let needed = workspace.map(|workspace| {
        let inputs = Inputs::new(target_dir);
        let asked: Vec<PathBuf> = crates.iter().map(|path| crate::util::in_full(path)).collect();
        let mut set = workspace.deciding(&asked);
        set.extend(&Learned::guess(workspace).set);
        inputs.begin(set);
        watch::folders(inputs.watched()) as u64
    });
    let Some((watches, instances)) = disk::watch_limits() else {
        return Finding::ok(WHAT, "the system has no limit for them, or does not say it");
    };
    let (used, made) = disk::watches_in_use();
    let wanted = needed.map_or(String::new(), |needed| format!(", and these crates need {needed}"));
    let found = format!("{used} of {watches} in use{wanted}; {made} of {instances} watchers");
    if used + needed.unwrap_or(SOME) > watches {
        let remedy = format!("sudo sysctl fs.inotify.max_user_watches={}", (watches * 2).max(524_288));
        return Finding::warn(WHAT, found, format!("{remedy}; what cannot be watched is polled once a second"));
    }
    if made + 1 > instances {
        let remedy = format!("sudo sysctl fs.inotify.max_user_instances={}", (instances * 2).max(512));
        return Finding::warn(WHAT, found, format!("{remedy}; all files are polled once a second until then"));
    }
    Finding::ok(WHAT, found)
}

fn c_library() -> Finding {
    const WHAT: &str = "C library";
    if cfg!(target_env = "musl") {
        let remedy = "use a program that was built for glibc where plugins are replaced often";
        return Finding::warn(WHAT, "musl, which never unmaps a library: each reload keeps some memory", remedy);
    }
    let name = if cfg!(target_env = "gnu") { "glibc" } else { "the system's" };
    Finding::ok(WHAT, format!("{name}: replaced libraries are unmapped"))
}

/// What process isolation needs.
#[cfg(all(unix, feature = "process"))]
fn processes() -> Vec<Finding> {
    let host = match crate::host::process::examine_plugin_host() {
        Ok((path, None)) if path == Path::new("/proc/self/exe") => Finding::ok("plugin host", "this program"),
        Ok((path, None)) => Finding::ok("plugin host", path.display().to_string()),
        Ok((path, Some(unfit))) => Finding::fail(
            "plugin host",
            format!("{}: {unfit}", path.display()),
            "unset CBUS_PLUGIN_HOST, or have it name one of this version",
        ),
        Err(why) => Finding::warn("plugin host", why, "it is needed for process isolation only"),
    };
    std::iter::once(host).chain(landlock()).collect()
}

/// Without process isolation, nothing.
#[cfg(not(all(unix, feature = "process")))]
fn processes() -> Vec<Finding> {
    Vec::new()
}

#[cfg(all(target_os = "linux", feature = "process"))]
fn landlock() -> Option<Finding> {
    Some(match landlock_version() {
        0 => Finding::warn(
            "Landlock",
            "none",
            "plugins with a `sandbox` do not start; use Linux 5.13 or later with Landlock enabled",
        ),
        version @ 1..4 => Finding::warn(
            "Landlock",
            format!("version {version}"),
            "plugins whose `sandbox` has no network do not start; use Linux 6.7 or later",
        ),
        version => Finding::ok("Landlock", format!("version {version}")),
    })
}

/// Only Linux has it.
#[cfg(all(unix, not(target_os = "linux"), feature = "process"))]
fn landlock() -> Option<Finding> {
    None
}

/// The version of Landlock, as far as this program knows them; 0 if there is none. Nothing is restricted.
#[cfg(all(target_os = "linux", feature = "process"))]
fn landlock_version() -> u32 {
    use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    let strict = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let has_files = |abi: ABI| strict().handle_access(AccessFs::from_all(abi)).is_ok();
    let steps = [
        has_files(ABI::V1),
        has_files(ABI::V2),
        has_files(ABI::V3),
        strict().handle_access(AccessNet::from_all(ABI::V4)).is_ok(),
        has_files(ABI::V5),
        strict().scope(Scope::from_all(ABI::V6)).is_ok(),
    ];
    steps.iter().take_while(|has| **has).count() as u32
}

/// Whether crates depend on the version of `controllerbus` that this program has.
fn framework(read: &Result<Workspace>) -> Finding {
    const WHAT: &str = "controllerbus";
    let ours = controllerbus::plugin::manifest::VERSION;
    let workspace = match read {
        Ok(workspace) => workspace,
        Err(error) => {
            let remedy = format!("`cbus explain {}` says what to do", error.code());
            return Finding::fail("crate", error.with_causes().to_string(), remedy);
        }
    };
    let theirs = workspace.framework_versions();
    let names: Vec<&str> = workspace.crates.iter().map(|found| found.name.as_str()).collect();
    let names = names.join(", ");
    match theirs.as_slice() {
        [] => {
            Finding::ok(WHAT, format!("{names}: {}, not locked yet; this program has {ours}", workspace.controllerbus))
        }
        [theirs] if theirs == ours => Finding::ok(WHAT, format!("{names}: {theirs}, as this program")),
        [theirs] => Finding::warn(
            WHAT,
            format!("{names}: {theirs}, and this program has {ours}"),
            "a plugin is refused if the boundary of its version is another one (CB0012): have both use one version",
        ),
        several => Finding::fail(
            WHAT,
            format!("{names}: {}, of which each is another boundary", several.join(" and ")),
            format!("`cargo tree -i controllerbus` shows who wants which; this program has {ours}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_too_old_only_if_its_version_says_so() {
        for (version, least, older) in [
            ("1.94.1", "1.95", true),
            ("1.95.0", "1.95", false),
            ("1.96.0-nightly", "1.95", false),
            ("1.94.0-beta.2", "1.95", true),
            ("2.0", "1.95", false),
            ("", "1.95", false),
            ("unknown", "1.95", false),
        ] {
            assert_eq!(is_older(version, least), older, "{version}");
        }
    }

    #[test]
    fn everything_that_is_looked_at_is_named_once_and_what_is_not_well_has_a_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let found =
            examine(&folder.path().join("work"), &folder.path().join("work/target"), &[folder.path().join("no-crate")]);
        let names: std::collections::BTreeSet<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(names.len(), found.len(), "{found:#?}");
        for what in [
            "rustc",
            "cargo",
            "compiler wrapper",
            "linker",
            "direct builds",
            "work folder",
            "file watches",
            "C library",
            "crate",
        ] {
            assert!(names.contains(what), "{what}: {found:#?}");
        }
        assert!(found.iter().all(|finding| finding.remedy.is_empty() == (finding.level == Level::Ok)), "{found:#?}");
        let rustc = found.iter().find(|finding| finding.what == "rustc").expect("rustc");
        assert_eq!(rustc.level, Level::Ok, "what compiles this can compile plugins: {rustc:?}");
        let of_crate = found.iter().find(|finding| finding.what == "crate").expect("the crate");
        assert_eq!(of_crate.level, Level::Fail);
        assert!(of_crate.found.contains("there is no crate at") && of_crate.remedy.contains("CB0002"), "{of_crate:?}");
        assert!(!folder.path().join("work").exists(), "nothing is left behind");
    }
}

//! What the end-to-end tests share: scratch copies of the fixtures, a host, and waits for states.

#[cfg(doctest)]
mod book;
pub mod edits;
#[cfg(unix)]
pub mod process;

pub mod load;
pub mod small;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::artifact::{Checks, Verified};
use hot_runtime::{RuntimeEvent, Trust};
use tokio::sync::mpsc;

/// The same directive as in the `probe` fixture, as another program would declare it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "probe/ask", value = Answer)]
pub struct Ask {
    /// What the controller shall do.
    pub what: String,
    /// Makes requests differ, so that they are not merged.
    pub nonce: u64,
}

/// What came of it.
#[derive(Serialize, Deserialize, Debug)]
pub struct Answer(pub String);

/// The same directive as in the `second` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "second/ask", value = Answer)]
pub struct Second {
    /// Makes requests differ.
    pub nonce: u64,
}

/// A number that no other request of this process has.
pub fn nonce() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Asks the probe to do something.
///
/// # Errors
/// What the controller answered.
pub async fn ask(bus: &Bus, what: &str) -> Result<String> {
    let answer = bus.resolve(Ask { what: what.to_owned(), nonce: nonce() });
    match tokio::time::timeout(Duration::from_secs(20), answer).await {
        Ok(answer) => Ok(answer?.0.clone()),
        Err(_) => Err(Error::msg(format!("no answer to `{what}` within 20 s"))),
    }
}

/// Reads and verifies an artifact as a host does that trusts this user.
///
/// # Errors
/// Why it is refused.
pub fn verify(artifact: &Path) -> hot_runtime::Result<Verified> {
    Checks::new(Trust::anyone()).verify(artifact)
}

/// The folder of the whole workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What everything that tests build has of tokio, as all fixtures have it: with other features `controllerbus` would be compiled once
/// more, which takes longer than all that a test does. Only `brittle`, which is about what a plugin leaves behind, has `signal` as well: with
/// that, each generation leaves some kilobytes.
pub const TOKIO: &str =
    "tokio = { version = \"1\", features = [\"io-util\", \"macros\", \"net\", \"rt\", \"sync\", \"time\"] }\n";

/// A manifest with that among its `[dependencies]`.
#[must_use]
pub fn with_tokio(manifest: &str) -> String {
    let (before, dependencies) = manifest.split_once("[dependencies]\n").expect("dependencies");
    let end = dependencies.find("\n[").map_or(dependencies.len(), |at| at + 1);
    let (dependencies, after) = dependencies.split_at(end);
    let others = dependencies.lines().filter(|line| !line.starts_with("tokio =")).map(|line| format!("{line}\n"));
    format!("{before}[dependencies]\n{TOKIO}{}{after}", others.collect::<String>())
}

/// Copies of fixture crates in a folder of their own.
pub struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    /// Copies the named fixtures.
    #[allow(clippy::new_without_default)]
    pub fn new(fixtures: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let controllerbus = root().join("controllerbus").canonicalize().expect("the controllerbus crate");
        for fixture in fixtures {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
            let to = folder.path().join(fixture);
            std::fs::create_dir_all(to.join("src")).expect("a folder in the scratch");
            let manifest = std::fs::read_to_string(from.join("Cargo.toml")).expect("the fixture's manifest");
            let manifest = manifest.replace("@CONTROLLERBUS@", &controllerbus.to_string_lossy());
            std::fs::write(to.join("Cargo.toml"), manifest).expect("writing the manifest");
            for source in std::fs::read_dir(from.join("src")).expect("the fixture's sources") {
                let source = source.expect("a source").file_name();
                std::fs::copy(from.join("src").join(&source), to.join("src").join(&source)).expect("copying a source");
            }
            // The workspace's own versions, so that nothing new has to be resolved or fetched.
            std::fs::copy(root().join("Cargo.lock"), to.join("Cargo.lock")).expect("copying the lock file");
        }
        Self { folder }
    }

    /// Copies an example too.
    #[must_use]
    pub fn example(self, name: &str) -> Self {
        let (from, to) = (root().join("examples").join(name), self.path(name));
        std::fs::create_dir_all(to.join("src")).expect("a folder in the scratch");
        let controllerbus = root().join("controllerbus").canonicalize().expect("the controllerbus crate");
        let manifest = std::fs::read_to_string(from.join("Cargo.toml")).expect("the example's manifest");
        let manifest = manifest.replace("../../controllerbus", &controllerbus.to_string_lossy());
        std::fs::write(to.join("Cargo.toml"), with_tokio(&manifest) + "\n[workspace]\n").expect("writing the manifest");
        std::fs::copy(from.join("src/lib.rs"), to.join("src/lib.rs")).expect("copying the source");
        std::fs::copy(root().join("Cargo.lock"), to.join("Cargo.lock")).expect("copying the lock file");
        self
    }

    /// The folder of a fixture's copy.
    pub fn path(&self, fixture: &str) -> PathBuf {
        self.folder.path().join(fixture)
    }

    /// The folder of the copies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a library crate with a manifest's end and a source.
    pub fn add(&self, name: &str, manifest: &str, source: &str) {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(folder.join("src")).expect("a folder in the scratch");
        let manifest = format!("[package]\nname = \"{name}\"\nversion = \"2.99.0\"\nedition = \"2024\"\n\n{manifest}");
        std::fs::write(folder.join("Cargo.toml"), manifest).expect("writing the manifest");
        std::fs::write(folder.join("src/lib.rs"), source).expect("writing the source");
    }

    /// Has a fixture linked by a script in the place of the compiler driver, which gets these lines and ends with its call.
    #[cfg(unix)]
    pub fn link_by(&self, fixture: &str, lines: &str) {
        use std::os::unix::fs::PermissionsExt;
        let script = |name: &str, text: &str| {
            let path = self.folder().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
            path
        };
        script("bin/cc", &format!("{lines}\nexec /usr/bin/cc \"$@\""));
        let path = self.folder().join("bin");
        let rustc = script("rustc.sh", &format!("PATH={}:$PATH exec rustc \"$@\"", path.display()));
        std::fs::create_dir(self.path(fixture).join(".cargo")).expect("a folder");
        let settings = self.path(fixture).join(".cargo/config.toml");
        std::fs::write(settings, format!("[build]\nrustc = {rustc:?}\n")).expect("cargo's settings");
    }

    /// Replaces a text in a fixture's manifest.
    pub fn amend(&self, fixture: &str, from: &str, to: &str) {
        let path = self.path(fixture).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).expect("the manifest");
        assert!(manifest.contains(from), "the manifest has no `{from}`");
        std::fs::write(&path, manifest.replace(from, to)).expect("writing the manifest");
    }

    /// Replaces a text in a fixture's source, by rename as many editors save.
    pub fn edit(&self, fixture: &str, from: &str, to: &str) {
        let path = self.path(fixture).join("src/lib.rs");
        let source = std::fs::read_to_string(&path).expect("the source");
        assert!(source.contains(from), "the source has no `{from}`");
        let next = path.with_extension("rs.new");
        std::fs::write(&next, source.replace(from, to)).expect("writing the source");
        std::fs::rename(&next, &path).expect("renaming over the source");
    }
}

fn workspace_target() -> PathBuf {
    option_env!("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where all tests work.
pub fn work_dir() -> PathBuf {
    workspace_target().join("fixtures")
}

/// Where all tests build plugins, and hot-demo too: one folder, so that the dependencies are compiled once.
pub fn target_dir() -> PathBuf {
    workspace_target().join("plugins")
}

/// Runs a test of this executable again as a process of its own, because what it needs belongs to a process: variables, the
/// current folder. Returns true there; elsewhere, it panics with what was said if the test fails.
pub fn in_own_process(test: &str, prepare: impl FnOnce(&mut std::process::Command)) -> bool {
    const CHILD: &str = "CONTROLLERBUS_TEST_IN_OWN_PROCESS";
    if std::env::var_os(CHILD).is_some_and(|own| own == test) {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().expect("this executable"));
    child.args(["--exact", test, "--nocapture", "--include-ignored"]).env(CHILD, test);
    prepare(&mut child);
    let output = child.output().expect("the process");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{errors}");
    println!("{said}\n{errors}");
    false
}

/// From now on this thread, and what it starts, can read and enter only what the modes of files allow, even as root.
#[cfg(target_os = "linux")]
pub fn give_up_reading_everything() {
    use rustix::thread::CapabilitySet;
    for one in [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH] {
        // Only root can, and has to.
        let _ = rustix::thread::remove_capability_from_bounding_set(one);
    }
    let given_up = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    let mut sets = rustix::thread::capabilities(None).expect("this thread's capabilities");
    sets.effective.remove(given_up);
    sets.permitted.remove(given_up);
    sets.inheritable.remove(given_up);
    rustix::thread::set_capabilities(None, sets).expect("to have less");
}

/// A bus with a config set.
pub async fn host(config: &str) -> Bus {
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml(config).expect("a config set")).await.expect("applying");
    bus
}

/// The generation that came to serve.
pub fn swapped(event: &RuntimeEvent) -> Option<u64> {
    match event {
        RuntimeEvent::Swapped { to, .. } => Some(*to),
        _ => None,
    }
}

/// A channel that gets every event of a runtime; hand the function to `Builder::on_event`.
pub fn events() -> (impl Fn(&RuntimeEvent) + Send + Sync + 'static, mpsc::UnboundedReceiver<RuntimeEvent>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let send = move |event: &RuntimeEvent| {
        println!("{event:?}");
        let _ = sender.send(event.clone());
    };
    (send, receiver)
}

/// Waits for the first event that a function takes.
pub async fn wait_for<T>(
    events: &mut mpsc::UnboundedReceiver<RuntimeEvent>,
    mut take: impl FnMut(&RuntimeEvent) -> Option<T>,
) -> T {
    let found = async {
        loop {
            let event = events.recv().await.expect("the runtime goes on");
            if let Some(found) = take(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(300), found).await.expect("the event within five minutes")
}

/// How many plugin files below a folder have code mapped in this process.
pub fn mapped_below(folder: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    // As the system names it; a folder that is not there has nothing mapped below it.
    let Ok(folder) = folder.canonicalize() else { return 0 };
    let executable = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|bits| bits.contains('x')));
    let files: std::collections::BTreeSet<&str> = executable
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .filter(|path| Path::new(path).starts_with(&folder))
        .collect();
    files.len()
}

/// Resident memory of this process, in bytes.
pub fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0) * 1024
}

/// The names of a library's sections.
pub fn section_names(library: &[u8]) -> Vec<String> {
    use object::{Object, ObjectSection};
    let file = object::File::parse(library).expect("an object file");
    file.sections().filter_map(|section| section.name().ok().map(str::to_owned)).collect()
}

/// The files below a folder whose names end so; none if it is not there.
pub fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let ours = files.into_iter().filter(|path| path.to_string_lossy().ends_with(ending));
    ours.chain(folders.iter().flat_map(|folder| files_below(folder, ending))).collect()
}

/// The names that a library offers to others.
pub fn exported_symbols(library: &[u8]) -> Vec<String> {
    use object::{Object, ObjectSymbol};
    let file = object::File::parse(library).expect("an object file");
    let defined = file.dynamic_symbols().filter(ObjectSymbol::is_definition);
    defined.filter_map(|symbol| symbol.name().ok().map(str::to_owned)).collect()
}

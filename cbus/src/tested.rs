//! Runs the tests of the crates that are being edited: after each swap, or before it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use controllerbus_api::Host;
use hot_runtime::watch::{Watched, Watcher};
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

use crate::problems::{Kind, Problem, Problems, Tested, place};
use crate::settings::{Crate, When};
use crate::text::{duration, plain};

/// How long the tests of a crate may take, with compiling them: less than a build may, so that it is this that is reported.
const LIMIT: Duration = Duration::from_secs(570);

/// A save causes several file events in a row: how long there must be no further one, and how long to wait at most.
const QUIET: Duration = Duration::from_millis(20);
const SETTLED: Duration = Duration::from_millis(500);

/// The tests of the crates, by plugin.
pub struct Tests {
    crates: BTreeMap<String, TestedCrate>,
    problems: Arc<Problems>,
    /// Those that run; they end when they are dropped.
    running: Mutex<HashMap<String, AbortOnDropHandle<()>>>,
    /// Whether the compiler's colours are wanted.
    coloured: bool,
}

/// A crate whose tests are run.
struct TestedCrate {
    dir: PathBuf,
    when: When,
    features: Vec<String>,
    default_features: bool,
}

impl Tests {
    /// Those that the command line, or the crates themselves, want; none if nobody does.
    pub fn of(crates: &[Crate], given: Option<When>, problems: &Arc<Problems>, coloured: bool) -> Option<Arc<Self>> {
        let wanted = crates.iter().filter_map(|found| {
            let when = given.or(found.settings.test)?;
            let spec = &found.spec;
            let (features, default_features) = (spec.features.clone(), spec.default_features);
            Some((spec.id.clone(), TestedCrate { dir: found.dir.clone(), when, features, default_features }))
        });
        let crates: BTreeMap<_, _> = wanted.collect();
        if crates.is_empty() {
            return None;
        }
        Some(Arc::new(Self { crates, problems: Arc::clone(problems), running: Mutex::default(), coloured }))
    }

    /// Runs the tests of a plugin whose new code waits for them; an error is why it does not take over.
    pub async fn before_swap(self: Arc<Self>, plugin: String) -> Result<(), String> {
        match self.crates.get(&plugin) {
            Some(found) if found.when == When::Before => self.run(&plugin, found).await,
            _ => Ok(()),
        }
    }

    /// Runs tests when code has taken over, or when only they have changed, for as long as this is polled.
    pub async fn follow(self: Arc<Self>, host: &Arc<Host>, watcher: &Watcher) {
        let mut events = host.journal.events().1;
        let mut following = watcher.follow();
        following.set(self.watched());
        let mut stamps = self.stamps();
        let mut refused: Vec<String> = Vec::new();
        loop {
            let plugins: Vec<String> = tokio::select! {
                // What has happened is known before a file is looked at.
                biased;
                event = events.recv() => match event {
                    Ok(event) => {
                        let Some(found) = self.crates.get(&event.plugin) else { continue };
                        match (event.kind.as_str(), found.when) {
                            // A save, or a build that was asked for.
                            ("build_started", _) => {
                                self.stop(&event.plugin);
                                continue;
                            }
                            ("rolled_back", When::Before) => {
                                if !refused.contains(&event.plugin) {
                                    refused.push(event.plugin);
                                }
                                continue;
                            }
                            ("swapped", When::Before) => {
                                refused.retain(|plugin| *plugin != event.plugin);
                                continue;
                            }
                            // The sources are those of what serves: nothing waits for its tests any more.
                            ("unchanged", _) => {
                                refused.retain(|plugin| *plugin != event.plugin);
                                vec![event.plugin]
                            }
                            ("swapped", When::After) => vec![event.plugin],
                            _ => continue,
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
                _ = following.changed() => {
                    following.settle(QUIET, SETTLED).await;
                    following.set(self.watched());
                    // An event is a hint only.
                    let before = std::mem::replace(&mut stamps, self.stamps());
                    self.crates.keys().filter(|plugin| before.get(*plugin) != stamps.get(*plugin)).cloned().collect()
                }
            };
            for plugin in plugins {
                // A build that was refused because of its tests may be fine now.
                let again = refused.contains(&plugin).then(|| host.runtime().cloned()).flatten();
                self.start(plugin, again);
            }
        }
    }

    /// The folders of tests that are no part of a plugin.
    fn watched(&self) -> Vec<Watched> {
        self.crates.values().flat_map(|found| below_tests(&found.dir).0).map(Watched::Folder).collect()
    }

    /// A hash of what is in each of their files, by plugin; of the length alone for those over a megabyte. What tests write again and
    /// again is the same again.
    fn stamps(&self) -> BTreeMap<String, Vec<(PathBuf, u64)>> {
        let stamp = |path: PathBuf| {
            let mut hash = DefaultHasher::new();
            match std::fs::metadata(&path) {
                Ok(found) if found.len() <= 1 << 20 => std::fs::read(&path).ok().hash(&mut hash),
                found => found.ok().map(|found| found.len()).hash(&mut hash),
            }
            (path, hash.finish())
        };
        let of = |found: &TestedCrate| below_tests(&found.dir).1.into_iter().map(stamp).collect();
        self.crates.iter().map(|(plugin, found)| (plugin.clone(), of(found))).collect()
    }

    /// Ends the tests of a plugin that run in the background.
    fn stop(&self, plugin: &str) {
        let task = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(plugin);
        drop(task);
    }

    /// Ends all that run in the background, with what they have started.
    pub async fn end(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, task) in running {
            task.abort();
            let _ = task.await;
        }
    }

    /// Runs a plugin's tests in the background, in place of those that run already; if they pass, a runtime builds it again.
    fn start(self: &Arc<Self>, plugin: String, again: Option<hot_runtime::HotRuntime>) {
        let (tests, id) = (Arc::clone(self), plugin.clone());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended first, so that two do not wait for each other's lock on the target folder.
        running.remove(&plugin);
        let run = async move {
            let Some(found) = tests.crates.get(&id) else { return };
            if let (Ok(()), Some(runtime)) = (tests.run(&id, found).await, again) {
                // Its errors are events.
                let _ = runtime.rebuild(&id).await;
            }
        };
        running.insert(plugin, AbortOnDropHandle::new(tokio::spawn(run)));
    }

    /// Runs the tests and reports how they went; an error says it in one line.
    async fn run(&self, plugin: &str, found: &TestedCrate) -> Result<(), String> {
        self.problems.tested(plugin, Tested::Running);
        let begun = Instant::now();
        let said = match tokio::time::timeout(LIMIT, cargo_test(found, self.coloured)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => {
                Said { passed: false, out: String::new(), err: format!("cargo test cannot be run: {error}") }
            }
            Err(_) => Said {
                passed: false,
                out: String::new(),
                err: format!("the tests took longer than {} s", LIMIT.as_secs()),
            },
        };
        let (how, line) = judge(plugin, &found.dir, &said);
        let took = duration(begun.elapsed().as_secs_f64() * 1000.0);
        match &how {
            Tested::Failed(problems) => {
                let text = problems.iter().map(|problem| problem.text.as_str()).collect::<Vec<_>>().join("\n");
                tracing::error!(target: "cbus", plugin, "{line} ({took}):\n{text}");
            }
            _ => tracing::info!(target: "cbus", plugin, "{line} in {took}"),
        }
        let passed = !matches!(how, Tested::Failed(_));
        self.problems.tested(plugin, how);
        if passed { Ok(()) } else { Err(line) }
    }
}

/// The folder of a crate's integration tests with those in it, and the files in them, in order.
fn below_tests(dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    let mut waiting = vec![dir.join("tests")];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_scratch(&entry.file_name().to_string_lossy()) {
                continue;
            }
            if is_folder { waiting.push(entry.path()) } else { files.push(entry.path()) }
        }
        folders.push(folder);
    }
    files.sort();
    (folders, files)
}

/// Whether a file is an editor's or a test tool's own.
fn is_scratch(name: &str) -> bool {
    name.starts_with(['.', '#']) || ["~", ".swp", ".tmp", ".snap.new"].iter().any(|end| name.ends_with(end))
}

/// What `cargo test` has said.
struct Said {
    passed: bool,
    out: String,
    err: String,
}

/// Runs `cargo test`; dropping it ends cargo and everything that it started.
async fn cargo_test(found: &TestedCrate, coloured: bool) -> std::io::Result<Said> {
    let mut command = Command::new("cargo");
    command.args(["test", "--color", if coloured { "always" } else { "never" }, "--manifest-path"]);
    command.arg(found.dir.join("Cargo.toml"));
    if !found.features.is_empty() {
        command.arg("--features").arg(found.features.join(","));
    }
    if !found.default_features {
        command.arg("--no-default-features");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let child = command.spawn()?;
    #[cfg(unix)]
    let _group = Group(child.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?)));
    let output = child.wait_with_output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { passed: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
}

/// A process group, which is ended with it.
#[cfg(unix)]
struct Group(Option<rustix::process::Pid>);

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// How tests went, by what cargo has said, and that in one line.
fn judge(plugin: &str, dir: &Path, said: &Said) -> (Tested, String) {
    let bare = plain(&said.out);
    let (mut passed, mut failed) = (0, Vec::new());
    for line in bare.lines() {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            failed.push(name.split(" - should panic").next().unwrap_or(name).to_owned());
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let count =
                rest.split(". ").nth(1).and_then(|rest| rest.split(" passed").next()?.trim().parse::<usize>().ok());
            passed += count.unwrap_or_default();
        }
    }
    let s = |count: usize| if count == 1 { "" } else { "s" };
    if said.passed {
        let verb = if passed == 1 { "passes" } else { "pass" };
        return (Tested::Passed { count: passed }, format!("{passed} test{} {verb}", s(passed)));
    }
    if failed.is_empty() {
        let mut problem = Problem::other(Kind::Test, plugin, said.err.trim_start());
        "the tests do not compile or do not run".clone_into(&mut problem.summary);
        problem.place = crate::problems::of_text(plugin, &said.err).into_iter().find_map(|found| found.place);
        if let Some(place) = &mut problem.place {
            place.file = below(dir, &place.file);
        }
        let line = problem.summary.clone();
        return (Tested::Failed(vec![problem]), line);
    }
    let of = passed + failed.len();
    let verb = if failed.len() == 1 { "fails" } else { "fail" };
    let line = format!("{} of {of} test{} {verb}: {}", failed.len(), s(of), failed.join(", "));
    let problems = failed.iter().map(|name| {
        // `---- NAME stdout ----`, up to the next one or an empty line before the list of failures.
        let told = bare.split_once(&format!("---- {name} stdout ----\n")).map_or("", |(_, rest)| rest);
        let told = told.split("\n---- ").next().unwrap_or_default().split("\n\nfailures:").next().unwrap_or_default();
        let panicked = told.lines().find_map(|line| line.split_once("panicked at ")?.1.strip_suffix(':'));
        let mut problem = Problem::other(Kind::Test, plugin, &format!("test {name} fails\n{}", told.trim_end()));
        problem.place = panicked.and_then(place).map(|mut place| {
            place.file = below(dir, &place.file);
            place
        });
        problem.summary = format!("test {name}: {}", why(told));
        problem
    });
    (Tested::Failed(problems.collect()), line)
}

/// The path of a file that a compiler named: relative to the crate, or to its workspace.
fn below(dir: &Path, file: &Path) -> PathBuf {
    dir.ancestors().map(|folder| folder.join(file)).find(|path| path.is_file()).unwrap_or_else(|| dir.join(file))
}

/// What a failed test has said of why.
fn why(told: &str) -> &str {
    let mut lines = told.lines().skip_while(|line| !line.contains("panicked at "));
    lines.next();
    lines.next().unwrap_or("it fails")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_counted_and_found_with_their_places() {
        let out = "running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... FAILED\n\nfailures:\n\n\
                   ---- b::c stdout ----\n\nthread 'b::c' (7) panicked at src/lib.rs:40:9:\nassertion failed: no\nnote: run with\n\n\
                   ---- d stdout ----\nError: \"gone\"\n\n\nfailures:\n    b::c\n    d\n\n\
                   test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let said = |passed, out: &str, err: &str| Said { passed, out: out.to_owned(), err: err.to_owned() };
        let (how, line) = judge("one", Path::new("/x"), &said(false, out, ""));
        assert_eq!(line, "2 of 3 tests fail: b::c, d");
        let Tested::Failed(problems) = how else { panic!("{how:?}") };
        assert_eq!(problems[0].place, place("/x/src/lib.rs:40:9"));
        assert_eq!(problems[0].summary, "test b::c: assertion failed: no");
        assert!(problems[1].text.contains("gone") && !problems[1].text.contains("failures"), "{}", problems[1].text);

        let fine = "test result: ok. 3 passed; 0 failed; 0 ignored\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        assert_eq!(
            judge("one", Path::new("/x"), &said(true, fine, "")),
            (Tested::Passed { count: 4 }, "4 tests pass".to_owned())
        );
        let (how, _) = judge("one", Path::new("/x"), &said(false, "", "error: no\n --> tests/a.rs:1:2\n"));
        let Tested::Failed(problems) = how else { panic!("{how:?}") };
        assert_eq!(problems[0].place, place("/x/tests/a.rs:1:2"));
    }
}

//! What is to be mended: the compiler's messages and failed tests, each with its place.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hot_runtime::RuntimeEvent;
use hot_runtime::compile::{CompilerMessage, MessageLevel};
use tokio::sync::Notify;

use crate::text::plain;

/// What kind of problem it is. What is to be mended first comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An error of the compiler.
    Error,
    /// Anything else that does not work, such as a swap that was rolled back or a config that is refused.
    Failure,
    /// A test that fails.
    Test,
    /// A warning of the compiler.
    Warning,
    /// Something that does not run yet.
    Waiting,
}

/// A place in a file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

/// Something to mend.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub kind: Kind,
    /// The plugin, or the key of the config.
    pub whose: String,
    /// What is wrong, on one line.
    pub summary: String,
    /// All of it, perhaps with colours.
    pub text: String,
    /// Where, if that is known.
    pub place: Option<Place>,
}

impl Problem {
    fn of(plugin: &str, message: &CompilerMessage) -> Self {
        let span = message.spans.iter().find(|span| span.primary).or(message.spans.first());
        let code = message.code.as_ref().map(|code| format!("[{code}]")).unwrap_or_default();
        let (kind, word) = match message.level {
            MessageLevel::Error => (Kind::Error, "error"),
            MessageLevel::Warning => (Kind::Warning, "warning"),
            _ => (Kind::Warning, "note"),
        };
        Self {
            kind,
            whose: plugin.to_owned(),
            summary: format!("{word}{code}: {}", first_line(&message.text)),
            text: message.rendered.trim_end().to_owned(),
            place: span.map(|span| Place { file: span.file.clone(), line: span.line, column: span.column }),
        }
    }

    /// One that nothing more is known of than a text.
    pub fn other(kind: Kind, whose: &str, text: &str) -> Self {
        Self { kind, whose: whose.to_owned(), summary: first_line(text), text: text.trim_end().to_owned(), place: None }
    }
}

fn first_line(text: &str) -> String {
    plain(text).lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// The compiler's messages in a text as cargo shows it; the whole text as one problem if there are none.
pub fn of_text(plugin: &str, text: &str) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    for line in text.lines() {
        let bare = plain(line);
        let starts = |word: &str| {
            bare.strip_prefix(word)
                .is_some_and(|rest| rest.starts_with(": ") || (rest.starts_with('[') && rest.contains("]: ")))
        };
        let kind = if starts("error") {
            Some(Kind::Error)
        } else if starts("warning") {
            Some(Kind::Warning)
        } else {
            None
        };
        match (kind, found.last_mut()) {
            (Some(kind), _) => {
                let (whose, summary) = (plugin.to_owned(), bare.trim().to_owned());
                found.push(Problem { kind, whose, summary, text: line.to_owned(), place: None });
            }
            (None, Some(last)) => {
                last.text.push('\n');
                last.text.push_str(line);
                if let (None, Some(at)) = (&last.place, bare.trim_start().strip_prefix("--> ")) {
                    last.place = place(at);
                }
            }
            (None, None) => {}
        }
    }
    if found.is_empty() && !text.trim().is_empty() {
        return vec![Problem::other(Kind::Failure, plugin, text)];
    }
    for problem in &mut found {
        problem.text.truncate(problem.text.trim_end().len());
    }
    found
}

/// A place that is written as `FILE:LINE:COLUMN`.
pub fn place(text: &str) -> Option<Place> {
    let mut parts = text.trim().rsplitn(3, ':');
    let (column, line) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Place { file: PathBuf::from(parts.next()?), line, column })
}

/// How a crate's tests went.
#[derive(Clone, Debug, PartialEq)]
pub enum Tested {
    /// They run.
    Running,
    /// All of them passed.
    Passed {
        /// How many.
        count: usize,
    },
    /// Some failed, or they did not compile.
    Failed(Vec<Problem>),
}

/// The problems of this process's plugins, as the compiler and the tests told them last.
#[derive(Default)]
pub struct Problems {
    inner: Mutex<Inner>,
    changed: Notify,
    /// Where the places are written for editors.
    locations: Vec<Locations>,
}

#[derive(Clone, Default)]
struct Inner {
    compiler: BTreeMap<String, Vec<Problem>>,
    tests: BTreeMap<String, Tested>,
}

/// A file of places, as bacon writes it for editors.
#[derive(Clone, Debug)]
pub struct Locations {
    pub file: PathBuf,
    /// Only those of this plugin.
    pub of: Option<String>,
}

impl Problems {
    /// None yet; their places are written to these files.
    pub fn new(locations: Vec<Locations>) -> Self {
        Self { locations, ..Self::default() }
    }

    /// Takes in what the runtime tells.
    pub fn hear(&self, event: &RuntimeEvent) {
        // Its tests have ended without a result then.
        if let RuntimeEvent::BuildStarted { plugin } | RuntimeEvent::RolledBack { plugin, .. } = event {
            if matches!(self.lock().tests.get(plugin), Some(Tested::Running)) {
                self.change(|inner| drop(inner.tests.remove(plugin)));
            }
            return;
        }
        let (plugin, found) = match event {
            RuntimeEvent::BuildFailed { plugin, rendered, messages, .. } => {
                let mut found: Vec<Problem> = messages.iter().map(|message| Problem::of(plugin, message)).collect();
                if !found.iter().any(|problem| problem.kind == Kind::Error) {
                    found.extend(of_text(plugin, rendered));
                }
                (plugin, found)
            }
            RuntimeEvent::Built { plugin, messages, .. } => {
                (plugin, messages.iter().map(|message| Problem::of(plugin, message)).collect())
            }
            RuntimeEvent::SourceRemoved { plugin } => (plugin, Vec::new()),
            _ => return,
        };
        self.change(|inner| drop(inner.compiler.insert(plugin.clone(), found)));
    }

    /// Takes in how a plugin's tests went.
    pub fn tested(&self, plugin: &str, how: Tested) {
        self.change(|inner| drop(inner.tests.insert(plugin.to_owned(), how)));
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        // Under the lock, so that an older state never overwrites a newer one.
        self.write(&inner);
        drop(inner);
        self.changed.notify_one();
    }

    fn write(&self, inner: &Inner) {
        for Locations { file, of } in &self.locations {
            let failed = inner.tests.values().filter_map(|tested| match tested {
                Tested::Failed(problems) => Some(problems),
                _ => None,
            });
            let all = inner.compiler.values().chain(failed).flatten();
            let own = all.filter(|problem| of.as_ref().is_none_or(|of| *of == problem.whose));
            if let Err(error) = replace(file, &lines(own)) {
                tracing::warn!(target: "cbus", "{} cannot be written: {error}", file.display());
            }
        }
    }

    /// Waits until they have changed. For one who waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The compiler's messages, by plugin.
    pub fn compiler(&self) -> BTreeMap<String, Vec<Problem>> {
        self.lock().compiler.clone()
    }

    /// How the tests went, by plugin.
    pub fn tests(&self) -> BTreeMap<String, Tested> {
        self.lock().tests.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line for each problem with a place: `error /path/src/lib.rs:3:5 what is wrong`.
fn lines<'a>(problems: impl Iterator<Item = &'a Problem>) -> String {
    let line = |problem: &Problem| {
        let Place { file, line, column } = problem.place.as_ref()?;
        let kind = match problem.kind {
            Kind::Test => "test",
            Kind::Warning => "warning",
            _ => "error",
        };
        let said = problem.summary.split_once(": ").map_or(problem.summary.as_str(), |(_, said)| said);
        Some(format!("{kind} {}:{line}:{column} {said}\n", file.display()))
    };
    problems.filter_map(line).collect()
}

/// Writes a file in place of another, which readers see either whole or not at all.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new().prefix(".locations-").tempfile_in(folder)?;
    new.write_all(text.as_bytes())?;
    new.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\u{1b}[1m\u{1b}[33mwarning\u{1b}[0m: unused variable: `a`\n \u{1b}[34m-->\u{1b}[0m src/lib.rs:3:5\n\n\
                        error[E0425]: cannot find value `b`\n  --> src/sub/mod.rs:12:7\n   |\n12 | b\n\n\
                        error: could not compile `c` (lib) due to 1 previous error\n";

    #[test]
    fn the_compilers_messages_are_found_in_a_text_with_their_places() {
        let found = of_text("one", SAID);
        let told: Vec<_> = found.iter().map(|problem| (problem.kind, problem.summary.as_str())).collect();
        assert_eq!(told[0], (Kind::Warning, "warning: unused variable: `a`"));
        assert_eq!(told[1], (Kind::Error, "error[E0425]: cannot find value `b`"));
        assert_eq!(found[1].place, place("src/sub/mod.rs:12:7"));
        assert!(found[1].text.ends_with("12 | b"), "{}", found[1].text);
        assert_eq!(found[2].place, None);
        let other = of_text("one", "the swap was rolled back: it panicked\nat once");
        assert_eq!((other.len(), other[0].kind), (1, Kind::Failure));
        assert_eq!(other[0].summary, "the swap was rolled back: it panicked");
        assert!(of_text("one", " \n").is_empty());
    }

    #[test]
    fn places_are_written_for_editors_whole_and_go_when_the_problem_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        let all = Locations { file: file("all"), of: None };
        let problems = Problems::new(vec![all, Locations { file: file("two"), of: Some("two".to_owned()) }]);
        let failed = |plugin: &str| RuntimeEvent::BuildFailed {
            plugin: plugin.to_owned(),
            code: controllerbus::error::Code::BUILD,
            rendered: SAID.to_owned(),
            messages: Vec::new(),
            serving: None,
        };
        problems.hear(&failed("one"));
        problems.hear(&failed("two"));
        let read = |name: &str| std::fs::read_to_string(file(name)).expect("the file");
        let one = "warning src/lib.rs:3:5 unused variable: `a`\nerror src/sub/mod.rs:12:7 cannot find value `b`\n";
        assert_eq!((read("all"), read("two")), (one.repeat(2), one.to_owned()));
        problems.hear(&RuntimeEvent::SourceRemoved { plugin: "one".to_owned() });
        let test = Problem {
            place: place("/x/tests/a.rs:4:9"),
            ..Problem::other(Kind::Test, "two", "works: assertion failed")
        };
        problems.tested("two", Tested::Failed(vec![test]));
        assert_eq!(read("all"), format!("{one}test /x/tests/a.rs:4:9 assertion failed\n"));
        problems.hear(&RuntimeEvent::SourceRemoved { plugin: "two".to_owned() });
        problems.tested("two", Tested::Passed { count: 3 });
        assert_eq!(read("all"), "");
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 2, "nothing else is left");
    }
}

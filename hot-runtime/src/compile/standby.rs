//! Compilers that are started before they are needed: a tenth of a small crate's time passes until rustc has loaded its
//! libraries.
//!
//! rustc and lld read their arguments from a file if they are told so (`@FILE`). That file is a pipe here: both start,
//! load their libraries and wait, until the arguments of the next edit are written into it. One of each waits for a
//! plugin, with the environment and the directory of the call that comes next; if that call differs, it is started anew,
//! as it would be without all this. If the host ends, however that happens, the pipe is closed, and they end with an
//! error that nobody sees.
//!
//! A waiting rustc has 30 MB of memory of its own, so none waits when there was no edit for a while, and only a few wait
//! where there are many plugins.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::compile::process;
use crate::sys::files::identity;

/// How long after a build they are started: the new generation comes first.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// How long they wait for an edit.
const IDLE: Duration = Duration::from_secs(600);

/// How many wait at once in this process.
static PLACES: Semaphore = Semaphore::const_new(16);

/// How a program reads arguments from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArgumentFile {
    /// It does not.
    None,
    /// One argument in each line, as rustc.
    Lines,
    /// Words with quotes, as lld.
    Words,
}

/// A call of a compiler or linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) program: OsString,
    /// The arguments that must come before an argument file.
    pub(crate) first: Vec<OsString>,
    pub(crate) arguments: Vec<OsString>,
    /// Where it runs; where this process does unless set.
    pub(crate) folder: Option<PathBuf>,
    /// Its whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) reads: ArgumentFile,
}

impl Invocation {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value))).args(&self.first);
        process::prepare(&mut command);
        command
    }

    /// Starts it.
    ///
    /// # Errors
    /// The system's, such as that there is no such program.
    fn start(&self) -> std::io::Result<Child> {
        self.command().args(&self.arguments).spawn()
    }

    /// Starts it without its arguments.
    fn start_to_wait(&self) -> std::io::Result<Child> {
        self.command().arg("@/dev/stdin").stdin(Stdio::piped()).spawn()
    }

    /// The content of an argument file; `None` if there is no such file, or an argument cannot be in it.
    fn argument_file(&self) -> Option<String> {
        let mut text = String::new();
        for argument in &self.arguments {
            let argument = argument.to_str().filter(|argument| !argument.contains(['\n', '\r']))?;
            match self.reads {
                ArgumentFile::None => return None,
                ArgumentFile::Lines => text.push_str(argument),
                ArgumentFile::Words => {
                    text.push('"');
                    text.push_str(&argument.replace('\\', "\\\\").replace('"', "\\\""));
                    text.push('"');
                }
            }
            text.push('\n');
        }
        Some(text)
    }

    /// Whether only the arguments differ.
    fn is_like(&self, other: &Self) -> bool {
        let Self { program, first, arguments: _, folder, environment, reads } = self;
        (program, first, folder, environment, reads)
            == (&other.program, &other.first, &other.folder, &other.environment, &other.reads)
    }

    /// The identity of its directory: another one may get that name.
    fn folder_identity(&self) -> Option<(u64, u64)> {
        self.folder.as_ref().and_then(|folder| std::fs::metadata(folder).ok()).as_ref().map(identity)
    }
}

struct Waiting {
    invocation: Invocation,
    folder: Option<(u64, u64)>,
    child: Child,
    _place: SemaphorePermit<'static>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// How often programs were asked for or started: those that were asked for before do not start any more.
    turn: u64,
}

/// The programs that wait for a plugin's next edit.
pub(crate) struct Standby {
    state: Arc<Mutex<State>>,
    places: &'static Semaphore,
    task: Option<AbortOnDropHandle<()>>,
    /// The ends of those that are not needed; they go on whoever gives up waiting for them.
    ending: TaskTracker,
}

impl Default for Standby {
    fn default() -> Self {
        Self { state: Arc::default(), places: &PLACES, task: None, ending: TaskTracker::new() }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Standby {
    /// Starts programs like these soon, unless one is needed before, and lets them wait in place of those that do now.
    pub(crate) fn prepare(&mut self, invocations: Vec<Invocation>) {
        if !cfg!(unix) {
            return;
        }
        let (state, places, ending) = (Arc::clone(&self.state), self.places, self.ending.clone());
        let turn = {
            let mut state = lock(&state);
            state.turn += 1;
            state.turn
        };
        self.task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(AFTERWARDS).await;
            let unwanted: Vec<_> = {
                let mut state = lock(&state);
                let is_unwanted = |waiting: &mut Waiting| !invocations.iter().any(|it| it.is_like(&waiting.invocation));
                state.waiting.extract_if(.., is_unwanted).collect()
            };
            end(unwanted, &ending).await;
            {
                let mut state = lock(&state);
                if state.turn != turn {
                    return;
                }
                let wanted = invocations.into_iter().filter(|it| it.reads != ArgumentFile::None);
                for invocation in wanted {
                    if state.waiting.iter().any(|waiting| waiting.invocation.is_like(&invocation)) {
                        continue;
                    }
                    let Ok(_place) = places.try_acquire() else { break };
                    let folder = invocation.folder_identity();
                    let started = invocation.start_to_wait().ok();
                    state.waiting.extend(started.map(|child| Waiting { invocation, folder, child, _place }));
                }
            }
            tokio::time::sleep(IDLE).await;
            let idle = std::mem::take(&mut lock(&state).waiting);
            end(idle, &ending).await;
        })));
    }

    /// Ends those that wait, and starts none.
    pub(crate) async fn clear(&mut self) {
        self.task = None;
        let waiting = {
            let mut state = lock(&self.state);
            state.turn += 1;
            std::mem::take(&mut state.waiting)
        };
        end(waiting, &self.ending).await;
    }

    /// Starts a program, or passes its arguments to one that waits for them.
    ///
    /// # Errors
    /// The system's, such as that there is no such program.
    pub(crate) async fn start(&self, invocation: &Invocation) -> std::io::Result<Child> {
        let (waiting, others) = self.take(invocation);
        end(others, &self.ending).await;
        if let Some(mut waiting) = waiting {
            if let (Some(mut stdin), Some(text)) = (waiting.child.stdin.take(), invocation.argument_file())
                && stdin.write_all(text.as_bytes()).await.is_ok()
            {
                return Ok(waiting.child);
            }
            end(vec![waiting], &self.ending).await;
        }
        invocation.start()
    }

    /// The program that waits for such a call, and others of its kind, which are to be ended.
    fn take(&self, invocation: &Invocation) -> (Option<Waiting>, Vec<Waiting>) {
        let folder = invocation.folder_identity();
        let mut of_its_kind: Vec<_> = {
            let mut state = lock(&self.state);
            state.turn += 1;
            let is_of_its_kind = |waiting: &mut Waiting| waiting.invocation.reads == invocation.reads;
            state.waiting.extract_if(.., is_of_its_kind).collect()
        };
        let waits = |waiting: &mut Waiting| {
            let is_alive = matches!(waiting.child.try_wait(), Ok(None));
            waiting.invocation.is_like(invocation) && waiting.folder == folder && is_alive
        };
        let found = of_its_kind.iter_mut().position(waits).map(|at| of_its_kind.swap_remove(at));
        (found, of_its_kind)
    }
}

/// Ends programs that wait, and waits until these and all others have ended: there are never two compilers.
async fn end(waiting: Vec<Waiting>, ending: &TaskTracker) {
    for mut waiting in waiting {
        // If it cannot be killed, it has ended already.
        ending.spawn(async move { drop(waiting.child.kill().await) });
    }
    ending.close();
    ending.wait().await;
}

/// An environment with some variables changed.
pub(crate) fn with<'a>(
    mut environment: Vec<(OsString, OsString)>,
    changed: impl IntoIterator<Item = (&'a OsStr, &'a OsStr)>,
) -> Vec<(OsString, OsString)> {
    for (name, value) in changed {
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_owned()));
    }
    environment
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Prints the arguments that it was given in a file, and where it runs.
    fn cat(folder: &std::path::Path, arguments: &[&str]) -> Invocation {
        Invocation {
            program: "sh".into(),
            first: ["-c", "cat \"${0#@}\"; pwd; echo $NAME"].map(OsString::from).to_vec(),
            arguments: arguments.iter().map(OsString::from).collect(),
            folder: Some(folder.to_owned()),
            environment: vec![("PATH".into(), std::env::var_os("PATH").expect("a path"))],
            reads: ArgumentFile::Lines,
        }
    }

    async fn said(child: Child) -> String {
        String::from_utf8(child.wait_with_output().await.expect("its end").stdout).expect("text")
    }

    /// Waits until programs wait, and returns their numbers.
    async fn waiting(standby: &Standby) -> Vec<Option<u32>> {
        loop {
            let ids: Vec<_> = lock(&standby.state).waiting.iter().map(|waiting| waiting.child.id()).collect();
            if !ids.is_empty() {
                return ids;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn one_that_waits_gets_the_arguments_of_the_next_call_and_another_call_is_started_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("a path").join("crate");
        std::fs::create_dir(&path).expect("a folder");
        let mut standby = Standby::default();
        standby.prepare(vec![cat(&path, &[])]);
        let ids = waiting(&standby).await;
        let call = cat(&path, &["one", "two words"]);
        let child = standby.start(&call).await.expect("starting");
        assert_eq!([child.id()], *ids);
        assert_eq!(said(child).await, format!("one\ntwo words\n{}\n\n", path.display()));

        // Another environment, and another folder of the same name.
        let mut other = call.clone();
        other.environment.push(("NAME".into(), "value".into()));
        standby.prepare(vec![call.clone()]);
        let ids = waiting(&standby).await;
        other.arguments = vec!["@/dev/null".into()];
        let child = standby.start(&other).await.expect("starting");
        assert_ne!([child.id()], *ids);
        assert!(lock(&standby.state).waiting.is_empty(), "there are never two");
        assert!(said(child).await.ends_with("\nvalue\n"));
        standby.prepare(vec![call.clone()]);
        let ids = waiting(&standby).await;
        std::fs::rename(&path, folder.path().join("away")).expect("moving");
        std::fs::create_dir(&path).expect("a folder");
        let anew = standby.start(&cat(&path, &["@/dev/null"])).await.expect("starting");
        assert_ne!([anew.id()], *ids);
        assert_eq!(said(anew).await, format!("{}\n\n", path.display()));
    }

    #[tokio::test]
    async fn of_many_plugins_only_a_few_have_programs_that_wait_and_the_others_start_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("a path");
        let places: &'static Semaphore = Box::leak(Box::new(Semaphore::new(2)));
        let mut all: Vec<_> = (0..5).map(|_| Standby { places, ..Standby::default() }).collect();
        let count = |all: &[Standby]| all.iter().map(|one| lock(&one.state).waiting.len()).sum::<usize>();
        for standby in &mut all {
            standby.prepare(vec![cat(&path, &[])]);
        }
        for task in all.iter_mut().filter_map(|one| one.task.as_mut()) {
            // Whoever has started one, or found no place, goes on to wait for the end of the idle time.
            let _ = tokio::time::timeout(AFTERWARDS * 2, task).await;
        }
        assert_eq!(count(&all), 2);
        let call = cat(&path, &["one"]);
        for standby in &mut all {
            let mut call = call.clone();
            if lock(&standby.state).waiting.is_empty() {
                call.arguments = vec!["@/dev/null".into()];
            }
            let child = standby.start(&call).await.expect("starting");
            assert!(said(child).await.contains(&*path.to_string_lossy()));
        }
        assert_eq!(places.available_permits(), 2);
    }

    #[test]
    fn arguments_that_cannot_be_in_a_file_are_passed_as_ever() {
        let mut call = cat(std::path::Path::new("/"), &["a\nb"]);
        assert_eq!(call.argument_file(), None);
        call.arguments = vec!["a \"b\" \\c".into()];
        call.reads = ArgumentFile::Words;
        assert_eq!(call.argument_file().as_deref(), Some("\"a \\\"b\\\" \\\\c\"\n"));
        call.reads = ArgumentFile::None;
        assert_eq!(call.argument_file(), None);
    }
}

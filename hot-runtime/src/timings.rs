//! Where the time of the last reloads went. A runtime keeps them in its work directory, so that they can be looked at afterwards:
//! `cbus doctor --timings` does.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::event::{RuntimeEvent, Timeline};
use crate::phase::{BuildPhase, BuiltBy, PhaseTime};

/// How many reloads are kept.
pub const KEPT: usize = 20;

/// The file in a work directory: a line of JSON for each reload, the latest last.
const FILE: &str = "timings.jsonl";

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// A new generation serves.
    Swapped,
    /// The build gave what is loaded already.
    Unchanged,
    /// The new generation did not become ready, or was refused.
    RolledBack,
    /// It did not build.
    Failed,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Swapped => "swapped",
            Self::Unchanged => "unchanged",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
        })
    }
}

/// A part of a reload. In JSON, the time is a number of milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Step {
    /// One of [`STEPS`].
    pub name: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// The names of all steps, in their order: waiting for a build to begin (`queue`), reading what changed, compiling, linking,
/// sealing, verifying, loading, swapping, and what none of these accounts for.
pub const STEPS: [&str; 9] = ["queue", "read", "compile", "link", "seal", "verify", "load", "swap", "other"];

/// One reload: from a save, or from the beginning of a build, to what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reload {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// The plugin's id.
    pub plugin: String,
    /// The generation that it gave, if one took over.
    pub generation: Option<u64>,
    /// What came of it.
    pub outcome: Outcome,
    /// What compiled it; `None` for a file that was loaded, and for what did not build.
    pub by: Option<BuiltBy>,
    /// Whether its dependencies were optimised although its profile does not say so.
    pub optimized: bool,
    /// Why cargo built it, if it did.
    pub why_cargo: Option<String>,
    /// Why it was linked in full, if it was.
    pub why_full_link: Option<String>,
    /// How long it took altogether, in milliseconds.
    pub total_ms: f64,
    /// Where that time went, in the order of [`STEPS`], without those that took none.
    pub steps: Vec<Step>,
}

impl Reload {
    /// How long a step took, in milliseconds.
    pub fn ms(&self, step: &str) -> f64 {
        self.steps.iter().find(|found| found.name == step).map_or(0.0, |found| found.ms)
    }
}

/// The last reloads of the runtimes that use a work directory, the latest last. Blocks.
///
/// # Errors
/// [`Error::Io`] if there is a file and it cannot be read.
pub fn read(work_dir: &Path) -> Result<Vec<Reload>> {
    let path = work_dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => Ok(parse(&read.map_err(Error::io("reading the timings of the last reloads", &path))?)),
    }
}

/// What another version has written in another way is left out.
fn parse(text: &str) -> Vec<Reload> {
    let mut all: Vec<Reload> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    all.drain(..all.len().saturating_sub(KEPT));
    all
}

/// Adds the reloads that wait to the file in a work directory. Of two processes that do so at once, one may win. Blocks.
fn add(work_dir: &Path, waiting: &Mutex<Vec<Reload>>) -> std::io::Result<()> {
    static ADDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
    let new = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
    if new.is_empty() {
        return Ok(());
    }
    let path = work_dir.join(FILE);
    let mut all = parse(&std::fs::read_to_string(&path).unwrap_or_default());
    all.extend(new);
    let mut text = Vec::new();
    for reload in all.iter().rev().take(KEPT).rev() {
        serde_json::to_writer(&mut text, reload)?;
        text.push(b'\n');
    }
    let mut file = tempfile::NamedTempFile::new_in(work_dir)?;
    file.write_all(&text)?;
    // Readers see the old file or the new one.
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Follows the events of a runtime, and makes a [`Reload`] of them whenever one ends.
#[derive(Debug, Default)]
pub struct Recorder {
    begun: BTreeMap<String, Begun>,
}

/// A build that is going on, or what has been built and not loaded yet.
#[derive(Debug)]
struct Begun {
    at: Instant,
    /// The steps that have begun, and when.
    phases: Vec<(BuildPhase, Duration)>,
    built: Option<Built>,
}

#[derive(Debug)]
struct Built {
    at: Instant,
    reload: Reload,
}

impl Recorder {
    /// Takes an event in; the reload that has ended with it, if one has.
    pub fn note(&mut self, event: &RuntimeEvent) -> Option<Reload> {
        let plugin = event.plugin()?;
        match event {
            RuntimeEvent::BuildStarted { .. } => {
                self.begun.insert(plugin.to_owned(), Begun { at: Instant::now(), phases: Vec::new(), built: None });
                None
            }
            RuntimeEvent::BuildProgress { phase, compiled: None, elapsed, .. } => {
                self.begun.get_mut(plugin)?.phases.push((*phase, *elapsed));
                None
            }
            RuntimeEvent::Built { took, by, optimized, why_cargo, why_full_link, phases, .. } => {
                let mut reload = reload(plugin, Outcome::Unchanged, ms(*took));
                (reload.by, reload.optimized) = (Some(*by), *optimized);
                // What is unchanged was not linked.
                (reload.why_cargo, reload.why_full_link) = (why_cargo.clone(), why_full_link.clone());
                phases.iter().for_each(|PhaseTime { phase, took }| reload.add(of_phase(*phase), ms(*took)));
                let begun = Begun { at: Instant::now(), phases: Vec::new(), built: None };
                let begun = self.begun.entry(plugin.to_owned()).or_insert(begun);
                begun.built = Some(Built { at: Instant::now(), reload });
                None
            }
            RuntimeEvent::BuildFailed { .. } => {
                let begun = self.begun.remove(plugin)?;
                let took = begun.at.elapsed();
                let mut reload = reload(plugin, Outcome::Failed, ms(took));
                let ends = begun.phases.iter().skip(1).map(|(_, at)| *at).chain([took]);
                for ((phase, from), to) in begun.phases.iter().zip(ends) {
                    reload.add(of_phase(*phase), ms(to.saturating_sub(*from)));
                }
                Some(reload.ended())
            }
            RuntimeEvent::Unchanged { .. } => Some(self.begun.remove(plugin)?.built?.reload.ended()),
            RuntimeEvent::RolledBack { .. } => {
                let Built { at, mut reload } = self.begun.remove(plugin)?.built?;
                reload.outcome = Outcome::RolledBack;
                reload.total_ms += ms(at.elapsed());
                reload.add("load", ms(at.elapsed()));
                Some(reload.ended())
            }
            RuntimeEvent::Swapped { to, timeline, .. } => {
                let built = self.begun.remove(plugin).and_then(|begun| begun.built);
                let mut reload = built.map_or_else(|| reload(plugin, Outcome::Swapped, 0.0), |built| built.reload);
                (reload.outcome, reload.generation) = (Outcome::Swapped, Some(*to));
                let Timeline { edit_to_live, verify, load, swap, .. } = timeline;
                let known = reload.total_ms + ms(*verify + *load + *swap);
                reload.total_ms = edit_to_live.map_or(known, |time| ms(time).max(known));
                let queue = reload.total_ms - known;
                for (step, ms) in [("queue", queue), ("verify", ms(*verify)), ("load", ms(*load)), ("swap", ms(*swap))]
                {
                    reload.add(step, ms);
                }
                Some(reload.ended())
            }
            RuntimeEvent::SourceRemoved { .. } => {
                self.begun.remove(plugin);
                None
            }
            _ => None,
        }
    }
}

fn reload(plugin: &str, outcome: Outcome, total_ms: f64) -> Reload {
    Reload {
        at_ms: 0,
        plugin: plugin.to_owned(),
        generation: None,
        outcome,
        by: None,
        optimized: false,
        why_cargo: None,
        why_full_link: None,
        total_ms,
        steps: Vec::new(),
    }
}

impl Reload {
    fn add(&mut self, step: &str, ms: f64) {
        match self.steps.iter_mut().find(|found| found.name == step) {
            Some(found) => found.ms += ms,
            None => self.steps.push(Step { name: step.to_owned(), ms }),
        }
    }

    /// Now, with its steps in their order.
    fn ended(mut self) -> Self {
        let rest = self.total_ms - self.steps.iter().map(|step| step.ms).sum::<f64>();
        self.add("other", rest);
        self.steps.retain(|step| step.ms >= 0.005);
        self.steps.sort_by_key(|step| STEPS.iter().position(|name| *name == step.name));
        // In JSON, short numbers come back as they were.
        let short = |ms: f64| (ms * 1000.0).round() / 1000.0;
        self.total_ms = short(self.total_ms);
        self.steps.iter_mut().for_each(|step| step.ms = short(step.ms));
        self.at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn of_phase(phase: BuildPhase) -> &'static str {
    match phase {
        BuildPhase::Waiting => "queue",
        BuildPhase::Reading => "read",
        BuildPhase::Compiling => "compile",
        BuildPhase::Linking => "link",
        BuildPhase::Sealing => "seal",
    }
}

/// How long a reload waits to be written: until then, the disk and the core are needed for its plugin's first answer.
const LATER: Duration = Duration::from_millis(250);

/// Keeps the reloads of a runtime in its work directory.
pub(crate) struct Keeper {
    recorder: Mutex<Recorder>,
    waiting: Arc<Waiting>,
}

/// What is not written yet.
struct Waiting {
    work_dir: PathBuf,
    /// In the order of the events.
    reloads: Mutex<Vec<Reload>>,
    /// A task will write them.
    is_due: AtomicBool,
}

impl Waiting {
    /// Blocks.
    fn write(&self) {
        if let Err(error) = add(&self.work_dir, &self.reloads) {
            tracing::debug!(%error, folder = %self.work_dir.display(), "the timings of a reload were not kept");
        }
    }
}

impl Keeper {
    pub(crate) fn new(work_dir: &Path) -> Self {
        let waiting =
            Waiting { work_dir: work_dir.to_owned(), reloads: Mutex::default(), is_due: AtomicBool::new(false) };
        Self { recorder: Mutex::default(), waiting: Arc::new(waiting) }
    }

    /// Takes an event in. The file is written in the background, a moment later.
    pub(crate) fn note(&self, event: &RuntimeEvent) {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reload) = recorder.note(event) else { return };
        self.waiting.reloads.lock().unwrap_or_else(PoisonError::into_inner).push(reload);
        drop(recorder);
        let Ok(runtime) = Handle::try_current() else { return };
        if self.waiting.is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let waiting = Arc::clone(&self.waiting);
        runtime.spawn(async move {
            tokio::time::sleep(LATER).await;
            // What comes from now on has a task of its own.
            waiting.is_due.store(false, Ordering::Release);
            tokio::task::spawn_blocking(move || waiting.write());
        });
    }

    /// Writes what waits to be written, at the end of a runtime, which a disk that does not answer does not keep for long.
    pub(crate) async fn written(&self) {
        let waiting = Arc::clone(&self.waiting);
        let writing = tokio::task::spawn_blocking(move || waiting.write());
        let _ = tokio::time::timeout(Duration::from_secs(1), writing).await;
    }
}

#[cfg(test)]
mod tests {
    use controllerbus::error::Code;

    use super::*;
    use crate::event::RollBackCause;

    fn plugin() -> String {
        "greeter".to_owned()
    }

    fn built(by: BuiltBy) -> RuntimeEvent {
        let phase = |phase, ms| PhaseTime { phase, took: Duration::from_millis(ms) };
        RuntimeEvent::Built {
            plugin: plugin(),
            took: Duration::from_millis(100),
            by,
            optimized: false,
            why_cargo: (by == BuiltBy::Cargo).then(|| "Cargo.toml changed".to_owned()),
            why_full_link: None,
            phases: vec![phase(BuildPhase::Linking, 30), phase(BuildPhase::Compiling, 60)],
            warnings: 0,
            messages: Vec::new(),
        }
    }

    fn swapped(edit_to_live: Option<u64>) -> RuntimeEvent {
        let timeline = Timeline {
            edit_to_live: edit_to_live.map(Duration::from_millis),
            build: Duration::from_millis(100),
            verify: Duration::from_millis(1),
            load: Duration::from_millis(2),
            swap: Duration::from_millis(3),
        };
        RuntimeEvent::Swapped { plugin: plugin(), from: None, to: 7, timeline }
    }

    fn steps(reload: &Reload) -> Vec<(&str, f64)> {
        reload.steps.iter().map(|step| (step.name.as_str(), step.ms.round())).collect()
    }

    #[test]
    fn the_steps_of_a_reload_add_up_to_the_time_from_the_edit_until_it_serves() {
        let mut recorder = Recorder::default();
        assert_eq!(recorder.note(&RuntimeEvent::BuildStarted { plugin: plugin() }), None);
        assert_eq!(recorder.note(&built(BuiltBy::Cargo)), None);
        let reload = recorder.note(&swapped(Some(150))).expect("it has ended");
        let expected = [
            ("queue", 44.0),
            ("compile", 60.0),
            ("link", 30.0),
            ("verify", 1.0),
            ("load", 2.0),
            ("swap", 3.0),
            ("other", 10.0),
        ];
        assert_eq!(steps(&reload), expected);
        assert!((reload.steps.iter().map(|step| step.ms).sum::<f64>() - reload.total_ms).abs() < 0.01);
        assert_eq!((reload.total_ms, reload.generation, reload.by), (150.0, Some(7), Some(BuiltBy::Cargo)));
        assert_eq!(reload.why_cargo.as_deref(), Some("Cargo.toml changed"));

        // A file has no build, and a first build no edit.
        let file = recorder.note(&swapped(None)).expect("it has ended");
        assert_eq!((steps(&file), file.by), (vec![("verify", 1.0), ("load", 2.0), ("swap", 3.0)], None));
    }

    #[test]
    fn what_was_not_swapped_in_is_a_reload_too() {
        let mut recorder = Recorder::default();
        let mut end = |event: RuntimeEvent| {
            recorder.note(&RuntimeEvent::BuildStarted { plugin: plugin() });
            if !matches!(event, RuntimeEvent::BuildFailed { .. }) {
                recorder.note(&built(BuiltBy::Rustc));
            }
            recorder.note(&event).expect("it has ended").outcome
        };
        let rendered = String::new();
        assert_eq!(end(RuntimeEvent::Unchanged { plugin: plugin(), serving: None }), Outcome::Unchanged);
        let (code, cause, reason) = (Code::NOT_READY, RollBackCause::NotReady, String::new());
        assert_eq!(
            end(RuntimeEvent::RolledBack { plugin: plugin(), code, cause, reason, serving: None }),
            Outcome::RolledBack
        );
        let (code, messages) = (Code::BUILD, Vec::new());
        assert_eq!(
            end(RuntimeEvent::BuildFailed { plugin: plugin(), code, rendered, messages, serving: None }),
            Outcome::Failed
        );
        assert_eq!(recorder.note(&RuntimeEvent::Unchanged { plugin: plugin(), serving: None }), None);
    }

    #[test]
    fn the_last_twenty_are_kept_in_the_work_folder_and_what_is_not_understood_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("none"), []);
        for total in 0..KEPT + 5 {
            add(folder.path(), &Mutex::new(vec![reload("greeter", Outcome::Swapped, total as f64).ended()]))
                .expect("writing");
        }
        let all = read(folder.path()).expect("reading");
        assert_eq!(all.len(), KEPT);
        assert_eq!((all[0].total_ms, all[KEPT - 1].total_ms), (5.0, 24.0));
        std::fs::write(folder.path().join(FILE), "{\"at\":1}\nnonsense\n").expect("writing");
        assert_eq!(read(folder.path()).expect("reading"), []);
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_are_written_together_a_moment_later_or_at_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let keeper = Keeper::new(folder.path());
        let written = || read(folder.path()).expect("reading").len();
        keeper.note(&swapped(None));
        keeper.note(&swapped(None));
        tokio::time::sleep(LATER / 2).await;
        assert_eq!(written(), 0, "the first answer does not wait for it");
        while written() < 2 {
            tokio::time::sleep(LATER).await;
        }
        keeper.note(&swapped(None));
        keeper.written().await;
        assert_eq!(written(), 3, "at the end without that moment");
        keeper.note(&swapped(None));
        while written() < 4 {
            tokio::time::sleep(LATER).await;
        }
    }
}

//! A load on a plugin while it is swapped again and again: what is lost, what stalls, what grows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use controllerbus::prelude::*;
use hdrhistogram::Histogram;
use hot_runtime::{GenerationState, HotRuntime, PluginSpec, Trust};
use tokio::sync::OnceCell;

use crate::{Ask, Scratch, mapped_below, nonce, resident_bytes, target_dir, work_dir};

/// How the load is put on.
pub struct Plan {
    /// Tasks that resolve and call.
    pub tasks: usize,
    /// How long each waits between two requests, if it does.
    pub pause: Option<Duration>,
    /// When to stop.
    pub until: Until,
    /// Whether the plugin is an optimised one.
    pub release: bool,
    /// The name of a work folder of its own.
    pub name: &'static str,
}

/// When to stop.
#[derive(Clone, Copy)]
pub enum Until {
    /// After so many swaps.
    Swaps(u64),
    /// After so long.
    Time(Duration),
    /// After so long, with nothing swapped: what the load by itself does to its requests.
    Quiet(Duration),
    /// The same beside a thread that has nothing to do with the requests and only computes: what whatever takes as much time of a
    /// core does to them.
    Computing(Computing),
}

/// What a thread computes.
#[derive(Clone, Copy)]
pub struct Computing {
    /// For how long.
    pub all: Duration,
    /// How much time of a core it takes at a time.
    pub work: Duration,
    /// From one beginning to the next.
    pub every: Duration,
}

impl Computing {
    /// Computes until it is told to stop; returns how long each time was, in nanoseconds.
    fn run(self, stop: &AtomicBool) -> Histogram<u64> {
        let mut times = histogram();
        while !stop.load(Ordering::Acquire) {
            let (begun, used) = (Instant::now(), core_time());
            while core_time().saturating_sub(used) < self.work {
                std::hint::spin_loop();
            }
            times.saturating_record(begun.elapsed().as_nanos() as u64);
            std::thread::sleep(self.every.saturating_sub(begun.elapsed()));
        }
        times
    }
}

/// How much time of a core this thread has used.
fn core_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Swaps that happened.
    pub swaps: u64,
    /// Requests that were answered by the generation that served when they began, or one that came meanwhile.
    pub served: u64,
    /// Requests that got an error.
    pub failed: u64,
    /// Requests that got no answer within ten seconds.
    pub lost: u64,
    /// Requests that were answered by a generation that did not serve meanwhile.
    pub wrong: u64,
    /// How long each request took, in nanoseconds.
    pub latency: Histogram<u64>,
    /// From a swap's begin to its commit, in nanoseconds; or how long each time of [`Until::Computing`] was.
    pub swap: Histogram<u64>,
    /// By how much resident memory grew over the second half, in bytes: from the least of a tenth of the swaps there to
    /// the least of the last tenth, because a file that is being read, or a library that is on its way out, comes and
    /// goes.
    pub grown: u64,
    /// The most generations that were mapped at a time, beside those that the registry showed as draining.
    pub mapped: usize,
    /// The fewest and the most threads of the process over the second half.
    pub threads: (usize, usize),
    /// How long it took.
    pub took: Duration,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let latency = |quantile| ms(self.latency.value_at_quantile(quantile));
        write!(f, "{} swaps in {:.1} s", self.swaps, self.took.as_secs_f64())?;
        if self.swaps > 0 {
            let (median, longest) = (ms(self.swap.value_at_quantile(0.5)), ms(self.swap.max()));
            write!(f, ", each {median:.2} ms (median), {longest:.2} ms (longest)")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{} requests: {} failed, {} lost, {} answered by a wrong generation",
            self.served, self.failed, self.lost, self.wrong
        )?;
        write!(
            f,
            "a request: {:.3} ms (median), {:.3} ms (99 %), {:.3} ms (99.9 %), {:.3} ms (longest)",
            latency(0.5),
            latency(0.99),
            latency(0.999),
            ms(self.latency.max())
        )?;
        if self.swaps == 0 {
            return Ok(());
        }
        write!(
            f,
            "\nover the second half: resident memory +{} KiB, {} to {} threads; at most {} mapped that do not drain",
            self.grown / 1024,
            self.threads.0,
            self.threads.1,
            self.mapped
        )
    }
}

/// The artifact of the `probe` fixture as it is developed, built once.
pub async fn built() -> &'static Path {
    built_as(false).await
}

/// The same, optimised or not.
async fn built_as(release: bool) -> &'static Path {
    static BUILT: [OnceCell<PathBuf>; 2] = [OnceCell::const_new(), OnceCell::const_new()];
    let building = async || {
        let scratch = Scratch::new(&["probe"]);
        let bus = Bus::new();
        let work = work_dir().join(if release { "probe-release" } else { "probe" });
        let runtime = HotRuntime::builder(&bus)
            // One that is deployed is built once.
            .plugin(PluginSpec::new("probe").crate_path(scratch.path("probe")).release(release).watch(!release))
            .work_dir(&work)
            .target_dir(target_dir())
            .start()
            .await
            .expect("building the probe");
        if !release {
            // As it is after an edit: the first file of a plugin, which cargo links, is larger.
            scratch.edit("probe", "/// How often", "#[used]\nstatic EDITED: u8 = 1;\n\n/// How often");
            runtime.rebuild("probe").await.expect("building it again");
        }
        runtime.shutdown().await;
        work.join("artifacts").join(format!("probe.cbus{}", std::env::consts::DLL_SUFFIX))
    };
    BUILT[usize::from(release)].get_or_init(building).await
}

/// How many artifacts are written beforehand, to be loaded in turn: what it takes to make them is no part of a swap.
const ARTIFACTS: u64 = 16;

/// Artifacts of one built library, each with its own number in it.
struct Numbered {
    folder: tempfile::TempDir,
}

impl Numbered {
    fn new(built: &Path) -> Self {
        let numbered = Self { folder: tempfile::tempdir().expect("a folder") };
        let mut library = crate::verify(built).expect("the built artifact").library().to_vec();
        for number in 0..ARTIFACTS {
            overwrite(&mut library, b"generation-", format!("{number:07}").as_bytes());
            seal(&library, &numbered.of(number));
            // Else the disk is busy with it while swaps are measured.
            std::fs::File::open(numbered.of(number)).and_then(|file| file.sync_all()).expect("writing to the disk");
        }
        numbered
    }

    /// The one of a generation.
    fn of(&self, generation: u64) -> PathBuf {
        self.folder.path().join(format!("{}.cbus.so", generation % ARTIFACTS))
    }
}

/// Writes over what follows a mark in a library, wherever that is.
pub fn overwrite(library: &mut [u8], mark: &[u8], with: &[u8]) {
    let found: Vec<usize> = memchr::memmem::find_iter(library, mark).map(|at| at + mark.len()).collect();
    assert!(!found.is_empty(), "the library has no such mark");
    for at in found {
        library[at..at + with.len()].copy_from_slice(with);
    }
}

/// Puts a text of the same length in another's place.
pub fn replace(library: &mut [u8], text: &[u8], with: &[u8]) {
    assert_eq!(text.len(), with.len());
    let found: Vec<usize> = memchr::memmem::find_iter(library, text).collect();
    assert!(!found.is_empty(), "the library has no such text");
    for at in found {
        library[at..at + text.len()].copy_from_slice(with);
    }
}

/// Seals a library.
pub fn seal(library: &[u8], out: &Path) {
    let body = out.with_extension("body");
    std::fs::write(&body, library).expect("writing the library");
    hot_runtime::artifact::seal(&body, out).expect("sealing");
    std::fs::remove_file(&body).expect("removing the library");
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

struct Shared {
    /// The newest generation that is known to serve.
    serving: AtomicU64,
    /// The newest one that may serve.
    coming: AtomicU64,
    stop: AtomicBool,
}

struct Served {
    served: u64,
    failed: u64,
    lost: u64,
    wrong: u64,
    latency: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that fit")
}

async fn ask_on(bus: Bus, shared: Arc<Shared>, pause: Option<Duration>) -> Served {
    let mut served = Served { served: 0, failed: 0, lost: 0, wrong: 0, latency: histogram() };
    while !shared.stop.load(Ordering::Acquire) {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let oldest = shared.serving.load(Ordering::Acquire);
        let begun = Instant::now();
        let answer = bus.resolve(Ask { what: "number".to_owned(), nonce: nonce() });
        let answer = tokio::time::timeout(Duration::from_secs(10), answer).await;
        served.latency.saturating_record(begun.elapsed().as_nanos() as u64);
        let newest = shared.coming.load(Ordering::Acquire);
        match answer {
            Err(_) => served.lost += 1,
            Ok(Err(error)) => {
                println!("failed: {error}");
                served.failed += 1;
            }
            Ok(Ok(answer)) => match answer.0.trim_start_matches("generation-").parse::<u64>() {
                Ok(number) if (oldest..=newest).any(|may| may % ARTIFACTS == number) => served.served += 1,
                _ => {
                    println!("{} answered, between {oldest} and {newest}", answer.0);
                    served.wrong += 1;
                }
            },
        }
    }
    served
}

/// Puts the load on, and swaps without pause meanwhile.
pub async fn run(plan: Plan) -> Report {
    let numbered = Numbered::new(built_as(plan.release).await);
    let bus = Bus::new();
    let config = ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: quiet }\n").expect("a config set");
    bus.apply(config).await.expect("applying");
    let work = work_dir().join(plan.name);
    let runtime = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(&work).start().await.expect("starting");
    runtime.load_file(numbered.of(1)).await.expect("loading");
    let shared =
        Arc::new(Shared { serving: AtomicU64::new(1), coming: AtomicU64::new(1), stop: AtomicBool::new(false) });
    let tasks: Vec<_> =
        (0..plan.tasks).map(|_| tokio::spawn(ask_on(bus.clone(), Arc::clone(&shared), plan.pause))).collect();

    let begun = Instant::now();
    let is_past = |swaps: u64, share: f64| match plan.until {
        Until::Swaps(all) => swaps as f64 >= all as f64 * share,
        Until::Time(all) | Until::Quiet(all) | Until::Computing(Computing { all, .. }) => {
            begun.elapsed() >= all.mul_f64(share)
        }
    };
    let mut swap_times = histogram();
    let (mut swaps, mut mapped, mut seen) = (0, 0, (usize::MAX, 0));
    let (mut halfway, mut at_the_end) = (usize::MAX, usize::MAX);
    let computing = match plan.until {
        Until::Computing(computing) => {
            let shared = Arc::clone(&shared);
            Some(std::thread::spawn(move || computing.run(&shared.stop)))
        }
        _ => None,
    };
    if let Until::Quiet(all) | Until::Computing(Computing { all, .. }) = plan.until {
        tokio::time::sleep(all).await;
    }
    while !is_past(swaps, 1.0) {
        swaps += 1;
        let file = numbered.of(swaps + 1);
        shared.coming.store(swaps + 1, Ordering::Release);
        let swap = Instant::now();
        runtime.load_file(&file).await.expect("a swap");
        swap_times.saturating_record(swap.elapsed().as_nanos() as u64);
        shared.serving.store(swaps + 1, Ordering::Release);
        let draining = |state| matches!(state, GenerationState::Draining | GenerationState::Unloaded);
        let generations = runtime.generations();
        mapped =
            mapped.max(generations.iter().filter(|found| found.mapped == Some(true) && !draining(found.state)).count());
        if is_past(swaps, 0.5) {
            if !is_past(swaps, 0.6) || is_past(swaps, 0.9) {
                // What is compared is one generation's memory: a second one that happens to be there is more than the limit.
                while mapped_below(&work) > 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let resident = resident_bytes();
            if !is_past(swaps, 0.6) {
                halfway = halfway.min(resident);
            }
            if is_past(swaps, 0.9) {
                at_the_end = at_the_end.min(resident);
            }
            let now = threads();
            seen = (seen.0.min(now), seen.1.max(now));
        }
        // A generation that is swapped out before the one before it has gone only measures how many can pile up.
        while mapped_below(&work) > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let took = begun.elapsed();
    let grown = at_the_end.min(resident_bytes()).saturating_sub(halfway) as u64;
    shared.stop.store(true, Ordering::Release);
    if let Some(thread) = computing {
        swap_times = thread.join().expect("a thread that computes");
    }
    let mut report = Report {
        swaps,
        served: 0,
        failed: 0,
        lost: 0,
        wrong: 0,
        latency: histogram(),
        swap: swap_times,
        grown,
        mapped,
        threads: seen,
        took,
    };
    for task in tasks {
        let served = task.await.expect("a task of the load");
        report.served += served.served;
        report.failed += served.failed;
        report.lost += served.lost;
        report.wrong += served.wrong;
        report.latency.add(&served.latency).expect("the same bounds");
    }
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0, "a generation stays mapped");
    report
}

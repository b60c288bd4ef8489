//! Pins against a reference model, on a clock that stands still between steps; and under load, where each job is done once.
//!
//! `CONTROLLERBUS_MODEL_SEED` runs one seed again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use controllerbus::bus::{Bus, LastStates, Source};
use controllerbus::controller::SwapMode;
use controllerbus::controller::factory::Factory;
use controllerbus::prelude::*;
use tokio::time::Instant;

use super::kit::{CappedJob, Job, LIMIT, PATIENCE, PlainJob, Reader, Told, Work, Workers, config, workers};
use crate::kit::soon;
use crate::model::{Dice, seed};

const KEYS: u64 = 9;
const STEPS: usize = 60;
const SEEDS: u64 = 40;

/// A reader of a job; which type of job a number has is told by its remainder.
enum Asked {
    Job(Reader<Job>),
    Capped(Reader<CappedJob>),
    Plain(Reader<PlainJob>),
}

impl Asked {
    fn new(bus: &Bus, job: u64) -> Self {
        match job % 3 {
            0 => Self::Job(Reader::new(bus, Job(job))),
            1 => Self::Capped(Reader::new(bus, CappedJob(job))),
            _ => Self::Plain(Reader::new(bus, PlainJob(job))),
        }
    }

    fn now(&mut self) -> Vec<u64> {
        match self {
            Self::Job(reader) => reader.now(),
            Self::Capped(reader) => reader.now(),
            Self::Plain(reader) => reader.now(),
        }
    }
}

/// What the model says of a job that stands.
struct Stands {
    readers: Vec<Asked>,
    /// The generation that does it; none if that has failed for good.
    by: Option<u64>,
    /// When its pin ends, if it is pinned.
    until: Option<Instant>,
}

struct Model {
    bus: Bus,
    work: Arc<Work>,
    serves: u64,
    stands: BTreeMap<u64, Stands>,
    /// Who must have begun each job, in order.
    begun: BTreeMap<u64, Vec<u64>>,
}

impl Model {
    fn begins(&mut self, job: u64, generation: u64) {
        self.begun.entry(job).or_default().push(generation);
        let stands = self.stands.get_mut(&job).expect("it stands");
        (stands.by, stands.until) = (Some(generation), None);
    }

    fn is_pinned(&self, job: u64) -> bool {
        self.stands[&job].until.is_some()
    }

    fn jobs(&self) -> Vec<u64> {
        self.stands.keys().copied().collect()
    }

    /// A generation has taken over from the one that served.
    fn switched(&mut self, to: u64, goes_back: bool) {
        let from = std::mem::replace(&mut self.serves, to);
        let until = Instant::now() + LIMIT;
        for job in self.jobs() {
            let stands = self.stands.get_mut(&job).expect("it stands");
            let is_left = job % 3 < 2 && stands.by == Some(from) && !goes_back;
            if is_left {
                stands.until = Some(until);
            } else if stands.until.is_none() {
                self.begins(job, to);
            }
        }
    }

    async fn step(&mut self, dice: &mut Dice) -> &'static str {
        let some = |jobs: Vec<u64>, dice: &mut Dice| (!jobs.is_empty()).then(|| jobs[dice.below(jobs.len())]);
        match dice.below(16) {
            0..5 => {
                let job = dice.below(KEYS as usize) as u64;
                if !self.stands.contains_key(&job) {
                    // What this generation was told when the job stood before is over.
                    self.work.tell(self.serves, job, Told::Nothing);
                }
                let asked = Asked::new(&self.bus, job);
                if let Some(stands) = self.stands.get_mut(&job) {
                    stands.readers.push(asked);
                    return "asks for more of the same";
                }
                self.stands.insert(job, Stands { readers: vec![asked], by: None, until: None });
                self.begins(job, self.serves);
                "asks"
            }
            5..7 => {
                let Some(job) = some(self.jobs(), dice) else { return "nothing" };
                let stands = self.stands.get_mut(&job).expect("it stands");
                drop(stands.readers.pop());
                if stands.readers.is_empty() {
                    self.stands.remove(&job);
                }
                "asks no more"
            }
            7..10 => {
                let to = self.serves + 1;
                let new = workers(to, &self.work);
                let staged = self.bus.stage(Source(self.serves), Source(to), new, PATIENCE).await.expect("it is ready");
                self.waits(dice).await;
                drop(staged.commit(PATIENCE).await.expect("a swap"));
                self.switched(to, false);
                "swaps"
            }
            10 => {
                let to = self.serves + 1;
                let (from, new) = (Source(self.serves), workers(to, &self.work));
                let staged = self.bus.stage_back(from, Source(to), new, PATIENCE, LastStates::default()).await;
                self.waits(dice).await;
                drop(staged.expect("it is ready").commit(PATIENCE).await.expect("it goes back"));
                self.switched(to, true);
                "goes back"
            }
            11 => {
                let Some(job) = some(self.jobs(), dice) else { return "nothing" };
                let Some(by) = self.stands[&job].by else { return "nothing" };
                self.work.tell(by, job, Told::FailForGood);
                if self.is_pinned(job) {
                    self.begins(job, self.serves);
                } else {
                    self.stands.get_mut(&job).expect("it stands").by = None;
                }
                "fails"
            }
            12 => {
                drop(self.bus.remove_source(Source(self.serves)).await);
                self.serves += 1;
                self.bus.add_factories(Source(self.serves), workers(self.serves, &self.work));
                soon(self.bus.watch_config("worker").running()).await.expect("it runs again");
                self.jobs().into_iter().for_each(|job| self.begins(job, self.serves));
                "is unloaded, and another one loaded"
            }
            _ => {
                tokio::time::sleep(LIMIT * dice.below(8) as u32 / 8).await;
                "time passes"
            }
        }
    }

    /// Lets time pass while a generation is prepared.
    async fn waits(&mut self, dice: &mut Dice) {
        if dice.below(2) == 0 {
            tokio::time::sleep(LIMIT * dice.below(8) as u32 / 8).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.time_has_passed();
        }
    }

    /// Ends pins whose time is over.
    fn time_has_passed(&mut self) {
        let now = Instant::now();
        for job in self.jobs() {
            if self.stands[&job].until.is_some_and(|until| until <= now) {
                self.begins(job, self.serves);
            }
        }
    }

    /// What is wrong now, if anything.
    fn difference(&mut self) -> Option<String> {
        for (job, stands) in &mut self.stands {
            let expected: Vec<u64> = stands.by.into_iter().collect();
            for reader in &mut stands.readers {
                let read = reader.now();
                if read != expected {
                    return Some(format!("of job {job} was read {read:?}, not {expected:?}"));
                }
            }
        }
        for job in 0..KEYS {
            let (begun, expected) = (self.work.begun_by(job), self.begun.get(&job).cloned().unwrap_or_default());
            if begun != expected {
                return Some(format!("job {job} was begun by {begun:?}, not {expected:?}"));
            }
        }
        let at_work = self.work.at_work();
        let expected = self.stands.iter().filter(|(_, stands)| stands.by.is_some()).map(|(job, _)| (*job, 1)).collect();
        if at_work != expected {
            return Some(format!("{at_work:?} are at work, not {expected:?}"));
        }
        let mut pinned: Vec<_> =
            self.stands.values().filter(|stands| stands.until.is_some()).filter_map(|stands| stands.by).collect();
        pinned.sort_unstable();
        pinned.dedup();
        let leaving: Vec<u64> = self.bus.leaving().iter().map(|found| found.source.0).collect();
        (leaving != pinned).then(|| format!("the generations {leaving:?} stay, not {pinned:?}"))
    }
}

async fn run(seed: u64) {
    let (bus, work) = super::kit::serving().await;
    let mut model = Model { bus, work, serves: 1, stands: BTreeMap::new(), begun: BTreeMap::new() };
    let mut dice = Dice::new(seed);
    for at in 0..STEPS {
        let did = model.step(&mut dice).await;
        let mut tries = 0;
        loop {
            model.time_has_passed();
            let Some(difference) = model.difference() else { break };
            tries += 1;
            assert!(tries < 50, "seed {seed}, step {at}, {did}: {difference}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    model.stands.clear();
    super::until_gone(&model.bus).await;
}

#[tokio::test(start_paused = true)]
async fn each_job_is_done_by_whom_the_model_says_and_by_nobody_else() {
    let first = seed();
    println!("seed {first}");
    for seed in first..first + SEEDS {
        run(seed).await;
    }
}

/// Generations take turns in having a state, whose hand-over holds back what begins.
fn with_state(generation: u64, work: &Arc<Work>) -> Vec<Arc<dyn Factory>> {
    let (work, has_state) = (Arc::clone(work), generation % 4 < 2);
    vec![Arc::new(Workers { generation, work, swap: SwapMode::Beside, has_state })]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_pinned_job_is_done_once_and_has_its_value_throughout_swaps_under_load() {
    let (bus, work) = (Bus::new(), Arc::new(Work::default()));
    bus.add_factories(Source(1), with_state(1, &work));
    bus.apply(config(0)).await.unwrap();
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = |mut dice: Dice| {
        let (bus, stop, next) = (bus.clone(), Arc::clone(&stop), Arc::clone(&next));
        tokio::spawn(async move {
            let mut held = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut job = bus.request(Job(next.fetch_add(1, Ordering::Relaxed))).unwrap();
                job.value().await.expect("a value");
                held.push(job);
                if held.len() > 20 {
                    let job: Request<Job> = held.swap_remove(dice.below(20));
                    assert_eq!(job.standing().count(), 1, "its value stands");
                }
                tokio::task::yield_now().await;
            }
            held
        })
    };
    let asking: Vec<_> = (0..4).map(|number| asking(Dice::new(number))).collect();
    for from in 1..=60 {
        let new = with_state(from + 1, &work);
        let staged = soon(bus.stage(Source(from), Source(from + 1), new, Duration::from_secs(20))).await.unwrap();
        drop(soon(staged.commit(PATIENCE)).await.expect("a swap"));
    }
    stop.store(true, Ordering::Relaxed);
    let mut held = Vec::new();
    for asking in asking {
        held.extend(soon(asking).await.expect("it asks"));
    }
    assert!(held.iter().all(|job| job.standing().count() == 1));
    let (begun, asked) = (work.begun(), next.load(Ordering::Relaxed));
    let once: BTreeMap<u64, u64> = begun.iter().map(|(generation, job)| (*job, *generation)).collect();
    assert_eq!((begun.len() as u64, once.len() as u64), (asked, asked), "each job is begun once");
    drop(held);
    soon(async {
        while !bus.leaving().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

//! What the tests of pins share: workers of each generation, whose runs are counted, and readers that notice a gap.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info, SwapMode};
use controllerbus::prelude::*;
use futures_core::Stream;
use tokio::sync::watch;

use crate::kit::info;

/// Work that lasts.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/job", value = u64, pin = "10m")]
pub struct Job(pub u64);

/// The same, by one at a time.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/capped-job", value = u64, max_values = 1, hard_cap, pin = "10m")]
pub struct CappedJob(pub u64);

/// What is not pinned.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/plain-job", value = u64)]
pub struct PlainJob(pub u64);

pub const LIMIT: Duration = Duration::from_secs(600);
pub const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/worker")]
struct WorkerConfig {
    #[serde(default)]
    number: u64,
}

/// What the workers of all generations do.
#[derive(Default)]
pub struct Work {
    /// The generation and the job of each run, in the order in which they began.
    begun: Mutex<Vec<(u64, u64)>>,
    /// How many runs of each job are there.
    at_work: Mutex<BTreeMap<u64, usize>>,
    /// What jobs are told, by generation and job.
    told: Mutex<BTreeMap<(u64, u64), watch::Sender<Told>>>,
    /// Generations that show no value before they are told to.
    pub slow: Mutex<Vec<u64>>,
    /// Called in each second `save`, while the state is handed over.
    pub in_second_save: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Told {
    #[default]
    Nothing,
    Show,
    Fail,
    FailForGood,
    Return,
}

impl Work {
    pub fn begun(&self) -> Vec<(u64, u64)> {
        self.begun.lock().unwrap().clone()
    }

    /// Who has begun a job, in order.
    pub fn begun_by(&self, job: u64) -> Vec<u64> {
        self.begun().into_iter().filter(|(_, begun)| *begun == job).map(|(generation, _)| generation).collect()
    }

    pub fn at_work(&self) -> BTreeMap<u64, usize> {
        self.at_work.lock().unwrap().clone()
    }

    pub fn tell(&self, generation: u64, job: u64, what: Told) {
        self.told.lock().unwrap().entry((generation, job)).or_default().send_replace(what);
    }

    fn hears(&self, generation: u64, job: u64) -> watch::Receiver<Told> {
        self.told.lock().unwrap().entry((generation, job)).or_default().subscribe()
    }

    /// One run of a job.
    fn begin(self: &Arc<Self>, generation: u64, job: u64) -> Run {
        self.begun.lock().unwrap().push((generation, job));
        *self.at_work.lock().unwrap().entry(job).or_default() += 1;
        Run { work: Arc::clone(self), job }
    }
}

struct Run {
    work: Arc<Work>,
    job: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut at_work = self.work.at_work.lock().unwrap();
        let left = at_work.get_mut(&self.job).expect("it has begun");
        *left -= 1;
        if *left == 0 {
            at_work.remove(&self.job);
        }
    }
}

struct Worker {
    generation: u64,
    work: Arc<Work>,
    state: Mutex<u64>,
    saved: Mutex<usize>,
    has_state: bool,
}

impl Worker {
    async fn work(&self, job: u64, values: Values<u64>) -> Result<()> {
        let run = self.work.begin(self.generation, job);
        let mut told = self.work.hears(self.generation, job);
        let is_slow = self.work.slow.lock().unwrap().contains(&self.generation);
        if is_slow {
            told.wait_for(|told| *told != Told::Nothing).await?;
        }
        values.add(self.generation);
        values.idle();
        let ended = told.wait_for(|told| !matches!(told, Told::Nothing | Told::Show)).await?;
        let ended = *ended;
        drop(run);
        match ended {
            Told::Fail => Err(Error::msg("told to fail")),
            Told::FailForGood => Err(Error::msg("told to fail for good").permanent()),
            _ => Ok(()),
        }
    }
}

impl Controller for Worker {
    type Config = WorkerConfig;

    async fn construct(_: WorkerConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by its factory"))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        context.cancelled().await;
        Ok(())
    }

    fn save(&self) -> Result<Option<State>> {
        if !self.has_state {
            return Ok(None);
        }
        let mut saved = self.saved.lock().unwrap();
        *saved += 1;
        if *saved == 2
            && let Some(called) = self.work.in_second_save.lock().unwrap().take()
        {
            called();
        }
        let mut state = self.state.lock().unwrap();
        *state += 1;
        State::encode(1, &*state).map(Some)
    }

    async fn restore(&self, state: State) -> Result<()> {
        *self.state.lock().unwrap() = state.decode()?;
        Ok(())
    }

    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Job>(|this, job, values| Box::pin(async move { this.work(job.0, values).await }));
        routes.add::<CappedJob>(|this, job, values| Box::pin(async move { this.work(job.0, values).await }));
        routes.add::<PlainJob>(|this, job, values| Box::pin(async move { this.work(job.0, values).await }));
    }
}

pub struct Workers {
    pub generation: u64,
    pub work: Arc<Work>,
    pub swap: SwapMode,
    pub has_state: bool,
}

impl Factory for Workers {
    fn info(&self) -> Info {
        info("test/worker")
    }

    fn swap_mode(&self) -> SwapMode {
        self.swap
    }

    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        let (generation, work, has_state) = (self.generation, Arc::clone(&self.work), self.has_state);
        let worker = Worker { generation, work, state: Mutex::default(), saved: Mutex::default(), has_state };
        Box::pin(std::future::ready(Ok(erase(worker))))
    }
}

pub fn workers(generation: u64, work: &Arc<Work>) -> Vec<Arc<dyn Factory>> {
    vec![Arc::new(Workers { generation, work: Arc::clone(work), swap: SwapMode::Beside, has_state: false })]
}

pub fn config(number: u64) -> ConfigSet {
    ConfigSet::from_yaml(&format!("worker: {{ id: test/worker, config: {{ number: {number} }} }}")).unwrap()
}

/// A bus on which generation 1 serves.
pub async fn serving() -> (Bus, Arc<Work>) {
    let (bus, work) = (Bus::new(), Arc::new(Work::default()));
    bus.add_factories(Source(1), workers(1, &work));
    bus.apply(config(0)).await.unwrap();
    (bus, work)
}

pub async fn swap(bus: &Bus, to: u64, work: &Arc<Work>) {
    let staged = bus.stage(Source(to - 1), Source(to), workers(to, work), Duration::from_secs(20)).await.unwrap();
    drop(staged.commit(PATIENCE).await.expect("a swap"));
}

/// A reader of a directive, and all that it was told.
pub struct Reader<D: Directive<Value = u64>> {
    request: Request<D>,
    stands: BTreeMap<controllerbus::directive::ValueId, u64>,
    /// Whether there was ever no value after the first one.
    pub had_gap: bool,
}

impl<D: Directive<Value = u64>> Reader<D> {
    pub fn new(bus: &Bus, directive: D) -> Self {
        Self { request: bus.request(directive).unwrap(), stands: BTreeMap::new(), had_gap: false }
    }

    pub async fn of(bus: &Bus, directive: D, expected: u64) -> Self {
        let mut reader = Self::new(bus, directive);
        reader.until(&[expected]).await;
        reader
    }

    fn note(&mut self, event: Option<Event<u64>>) {
        match event.expect("it stands") {
            Event::Added(id, value) => {
                self.stands.insert(id, *value);
            }
            Event::Removed(id) => {
                self.stands.remove(&id);
                self.had_gap |= self.stands.is_empty();
            }
            _ => {}
        }
    }

    /// Reads until these values stand.
    pub async fn until(&mut self, values: &[u64]) {
        let reading = async {
            while self.values() != values {
                let event = self.request.next().await;
                self.note(event);
            }
        };
        let late = tokio::time::timeout(Duration::from_millis(50), reading).await.is_err();
        assert!(!late, "{values:?} do not stand, but {:?}", self.values());
    }

    pub fn values(&self) -> Vec<u64> {
        self.stands.values().copied().collect()
    }

    /// What stands now.
    pub fn now(&mut self) -> Vec<u64> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(event) = std::pin::Pin::new(&mut self.request).poll_next(&mut context) {
            self.note(event);
        }
        self.values()
    }
}

pub async fn until(what: &str, state: impl Fn() -> bool) {
    let waiting = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok(), "{what}");
}

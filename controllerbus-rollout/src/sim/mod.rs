//! A fleet in one test, in simulated time: real agents and orchestrators on one bus, a store that can be away, and plugins that
//! behave as their files say.

mod bad;
mod lease;
mod placement;
mod race;
mod rollouts;
mod store;
mod thousand;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use controllerbus::Bus;
use controllerbus::bus::Running;
use controllerbus::controller::BoxFuture;
use hot_runtime::sign::{self, PublicKey, SecretKey};
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

use crate::agent::{AgentOptions, Load, Look, PluginEvent, Plugins, run_agent};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::health::{Check, Counts};
use crate::link::Link;
use crate::orchestrator::{OrchestratorOptions, orchestrate};
use crate::release::{Artifact, Release, Releases, artifact_path, artifact_signature_path};
use crate::rollout::{Amount, Gates, HealthDirective, Rollout, Step};
use crate::rollouts::Rollouts;
use crate::store::{Fault, Got, Objects, Put, Store, encoded};

pub(crate) const PLUGIN: &str = "greeter";
pub(crate) const BAKE: Duration = Duration::from_secs(30);

/// Objects in memory, which answer after a while, are away, or refuse a writer without an object, as S3 does.
#[derive(Debug, Default)]
pub(crate) struct Faulty {
    objects: Mutex<BTreeMap<String, Bytes>>,
    pub(crate) away: AtomicBool,
    /// In so many of 100 cases a new object is refused although there is none.
    pub(crate) conflicts: AtomicU64,
    /// In so many of 100 cases it is written, and the answer is lost.
    pub(crate) lost_answers: AtomicU64,
    pub(crate) latency_ms: AtomicU64,
    pub(crate) gets: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) lists: AtomicU64,
    /// How many artifacts are being read now, and at most.
    reading: AtomicU64,
    pub(crate) most_reading: AtomicU64,
}

impl Faulty {
    async fn call(&self) -> Result<(), Fault> {
        tokio::time::sleep(Duration::from_millis(self.latency_ms.load(Ordering::Relaxed))).await;
        match self.away.load(Ordering::Relaxed) {
            true => Err(Fault::Away("it is away".to_owned())),
            false => Ok(()),
        }
    }

    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.objects.lock().expect("objects");
        let mut bytes = objects.get(path).expect("the object").to_vec();
        change(&mut bytes);
        objects.insert(path.to_owned(), bytes.into());
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.objects.lock().expect("objects").keys().cloned().collect()
    }
}

fn happens(percent: &AtomicU64) -> bool {
    fastrand::u64(0..100) < percent.load(Ordering::Relaxed)
}

impl Objects for Faulty {
    fn get<'a>(
        &'a self,
        path: &'a str,
        part: Option<Range<u64>>,
        largest: u64,
    ) -> BoxFuture<'a, Result<Option<Got>, Fault>> {
        Box::pin(async move {
            self.gets.fetch_add(1, Ordering::Relaxed);
            let is_artifact = path.starts_with("artifacts/") && !path.ends_with(".minisig");
            if is_artifact {
                let now = self.reading.fetch_add(1, Ordering::Relaxed) + 1;
                self.most_reading.fetch_max(now, Ordering::Relaxed);
            }
            let called = self.call().await;
            if is_artifact {
                self.reading.fetch_sub(1, Ordering::Relaxed);
            }
            called?;
            let Some(bytes) = self.objects.lock().expect("objects").get(path).cloned() else {
                self.missed.fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            };
            let size = bytes.len() as u64;
            let bytes = part
                .map_or(bytes.clone(), |part| bytes.slice(part.start.min(size) as usize..part.end.min(size) as usize));
            if bytes.len() as u64 > largest {
                return Err(Fault::TooLarge(bytes.len() as u64, largest));
            }
            Ok(Some(Got { bytes, size }))
        })
    }

    fn put<'a>(&'a self, path: &'a str, bytes: Bytes, how: Put) -> BoxFuture<'a, Result<bool, Fault>> {
        Box::pin(async move {
            self.puts.fetch_add(1, Ordering::Relaxed);
            self.call().await?;
            if how == Put::Create && happens(&self.conflicts) {
                return Ok(false);
            }
            {
                let mut objects = self.objects.lock().expect("objects");
                if how == Put::Create && objects.contains_key(path) {
                    return Ok(false);
                }
                objects.insert(path.to_owned(), bytes);
            }
            if happens(&self.lost_answers) { Err(Fault::Away("the answer was lost".to_owned())) } else { Ok(true) }
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            self.lists.fetch_add(1, Ordering::Relaxed);
            self.call().await?;
            let objects = self.objects.lock().expect("objects");
            let names = objects.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
            let names = names.filter(|name| !name.contains('/') && after.is_none_or(|after| *name > after));
            Ok(names.map(str::to_owned).collect())
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            self.lists.fetch_add(1, Ordering::Relaxed);
            self.call().await?;
            let objects = self.objects.lock().expect("objects");
            let below = objects.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/')?.split_once('/'));
            let mut names: Vec<_> = below.map(|(name, _)| name.to_owned()).collect();
            names.dedup();
            Ok(names)
        })
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.call().await?;
            self.objects.lock().expect("objects").remove(path);
            Ok(())
        })
    }
}

/// The objects as one host sees them, until its connection is cut.
#[derive(Debug)]
pub(crate) struct View {
    of: Arc<Faulty>,
    pub(crate) cut: AtomicBool,
    /// It is cut as soon as the next object is written.
    pub(crate) cut_by_put: AtomicBool,
    /// The next object is not written before the second one is told; the first one tells that it is about to be.
    pub(crate) asleep: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

impl View {
    pub(crate) fn new(of: &Arc<Faulty>) -> Arc<Self> {
        Arc::new(Self {
            of: Arc::clone(of),
            cut: AtomicBool::new(false),
            cut_by_put: AtomicBool::new(false),
            asleep: Mutex::default(),
        })
    }

    fn check(&self) -> Result<(), Fault> {
        if self.cut.load(Ordering::Relaxed) { Err(Fault::Away("cut".to_owned())) } else { Ok(()) }
    }
}

impl Objects for View {
    fn get<'a>(
        &'a self,
        path: &'a str,
        part: Option<Range<u64>>,
        largest: u64,
    ) -> BoxFuture<'a, Result<Option<Got>, Fault>> {
        Box::pin(async move {
            self.check()?;
            self.of.get(path, part, largest).await
        })
    }
    fn put<'a>(&'a self, path: &'a str, bytes: Bytes, how: Put) -> BoxFuture<'a, Result<bool, Fault>> {
        Box::pin(async move {
            self.check()?;
            let asleep = self.asleep.lock().expect("asleep").take();
            if let Some((asleep, awake)) = asleep {
                let _ = asleep.send(());
                let _ = awake.await;
            }
            let put = self.of.put(path, bytes, how).await;
            if self.cut_by_put.swap(false, Ordering::Relaxed) {
                self.cut.store(true, Ordering::Relaxed);
            }
            self.check()?;
            put
        })
    }
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            self.check()?;
            self.of.list(folder, after).await
        })
    }
    fn folders<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        Box::pin(async move {
            self.check()?;
            self.of.folders(folder).await
        })
    }
    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.check()?;
            self.of.delete(path).await
        })
    }
}

/// Plugins that behave as their file says.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    state: Arc<Mutex<FakeState>>,
    events: broadcast::Sender<PluginEvent>,
}

#[derive(Debug, Default)]
pub(crate) struct FakeState {
    generation: u64,
    /// What serves, and since when.
    serves: Option<(String, Instant)>,
    /// All that ever served.
    pub(crate) ran: Vec<String>,
    /// How many directives stand that it answers.
    works: usize,
    /// What the host has taken back by itself, and does not load again.
    taken_back: Vec<String>,
}

/// Why hosts take back what is to be taken back.
const TAKEN_BACK: &str = "9 of 9 runs of its resolvers failed";

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Arc::default(), events: broadcast::channel(16).0 })
    }

    pub(crate) fn serves(&self) -> Option<String> {
        self.state.lock().expect("state").serves.as_ref().map(|(what, _)| what.clone())
    }

    pub(crate) fn set_works(&self, works: usize) {
        self.state.lock().expect("state").works = works;
    }

    /// As a host that finds a generation unhealthy. That another one serves is told before why, and may be heard before it.
    async fn take_back(self, behaviour: String, before: String) {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (from, to) = {
            let mut state = self.state.lock().expect("state");
            state.generation += 1;
            state.serves = Some((before, Instant::now()));
            state.taken_back.push(behaviour);
            (state.generation - 1, state.generation)
        };
        let _ = self.events.send(PluginEvent::Serves { plugin: PLUGIN.to_owned(), generation: to });
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        let (plugin, why) = (PLUGIN.to_owned(), TAKEN_BACK.to_owned());
        let _ = self.events.send(PluginEvent::TakenBack { plugin, from, to, why });
    }

    pub(crate) fn ran(&self) -> Vec<String> {
        self.state.lock().expect("state").ran.clone()
    }
}

impl Plugins for Fake {
    fn load<'a>(&'a self, load: Load<'a>) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let text = std::fs::read_to_string(load.path).map_err(Error::io("reading", load.path))?;
            let behaviour = text.split(' ').next().unwrap_or_default().to_owned();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(why) = behaviour.strip_prefix("fails:") {
                return Err(Error::refused(PLUGIN, why));
            }
            if self.state.lock().expect("state").taken_back.contains(&behaviour) {
                let (plugin, build) = (PLUGIN.to_owned(), "b1".to_owned());
                let reason = TAKEN_BACK.to_owned();
                return Err(Error::Runtime(hot_runtime::Error::TakenBack { plugin, build, reason }));
            }
            let mut state = self.state.lock().expect("state");
            state.generation += 1;
            let before = state.serves.replace((behaviour.clone(), Instant::now()));
            state.ran.push(behaviour.clone());
            let (generation, events) = (state.generation, self.events.clone());
            let plugin = PLUGIN.to_owned();
            if let Some((before, _)) = before.filter(|_| behaviour == "taken-back") {
                drop(state);
                tokio::spawn(self.clone().take_back(behaviour, before));
                return Ok(generation);
            }
            if behaviour == "crashes" {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    let _ = events.send(PluginEvent::Crashed { plugin, generation });
                });
            }
            Ok(generation)
        })
    }

    fn unload<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.state.lock().expect("state").serves = None;
            Ok(())
        })
    }

    fn look<'a>(&'a self, _: &'a str, gates: &'a Gates) -> BoxFuture<'a, Look> {
        Box::pin(async move {
            let state = self.state.lock().expect("state");
            let Some((behaviour, since)) = &state.serves else { return Look::default() };
            let mut look = Look { generation: Some(state.generation), ..Look::default() };
            let requests = since.elapsed().as_secs() * 20;
            let bad = |kind: &str| if behaviour == kind { requests / 2 } else { 0 };
            let counts = Counts::new(requests, bad("errors"), bad("slow"));
            look.counts.insert("example/greet".to_owned(), counts);
            if gates.health.is_some() {
                look.check = Some(Check::new(behaviour != "stalls", "no answer within 2s"));
            }
            if behaviour == "configs" {
                look.configs.push("config `a`: it does not fit".to_owned());
            }
            look
        })
    }

    fn works<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, usize> {
        Box::pin(async move { self.state.lock().expect("state").works })
    }

    fn events(&self) -> broadcast::Receiver<PluginEvent> {
        self.events.subscribe()
    }
}

/// A host.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) plugins: Arc<Fake>,
    pub(crate) view: Arc<View>,
    pub(crate) agent: Option<Running>,
}

/// A fleet.
pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) objects: Arc<Faulty>,
    pub(crate) store: Store,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) secret: SecretKey,
    pub(crate) public: PublicKey,
    pub(crate) hosts: Vec<Host>,
    /// Where all hosts are.
    pub(crate) site: Option<String>,
}

pub(crate) fn key(folder: &std::path::Path, name: &str) -> (SecretKey, PublicKey) {
    let (secret, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    let public = sign::generate(&secret, &public, None).expect("keys");
    (SecretKey::read(&secret, None).expect("the key"), public)
}

/// The clocks of the simulation.
pub(crate) fn clock() -> Clock {
    let start = Instant::now();
    Clock::new(
        move || start.elapsed(),
        move || 1_000_000 + u64::try_from(start.elapsed().as_millis()).expect("a short test"),
    )
}

impl World {
    pub(crate) async fn new(hosts: usize) -> Self {
        Self::at(None, hosts).await
    }

    pub(crate) async fn at(site: Option<&str>, hosts: usize) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder");
        let (secret, public) = key(folder.path(), "mine");
        let objects = Arc::new(Faulty::default());
        objects.latency_ms.store(20, Ordering::Relaxed);
        let store = Store::over("memory://sim", Arc::clone(&objects) as Arc<dyn Objects>);
        let mut world = Self { bus: Bus::new(), objects, store, folder, secret, public, hosts: Vec::new(), site: None };
        world.site = site.map(str::to_owned);
        for at in 0..hosts {
            let view = View::new(&world.objects);
            let mut host = Host { name: format!("edge-{at}"), plugins: Fake::new(), view, agent: None };
            world.start(&mut host);
            world.hosts.push(host);
        }
        world
    }

    /// Starts a host's agent.
    pub(crate) fn start(&self, host: &mut Host) {
        let store = Store::over("memory://sim", Arc::clone(&host.view) as Arc<dyn Objects>);
        let folder = self.folder.path().join(&host.name);
        let options = AgentOptions::new(&store, &host.name, [self.public.clone()], folder);
        let options = match &self.site {
            Some(site) => options.site(site),
            None => options,
        };
        let plugins = Arc::clone(&host.plugins) as Arc<dyn Plugins>;
        host.agent = Some(run_agent(&self.bus, options, plugins).expect("an agent"));
    }

    pub(crate) fn orchestrator(&self, name: &str) -> (Running, Arc<View>) {
        let view = View::new(&self.objects);
        let store = Store::over("memory://sim", Arc::clone(&view) as Arc<dyn Objects>);
        let options = OrchestratorOptions::new(&store, name).clock(clock());
        (orchestrate(&self.bus, options).expect("an orchestrator"), view)
    }

    /// Publishes a release whose plugin behaves so.
    pub(crate) async fn publish(&self, sequence: u64, behaviour: &str) -> Release {
        self.publish_with(sequence, behaviour, &self.secret, Duration::from_secs(3600)).await
    }

    pub(crate) async fn publish_with(
        &self,
        sequence: u64,
        behaviour: &str,
        key: &SecretKey,
        lasts: Duration,
    ) -> Release {
        let file = Bytes::from(format!("{behaviour} {}", "x".repeat(1000)));
        let hash = blake3::hash(&file).to_hex().to_string();
        let mut release = Release::new(PLUGIN, semver::Version::new(1, sequence, 0), sequence, lasts);
        let boundary = controllerbus::plugin::manifest::BOUNDARY;
        release.artifacts.push(Artifact {
            target: hot_runtime::artifact::TARGET.to_owned(),
            boundary: boundary.version,
            fingerprint: boundary.fingerprint.to_owned(),
            blake3: hash.clone(),
            size: file.len() as u64,
        });
        let sign = |bytes: &[u8]| Bytes::from(sign::sign_bytes(bytes, "a test", key).expect("signing"));
        self.store.write(&artifact_signature_path(&hash), sign(&file)).await.expect("writing");
        self.store.write(&artifact_path(&hash), file).await.expect("writing");
        let releases = Releases::new(&self.store, PLUGIN);
        let signature = sign(&encoded(&release).expect("a document"));
        assert!(releases.documents.create(sequence, &release).await.expect("writing"));
        self.store.write(&releases.signatures.path(sequence), signature).await.expect("writing");
        release
    }

    pub(crate) fn rollouts(&self) -> Rollouts {
        Rollouts::new(&self.store, "a person")
    }

    /// Waits until the newest step is as wanted.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Link) -> bool) -> Link {
        let begun = Instant::now();
        loop {
            if let Ok(Some(link)) = self.rollouts().newest(PLUGIN).await
                && is(&link)
            {
                return link;
            }
            assert!(begun.elapsed() < Duration::from_secs(7200), "not within two hours: {what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(crate) async fn until_over(&self) -> Link {
        self.until("it is over", |link| link.stage.is_over()).await
    }

    /// Rolls the first release out to all.
    pub(crate) async fn begin(&self) {
        self.publish(1, "good").await;
        let all = Step::new(Amount::Percent(100.0), Duration::ZERO);
        let rollout = Rollout::new(PLUGIN, semver::Version::new(1, 1, 0)).with_steps(vec![all]);
        self.rollouts().start(rollout).await.expect("a rollout");
        let link = self.until_over().await;
        assert_eq!(link.stage, crate::Stage::Done, "{link:?}");
        self.settle("good").await;
    }

    /// Waits until what is within reach serves this.
    pub(crate) async fn settle(&self, behaviour: &str) {
        let begun = Instant::now();
        let serves = |host: &Host| host.agent.is_none() || host.plugins.serves().as_deref() == Some(behaviour);
        while !self.hosts.iter().all(serves) {
            let serve: Vec<_> = self.hosts.iter().map(|host| host.plugins.serves()).collect();
            assert!(begun.elapsed() < Duration::from_secs(600), "not all serve {behaviour}: {serve:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A rollout of the second release, with all gates.
pub(crate) fn rollout() -> Rollout {
    let mut rollout = Rollout::new(PLUGIN, semver::Version::new(1, 2, 0)).with_steps(vec![
        Step::new(Amount::Hosts(1), BAKE),
        Step::new(Amount::Percent(10.0), BAKE),
        Step::new(Amount::Percent(100.0), Duration::ZERO).at_a_time(Amount::Percent(10.0)),
    ]);
    let of = || "example/greet".to_owned();
    rollout.deadline = Duration::from_secs(20);
    rollout.gates.errors = Some(crate::Errors { of: of(), most_percent: 1.0, of_at_least: 50 });
    let above = Duration::from_millis(100);
    rollout.gates.slow = Some(crate::Slow { of: of(), above, most_percent: 5.0, of_at_least: 50 });
    rollout.gates.health = Some(HealthDirective { directive: "example/health".to_owned() });
    rollout
}

//! Hosts with agents whose plugins do as their files say, on one bus, and a store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::bus::Running;
use controllerbus::controller::BoxFuture;
use controllerbus_rollout::{
    AgentOptions, Amount, Error, Gates, Link, Load, Look, OrchestratorOptions, PluginEvent, Plugins, Result, Rollout,
    Rollouts, Step, Store, orchestrate, run_agent, tell_hosts,
};
use hot_runtime::sign::{self, PublicKey, SecretKey};
use rollout_s3_tests::until;
use tokio::sync::broadcast;

pub const PLUGIN: &str = "example/greeter";

pub fn version(sequence: u64) -> semver::Version {
    semver::Version::new(1, sequence, 0)
}

/// Plugins that behave as the first word of their file says.
#[derive(Debug)]
pub struct Fake {
    ran: Mutex<Vec<String>>,
    events: broadcast::Sender<PluginEvent>,
}

impl Fake {
    pub fn ran(&self) -> Vec<String> {
        self.ran.lock().expect("what ran").clone()
    }
}

impl Plugins for Fake {
    fn load<'a>(&'a self, load: Load<'a>) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let text = std::fs::read_to_string(load.path).expect("the file");
            if text == "fails" {
                return Err(Error::NotNow("restore refused it".to_owned()));
            }
            let mut ran = self.ran.lock().expect("what ran");
            ran.push(text);
            Ok(ran.len() as u64)
        })
    }

    fn unload<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn look<'a>(&'a self, _: &'a str, _: &'a Gates) -> BoxFuture<'a, Look> {
        Box::pin(async move {
            let mut look = Look::default();
            look.generation = Some(self.ran.lock().expect("what ran").len() as u64).filter(|number| *number > 0);
            look
        })
    }

    fn events(&self) -> broadcast::Receiver<PluginEvent> {
        self.events.subscribe()
    }
}

pub struct Host {
    pub name: String,
    pub plugins: Arc<Fake>,
    agent: Option<Running>,
}

pub struct Fleet {
    pub hosts: Vec<Host>,
    bus: Bus,
    store: Store,
    folder: tempfile::TempDir,
    secret: SecretKey,
    public: PublicKey,
    leads: Option<Running>,
}

impl Fleet {
    pub fn new(store: &Store) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (secret, public) = (folder.path().join("k.key"), folder.path().join("k.pub"));
        let public = sign::generate(&secret, &public, None).expect("keys");
        let secret = SecretKey::read(&secret, None).expect("the key");
        let mut fleet =
            Self { hosts: Vec::new(), bus: Bus::new(), store: store.clone(), folder, secret, public, leads: None };
        fleet.lead();
        fleet
    }

    fn lead(&mut self) {
        let options = OrchestratorOptions::new(&self.store, "edge-0");
        // The lease is copied with the rest, and waited for.
        let options = options.look(Duration::from_millis(500)).lease(Duration::from_secs(5));
        self.leads = Some(orchestrate(&self.bus, options).expect("an orchestrator"));
    }

    pub fn add(&mut self, name: &str, store: &Store) {
        let plugins = Arc::new(Fake { ran: Mutex::default(), events: broadcast::channel(4).0 });
        let agent = self.agent(name, store, &plugins);
        self.hosts.push(Host { name: name.to_owned(), plugins, agent: Some(agent) });
    }

    fn agent(&self, name: &str, store: &Store, plugins: &Arc<Fake>) -> Running {
        let options = AgentOptions::new(store, name, [self.public.clone()], self.folder.path().join(name));
        let options = options.poll(Duration::from_secs(2)).look(Duration::from_millis(200));
        run_agent(&self.bus, options, Arc::clone(plugins) as Arc<dyn Plugins>).expect("an agent")
    }

    /// Starts a host anew, with another store.
    pub async fn restart(&mut self, at: usize, store: &Store) {
        self.hosts[at].agent = None;
        let bus = self.bus.clone();
        let left = self.hosts.iter().filter(|host| host.agent.is_some()).count();
        until("it has ended", async || {
            let agents = bus.controllers().into_iter().filter(|found| found.info.id == "controllerbus/fleet/agent");
            agents.count() == left && bus.leaving().is_empty()
        })
        .await;
        let host = &self.hosts[at];
        let agent = self.agent(&host.name, store, &host.plugins);
        self.hosts[at].agent = Some(agent);
    }

    /// The publisher and the orchestrator use another store from now on.
    pub async fn moves_to(&mut self, store: &Store) {
        self.leads = None;
        self.store = store.clone();
        self.lead();
    }

    /// Publishes a release by the names and documents that the store's layout has.
    pub async fn publish(&self, sequence: u64, behaviour: &str) {
        let sign = |bytes: &[u8]| sign::sign_bytes(bytes, "a test", &self.secret).expect("signing").into();
        let hash = blake3::hash(behaviour.as_bytes()).to_hex().to_string();
        let boundary = controllerbus::plugin::manifest::BOUNDARY;
        let document = format!(
            r#"{{"kind": "controllerbus release 1", "plugin": "{PLUGIN}", "version": "{}", "sequence": {sequence},
                "expires_ms": 99999999999999, "artifacts": [{{"target": "{}", "boundary": {}, "fingerprint": "{}",
                "blake3": "{hash}", "size": {}}}]}}"#,
            version(sequence),
            hot_runtime::artifact::TARGET,
            boundary.version,
            boundary.fingerprint,
            behaviour.len()
        );
        let path = format!("releases/example%2Fgreeter/{sequence:010}.json");
        let signature = sign(document.as_bytes());
        for (path, bytes) in [
            (format!("artifacts/{hash}"), behaviour.to_owned().into()),
            (format!("artifacts/{hash}.minisig"), sign(behaviour.as_bytes())),
            (format!("{path}.minisig"), signature),
            (path, document.into()),
        ] {
            self.store.write(&path, bytes).await.expect("publishing");
        }
    }

    pub fn rollout(&self, sequence: u64) -> Rollout {
        Rollout::new(PLUGIN, version(sequence)).with_steps(vec![
            Step::new(Amount::Hosts(1), Duration::from_secs(1)),
            Step::new(Amount::Percent(100.0), Duration::ZERO),
        ])
    }

    /// Rolls a release out, to its end.
    pub async fn roll(&self, sequence: u64) -> Link {
        let rollouts = Rollouts::new(&self.store, "Ada");
        let first = rollouts.start(self.rollout(sequence)).await.expect("a rollout");
        tell_hosts(&self.bus.handle(), &first, Duration::from_secs(5)).await.expect("telling");
        let mut newest = first;
        until("it is over", async || {
            if let Ok(Some(link)) = rollouts.newest(PLUGIN).await {
                newest = link;
            }
            newest.stage.is_over()
        })
        .await;
        newest
    }

    pub async fn until_all_serve(&self, behaviour: &str) {
        until(&format!("all serve {behaviour}"), async || {
            self.hosts.iter().all(|host| host.plugins.ran().last().is_some_and(|last| last == behaviour))
        })
        .await;
    }
}

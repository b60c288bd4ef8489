//! Hosts of a fleet within one process, and what a requester is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::ControllerId;
use controllerbus::controller::{Closures, Info};
use controllerbus::directive::ValueId;
use controllerbus::prelude::*;
use controllerbus_fleet::memory::Network;
use controllerbus_fleet::{Fleet, FleetOptions};

/// Asks whether the lamp of a room is on.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "house/lamp", value = String)]
pub struct Lamp {
    pub room: String,
}

pub fn lamp(room: &str) -> Lamp {
    Lamp { room: room.to_owned() }
}

pub fn info(id: &str) -> Info {
    Info::new(id, semver::Version::new(1, 0, 0), id)
}

/// What a test decides of the answers to a directive.
pub struct Answers<D: Directive>(Arc<Inner<D>>);

struct Inner<D: Directive> {
    runs: AtomicUsize,
    open: Mutex<Vec<(D, Values<D::Value>)>>,
}

impl<D: Directive> Clone for Answers<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: Directive> Answers<D> {
    /// A controller whose resolvers begin with what the function adds, and go on for ever.
    pub fn on(bus: &Bus, begin: impl Fn(&D, &Values<D::Value>) + Send + Sync + 'static) -> (Self, ControllerId) {
        let answers = Self(Arc::new(Inner { runs: AtomicUsize::new(0), open: Mutex::default() }));
        let own = answers.clone();
        let begin = Arc::new(begin);
        let controller = Closures::new().resolves(move |directive: D, values| {
            let (own, begin) = (own.clone(), Arc::clone(&begin));
            async move {
                own.0.runs.fetch_add(1, Ordering::SeqCst);
                begin(&directive, &values);
                own.0.open.lock().unwrap().push((directive, values));
                std::future::pending().await
            }
        });
        let id = bus.add_controller(Arc::new(controller), info("test/answers"));
        (answers, id)
    }

    /// How often a resolver has begun.
    pub fn runs(&self) -> usize {
        self.0.runs.load(Ordering::SeqCst)
    }

    /// The handle of the newest run.
    pub fn last(&self) -> Values<D::Value> {
        self.0.open.lock().unwrap().last().expect("a resolver has begun").1.clone()
    }
}

/// A host whose lamps answer with its name.
pub fn lamps(bus: &Bus, name: &str) -> Answers<Lamp> {
    let name = name.to_owned();
    Answers::on(bus, move |lamp: &Lamp, values| {
        values.add(format!("{} by {name}", lamp.room));
        values.idle();
    })
    .0
}

pub struct Host {
    pub bus: Bus,
    pub fleet: Fleet,
}

impl Host {
    pub async fn join(network: &Network, name: &str, options: FleetOptions) -> Self {
        Self::with_bus(network, name, Bus::new(), options).await
    }

    pub async fn with_bus(network: &Network, name: &str, bus: Bus, options: FleetOptions) -> Self {
        let fleet = Fleet::join(&bus, network.host(name), options).await.expect("it joins");
        Self { bus, fleet }
    }

    /// A host that offers lamps.
    pub async fn with_lamps(network: &Network, name: &str) -> (Self, Answers<Lamp>) {
        let bus = Bus::new();
        let lamps = lamps(&bus, name);
        (Self::with_bus(network, name, bus, offers()).await, lamps)
    }

    /// It dies, and the others hear of it.
    pub fn crash(self, network: &Network) {
        network.crash(self.fleet.own(), true);
        // What it says now goes nowhere.
        drop(self.fleet);
    }
}

pub fn offers() -> FleetOptions {
    FleetOptions::new("shop").offers("house/**")
}

pub fn asks() -> FleetOptions {
    FleetOptions::new("shop").asks("house/lamp")
}

/// What a requester has been told, and what of it stands.
pub struct Requester<D: Directive<Value = String>> {
    pub request: Request<D>,
    standing: Vec<(ValueId, String)>,
    pub told: Vec<String>,
}

impl<D: Directive<Value = String>> Requester<D> {
    pub fn of(bus: &Bus, directive: D) -> Self {
        Self { request: bus.request(directive).expect("a request"), standing: Vec::new(), told: Vec::new() }
    }

    /// Reads an event. What is told of a value is checked: it comes once, and goes once.
    pub async fn next(&mut self) -> String {
        let event = tokio::time::timeout(Duration::from_secs(100), self.request.next()).await;
        let text = match event.unwrap_or_else(|_| panic!("no event; {:?} was told", self.told)) {
            Some(Event::Added(id, value)) => {
                assert!(self.standing.iter().all(|(known, _)| *known != id), "told twice: {value}");
                self.standing.push((id, value.to_string()));
                format!("+{value}")
            }
            Some(Event::Removed(id)) => {
                let at = self.standing.iter().position(|(known, _)| *known == id).expect("it stood");
                format!("-{}", self.standing.remove(at).1)
            }
            Some(Event::Idle) => "idle".to_owned(),
            Some(Event::Busy) => "busy".to_owned(),
            Some(Event::Failed(error)) => format!("! {:?} {error}", error.kind()),
            Some(_) => "something else".to_owned(),
            None => "end".to_owned(),
        };
        self.told.push(text.clone());
        text
    }

    /// Reads until exactly these values stand, and it is idle.
    pub async fn stands(&mut self, expected: &[&str]) {
        let mut expected: Vec<_> = expected.iter().map(|value| (*value).to_owned()).collect();
        expected.sort();
        while !self.request.is_idle() || self.standing() != expected {
            self.next().await;
        }
    }

    pub fn standing(&self) -> Vec<String> {
        let mut standing: Vec<_> = self.standing.iter().map(|(_, value)| value.clone()).collect();
        standing.sort();
        standing
    }

    /// What was told since the last call, without whether it is idle.
    pub fn news(&mut self) -> Vec<String> {
        let told = std::mem::take(&mut self.told);
        told.into_iter().filter(|told| told != "idle" && told != "busy").collect()
    }
}

/// Waits for a state. The clock goes on meanwhile, in no time.
pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

/// Lets everything happen that happens within a time.
pub async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

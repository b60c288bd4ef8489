//! The carrier of a fleet's frames over the engine: names, tokens and puts.
//!
//! Nothing is declared in the engine that grows with directives or values: a subscriber for what comes to this host, a token for
//! the host and for each id that it resolves, a token's watch for each id that it asks, and a number for each lane in use to a host
//! that is there.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use controllerbus::error::ErrorKind;
use controllerbus::{BusHandle, Error, Result};
use controllerbus_fleet::carrier::{Carrier, Guard, Lane, Peer, Presence, Seen, Which};
use controllerbus_fleet::config::FleetConfig;
use tokio::sync::oneshot;
use zenoh::bytes::ZBytes;
use zenoh::key_expr::KeyExpr;
use zenoh::qos::{CongestionControl, Priority};
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Session, Wait};

use crate::engine::{Engine, IsDeaf, Kept, Start};
use crate::expose::Exposed;
use crate::hearing::Missing;
use crate::names::Names;
use crate::settings::{self, Settings};

/// How long the hosts that are there may take to be told.
const TELLING: Duration = Duration::from_secs(1);

/// Carries frames over zenoh.
pub struct Zenoh {
    pub(crate) engine: Engine,
    names: Names,
    own: Peer,
    lanes: Arc<Mutex<Lanes>>,
    /// The addresses of hubs, for people.
    hubs: Vec<String>,
    /// What answers programs in other languages, if they may ask.
    exposed: Option<Exposed>,
}

/// The lanes in use, by their declared keys: on the wire, these are numbers.
#[derive(Default)]
struct Lanes {
    /// The hosts that are there. Only for these is something declared, because only their end is told.
    up: HashSet<Peer>,
    keys: HashMap<Peer, HashMap<Lane, KeyExpr<'static>>>,
    missing: Missing,
}

impl Lanes {
    fn key(&self, to: &Peer, lane: &Lane) -> Option<&KeyExpr<'static>> {
        self.keys.get(to)?.get(lane)
    }

    /// Keeps a key, unless the host has gone meanwhile.
    fn keep(&mut self, to: &Peer, lane: &Lane, key: &KeyExpr<'static>) -> bool {
        let is_up = self.up.contains(to);
        if is_up {
            self.keys.entry(to.clone()).or_default().insert(lane.clone(), key.clone());
        }
        is_up
    }

    fn is_up(&mut self, peer: &Peer) {
        self.missing.is_there(&settings::id_of(peer));
        self.up.insert(peer.clone());
    }

    /// Forgets a host, and returns what had been declared for it.
    fn gone(&mut self, peer: &Peer) -> HashMap<Lane, KeyExpr<'static>> {
        self.up.remove(peer);
        self.keys.remove(peer).unwrap_or_default()
    }
}

impl fmt::Debug for Zenoh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zenoh").field("own", &self.own).finish_non_exhaustive()
    }
}

/// Resolves once the engine's session is closed and its thread has ended. One that has never reached a hub is not waited for: it ends by
/// itself, when it has tried the next one.
#[derive(Debug)]
pub struct Ended {
    over: oneshot::Receiver<()>,
    engine: Engine,
}

impl Ended {
    /// Waits for it.
    pub async fn wait(self) {
        if self.engine.look(|_| ()).is_some() {
            let _ = self.over.await;
        }
    }
}

impl Zenoh {
    /// Begins to carry frames for a host, until the carrier is dropped; [`Ended`] waits until that is done. A hub that does not answer is
    /// no error: it is tried until it does.
    ///
    /// With `bus`, programs in other languages may ask what this host announces.
    ///
    /// # Errors
    /// What of the config cannot be used, and what to do.
    pub async fn open(config: &FleetConfig, own: Peer, bus: Option<BusHandle>) -> Result<(Arc<Self>, Ended)> {
        let Settings { engine: settings, is_hub, hubs, tries, scouts } = settings::of(config, &own)?;
        let names = Names::new(&config.name, own.clone());
        let fence = names.presence(&Presence::Up(own.clone()));
        let lanes = Arc::default();
        let start = Start { settings, hubs: hubs.clone(), tries, scouts, fence };
        let (engine, over) = Engine::start(start, is_deaf(is_hub, Arc::clone(&lanes))).await?;
        let exposed = bus.map(Exposed::new);
        let ended = Ended { over, engine: engine.clone() };
        Ok((Arc::new(Self { engine, names, own, lanes, hubs, exposed }), ended))
    }

    /// Declares something on the session's thread, and a guard that takes it back there.
    fn declare(&self, declare: impl FnMut(&Session) -> zenoh::Result<Kept> + Send + 'static) -> Guard {
        Box::new(Declared { number: self.engine.declare(declare), engine: self.engine.clone() })
    }

    fn key_of(&self, session: &Session, to: &Peer, lane: &Lane) -> Result<KeyExpr<'static>> {
        let is_up = {
            let lanes = lock(&self.lanes);
            if let Some(key) = lanes.key(to, lane) {
                return Ok(key.clone());
            }
            lanes.up.contains(to)
        };
        let name = self.names.lane(to, lane);
        let by_name = |name: String| KeyExpr::try_from(name).map_err(|error| failed(&*error));
        if !is_up {
            return by_name(name);
        }
        let key = session.declare_keyexpr(name.clone()).wait().map_err(|error| failed(&*error))?;
        if lock(&self.lanes).keep(to, lane, &key) {
            return Ok(key);
        }
        session.undeclare(key).wait().map_err(|error| failed(&*error))?;
        by_name(name)
    }
}

impl Drop for Zenoh {
    fn drop(&mut self) {
        self.engine.close();
    }
}

/// Whether this host is a hub that does not hear another one: see `hearing.rs`.
fn is_deaf(is_hub: bool, lanes: Arc<Mutex<Lanes>>) -> IsDeaf {
    Box::new(move |session| {
        let hubs = session.info().routers_zid().wait().map(|id| id.to_string()).collect();
        // Asked also where it does not count, which forgets those who have left.
        lock(&lanes).missing.is_connected(&hubs, Instant::now()) && is_hub
    })
}

/// A watch, over all sessions.
struct Watch {
    names: Names,
    lanes: Arc<Mutex<Lanes>>,
    engine: Engine,
    told: Arc<dyn Fn(Seen) + Send + Sync>,
    /// Which session it is, and who was told to be there in it.
    there: Mutex<(u64, HashSet<Presence>)>,
}

impl Watch {
    /// Another session begins: what the one before has told is not known any more. Returns its number.
    fn begin(&self) -> u64 {
        let (session, before) = {
            let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
            there.0 += 1;
            (there.0, std::mem::take(&mut there.1))
        };
        let is_anew = !before.is_empty();
        before.into_iter().for_each(|presence| self.is_gone(presence));
        if is_anew {
            lock(&self.lanes).missing.clear();
        }
        session
    }

    fn hears(&self, session: u64, sample: &Sample) {
        let Some(presence) = self.names.read_presence(sample.key_expr().as_str()) else { return };
        let is_there = sample.kind() == SampleKind::Put;
        {
            let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
            if there.0 != session {
                return;
            }
            if is_there {
                there.1.insert(presence.clone());
            } else {
                there.1.remove(&presence);
            }
        }
        if !is_there {
            return self.is_gone(presence);
        }
        if let Presence::Up(peer) = &presence {
            lock(&self.lanes).is_up(peer);
        }
        (self.told)(Seen::Present(presence));
    }

    fn is_gone(&self, presence: Presence) {
        if let Presence::Up(gone) = &presence {
            let unused = {
                let mut lanes = lock(&self.lanes);
                lanes.missing.is_gone(settings::id_of(gone), Instant::now());
                lanes.gone(gone)
            };
            self.engine.run(move |session| unused.into_values().for_each(|key| drop(session.undeclare(key).wait())));
        }
        (self.told)(Seen::Absent(presence));
    }
}

/// Tells that all has been told when it is dropped.
struct All(Arc<dyn Fn(Seen) + Send + Sync>);

impl Drop for All {
    fn drop(&mut self) {
        (self.0)(Seen::All);
    }
}

fn lock(lanes: &Mutex<Lanes>) -> MutexGuard<'_, Lanes> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: &(dyn std::error::Error + Send + Sync)) -> Error {
    Error::msg(format!("the engine refuses it: {error}"))
}

impl Carrier for Zenoh {
    fn own(&self) -> Peer {
        self.own.clone()
    }

    fn announce(&self, what: Presence) -> Result<Guard> {
        let name = self.names.presence(&what);
        let exposed = match (&what, &self.exposed) {
            (Presence::Offer(_, id), Some(exposed)) => Some((self.names.ask(id), Arc::clone(id), exposed.clone())),
            _ => None,
        };
        Ok(self.declare(move |session| {
            let exposed = exposed.clone();
            let asked = exposed.map(|(key, id, exposed)| exposed.declare(session, key, id)).transpose()?;
            Ok(Box::new((session.liveliness().declare_token(name.clone()).wait()?, asked)))
        }))
    }

    fn watch(&self, which: Which, told: Arc<dyn Fn(Seen) + Send + Sync>) -> Result<Guard> {
        let watched = self.names.which(&which);
        let mut all = Some(All(Arc::clone(&told)));
        let (names, lanes, engine) = (self.names.clone(), Arc::clone(&self.lanes), self.engine.clone());
        let watch = Arc::new(Watch { names, lanes, engine, told, there: Mutex::default() });
        Ok(self.declare(move |session| {
            let (number, hearing) = (watch.begin(), Arc::clone(&watch));
            let callback = move |sample: Sample| hearing.hears(number, &sample);
            let liveliness = session.liveliness();
            let kept = liveliness.declare_subscriber(watched.clone()).history(true).callback(callback).wait()?;
            if let Some(all) = all.take() {
                // This is answered after the history; and the callback is dropped after the last answer, or if it cannot be asked.
                let asked = liveliness.get(watched.clone()).timeout(TELLING).callback(move |_| {
                    let _ = &all;
                });
                asked.wait()?;
            }
            Ok(Box::new(kept))
        }))
    }

    /// Where a lane is declared, a put only writes into a queue, which has room for what is little.
    fn try_send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Option<Bytes> {
        let Some(key) = lock(&self.lanes).key(to, lane).cloned() else { return Some(frame) };
        let mut left = Some(frame);
        self.engine.look(|session| {
            if let Some(frame) = left.take()
                && let Err(error) = put(session, key, lane, frame)
            {
                tracing::debug!(%to, ?lane, %error, "a frame was not sent");
            }
        });
        left
    }

    fn send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Result<()> {
        if frame.len() > settings::MAX_FRAME {
            let what = format!("a frame of {} bytes is too long: {} at most", frame.len(), settings::MAX_FRAME);
            return Err(Error::new(ErrorKind::Encoding, what));
        }
        let Some(session) = self.engine.session() else {
            return Err(Error::msg("no hub is reached"));
        };
        put(&session, self.key_of(&session, to, lane)?, lane, frame)
    }

    fn receive(&self, into: Arc<dyn Fn(Peer, Lane, Bytes) + Send + Sync>) -> Result<Guard> {
        let (names, inbox) = (self.names.clone(), self.names.inbox());
        let callback = move |sample: Sample| {
            if let Some((from, lane)) = names.read_frame(sample.key_expr().as_str()) {
                into(from, lane, Bytes::from(sample.payload().to_bytes().into_owned()));
            }
        };
        let callback = Arc::new(callback);
        Ok(self.declare(move |session| {
            let receiving = Arc::clone(&callback);
            let kept = session.declare_subscriber(inbox.clone()).callback(move |sample| receiving(sample)).wait()?;
            Ok(Box::new(kept))
        }))
    }

    fn links(&self) -> Vec<String> {
        let links = self.engine.look(|session| {
            let info = session.info();
            let own = info.zid().wait();
            let hubs = info.routers_zid().wait().filter(|id| *id != own).map(|id| format!("hub {id}: connected"));
            let others = info.peers_zid().wait().map(|id| format!("{id}: connected"));
            hubs.chain(others).collect()
        });
        links.unwrap_or_else(|| self.hubs.iter().map(|hub| format!("{hub}: does not answer")).collect())
    }
}

fn put(session: &Session, key: KeyExpr<'static>, lane: &Lane, frame: Bytes) -> Result<()> {
    let priority = if *lane == Lane::Link { Priority::InteractiveHigh } else { Priority::Data };
    let put = session.put(key, ZBytes::from(frame));
    let put = put.congestion_control(CongestionControl::Block).priority(priority).express(true);
    put.wait().map_err(|error| failed(&*error))
}

/// Something that is declared in the engine, as soon as there is a session.
struct Declared {
    number: u64,
    engine: Engine,
}

impl Drop for Declared {
    fn drop(&mut self) {
        self.engine.undeclare(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(what: &str, is: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !is() {
            assert!(Instant::now() < limit, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn lanes_are_declared_for_hosts_that_are_there_and_forgotten_with_them() {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let config = serde_json::json!({ "name": "shop", "listen": [format!("127.0.0.1:{port}")] });
        let config = serde_json::from_value(config).expect("a config");
        let own = Peer { host: "hub".into(), epoch: 0x1f2e_3d4c_5b6a_7988 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (hub, ended) = runtime.block_on(Zenoh::open(&config, own.clone(), None)).expect("it opens");
        let lane = Lane::Directive("example/greet".into());
        let send = |to: &Peer| hub.send(to, &lane, Bytes::from_static(b"frame")).expect("it is sent");
        let declared = || lock(&hub.lanes).keys.values().map(HashMap::len).sum::<usize>();
        let _watch = hub.watch(Which::Up, Arc::new(|_| {})).expect("a watch");
        let name = hub.engine.look(|session| session.info().zid().wait().to_string()).expect("a session");
        assert_eq!(name, settings::id_of(&own), "hubs know their connections by that");

        // Whoever was never there, under as many names as he likes.
        for epoch in 0..100 {
            send(&Peer { host: "stranger".into(), epoch });
        }
        assert_eq!(declared(), 0);
        let up = hub.announce(Presence::Up(own.clone())).expect("it is announced");
        until("it is up", || lock(&hub.lanes).up.contains(&own));
        send(&own);
        send(&own);
        assert_eq!(declared(), 1);
        drop(up);
        until("it is gone", || !lock(&hub.lanes).up.contains(&own));
        // What is still on its way to it.
        send(&own);
        assert_eq!(declared(), 0);
        drop((_watch, hub));
        runtime.block_on(ended.wait());
    }
}

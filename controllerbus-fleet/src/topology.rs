//! The task of a fleet: which hosts there are, which of them are linked, and what they have on the bus.

mod asked;
mod crowd;
mod leaving;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use controllerbus::Error;
use controllerbus::bus::ControllerId;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::carrier::{Peer, Presence, Seen, Which};
use crate::config::AskOf;
use crate::controllers::gate::Gate;
use crate::controllers::host::HostController;
use crate::controllers::one::OneController;
use crate::controllers::{FLEET, info, status};
use crate::event::FleetEvent;
use crate::link::greeting::{Farewell, LinkMessage};
use crate::link::{Link, clock};
use crate::presence;
use crate::shared::{Shared, ShownHost, Tell, unreachable};

/// How many hosts may be known.
const MOST_HOSTS: usize = 10_000;

/// A host, as it is known here.
#[derive(Default)]
struct Host {
    present: bool,
    /// The ids that it offers and this host asks; with the time at which one that it does not offer any more goes.
    offers: BTreeMap<Arc<str>, Option<Instant>>,
    /// Since when it is known, in milliseconds since 1970.
    since_ms: u64,
    link: Option<Arc<Link>>,
    up: bool,
    lost: bool,
    /// Its link ends, because there is no room for it.
    is_given_up: bool,
    /// Its controllers on the bus.
    controllers: BTreeMap<Arc<str>, (Arc<HostController>, ControllerId)>,
    /// Why the last link was ended, and when it may be tried again.
    refused: Option<(String, Instant)>,
}

pub(crate) struct Topology {
    shared: Arc<Shared>,
    hosts: BTreeMap<Peer, Host>,
    /// The ids that one host is asked, and their controllers as long as a host offers them.
    one: BTreeMap<String, Option<(Arc<OneController>, ControllerId)>>,
    /// The controllers that are there for as long as the fleet is.
    own: Vec<ControllerId>,
    gate: Option<GateKeeper>,
    /// The watches that have not told all yet.
    untold: usize,
    was_linked: bool,
    /// When it was logged last that there are too many hosts.
    told_crowded: Option<Instant>,
    /// Announces what this host offers.
    offering: AbortHandle,
    has_let_go: bool,
}

/// The gate, until it is opened.
struct GateKeeper {
    controller: ControllerId,
    open: watch::Sender<bool>,
    until: Instant,
}

impl Topology {
    /// Puts the fleet's own controllers on the bus. `untold` watches have to tell what there is.
    pub(crate) fn new(shared: &Arc<Shared>, untold: usize) -> Self {
        let (open, is_open) = watch::channel(false);
        let asked = shared.options.asked().into_iter().map(str::to_owned).collect();
        let gate = Arc::new(Gate { ids: asked, open: is_open });
        let own = Arc::clone(&shared.own.host);
        let add = |id: &str, controller, what: &str| shared.add_controller(&own, controller, info(id, id, what));
        let controller = add(&format!("{FLEET}/gate"), gate, "Waits until the hosts of the fleet are known");
        let status = shared
            .bus
            .add_controller(Arc::new(status::controller(shared)), info(FLEET, FLEET, "What is known of the fleet"));
        Self {
            shared: Arc::clone(shared),
            hosts: BTreeMap::new(),
            one: shared.options.asked_of(AskOf::One).map(|id| (id.to_owned(), None)).collect(),
            own: vec![status],
            gate: Some(GateKeeper { controller, open, until: Instant::now() + shared.options.times.gate }),
            untold,
            was_linked: false,
            told_crowded: None,
            offering: tokio::spawn(presence::follow(Arc::clone(shared))).abort_handle(),
            has_let_go: false,
        }
    }

    /// Whether it is known who is there, as far as that is waited for.
    pub(crate) fn known(&self) -> Option<watch::Receiver<bool>> {
        self.gate.as_ref().map(|gate| gate.open.subscribe())
    }

    pub(crate) async fn run(mut self, mut told: UnboundedReceiver<Tell>) {
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                tell = told.recv() => match tell {
                    Some(Tell::Leave(done)) => return self.leave(done, told).await,
                    Some(tell) => self.take(tell),
                    None => return,
                },
                () = sleep_until(deadline) => {}
            }
            self.look_after(Instant::now());
        }
    }

    fn take(&mut self, tell: Tell) {
        match tell {
            Tell::Seen(Seen::Present(Presence::Up(peer))) => self.came(peer),
            Tell::Seen(Seen::Absent(Presence::Up(peer))) => self.went(&peer),
            Tell::Seen(Seen::Present(Presence::Offer(peer, id))) => self.offers(peer, &id),
            Tell::Seen(Seen::Absent(Presence::Offer(peer, id))) => self.offers_no_more(&peer, &id),
            Tell::Seen(Seen::All) => self.untold = self.untold.saturating_sub(1),
            Tell::Stranger(peer, frame) => self.stranger(peer, frame),
            Tell::Up(link) => self.up(&link),
            Tell::Lost(link, why) => self.lost(&link, why),
            Tell::Left(link) => self.left(&link),
            Tell::Refused(link, why) => self.refused(&link, why),
            Tell::Over(link, why) => self.over(&link, &why),
            Tell::Leave(_) => {}
        }
    }

    fn host(&mut self, peer: &Peer) -> &mut Host {
        self.hosts.entry(peer.clone()).or_insert_with(|| Host { since_ms: clock(), ..Host::default() })
    }

    fn came(&mut self, peer: Peer) {
        if peer == self.shared.own || !self.admits(&peer) {
            return;
        }
        let host = self.host(&peer);
        host.present = true;
        if let Some(link) = &host.link {
            link.set_present(true);
        }
        self.settle(&peer);
    }

    fn went(&mut self, peer: &Peer) {
        let Some(host) = self.hosts.get_mut(peer) else { return };
        host.present = false;
        match &host.link {
            // Its task says what becomes of it.
            Some(link) => link.set_present(false),
            None => drop(self.hosts.remove(peer)),
        }
        self.settle(peer);
    }

    fn offers(&mut self, peer: Peer, id: &Arc<str>) {
        if peer == self.shared.own || !self.shared.options.asks.contains_key(&**id) || !self.admits(&peer) {
            return;
        }
        self.host(&peer).offers.insert(Arc::clone(id), None);
        self.settle(&peer);
    }

    /// The host may be gone as a whole, which is another thing, and is told next.
    fn offers_no_more(&mut self, peer: &Peer, id: &Arc<str>) {
        let at = Instant::now() + self.shared.options.times.withdraw;
        let Some(host) = self.hosts.get_mut(peer) else { return };
        if let Some(goes) = host.offers.get_mut(id) {
            *goes = Some(at);
        }
    }

    fn stranger(&mut self, peer: Peer, frame: bytes::Bytes) {
        self.shared.strangers.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        if let Some(link) = self.shared.link(&peer) {
            return link.receive(crate::carrier::Lane::Link, frame);
        }
        if peer == self.shared.own || !self.admits(&peer) {
            return;
        }
        let now = Instant::now();
        let refused = self.hosts.get(&peer).and_then(|host| host.refused.as_ref()).filter(|(_, until)| *until > now);
        let refused = refused.map(|(why, _)| why.clone());
        let has_room = match refused {
            Some(why) => Err(why),
            None => self.make_room(&peer).inspect_err(|why| self.has_no_room(&peer, why)),
        };
        if let Err(why) = has_room {
            let bye = LinkMessage::Bye { farewell: Farewell::Refuses, to: None, why };
            return self.shared.outbox.send(&peer, bye.write());
        }
        let link = self.link(&peer);
        link.receive(crate::carrier::Lane::Link, frame);
        self.settle(&peer);
    }

    /// Begins a link to a host.
    fn link(&mut self, peer: &Peer) -> Arc<Link> {
        let shared = Arc::clone(&self.shared);
        let host = self.host(peer);
        host.refused = None;
        let link = Link::start(&shared, peer.clone(), host.present);
        host.link = Some(Arc::clone(&link));
        shared.keep_link(&link);
        link
    }

    /// The host of a link, if it is still the one.
    fn host_of(&mut self, link: &Arc<Link>) -> Option<&mut Host> {
        let host = self.hosts.get_mut(link.peer())?;
        host.link.as_ref().is_some_and(|known| Arc::ptr_eq(known, link)).then_some(host)
    }

    fn up(&mut self, link: &Arc<Link>) {
        let Some(host) = self.host_of(link) else { return };
        (host.up, host.lost) = (true, false);
        self.was_linked = true;
        self.shared.event(FleetEvent::Up(link.peer().clone()));
        self.settle(link.peer());
    }

    fn lost(&mut self, link: &Arc<Link>, why: String) {
        let Some(host) = self.host_of(link) else { return };
        (host.up, host.lost) = (false, true);
        self.withdraw(link, Some(&unreachable(&link.peer().host, &why)));
        self.shared.event(FleetEvent::Lost { host: link.peer().clone(), why });
        self.is_cut_off();
        self.settle(link.peer());
    }

    fn left(&mut self, link: &Arc<Link>) {
        let Some(host) = self.host_of(link) else { return };
        (host.up, host.lost) = (false, false);
        self.withdraw(link, None);
        if let Some(host) = self.host_of(link) {
            host.offers.clear();
        }
        self.shared.event(FleetEvent::Left(link.peer().clone()));
    }

    fn refused(&mut self, link: &Arc<Link>, why: String) {
        let again = Instant::now() + self.shared.options.times.refused;
        let Some(host) = self.host_of(link) else { return };
        host.up = false;
        host.refused = Some((why.clone(), again));
        self.withdraw(link, Some(&unreachable(&link.peer().host, &why)));
        self.shared.event(FleetEvent::Refused { host: link.peer().clone(), why });
    }

    /// The task of a link has ended.
    fn over(&mut self, link: &Arc<Link>, why: &Error) {
        self.shared.forget_link(link);
        self.withdraw(link, None);
        link.end(why);
        let Some(host) = self.host_of(link) else { return };
        (host.up, host.link, host.is_given_up) = (false, None, false);
        let is_known = host.present || host.refused.is_some();
        if !is_known {
            self.hosts.remove(link.peer());
        }
        self.settle(link.peer());
    }

    fn is_cut_off(&mut self) {
        if self.was_linked && !self.hosts.values().any(|host| host.up) {
            self.was_linked = false;
            self.shared.event(FleetEvent::CutOff);
        }
    }

    /// Brings what there is of a host in line with what is known of it.
    fn settle(&mut self, peer: &Peer) {
        self.link_if_needed(peer);
        let Some(host) = self.hosts.get_mut(peer) else { return self.show() };
        let Some(link) = host.link.clone().filter(|_| host.up) else { return self.show() };
        for id in host.offers.keys().cloned().collect::<Vec<_>>() {
            if self.one.contains_key(&*id) {
                self.asks_of_one(&id, &link);
            } else if let Some(host) = self.hosts.get_mut(peer) {
                let add = || HostController::add(&self.shared, &link, &id);
                host.controllers.entry(Arc::clone(&id)).or_insert_with(add);
            }
        }
        self.show();
    }

    fn link_if_needed(&mut self, peer: &Peer) {
        let Some(host) = self.hosts.get(peer) else { return };
        let is_needed = host.present && !host.offers.is_empty();
        if is_needed && host.link.is_none() && host.refused.as_ref().is_none_or(|(_, until)| *until <= Instant::now()) {
            match self.make_room(peer) {
                Ok(()) => drop(self.link(peer)),
                Err(why) => self.has_no_room(peer, &why),
            }
        }
    }

    fn show(&self) {
        let shown = self.hosts.iter().map(|(peer, host)| {
            let offers = host.offers.keys().cloned().collect();
            let problem = host.refused.as_ref().map(|(why, _)| why.clone()).or_else(|| self.twice(peer));
            let shown = ShownHost {
                since_ms: host.since_ms,
                offers,
                problem,
                refused: host.refused.is_some(),
                lost: host.lost,
            };
            (peer.clone(), shown)
        });
        let shown: BTreeMap<_, _> = shown.collect();
        *self.shared.hosts.write().unwrap_or_else(PoisonError::into_inner) = shown;
        self.shared.notify_changed();
    }

    /// Two incarnations of this host's own name are a mistake, unless one of them is a command line.
    fn twice(&self, peer: &Peer) -> Option<String> {
        (peer.host == self.shared.own.host)
            .then(|| "it has the name of this host; give each host its own, unless it is a command".to_owned())
    }

    /// Does what it is time for.
    fn look_after(&mut self, now: Instant) {
        let gone = self.hosts.iter_mut().flat_map(|(peer, host)| {
            let due = host.offers.extract_if(.., move |_, goes| goes.is_some_and(|at| at <= now));
            due.map(|(id, _)| (peer.clone(), id)).collect::<Vec<_>>()
        });
        for (peer, id) in gone.collect::<Vec<_>>() {
            self.offered(&peer, &id);
        }
        let again = self.hosts.iter().filter(|(_, host)| host.refused.as_ref().is_some_and(|(_, at)| *at <= now));
        for peer in again.map(|(peer, _)| peer.clone()).collect::<Vec<_>>() {
            if let Some(host) = self.hosts.get_mut(&peer) {
                host.refused = None;
                if !host.present && host.link.is_none() {
                    self.hosts.remove(&peer);
                }
            }
            self.settle(&peer);
        }
        self.open_gate(now);
    }

    /// A host does not offer an id any more.
    fn offered(&mut self, peer: &Peer, id: &Arc<str>) {
        let Some(host) = self.hosts.get_mut(peer) else { return };
        let controller = host.controllers.remove(id);
        let link = host.link.clone();
        if !host.present && host.link.is_none() && host.offers.is_empty() {
            self.hosts.remove(peer);
        }
        if let Some(link) = link {
            self.asks_no_more(id, &link, None);
        }
        if let Some((_, id)) = controller {
            self.remove(id);
        }
        self.show();
    }

    /// Opens the gate once all hosts that offer what is asked are linked, or at its time.
    fn open_gate(&mut self, now: Instant) {
        let waits = |host: &Host| host.present && !host.offers.is_empty() && !host.up && host.refused.is_none();
        let is_known = self.untold == 0 && !self.hosts.values().any(waits);
        if let Some(gate) = self.gate.take_if(|gate| is_known || gate.until <= now) {
            gate.open.send_replace(true);
            self.remove(gate.controller);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let offers = self.hosts.values().flat_map(|host| host.offers.values().flatten().copied());
        let refused = self.hosts.values().filter_map(|host| host.refused.as_ref().map(|(_, at)| *at));
        offers.chain(refused).chain(self.gate.as_ref().map(|gate| gate.until)).min()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What is to be watched, for what a host asks.
pub(crate) fn watched(asked: &BTreeSet<&str>) -> Vec<Which> {
    let offers = asked.iter().map(|id| Which::Offer(Arc::from(*id)));
    std::iter::once(Which::Up).chain(offers).collect()
}

//! Whose turn it is to fetch: hosts of a site share a line, and a few at a time fetch over it.
//!
//! Who wants to fetch says so, with the time since when, and waits until fewer than [`AT_A_TIME`] others fetch or have wanted to for
//! longer. Everybody hears it through the fleet, and what a host says goes when the host does: so there is nothing to be cleaned up.
//! It is a courtesy to the line and no lock: hosts that do not hear of each other do not wait for each other.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use controllerbus::BusHandle;
use controllerbus::prelude::*;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::release::now_ms;
use crate::store::jittered;

/// How many hosts of a site fetch at the same time.
const AT_A_TIME: usize = 4;

/// Others have so long to say that they fetch.
const SETTLE: Duration = Duration::from_secs(2);

/// How often who waits looks again, although nobody has said anything new.
const LOOK: Duration = Duration::from_secs(1);

/// Asks the hosts of a site which of them fetch an artifact, or wait for their turn.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "fleet/artifact-turn", value = Turn)]
pub struct ArtifactTurn {
    /// The site's name.
    pub site: String,
}

/// A host that fetches, or waits for its turn.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug)]
#[non_exhaustive]
pub struct Turn {
    /// The host.
    pub host: String,
    /// Since when it wants to, by its clock, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whether it fetches.
    pub fetches: bool,
}

/// The turns of a host.
pub(super) struct Turns {
    host: String,
    site: Option<String>,
    bus: OnceLock<BusHandle>,
    /// What this host says; nothing while it does not want to fetch.
    own: watch::Sender<Option<Turn>>,
    /// Its plugins fetch one after the other.
    one: Mutex<()>,
}

/// A turn that has come. It is over when this is dropped.
pub(super) struct Taken<'a> {
    own: &'a watch::Sender<Option<Turn>>,
    _one: MutexGuard<'a, ()>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.own.send_replace(None);
    }
}

impl Turns {
    pub(super) fn new(host: &str, site: Option<String>) -> Self {
        Self { host: host.to_owned(), site, bus: OnceLock::new(), own: watch::Sender::new(None), one: Mutex::new(()) }
    }

    /// From now on the other hosts are asked.
    pub(super) fn ask(&self, bus: BusHandle) {
        let _ = self.bus.set(bus);
    }

    /// Answers those who ask about this host's site.
    pub(super) async fn answer(self: Arc<Self>, asked: ArtifactTurn, values: Values<Turn>) -> Result<()> {
        if self.site.as_ref() == Some(&asked.site) { values.follow(self.own.subscribe()).await } else { Ok(()) }
    }

    /// Waits for this host's turn; not at all where it has no site.
    pub(super) async fn take(&self) -> Option<Taken<'_>> {
        let (site, bus) = (self.site.clone()?, self.bus.get()?);
        let turn = Taken { own: &self.own, _one: self.one.lock().await };
        let mut own = Turn { host: self.host.clone(), since_ms: now_ms(), fetches: false };
        self.own.send_replace(Some(own.clone()));
        // A bus that is closing asks nobody.
        let mut others = bus.request(ArtifactTurn { site }).ok()?;
        let heard = async { while !others.is_idle() && others.next().await.is_some() {} };
        let _ = tokio::time::timeout(SETTLE, heard).await;
        loop {
            let is_before = |other: &&Arc<Turn>| {
                let (theirs, ours) = ((other.since_ms, &other.host), (own.since_ms, &own.host));
                other.host != own.host && (other.fetches || theirs < ours)
            };
            if others.standing().filter(is_before).count() < AT_A_TIME {
                break;
            }
            tokio::select! {
                event = others.next() => if event.is_none() { break },
                () = tokio::time::sleep(jittered(LOOK)) => {}
            }
        }
        own.fetches = true;
        self.own.send_replace(Some(own));
        Some(turn)
    }
}

//! Joining a fleet, and leaving it.

use std::sync::Arc;

use controllerbus::{Bus, Error, Result};
use tokio::sync::{broadcast, oneshot};

use crate::carrier::{Carrier, Peer, Presence, Which};
use crate::controllers::status;
use crate::counts::Counting;
use crate::event::FleetEvent;
use crate::options::FleetOptions;
use crate::outbox::Outbox;
use crate::shared::{Shared, Tell};
use crate::status::Counts;
use crate::topology::{Topology, watched};

/// A host's place in a fleet. Dropping it leaves the fleet; [`Fleet::leave`] waits for that.
///
/// ```
/// use std::sync::Arc;
///
/// use controllerbus::controller::{Closures, Info};
/// use controllerbus::prelude::*;
/// use controllerbus_fleet::memory::Network;
/// use controllerbus_fleet::{Fleet, FleetOptions};
///
/// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// #[directive(id = "example/greet", value = String)]
/// struct Greet { name: String }
///
/// #[tokio::main]
/// async fn main() -> Result<()> {
///     let network = Network::new(1);
///     // One host has a controller that greets, and offers it.
///     let edge = Bus::new();
///     let greets = Closures::new().resolves(|greet: Greet, values| async move {
///         values.add(format!("Hello, {}!", greet.name));
///         Ok(())
///     });
///     edge.add_controller(Arc::new(greets), Info::new("greeter", "1.0.0".parse()?, "greeter"));
///     let offers = FleetOptions::new("shop").offers("example/greet");
///     let _edge = Fleet::join(&edge, network.host("edge"), offers).await?;
///     // Another one asks.
///     let core = Bus::new();
///     let core_fleet = Fleet::join(&core, network.host("core"), FleetOptions::new("shop").asks("example/greet")).await?;
///     assert_eq!(*core.resolve(Greet { name: "Ada".into() }).await?, "Hello, Ada!");
///     core_fleet.leave().await;
///     Ok(())
/// }
/// ```
#[must_use = "dropping it leaves the fleet"]
pub struct Fleet {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("own", &self.shared.own).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// Joins a fleet: announces this host and what it offers, and links it to the hosts of which one asks what the other offers.
    ///
    /// It waits for a second at most until it is known who is there, and linked to those that offer what is asked here, and it fails with
    /// none of them. What was asked before, or is asked meanwhile, is held busy until then; a call is not, because whoever would hold it
    /// would have taken it.
    ///
    /// # Errors
    /// [`Invalid`](controllerbus::error::ErrorKind::Invalid) where an id cannot be asked or offered; why the carrier cannot announce
    /// or receive.
    pub async fn join(bus: &Bus, carrier: Arc<dyn Carrier>, options: FleetOptions) -> Result<Self> {
        options.check()?;
        let (own, counts) = (carrier.own(), Arc::<Counting>::default());
        let outbox = Outbox::start(carrier, Arc::clone(&counts))?;
        let (shared, told) = Shared::new(bus.clone(), own, options, counts, outbox);
        let which = watched(&shared.options.asked());
        // Before it is known who is there, so that nothing is idle too early.
        let topology = Topology::new(&shared, which.len());
        let known = topology.known().filter(|_| !shared.options.asks.is_empty());
        drop(tokio::spawn(topology.run(told)));
        let fleet = Self { shared };
        fleet.begin(which).await?;
        if let Some(mut known) = known {
            // Its task opens the gate in time.
            let _ = known.wait_for(|known| *known).await;
        }
        Ok(fleet)
    }

    /// Receives, announces this host, and watches the others, where the carrier may block.
    async fn begin(&self, which: Vec<Which>) -> Result<()> {
        let (done, begun) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.outbox.run_with_carrier(move |carrier| {
            // Who joins may have given up.
            let _ = done.send(begin(&shared, &**carrier, which));
        });
        begun.await.unwrap_or_else(|_| Err(Error::msg("the carrier has panicked")))
    }

    /// Which host this is.
    pub fn own(&self) -> &Peer {
        &self.shared.own
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        status::counts_of(&self.shared)
    }

    /// What happens to the hosts from now on. Who reads too slowly misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<FleetEvent> {
        self.shared.events.subscribe()
    }

    /// Leaves the fleet: the other hosts withdraw what this one has given, without an error, and release what it has asked.
    pub async fn leave(self) {
        let (done, left) = oneshot::channel();
        self.shared.tell(Tell::Leave(Some(done)));
        // Without an answer it has left already.
        let _ = left.await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.tell(Tell::Leave(None));
    }
}

fn begin(shared: &Arc<Shared>, carrier: &dyn Carrier, which: Vec<Which>) -> Result<()> {
    let receives = Arc::clone(shared);
    let mut own = vec![carrier.receive(Arc::new(move |from, lane, frame| receives.receive(from, lane, frame)))?];
    for which in which {
        let told = Arc::clone(shared);
        own.push(carrier.watch(which, Arc::new(move |seen| told.tell(Tell::Seen(seen))))?);
    }
    own.push(carrier.announce(Presence::Up(shared.own.clone()))?);
    shared.keep(own);
    Ok(())
}

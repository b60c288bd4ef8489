//! Joining a fleet, and leaving it.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use controllerbus::bus::Origin;
use controllerbus::{Bus, Result};
use controllerbus_fleet::carrier::Peer;
use controllerbus_fleet::config::FleetConfig;
use controllerbus_fleet::{Fleet, FleetOptions};

use crate::carrier::{Ended, Zenoh};

/// How long leaving is waited for.
pub(crate) const LEAVING: Duration = Duration::from_secs(5);

/// A bus that is in a fleet. It leaves when this is dropped; [`Joined::leave`] waits until it has.
#[derive(Debug)]
pub struct Joined {
    fleet: Fleet,
    ended: Ended,
}

/// Joins a fleet with a bus. Call it in a runtime; whose flavour does not matter.
///
/// A hub that does not answer is no error: it is tried until it does, and the bus works alone meanwhile. Where this host asks
/// something, it waits for a second at most until it is known who is there.
///
/// # Errors
/// What of the config cannot be used, and what to do.
pub async fn join(bus: &Bus, config: FleetConfig) -> Result<Joined> {
    let host = config.host.clone().unwrap_or_else(machine);
    let own = Peer { host: host.into(), epoch: RandomState::new().hash_one(std::process::id()) };
    // As from the fleet, so that each host replies with what it has itself.
    let exposed = config.expose.then(|| bus.handle_from(Origin::fleet("a program that queries")));
    let (carrier, ended) = Zenoh::open(&config, own, exposed).await?;
    let fleet = Fleet::join(bus, carrier, FleetOptions::from(&config)).await?;
    Ok(Joined { fleet, ended })
}

impl Joined {
    /// The fleet, as this host sees it.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Leaves: says goodbye, and waits until the engine has ended, for 5 seconds at most.
    pub async fn leave(self) {
        self.leave_within(LEAVING).await;
    }

    /// The same with another limit. Whether the engine has ended; otherwise it goes on to end in the background, which is logged, and what
    /// was said last may not have been sent.
    pub async fn leave_within(self, limit: Duration) -> bool {
        let left = async {
            self.fleet.leave().await;
            self.ended.wait().await;
        };
        let has_ended = tokio::time::timeout(limit, left).await.is_ok();
        if !has_ended {
            tracing::warn!(
                "the fleet was left, but its engine has not ended within {limit:?}: it goes on in the background, and what was said last \
                 may not have been sent"
            );
        }
        has_ended
    }
}

/// The machine's name.
fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn an_engine_that_does_not_end_is_waited_for_within_a_limit() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
            let listen = [format!("127.0.0.1:{}", port.expect("a port").port())];
            let config = serde_json::json!({ "name": "shop", "listen": listen, "asks": ["example/greet"] });
            let config = serde_json::from_value(config).expect("a config");
            let bus = Bus::new();
            let own = Peer { host: "hub".into(), epoch: 1 };
            let (carrier, ended) = Zenoh::open(&config, own, None).await.expect("it opens");
            let engine = carrier.engine.clone();
            let fleet = Fleet::join(&bus, carrier, FleetOptions::from(&config)).await.expect("it joins");
            // Its thread does something that never comes to an end.
            let (go_on, is_blocked) = std::sync::mpsc::channel::<()>();
            engine.run(move |_| assert!(is_blocked.recv().is_err(), "nobody sends"));
            let begun = Instant::now();
            assert!(!Joined { fleet, ended }.leave_within(Duration::from_millis(700)).await, "it has not ended");
            assert!(begun.elapsed() < LEAVING, "{:?}", begun.elapsed());
            assert!(bus.controllers().is_empty(), "the fleet was left all the same");
            drop(go_on);
        });
    }

    #[test]
    fn leaving_takes_less_than_a_bus_gives_a_controller_to_close() {
        assert!(LEAVING <= controllerbus::bus::Limits::default().close);
    }
}

//! Membership in a fleet as an entry of a config set: config ID `controllerbus/fleet`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controllerbus::bus::WeakBus;
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info, SwapMode};
use controllerbus::directive::wire;
use controllerbus::error::ErrorKind;
use controllerbus::{Bus, Config, Error, Result};
use controllerbus_fleet::config::FleetConfig;

use crate::join::{Joined, LEAVING, join};

/// The factory that lets a bus join fleets by entries of its config sets. The host adds it:
///
/// ```no_run
/// # use controllerbus::prelude::*;
/// # use controllerbus::bus::Source;
/// # async fn run() -> Result<()> {
/// let bus = Bus::new();
/// bus.add_factories(Source::STATIC, vec![controllerbus_zenoh::factory(&bus)]);
/// let set = "fleet: { id: controllerbus/fleet, config: { name: shop, connect: ['hub-1.shop:7447'], asks: [example/greet] } }";
/// bus.apply(ConfigSet::from_yaml(set)?).await?.all_running()?;
/// # Ok(())
/// # }
/// ```
///
/// An entry that is changed leaves, and joins anew: what others asked of this host is asked again.
pub fn factory(bus: &Bus) -> Arc<dyn Factory> {
    Arc::new(Members { bus: bus.downgrade() })
}

struct Members {
    bus: WeakBus,
}

impl Factory for Members {
    fn info(&self) -> Info {
        let version = env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0));
        Info::new(FleetConfig::ID, version, FleetConfig::ID).with_description(
            "Joins a fleet: directives that are added here are answered there, and the other way round.",
        )
    }

    fn schema(&self) -> String {
        FleetConfig::SCHEMA.to_json()
    }

    fn swap_mode(&self) -> SwapMode {
        // Two members cannot listen at one address.
        SwapMode::StopFirst
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let config: FleetConfig = wire::decode(&config).map_err(Error::permanent)?;
            config.validate().map_err(Error::permanent)?;
            let bus = self.bus.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the bus is gone"))?;
            let joined = Mutex::new(Some(join(&bus, config).await?));
            // Sooner than the bus gives it up, which would say less.
            let leaving = LEAVING.min(bus.limits().close * 4 / 5);
            Ok(Arc::new(Member { joined, leaving }) as Arc<dyn AnyController>)
        })
    }
}

/// Is in the fleet until it is closed.
struct Member {
    joined: Mutex<Option<Joined>>,
    /// How long leaving is waited for.
    leaving: Duration,
}

impl AnyController for Member {
    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(joined) = joined {
                joined.leave_within(self.leaving).await;
            }
        })
    }
}

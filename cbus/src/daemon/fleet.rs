//! The fleet of a daemon: what the config ids `controllerbus/fleet` and below need, or what says how to get it.

use controllerbus::Bus;
use controllerbus::bus::Source;
use hot_runtime::HotRuntime;

/// Makes the config id known to a bus.
#[cfg(feature = "fleet")]
pub fn add_to(bus: &Bus) {
    bus.add_factories(Source::STATIC, vec![controllerbus_zenoh::factory(bus)]);
}

/// Makes the config ids of rollouts known to a bus, for the plugins of its runtime. Call it inside of tokio.
#[cfg(feature = "fleet")]
pub fn add_rollouts_to(bus: &Bus, runtime: &HotRuntime) {
    bus.add_factories(Source::STATIC, controllerbus_rollout::factories(bus, runtime));
}

/// Makes the config ids known to a bus, on which they fail with what to do about that.
#[cfg(not(feature = "fleet"))]
pub fn add_to(bus: &Bus) {
    use controllerbus_api::fleet::{CONFIG_ID, rollout};
    let ids = [CONFIG_ID, rollout::AGENT, rollout::ORCHESTRATOR, rollout::PLACEMENT];
    bus.add_factories(Source::STATIC, ids.map(missing::factory).into());
}

/// Nothing: they are known already.
#[cfg(not(feature = "fleet"))]
pub fn add_rollouts_to(_: &Bus, _: &HotRuntime) {}

/// What a build needs to be in a fleet.
#[cfg(not(feature = "fleet"))]
pub const FEATURE: &str = "a cbus that is built with the feature `fleet`, which this one is not";

/// How to get such a build.
#[cfg(not(feature = "fleet"))]
pub const HOW_TO_GET_IT: &str =
    "`cargo install cbus --features fleet`, or in the repository `cargo install --path cbus --features fleet`";

#[cfg(not(feature = "fleet"))]
mod missing {
    //! The factory of a build that cannot be in a fleet.

    use std::sync::Arc;

    use controllerbus::controller::factory::Factory;
    use controllerbus::controller::{AnyController, BoxFuture, Info};
    use controllerbus::error::ErrorKind;
    use controllerbus::prelude::*;

    struct Missing(&'static str);

    pub fn factory(id: &'static str) -> Arc<dyn Factory> {
        Arc::new(Missing(id))
    }

    impl Factory for Missing {
        fn info(&self) -> Info {
            let version = env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0));
            Info::new(self.0, version, self.0).with_description("Says how to get a build that can be in a fleet.")
        }

        fn schema(&self) -> String {
            "true".to_owned()
        }

        fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
            let told = format!("to be in a fleet needs {}: {}", super::FEATURE, super::HOW_TO_GET_IT);
            Box::pin(async move { Err(Error::new(ErrorKind::NotFound, told).permanent()) })
        }
    }
}

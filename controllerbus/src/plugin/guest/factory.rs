//! A factory of a guest, as the host calls it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::bus::HostBus;
use super::{GuestObject, sockets, spawn};
use crate::bus::{BusHandle, contained};
use crate::controller::exclusive::Exclusive;
use crate::controller::factory::Factory;
use crate::controller::{Context, Info, SwapMode};
use crate::plugin::abi::{
    FactoryInfo, GuestFactory, GuestTaskPtr, HostConstructedDyn, HostConstructedPtr, HostSocketsPtr, List, Text, boxed,
};
use crate::plugin::contained::contain;
use crate::spans;

/// One factory, with its answers about itself, for which it is asked where a panic of it may unwind.
pub(super) struct Object {
    /// Gone once this is being dropped.
    factory: Option<Arc<dyn Factory>>,
    info: Arc<Info>,
    schema: String,
    swap: SwapMode,
    persist: Option<Duration>,
    bus: HostBus,
}

impl Object {
    pub(super) fn new(factory: Arc<dyn Factory>, bus: &HostBus) -> Self {
        let (info, schema, swap) = (Arc::new(factory.info()), factory.schema(), factory.swap_mode());
        let persist = factory.persist();
        Self { factory: Some(factory), info, schema, swap, persist, bus: bus.clone() }
    }
}

/// What the host is told of a controller, or of what a factory makes.
pub(super) fn told(info: &Info, schema: &str, swap: SwapMode, persist: Option<Duration>) -> FactoryInfo {
    FactoryInfo {
        id: Text::from(info.id.as_str()),
        version: Text::from(info.version.to_string().as_str()),
        description: Text::from(info.description.as_str()),
        config_id: Text::from(info.config_id.as_str()),
        schema: Text::from(schema),
        stop_first: swap == SwapMode::StopFirst,
        persist_ms: persist.map_or(0, |every| every.as_millis() as u64),
    }
}

impl GuestFactory for Object {
    extern "C" fn info(&self) -> FactoryInfo {
        told(&self.info, &self.schema, self.swap, self.persist)
    }

    extern "C" fn construct(
        &self,
        config: List<u8>,
        sockets: HostSocketsPtr,
        done: HostConstructedPtr,
    ) -> GuestTaskPtr {
        let sockets = Arc::new(sockets::RemoteSockets::new(sockets));
        let cancel = CancellationToken::new();
        let bus = BusHandle::new(Arc::new(self.bus.clone()));
        let context = Context::new(bus, cancel.clone(), Arc::clone(&self.info)).with_sockets(sockets);
        let (host, handle) = (Arc::clone(self.bus.host()), self.bus.runtime().clone());
        let (factory, swap) = (self.factory.clone(), self.swap);
        let config = config.as_ref().to_vec();
        let constructing = async move {
            let made = contained(async move {
                let factory = factory.ok_or_else(|| crate::Error::msg("the factory is gone"))?;
                let controller = factory.construct(config, context.clone()).await?;
                let controller = match swap {
                    SwapMode::StopFirst => Arc::new(Exclusive::new(controller)),
                    SwapMode::Beside => controller,
                };
                let resolves = controller.resolves();
                Ok(GuestObject { resolves, controller: Arc::new(Mutex::new(Some(controller))), context, host, handle })
            })
            .await;
            done.done(made.map(|object| boxed(object).into()).into());
        };
        spawn(self.bus.runtime(), cancel, constructing.instrument(spans::call(&self.info.id, None)))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // Its destructor may be the user's code, which must not run on the host's thread.
        let (factory, runtime) = (self.factory.take(), self.bus.runtime());
        // Where the runtime has ended, it is dropped here.
        contain("dropping a factory", || {
            drop(runtime.spawn(async move { contain("dropping a factory", move || drop(factory)) }));
        });
    }
}

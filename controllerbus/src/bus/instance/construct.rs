//! Constructs one controller, within the limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::timeout;
use tracing::Instrument;

use super::ConstructFailure;
use crate::bus::engine::Engine;
use crate::bus::entry::{ControllerEntry, Ties};
use crate::bus::factories::KnownFactory;
use crate::bus::life::{limited, restore};
use crate::bus::stop_first::After;
use crate::controller::exclusive::Exclusive;
use crate::controller::{AnyController, State, SwapMode};
use crate::{Error, Result};

impl Engine {
    /// Constructs a controller, within the limit. It is neither executed nor routed to yet.
    async fn construct(
        self: &Arc<Self>,
        known: &KnownFactory,
        instance: u64,
        config: Vec<u8>,
    ) -> Result<ControllerEntry> {
        let keys = self.life().configs.keys_of(instance);
        let mut ties = Ties::new(self.next_id()).named(&known.info.id, &keys);
        ties.last_state = known.persist.map(|_| Arc::default());
        let span = ties.span.clone();
        let context = self.context(&ties, Arc::new(known.info.clone()), Some(instance));
        let factory = Arc::clone(&known.factory);
        let what = format!("constructing {}", known.info.id);
        let known = known.clone();
        let guard = ties.cancel.clone().drop_guard();
        let bytes = config.clone();
        let source = known.source;
        let (swap, library, persist) = (known.swap, known.library, known.persist);
        let retry = self.life().configs.instances.get(&instance).and_then(|instance| instance.config.retry);
        let entry = move |controller: Arc<dyn AnyController>| {
            let controller = match swap {
                SwapMode::StopFirst => Arc::new(Exclusive::new(controller)),
                SwapMode::Beside => controller,
            };
            ControllerEntry::new(ties, known.info, source, controller)
                .configured(instance, bytes, swap)
                .of_library(library)
                .retried(retry.unwrap_or_default())
                .persisted(persist)
        };
        let engine = Arc::clone(self);
        let late = move |made: ControllerEntry| engine.discard(Arc::new(made));
        let work = async move { factory.construct(config, context).await.map(entry) };
        let made = limited(self, self.limits.construct, &what, work.instrument(span), late).await?;
        guard.disarm();
        Ok(made)
    }

    /// Constructs a controller and restores its state. If it refuses the state, it is ended.
    pub(in crate::bus) async fn make(
        self: &Arc<Self>,
        known: &KnownFactory,
        instance: u64,
        config: Vec<u8>,
        state: Option<State>,
    ) -> Result<ControllerEntry, ConstructFailure> {
        let made = self.construct(known, instance, config).await.map_err(Error::of_construction)?;
        let Some(state) = state else { return Ok(made) };
        match restore(self, &made, state).await {
            Ok(()) => Ok(made),
            Err(error) => Err(ConstructFailure { error, after: self.end_made(Arc::new(made)).await }),
        }
    }

    /// Ends a controller that is not wanted, and waits until it is over. If its limits pass before, returns what others have to
    /// wait for.
    pub(super) async fn end_made(self: &Arc<Self>, made: Arc<ControllerEntry>) -> Option<After> {
        let after = After::of(&made);
        made.is_waited_for.store(true, Ordering::Release);
        let closed = made.closed.clone();
        self.discard(made);
        timeout(self.limits.part(), closed.cancelled()).await.is_err().then_some(after)
    }
}

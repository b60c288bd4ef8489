//! Constructs one controller, within the limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::timeout;
use tracing::Instrument;

use super::ConstructFailure;
use crate::bus::engine::Engine;
use crate::bus::entry::{ControllerEntry, Ties};
use crate::bus::factories::KnownFactory;
use crate::bus::life::{GRACE, begin, restore};
use crate::bus::stop_first::{After, Claim};
use crate::controller::exclusive::Exclusive;
use crate::controller::factory::with_code_of_construction;
use crate::controller::{AnyController, State, SwapMode};
use crate::error::ErrorKind;
use crate::{Error, Result};

impl Engine {
    /// Constructs a controller, within the limit. It is neither executed nor routed to yet.
    ///
    /// If no other may be constructed meanwhile (`is_alone`), the work has a claim of its own: whoever comes next waits until what
    /// has passed the limit is over.
    async fn construct(
        self: &Arc<Self>,
        known: &KnownFactory,
        instance: u64,
        config: Vec<u8>,
        is_alone: bool,
    ) -> Result<ControllerEntry, ConstructFailure> {
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
        let late = move |(made, claim): (ControllerEntry, Option<Claim>)| engine.end_late(Arc::new(made), claim);
        let claim = is_alone.then(|| Claim::new(self));
        let overdue = claim.as_ref().map(|claim| (claim.after(), claim.teller()));
        let ends_by_itself = is_alone && factory.ends_when_cancelled();
        let work = async move {
            // Dropped after the future that it is for.
            let claim = claim;
            let made = factory.construct(config, context).await?;
            Ok((entry(made), claim))
        };
        let mut waiting = begin(self, work.instrument(span), late)?;
        let error = match waiting.within(self.limits.construct, &what).await {
            Ok((made, _claim)) => {
                guard.disarm();
                return Ok(made);
            }
            Err(error) => error,
        };
        drop(guard);
        if ends_by_itself {
            waiting.leave();
        } else {
            drop(waiting);
        }
        let Some((mut after, teller)) = overdue else { return Err(error.into()) };
        if timeout(GRACE, after.over()).await.is_ok() {
            return Err(error.into());
        }
        let what = format!("{what} does not end: it blocks its thread, or has made a controller that does not end");
        tracing::error!("{what}");
        let held = Error::new(ErrorKind::TimedOut, what);
        teller.send_modify(|end| end.held = Some(held));
        let error = error.and("it has not ended yet, and no other is constructed before it has");
        Err(ConstructFailure { error, after: Some(after) })
    }

    /// Ends a controller that was made after its time limit, and then the claim of the work that has made it.
    fn end_late(self: &Arc<Self>, made: Arc<ControllerEntry>, claim: Option<Claim>) {
        if let Some(claim) = claim {
            made.is_waited_for.store(true, Ordering::Release);
            self.release_after(claim, vec![After::of(&made)]);
        }
        self.discard(made);
    }

    /// Constructs a controller and restores its state. If it refuses the state, it is ended. `is_alone` as in
    /// [`Engine::construct`].
    pub(in crate::bus) async fn make(
        self: &Arc<Self>,
        known: &KnownFactory,
        instance: u64,
        config: Vec<u8>,
        state: Option<State>,
        is_alone: bool,
    ) -> Result<ControllerEntry, ConstructFailure> {
        let made = self.construct(known, instance, config, is_alone).await;
        let of_construction = |ConstructFailure { error, after }| ConstructFailure {
            error: with_code_of_construction(error.of_construction()),
            after,
        };
        let made = made.map_err(of_construction)?;
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

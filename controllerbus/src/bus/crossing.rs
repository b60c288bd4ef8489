//! A bridge as a controller of the bus that it begins at: it asks beyond the bridge, and brings over what is answered there.

use std::future::poll_fn;
use std::sync::Arc;

use super::bridge::Across;
use super::engine::Engine;
use super::origin::{Origin, Sides};
use super::{BusHandle, Source};
use crate::Result;
use crate::controller::{AnyController, BoxFuture};
use crate::directive::{AnyDirective, Options, RawEvent, RawRequest, Relay, Supersede, ValueSink, superseded};

/// Brings over what is answered beyond a bridge, or by one side there.
pub(crate) struct Crossing {
    to: Beyond,
    across: Arc<Across>,
}

/// What is beyond a bridge.
enum Beyond {
    /// A bus of this library, of which one side is brought over.
    Bus {
        engine: Arc<Engine>,
        side: Sides,
        /// Keeps superseding directives apart from those of others who ask there.
        number: u64,
    },
    Handle(BusHandle),
}

impl Crossing {
    /// To what is behind a handle.
    pub(crate) fn new(to: BusHandle, across: Arc<Across>) -> Self {
        Self { to: Beyond::Handle(to), across }
    }

    /// To one side of a bus.
    pub(super) fn to_side(engine: &Arc<Engine>, side: Sides, across: Arc<Across>) -> Self {
        let to = Beyond::Bus { engine: Arc::clone(engine), side, number: engine.next_id() };
        Self { to, across }
    }

    /// Whether this is the part that does not ask such directives.
    fn leaves(&self, options: &Options) -> bool {
        matches!(self.to, Beyond::Bus { side: Sides::FLEET, .. }) && is_of_one(options)
    }

    fn ask(&self, directive: Arc<dyn AnyDirective>, asked: Origin) -> Result<Box<dyn RawRequest>> {
        match &self.to {
            Beyond::Bus { engine, side, number } => {
                let told = if is_of_one(&directive.options()) { asked.told() } else { *side };
                let origin = Origin::across(*number, asked.key(), told);
                Ok(Box::new(engine.add_reference(directive, Source::STATIC, origin)?))
            }
            Beyond::Handle(bus) => Ok(bus.raw(directive)?),
        }
    }
}

/// Whether two parts would ask for two directives beyond, and have each controller there answer twice. One part asks for whatever
/// is answered there then: as nobody of the other side asks for the same directive here, nobody is told too much.
fn is_of_one(options: &Options) -> bool {
    options.once || options.unmerged || options.supersede != Supersede::Never
}

impl AnyController for Crossing {
    fn resolves(&self) -> Vec<String> {
        self.across.ids()
    }
    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        if self.leaves(&directive.options()) || !self.across.wants(&*directive) {
            return None;
        }
        Some(Box::pin(async move {
            let id = directive.id().to_owned();
            let mut request = self.ask(directive, sink.origin())?;
            let mut here = Relay::new(Arc::clone(&sink));
            let mut last_failure = None;
            loop {
                let event = poll_fn(|cx| {
                    here.poll_room(cx);
                    request.poll_event(cx)
                });
                let event = event.await;
                let failure = last_failure.take();
                match event {
                    Some(RawEvent::Added(there, value)) => here.added(there, value),
                    Some(RawEvent::Removed(there)) => here.removed(there),
                    Some(RawEvent::Idle) => sink.set_idle(true),
                    Some(RawEvent::Busy) => sink.set_idle(false),
                    Some(RawEvent::Failed(error)) if here.is_empty() => return Err(error),
                    Some(RawEvent::Failed(error)) => {
                        tracing::debug!(id, %error, "a resolver on the other side of a bridge failed");
                        last_failure = Some(error);
                    }
                    // The other bus has closed or superseded it, or is out of reach: retried with backoff.
                    None => return Err(failure.unwrap_or_else(|| superseded(&id))),
                }
            }
        }))
    }
}

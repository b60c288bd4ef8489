//! A controller at the other end: it is asked for one directive, and its values go to a sink of this end's bus.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::{Endpoint, Message, Post, Receiving, lock};
use crate::directive::{AnyDirective, AnyValue, ValueId, ValueSink};
use crate::error::ErrorKind;
use crate::{Error, Result};

/// What a standing value counts in addition to its bytes.
pub(super) const OVERHEAD: u64 = 64;

/// The values of one ask, by the other end's numbers.
pub(super) struct Inflow {
    pub(super) sink: Arc<dyn ValueSink>,
    /// Whether each value is answered.
    answered: bool,
    state: Mutex<State>,
}

struct State {
    /// Each value with what it counts.
    values: HashMap<u64, (ValueId, u64)>,
    done: Option<oneshot::Sender<Result<()>>>,
    /// The ask was released, and what its values counted was given back.
    released: bool,
}

impl Inflow {
    /// The controller's resolver has returned or failed, or never will. Only the first call counts.
    pub(super) fn done(&self, result: Result<()>) {
        let done = lock(&self.state).done.take();
        if let Some(done) = done {
            let _ = done.send(result);
        }
    }
}

impl<P: Post> Endpoint<P> {
    /// Asks a controller of the other end to resolve a directive, and adds its values to a sink. Returns once its resolver has
    /// returned. Its values stand until what is returned is dropped; `None` if all of them were rejected, because the directive
    /// has as many as it takes. Dropping the future releases the ask.
    ///
    /// # Errors
    /// The resolver's error, or why the connection is gone.
    pub async fn resolve(
        self: &Arc<Self>,
        controller: u64,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Result<Option<Asked<P>>> {
        let bytes = directive.encode()?;
        let (answered, local) = (directive.options().hard_cap, directive.confined_to().is_some());
        let (done, ended) = oneshot::channel();
        let state = State { values: HashMap::new(), done: Some(done), released: false };
        let inflow = Arc::new(Inflow { sink, answered, state: Mutex::new(state) });
        let ask = self.open(Receiving::Values(Arc::clone(&inflow)));
        let asked = Asked { endpoint: Arc::clone(self), ask, inflow };
        let message = Message::Resolve { ask, controller, directive: directive.id(), bytes: &bytes, answered, local };
        if let Err(error) = self.post.send(&message).await {
            // Why it is closed is known a moment later.
            return Err(if error.kind() == ErrorKind::Closed { self.cut.wait().await.clone() } else { error });
        }
        ended.await.unwrap_or_else(|_| Err(self.why()))?;
        if answered && !asked.stands() {
            return Ok(None);
        }
        asked.inflow.sink.set_idle(true);
        Ok(Some(asked))
    }

    /// A value came, and perhaps in place of another.
    pub(super) fn add(&self, ask: u64, inflow: &Inflow, (value, replaces): (u64, Option<u64>), bytes: &[u8]) {
        let counted = bytes.len() as u64 + OVERHEAD;
        let old = replaces.and_then(|old| Some((old, lock(&inflow.state).values.get(&old).copied()?)));
        let freed = old.map_or(0, |(_, (_, counted))| counted);
        if !self.limits.stands(counted, freed) {
            return self.too_much();
        }
        let new = AnyValue::encoded(bytes);
        let added = match old {
            Some((_, (id, _))) => inflow.sink.replace(id, new),
            None => inflow.sink.add(new),
        };
        let (stands, replaced) = {
            let mut state = lock(&inflow.state);
            let replaced = old.and_then(|(old, _)| state.values.remove(&old)).map_or(0, |(_, counted)| counted);
            // The bus may have dropped the ask meanwhile, which has given back only what was there.
            let stands = added.filter(|_| !state.released);
            if let Some(id) = stands {
                state.values.insert(value, (id, counted));
            }
            (stands.is_some(), replaced)
        };
        self.limits.gone(replaced + if stands { 0 } else { counted });
        if inflow.answered {
            let _ = self.post.push(&Message::Accepted { ask, value, yes: added.is_some() });
        }
    }

    /// The other end's values would be too many bytes.
    pub(super) fn too_much(&self) {
        self.flooded.notify_one();
        let what = format!("the values of {} would be more than {} bytes", self.limits.name, self.limits.standing);
        self.post.exceeded(Error::new(ErrorKind::Invalid, what));
    }

    /// A value is gone.
    pub(super) fn remove(&self, inflow: &Inflow, value: u64) {
        let gone = lock(&inflow.state).values.remove(&value);
        if let Some((id, counted)) = gone {
            self.limits.gone(counted);
            inflow.sink.remove(id);
        }
    }
}

/// An ask of a controller at the other end. Dropping it releases it: its resolver and values there are dropped.
///
/// The values at this end are the caller's business: the bus withdraws them with the future that has asked.
#[must_use = "dropping it releases the ask"]
pub struct Asked<P: Post> {
    endpoint: Arc<Endpoint<P>>,
    ask: u64,
    inflow: Arc<Inflow>,
}

impl<P: Post> std::fmt::Debug for Asked<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("ask", &self.ask).finish_non_exhaustive()
    }
}

impl<P: Post> Asked<P> {
    pub(super) fn stands(&self) -> bool {
        !lock(&self.inflow.state).values.is_empty()
    }

    /// Waits until the connection is cut, and returns why. Until then, values come and go.
    pub async fn cut(self) -> Error {
        self.endpoint.cut.wait().await.clone()
    }
}

impl<P: Post> Drop for Asked<P> {
    fn drop(&mut self) {
        self.endpoint.close(self.ask);
        let counted: u64 = {
            let mut state = lock(&self.inflow.state);
            state.released = true;
            state.values.drain().map(|(_, (_, counted))| counted).sum()
        };
        self.endpoint.limits.gone(counted);
        // Nothing waits for this message: a resolver that continues for a moment is not heard.
        let _ = self.endpoint.post.push_later(&Message::Release { ask: self.ask });
    }
}

//! Following a directive: the latest value, and an effect for each value.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Directive, Event, Request, ValueId};
use crate::{BusError, Result};

/// The newest value of a directive, whenever it is another one; made by [`Request::latest`]. It is a stream, too.
#[must_use = "dropping it releases the directive"]
pub struct Latest<D: Directive> {
    request: Request<D>,
    told: Option<ValueId>,
}

impl<D: Directive> std::fmt::Debug for Latest<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latest").field("request", &self.request).finish_non_exhaustive()
    }
}

impl<D: Directive> Latest<D> {
    /// Waits until the newest active value differs from the last one returned, and returns it: `Some(None)` when there is none
    /// any more, `None` when the directive is gone. What came in between is skipped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Option<Arc<D::Value>>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Option<Arc<D::Value>>>> {
        loop {
            match self.request.poll_typed(cx) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        let newest = self.request.newest();
        if newest.map(|(id, _)| *id) == self.told {
            return Poll::Pending;
        }
        let value = newest.map(|(id, value)| (*id, Arc::clone(value)));
        self.told = value.as_ref().map(|(id, _)| *id);
        Poll::Ready(Some(value.map(|(_, value)| value)))
    }
}

impl<D: Directive> futures_core::Stream for Latest<D> {
    type Item = Option<Arc<D::Value>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl<D: Directive> Request<D> {
    /// Follows the newest value alone, for whoever needs one at a time.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/leader", value = String)]
    /// # struct Leader {}
    /// # async fn follow(bus: &Bus) -> Result<()> {
    /// let mut leader = bus.request(Leader {})?.latest();
    /// while let Some(leader) = leader.next().await {
    ///     println!("{}", leader.as_deref().map_or("nobody", String::as_str));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn latest(self) -> Latest<D> {
        Latest { request: self, told: None }
    }

    /// Runs an effect for each value that stands or comes: a future that is dropped when its value is gone. What is to be done
    /// then is done by the destructors of what it holds. One that ends well is not run again for the same value.
    ///
    /// It returns when the directive is gone. All effects run within this future; one that computes for long should spawn.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/peer", value = String)]
    /// # struct Peers {}
    /// # async fn connect(peer: &str) -> Result<()> { Ok(()) }
    /// # async fn follow(context: &Context) -> Result<()> {
    /// // A connection to each peer that there is, for as long as it is there.
    /// context.bus().request(Peers {})?.for_each(|peer| async move { connect(&peer).await }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first error of an effect; all of them are dropped then.
    pub async fn for_each<F>(&mut self, mut effect: impl FnMut(Arc<D::Value>) -> F) -> Result<(), BusError>
    where
        F: Future<Output = Result<()>>,
    {
        let begun = |(id, value): (ValueId, F)| (id, Some(Box::pin(value)));
        let mut effects: Vec<_> =
            self.standing_with_ids().map(|(id, value)| begun((*id, effect(Arc::clone(value))))).collect();
        poll_fn(|cx| {
            loop {
                match self.poll_typed(cx) {
                    Poll::Ready(Some(Event::Added(id, value))) => effects.push(begun((id, effect(value)))),
                    Poll::Ready(Some(Event::Removed(id))) => effects.retain(|(of, _)| *of != id),
                    Poll::Ready(Some(Event::Idle | Event::Busy | Event::Failed(_))) => {}
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => break,
                }
            }
            for (_, effect) in &mut effects {
                let polled = effect.as_mut().map(|effect| effect.as_mut().poll(cx));
                if let Some(Poll::Ready(result)) = polled {
                    *effect = None;
                    result?;
                }
            }
            Poll::Pending
        })
        .await
    }
}

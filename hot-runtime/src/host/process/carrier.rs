//! The socket as a carrier of [`controllerbus::remote`]: both ends' messages are one kind of message of each direction.

use std::sync::Arc;

use controllerbus::Result;
use controllerbus::remote::{Message, Post};
use serde::Serialize;

use super::outbox::Outbox;

/// [`super::protocol::ToChild::Remote`] and [`super::protocol::ToParent::Remote`], as they are written.
#[derive(Serialize)]
pub(super) enum Carried<'a> {
    Remote(&'a Message<'a>),
}

/// The runtime's end. Nothing in the runtime's process is blocked for a plugin.
pub(super) struct ToProcess(pub(super) Arc<Outbox>);

impl Post for ToProcess {
    fn push(&self, message: &Message<'_>) -> Result<()> {
        self.0.push(&Carried::Remote(message))
    }

    fn push_later(&self, message: &Message<'_>) -> Result<()> {
        self.0.push_later(&Carried::Remote(message))
    }

    fn try_send(&self, message: &Message<'_>) -> Result<bool> {
        self.0.try_send(&Carried::Remote(message))
    }

    async fn send(&self, message: &Message<'_>) -> Result<()> {
        self.0.send(&Carried::Remote(message)).await
    }
}

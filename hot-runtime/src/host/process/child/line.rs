//! The connection to the runtime, for the guest's threads, which may wait, and for the serving thread, which may not.

use std::sync::Arc;
use std::thread::ThreadId;

use controllerbus::Result;
use controllerbus::remote::{Message, Post};
use serde::Serialize;

use crate::host::process::carrier::Carried;
use crate::host::process::outbox::Outbox;

/// The plugin host's end of the socket.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) outbox: Arc<Outbox>,
    pub(super) serving: ThreadId,
}

impl Line {
    /// Sends a message; on a thread of the guest, waits while the runtime does not read.
    pub(super) fn say<M: Serialize>(&self, message: &M) -> Result<()> {
        if self.may_block() { self.outbox.send_blocking(message) } else { self.outbox.push(message) }
    }
}

impl Post for Line {
    fn push(&self, message: &Message<'_>) -> Result<()> {
        self.outbox.push(&Carried::Remote(message))
    }

    fn push_later(&self, message: &Message<'_>) -> Result<()> {
        self.outbox.push_later(&Carried::Remote(message))
    }

    fn say(&self, message: &Message<'_>) -> Result<()> {
        Line::say(self, &Carried::Remote(message))
    }

    fn try_send(&self, message: &Message<'_>) -> Result<bool> {
        self.outbox.try_send(&Carried::Remote(message))
    }

    async fn send(&self, message: &Message<'_>) -> Result<()> {
        self.outbox.send(&Carried::Remote(message)).await
    }

    /// To the guest, whose threads answer.
    const PASSES_ON: bool = true;

    fn end(&self, message: &Message<'_>) -> Result<()> {
        let message = Carried::Remote(message);
        // A resolver may end before it has waited for anything.
        if self.may_block() { self.outbox.send_last(&message) } else { self.outbox.push(&message) }
    }

    fn may_block(&self) -> bool {
        std::thread::current().id() != self.serving
    }
}

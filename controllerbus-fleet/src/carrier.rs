//! What moves frames between hosts and knows who is there.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use controllerbus::Result;

/// One incarnation of a host: from when its process starts until it ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The host's name.
    pub host: Arc<str>,
    /// A number by chance, for each start of the process.
    pub epoch: u64,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.host, self.epoch)
    }
}

/// What frames are about: those of one lane keep their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The link itself.
    Link,
    /// Directives of one id, in both directions.
    Directive(Arc<str>),
}

/// What a host says of itself to all that look.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    /// It is there.
    Up(Peer),
    /// It resolves directives of an id for others.
    Offer(Peer, Arc<str>),
}

impl Presence {
    /// Who says it.
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Up(peer) | Self::Offer(peer, _) => peer,
        }
    }
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The hosts that are there.
    Up,
    /// The hosts that resolve directives of an id.
    Offer(Arc<str>),
}

impl Which {
    /// Whether a watch for this is told of a presence.
    pub fn is_for(&self, presence: &Presence) -> bool {
        match (self, presence) {
            (Self::Up, Presence::Up(_)) => true,
            (Self::Offer(wanted), Presence::Offer(_, id)) => wanted == id,
            _ => false,
        }
    }
}

/// What a watch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there. May be told again.
    Present(Presence),
    /// It is not there any more.
    Absent(Presence),
    /// All that was there when the watch began has been told, as far as this carrier can know. Told once.
    All,
}

/// What ends when it is dropped: an announcement, a watch or a reception.
pub type Guard = Box<dyn Any + Send + Sync>;

/// Moves frames between hosts and knows who is there.
///
/// Functions may block, but not for longer than a second or so, and are not called on a thread of tokio, but for [`Carrier::try_send`];
/// callbacks may come on any thread, also before the function has returned, and do not block. What is sent may be lost, repeated or
/// reordered: the protocol above finds that, and tells anew.
pub trait Carrier: Send + Sync + 'static {
    /// This host.
    fn own(&self) -> Peer;

    /// Says something of this host, until the guard is dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// Why it cannot be said.
    fn announce(&self, what: Presence) -> Result<Guard>;

    /// Tells who is there now and from now on, this host too.
    ///
    /// # Errors
    /// Why that cannot be known.
    fn watch(&self, which: Which, told: Arc<dyn Fn(Seen) + Send + Sync>) -> Result<Guard>;

    /// Sends a frame. It may block for a moment where there is no room.
    ///
    /// # Errors
    /// It cannot be sent, such as because it is too long.
    fn send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Result<()>;

    /// Sends a frame on a thread of tokio, or gives it back where that could block; then [`Carrier::send`] is called. It is called for small
    /// frames while little is on its way, and never together with another call that sends. A frame that cannot be sent is one that is lost.
    fn try_send(&self, to: &Peer, lane: &Lane, frame: Bytes) -> Option<Bytes> {
        let _ = (to, lane);
        Some(frame)
    }

    /// Receives the frames for this host. Called once.
    ///
    /// # Errors
    /// Why nothing can be received.
    fn receive(&self, into: Arc<dyn Fn(Peer, Lane, Bytes) + Send + Sync>) -> Result<Guard>;

    /// Whether its functions may block. Those of one that never does, such as one in memory, are called in place, on tokio's threads.
    fn may_block(&self) -> bool {
        true
    }

    /// What the carrier itself knows of its connections, for people: such as `hub-1:7447: connected`.
    fn links(&self) -> Vec<String> {
        Vec::new()
    }
}

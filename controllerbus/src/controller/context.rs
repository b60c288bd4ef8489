//! What a controller is given: its bus, its cancellation, its sockets.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Info, LastState};
use crate::bus::BusHandle;
use crate::directive::Wait;
use crate::listen::{Address, Listener, Sockets};
use crate::{Directive, Result};

/// A controller's surroundings: its bus, its cancellation, its sockets. Cheap to clone.
///
/// ```
/// use controllerbus::prelude::*;
///
/// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// # #[directive(id = "example/time-of-day", value = String)]
/// # struct TimeOfDay {}
/// # #[derive(Config, Serialize, Deserialize, PartialEq)]
/// # #[config(id = "example/watcher")]
/// # struct WatcherConfig {}
/// struct Watcher;
///
/// #[hot_plugin(id = "example/watcher", version = "1.0.0")]
/// impl Controller for Watcher {
///     type Config = WatcherConfig;
///
///     async fn construct(_: WatcherConfig, context: &Context) -> Result<Self> {
///         println!("{} is made", context.info().id);
///         Ok(Self)
///     }
///
///     async fn execute(&self, context: &Context) -> Result<()> {
///         let mut request = context.bus().request(TimeOfDay {})?;
///         loop {
///             tokio::select! {
///                 time = request.value() => println!("it is {}", time?),
///                 () = context.cancelled() => return Ok(()),
///             }
///         }
///     }
/// }
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Context {
    bus: BusHandle,
    cancel: CancellationToken,
    info: Arc<Info>,
    sockets: Arc<dyn Sockets>,
    last_state: Option<Arc<LastState>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("info", &self.info)
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context on a bus, cancelled by a token. The addresses at which it [listens](Context::listen) are bound for it alone.
    pub fn new(bus: BusHandle, cancel: CancellationToken, info: Arc<Info>) -> Self {
        Self { bus, cancel, info, sockets: Arc::new(Unshared), last_state: None }
    }

    /// The same context with another source of sockets.
    #[must_use]
    pub fn with_sockets(self, sockets: Arc<dyn Sockets>) -> Self {
        Self { sockets, ..self }
    }

    /// The same context of a controller whose state is kept.
    pub(crate) fn with_last_state(self, last_state: Option<Arc<LastState>>) -> Self {
        Self { last_state, ..self }
    }

    /// What the controller has saved last, if its state is kept.
    #[doc(hidden)]
    pub fn last_state(&self) -> Option<&Arc<LastState>> {
        self.last_state.as_ref()
    }

    /// Where its sockets come from.
    pub fn sockets(&self) -> &Arc<dyn Sockets> {
        &self.sockets
    }

    /// The same context with another token.
    #[must_use]
    pub fn with_token(&self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self.clone() }
    }

    /// The bus that the controller runs on.
    pub fn bus(&self) -> &BusHandle {
        &self.bus
    }

    /// The controller's id, version and config ID.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The token behind [`Context::cancelled`].
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits until the controller is to end.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Whether the controller is to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The first value of a directive. See [`BusHandle::resolve`].
    ///
    /// # Errors
    /// As [`BusHandle::resolve`].
    pub fn resolve<D: Directive>(&self, directive: D) -> Wait<'static, D, Arc<D::Value>> {
        self.bus.resolve(directive)
    }

    /// Listens at an address on a socket that the host keeps: each generation of the controller, and each config of its key,
    /// gets the same socket, and accepts from it while it serves. See [`crate::listen`].
    ///
    /// The address is like `127.0.0.1:8080`, `unix:/run/web.sock`, or `systemd:web` for a socket that the host got from its
    /// service manager. A socket that it got for the same address is used too. Port 0 is any free port, the same one for
    /// every generation.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for a malformed address; why the host cannot, or may not,
    /// listen there; on systems other than Unix always.
    pub async fn listen(&self, address: &str) -> Result<Listener> {
        let address: Address = address.parse()?;
        Listener::new(self.sockets.listen(address).await?)
    }
}

#[cfg(unix)]
use crate::listen::bind::Unshared;

/// Hosts do not keep sockets on this system.
#[cfg(not(unix))]
struct Unshared;

#[cfg(not(unix))]
impl Sockets for Unshared {
    fn listen(&self, _: Address) -> super::BoxFuture<'static, Result<crate::listen::HostSocket>> {
        Box::pin(std::future::ready(Err(crate::listen::unsupported())))
    }
}

//! The sockets that the bus keeps for controllers: each for the config set's keys whose controllers asked for it.
//!
//! A socket exists from when a controller first asks for it until the last of its keys is removed, or until no controller has
//! used it for a while. Generations and configs come and go meanwhile, each with a descriptor of its own.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::SockRef;
use tokio::sync::{OnceCell, watch};

use super::config_state::RunState;
use super::configs::Configs;
use super::engine::Engine;
use super::{Bus, ControllerId};
use crate::controller::BoxFuture;
use crate::error::{Code, ErrorKind};
use crate::listen::{Address, HostSocket, Kept, Service, Sockets, StdListener, bind};
use crate::{BusError, Error, Result};

/// How long a socket stays after its last user has ended. A new one may take a while until it asks.
const UNUSED: Duration = Duration::from_secs(30);

/// The sockets that are kept. Its lock is taken after that of `Life`, never before.
#[derive(Default)]
pub(super) struct SocketTable {
    sockets: Vec<Socket>,
    /// The sockets that the host was started with.
    inherited: Vec<Inherited>,
    next: u64,
}

pub(super) struct Socket {
    number: u64,
    /// The address that was asked for.
    asked: Address,
    /// The keys that it is kept for.
    keys: BTreeSet<String>,
    /// The controllers that use it, each with its instance.
    users: Vec<(u64, Option<u64>)>,
    bound: Arc<OnceCell<BoundSocket>>,
    /// Whether a task is going to close it unless it is used again.
    looked_after: bool,
}

struct Inherited {
    name: String,
    address: Address,
    descriptor: Arc<OwnedFd>,
}

/// A socket that listens.
struct BoundSocket {
    descriptor: OwnedFd,
    address: Address,
    /// Device and inode of its file, if it has one that is ours to remove.
    file: Option<(u64, u64)>,
    inherited: bool,
}

impl BoundSocket {
    fn bind(address: &Address) -> Result<Self> {
        let socket = bind::bind(address)?;
        let address = socket.address()?;
        let file = match &address {
            Address::Unix(path) => std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino())),
            _ => None,
        };
        Ok(Self { descriptor: socket.into(), address, file, inherited: false })
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if self.inherited {
            return;
        }
        // A generation that does not end still has a descriptor of it.
        let _ = SockRef::from(&self.descriptor).shutdown(std::net::Shutdown::Both);
        if let Address::Unix(path) = &self.address
            && std::fs::metadata(path).is_ok_and(|found| Some((found.dev(), found.ino())) == self.file)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that a host keeps for controllers, as tools see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SocketSnapshot {
    /// The address that was asked for.
    pub asked: Address,
    /// Where it listens; with the actual port if port 0 was asked for.
    pub address: Address,
    /// The keys of the config sets that it is kept for.
    pub keys: Vec<String>,
    /// The controllers that use it.
    pub controllers: Vec<ControllerId>,
}

/// One controller's access to sockets.
pub(super) struct ControllerSockets {
    pub(super) engine: Weak<Engine>,
    pub(super) controller: u64,
    pub(super) instance: Option<u64>,
    pub(super) service: watch::Receiver<Service>,
}

impl Sockets for ControllerSockets {
    fn listen(&self, address: Address) -> BoxFuture<'static, Result<HostSocket>> {
        let controller = self.controller;
        let instance = self.instance;
        let service = self.service.clone();
        let engine = self.engine.upgrade();
        Box::pin(async move {
            let gone = || {
                Error::new(ErrorKind::Closed, format!("cannot listen at {address}: the controller is shutting down"))
            };
            let Some(engine) = engine.filter(|_| !service.borrow().has_ended()) else { return Err(gone()) };
            let grant = {
                let life = engine.life();
                engine.sockets().grant(&life.configs, (controller, instance), &address)
            };
            let Grant { number, bound, inherited } = grant?;
            let binding = async || match inherited {
                Some((address, descriptor)) => {
                    Ok(BoundSocket { descriptor: descriptor.try_clone()?, address, file: None, inherited: true })
                }
                None => {
                    let address = address.clone();
                    // Looking up a name may block.
                    let binding = engine.runtime()?.spawn_blocking(move || BoundSocket::bind(&address));
                    binding.await.unwrap_or_else(|error| Err(Error::msg(error)))
                }
            };
            let bound = bound.get_or_try_init(binding).await.and_then(|bound| Ok(bound.descriptor.try_clone()?));
            match bound {
                Ok(descriptor) => Ok(HostSocket { descriptor, service, keep: Arc::new(|| Box::new(()) as Kept) }),
                Err(error) => {
                    engine.sockets().give_up(number);
                    Err(error)
                }
            }
        })
    }
}

/// A socket that a controller may have.
struct Grant {
    number: u64,
    bound: Arc<OnceCell<BoundSocket>>,
    /// What to make it of, if the host was started with it.
    inherited: Option<(Address, Arc<OwnedFd>)>,
}

impl SocketTable {
    fn grant(&mut self, configs: &Configs, user: (u64, Option<u64>), asked: &Address) -> Result<Grant> {
        let (controller, instance) = user;
        let keys: BTreeSet<String> = match instance {
            Some(instance) => configs.keys_of(instance).into_iter().collect(),
            None => BTreeSet::from([by_hand(controller)]),
        };
        if keys.is_empty() {
            let what = format!("cannot listen at {asked}: the controller's config was removed");
            return Err(Error::new(ErrorKind::Closed, what));
        }
        let taken = |by: &BTreeSet<String>| {
            let by: Vec<_> = by.iter().map(|key| format!("`{key}`")).collect();
            Error::msg(format!("cannot listen at {asked}: the controller of {} already does", by.join(", ")))
                .with_code(Code::ADDRESS_TAKEN)
        };
        if let Some(socket) =
            self.sockets.iter_mut().find(|socket| socket.asked == *asked && !socket.keys.is_disjoint(&keys))
        {
            // Only the controller that this one replaces, or that replaces it, may have it at the same time.
            let other = socket.users.iter().filter_map(|(_, other)| *other).find_map(|other| {
                let others = configs.keys_of(other).into_iter().collect::<BTreeSet<_>>();
                (Some(other) != instance && !others.is_subset(&keys)).then_some(others)
            });
            if let Some(other) = other {
                return Err(taken(&other));
            }
            socket.keys.extend(keys);
            if !socket.users.contains(&user) {
                socket.users.push(user);
            }
            return Ok(Grant { number: socket.number, bound: Arc::clone(&socket.bound), inherited: self.given(asked) });
        }
        let is_there = |socket: &&Socket| socket.bound.get().is_some_and(|bound| bound.address == *asked);
        if let Some(other) = self.sockets.iter().find(is_there) {
            return Err(taken(&other.keys));
        }
        let inherited = self.given(asked);
        if let Some((address, _)) = &inherited {
            let has_it = |socket: &&Socket| {
                let bound = socket.bound.get();
                bound.map_or(socket.asked == *asked, |bound| bound.inherited && bound.address == *address)
            };
            if let Some(other) = self.sockets.iter().find(has_it) {
                return Err(taken(&other.keys));
            }
        }
        self.next += 1;
        let number = self.next;
        let bound = Arc::<OnceCell<BoundSocket>>::default();
        let socket = Socket {
            number,
            asked: asked.clone(),
            keys,
            users: vec![user],
            bound: Arc::clone(&bound),
            looked_after: false,
        };
        self.sockets.push(socket);
        Ok(Grant { number, bound, inherited })
    }

    /// The socket that the host was started with under this name, or for this address.
    fn given(&self, asked: &Address) -> Option<(Address, Arc<OwnedFd>)> {
        let is_meant = |given: &&Inherited| match asked {
            Address::Inherited(name) => given.name == *name,
            address => given.address == *address,
        };
        self.inherited.iter().find(is_meant).map(|given| (given.address.clone(), Arc::clone(&given.descriptor)))
    }

    /// It could not be bound: the socket is forgotten.
    fn give_up(&mut self, number: u64) {
        self.sockets.retain(|socket| socket.number != number || socket.bound.initialized());
    }

    /// A key was removed. Returns the sockets that are kept for no other key, to be dropped after the lock.
    #[must_use]
    pub(super) fn key_gone(&mut self, key: &str) -> Vec<Socket> {
        let is_gone = |socket: &mut Socket| {
            socket.keys.remove(key);
            socket.keys.is_empty()
        };
        self.sockets.extract_if(.., is_gone).collect()
    }

    /// A controller has ended. Returns the sockets without users, for which a task is to be started.
    fn left(&mut self, controller: u64) -> Vec<u64> {
        let mut unused = Vec::new();
        for socket in &mut self.sockets {
            let before = socket.users.len();
            socket.users.retain(|(user, _)| *user != controller);
            if socket.users.len() < before && socket.users.is_empty() && !socket.looked_after {
                socket.looked_after = true;
                unused.push(socket.number);
            }
        }
        unused
    }

    /// Whether the task has to look at a socket again; removes the socket if no controller is going to ask for it.
    fn look(&mut self, configs: &Configs, number: u64) -> (bool, Option<Socket>) {
        let Some(at) = self.sockets.iter().position(|socket| socket.number == number) else { return (false, None) };
        let socket = &mut self.sockets[at];
        if !socket.users.is_empty() {
            socket.looked_after = false;
            return (false, None);
        }
        // A controller that does not run yet may ask when it does.
        let runs = |key: &String| {
            let instance = configs.by_key.get(key).and_then(|applied| configs.instances.get(&applied.wanted));
            instance.is_none_or(|instance| matches!(instance.state(), RunState::Running(_) | RunState::Removed))
        };
        if socket.keys.iter().all(runs) { (false, Some(self.sockets.remove(at))) } else { (true, None) }
    }
}

/// The key for a controller that no config asked for.
fn by_hand(controller: u64) -> String {
    format!("controller {controller}")
}

impl Engine {
    /// A controller has ended: the sockets that it was the last to use are closed after a while.
    pub(super) fn sockets_left(self: &Arc<Self>, controller: u64, instance: Option<u64>) {
        if instance.is_none() {
            let gone = self.sockets().key_gone(&by_hand(controller));
            drop(gone);
        }
        let unused = self.sockets().left(controller);
        for number in unused {
            let engine = Arc::downgrade(self);
            self.spawn(async move {
                loop {
                    tokio::time::sleep(UNUSED).await;
                    let Some(engine) = engine.upgrade() else { return };
                    let (goes_on, unused) = {
                        let life = engine.life();
                        engine.sockets().look(&life.configs, number)
                    };
                    if let Some(socket) = unused {
                        tracing::info!(address = %socket.asked, "no controller has used the socket for {UNUSED:?}; closing it");
                    }
                    if !goes_on {
                        return;
                    }
                }
            });
        }
    }

    /// Closes every socket.
    pub(super) fn close_sockets(&self) {
        let all = std::mem::take(&mut self.sockets().sockets);
        drop(all);
    }
}

/// Whether a socket listens. Elsewhere the system does not say: `accept` fails later.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn listens(descriptor: &OwnedFd) -> std::io::Result<bool> {
    SockRef::from(descriptor).is_listener()
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn listens(_: &OwnedFd) -> std::io::Result<bool> {
    Ok(true)
}

impl Bus {
    /// Gives the bus a listening socket, such as one from a service manager, for controllers that
    /// [listen](crate::Context::listen) at its address or at `systemd:NAME`. It stays open as long as the bus exists.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the socket does not listen, or is neither a TCP nor a Unix socket.
    pub fn adopt_listener(&self, name: &str, listener: impl Into<OwnedFd>) -> Result<(), BusError> {
        let invalid = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Invalid, format!("the socket `{name}` cannot be used: {error}"))
        };
        let descriptor = listener.into();
        if !listens(&descriptor).map_err(|error| invalid(&error))? {
            return Err(invalid(&"it is not listening").into());
        }
        SockRef::from(&descriptor).set_nonblocking(true).map_err(|error| invalid(&error))?;
        let socket = StdListener::of(descriptor).map_err(|error| invalid(&error))?;
        let address = socket.address().map_err(|error| invalid(&error))?;
        let given = Inherited { name: name.to_owned(), address, descriptor: Arc::new(socket.into()) };
        self.0.sockets().inherited.push(given);
        Ok(())
    }

    /// The sockets that the bus keeps for controllers.
    pub fn sockets(&self) -> Vec<SocketSnapshot> {
        let table = self.0.sockets();
        let listening = table.sockets.iter().filter_map(|socket| {
            let bound = socket.bound.get()?;
            Some(SocketSnapshot {
                asked: socket.asked.clone(),
                address: bound.address.clone(),
                keys: socket.keys.iter().cloned().collect(),
                controllers: socket.users.iter().map(|(controller, _)| ControllerId(*controller)).collect(),
            })
        });
        listening.collect()
    }
}

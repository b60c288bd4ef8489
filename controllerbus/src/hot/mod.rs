//! Plain functions: a trait that both sides know, implemented by a plugin, and called by a host as if it were linked in.
//!
//! [`#[hot]`](macro@crate::hot) on a trait makes it callable, and [`#[hot_plugin]`](crate::hot_plugin) on an implementation makes
//! that a plugin. No config, no directive and no YAML is needed: it serves as soon as it is loaded. A [`Hot`] calls it.
//!
//! ```
//! use controllerbus::hot::Hot;
//! use controllerbus::prelude::*;
//!
//! /// In a crate that both sides depend on.
//! #[controllerbus::hot]
//! pub trait Greeter {
//!     fn greet(&self, name: &str) -> String;
//!     async fn wait_for(&self, name: &str) -> Result<u32, String>;
//! }
//!
//! #[derive(Default)]
//! struct Polite;
//!
//! #[hot_plugin(id = "greeter", version = "1.0.0")]
//! impl Greeter for Polite {
//!     fn greet(&self, name: &str) -> String {
//!         format!("Good day, {name}")
//!     }
//!
//!     async fn wait_for(&self, name: &str) -> Result<u32, String> {
//!         Err(format!("{name} is not coming"))
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     // Linked in, as here, it runs on every bus; with `hot-runtime` it is `runtime.hot()`.
//!     let bus = Bus::new();
//!     let greeter: Hot<dyn Greeter> = bus.hot().await?;
//!     assert_eq!(greeter.greet("Ada").await?, "Good day, Ada");
//!     assert_eq!(greeter.wait_for("Ada").await?, Err("Ada is not coming".to_owned()));
//!     Ok(())
//! }
//! ```
//!
//! # What a call is
//!
//! Arguments and results are encoded with serde, by reference, and cross a library, a process or nothing at all in the same way.
//! A call begins when the method is called, and goes to whatever serves then. It stays with that code until it ends, even if the
//! next version takes over meanwhile; dropping the [`Call`] cancels it. It is made once: nothing tries it again. While a state is
//! handed over to the next version, calls wait for that.
//!
//! One value of the plugin's type serves all calls, also at the same time, which is why methods take `&self`. A method that is not
//! `async` runs on a worker thread of the plugin; if that is linked in, on the caller's thread, before the call returns its future,
//! so that [`Call::within`] does not limit it. One that blocks for long should be `async` and use `tokio::task::spawn_blocking`.
//!
//! # What goes wrong
//!
//! Each call gives a `Result` with a [`BusError`]:
//!
//! | what happened | [`kind`](crate::Error::kind) |
//! |---|---|
//! | the method panicked | `Panicked`, with the method and the message |
//! | the plugin was unloaded | `NotFound` |
//! | its process crashed during the call | `Crashed` |
//! | the plugin's trait has no such method, or another signature of it | `Invalid`, with both signatures |
//! | [`Call::within`] was over | `TimedOut` |
//! | the bus was closed | `Closed` |
//! | a plugin with `swap = "stop-first"` had to end, and the call took longer than [`Limits::finish`](field@crate::bus::Limits::finish) | `Closed` |
//!
//! Signatures are compared method by method, when one is called: a plugin whose trait has more methods than the host's is fine,
//! and so is one that lacks a method which is not called. The fields of serde types may differ, as serde allows it.

pub(crate) mod call;
mod find;
pub(crate) mod serve;

use std::ops::Deref;
use std::sync::Arc;

pub use call::{Call, Caller};
pub use find::{Functions, ListFunctions};

use crate::controller::BoxFuture;
use crate::{Bus, BusError, BusHandle, Result};

/// What the ids of directives, configs and config keys of functions begin with; the plugin's id follows.
pub const PREFIX: &str = "functions/";

/// A method of a trait of functions, as one side knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// The types of its arguments and its result, such as `(&str, u64) -> String`.
    pub signature: &'static str,
}

/// A trait of functions, as `dyn Trait`.
///
/// Implemented by [`#[controllerbus::hot]`](macro@crate::hot).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a trait of functions",
    note = "put `#[controllerbus::hot]` on the trait"
)]
pub trait HotTrait: 'static {
    /// What has the trait's methods for callers.
    type Client: From<Caller> + Clone + Send + Sync + 'static;
    /// The crate and the trait, such as `greeter_api::Greeter`.
    const NAME: &'static str;
    /// Its methods.
    const METHODS: &'static [Method];
}

/// That a type implements a trait of functions. Implemented by [`#[controllerbus::hot]`](macro@crate::hot).
#[doc(hidden)]
pub trait Serves<T>: HotTrait {
    /// Calls the method with this index: decodes its arguments, and encodes what it returns.
    fn call(object: Arc<T>, method: usize, arguments: &[u8]) -> BoxFuture<'static, Result<Vec<u8>>>;
}

/// The functions of a plugin: it has the methods of the trait, each of which gives a [`Call`].
///
/// It derefs to the trait's client, so that nothing has to be imported to call them. It is bound to a plugin, and not to a
/// generation of it: each call goes to what serves then, also after the plugin was unloaded and loaded again. Cheap to clone.
pub struct Hot<T: ?Sized + HotTrait> {
    client: T::Client,
    caller: Caller,
}

impl<T: ?Sized + HotTrait> Hot<T> {
    pub(crate) fn new(bus: &BusHandle, plugin: &str) -> Self {
        let caller = Caller::new(bus.clone(), plugin);
        Self { client: caller.clone().into(), caller }
    }

    /// The id of the plugin. A function and not a method, so that it is in no trait's way.
    pub fn plugin(this: &Self) -> &str {
        this.caller.plugin()
    }
}

impl<T: ?Sized + HotTrait> Clone for Hot<T> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), caller: self.caller.clone() }
    }
}

impl<T: ?Sized + HotTrait> std::fmt::Debug for Hot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hot").field("trait", &T::NAME).field("plugin", &self.caller.plugin()).finish()
    }
}

impl<T: ?Sized + HotTrait> Deref for Hot<T> {
    type Target = T::Client;
    fn deref(&self) -> &T::Client {
        &self.client
    }
}

impl BusHandle {
    /// The functions of the plugin that implements a trait, also for a controller that calls another plugin
    /// (`context.bus().hot()`). Waits until there is one, and then up to a second for plugins that are too busy to say what they
    /// implement. Cancel-safe.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if several do, with their ids; [`BusHandle::hot_of`] chooses one.
    /// As [`BusHandle::request`].
    pub async fn hot<T: ?Sized + HotTrait>(&self) -> Result<Hot<T>, BusError> {
        let plugin = find::find(self, T::NAME, None).await?;
        Ok(Hot::new(self, &plugin))
    }

    /// The same of the plugin with this id, as its `#[hot_plugin(id = ..)]` says it. It waits for no other one.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if it implements another trait. As [`BusHandle::request`].
    pub async fn hot_of<T: ?Sized + HotTrait>(&self, plugin: &str) -> Result<Hot<T>, BusError> {
        let plugin = find::find(self, T::NAME, Some(plugin)).await?;
        Ok(Hot::new(self, &plugin))
    }
}

impl Bus {
    /// [`BusHandle::hot`] on this bus.
    ///
    /// # Errors
    /// As [`BusHandle::hot`].
    pub async fn hot<T: ?Sized + HotTrait>(&self) -> Result<Hot<T>, BusError> {
        self.handle().hot().await
    }

    /// [`BusHandle::hot_of`] on this bus.
    ///
    /// # Errors
    /// As [`BusHandle::hot_of`].
    pub async fn hot_of<T: ?Sized + HotTrait>(&self, plugin: &str) -> Result<Hot<T>, BusError> {
        self.handle().hot_of(plugin).await
    }
}

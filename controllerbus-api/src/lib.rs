//! The bus API of ControllerBus: a server that shows a bus, its plugins and its log over gRPC and on a page, and a client.
//!
//! `cbus run` and `cbus dev` serve this API, and the commands of `cbus` are its clients. With this crate a program of your own
//! can do the same.
//!
//! # Serving
//!
//! A [`Host`] observes a bus and a runtime; [`Host::serve`] adds the API to the bus. `cbus plugins`, `cbus logs` and
//! `cbus page` work with it as with a daemon.
//!
//! ```no_run
//! use controllerbus::Bus;
//! use controllerbus_api::{ApiConfig, Host};
//! use hot_runtime::{HotRuntime, Trust};
//!
//! # async fn main_() -> controllerbus::Result<()> {
//! let host = Host::new(Bus::new());
//! let observer = host.observer();
//! let builder = HotRuntime::builder(&host.bus).plugins_dir("plugins").trust(Trust::anyone());
//! let runtime = builder.on_event(observer).start().await?;
//! host.set_runtime(runtime);
//! let address = host.serve(ApiConfig::named("mine")?).await?;
//! println!("listening on {address}; open the page with `cbus page --connect mine`");
//! # Ok(())
//! # }
//! ```
//!
//! To have the log too, add [`logs::layer`] to the subscriber of `tracing`.
//!
//! # Asking
//!
//! ```no_run
//! use controllerbus_api::Connection;
//! use controllerbus_api::proto::ListPluginsRequest;
//!
//! # async fn main_() -> controllerbus::Result<()> {
//! let mut client = Connection::to("mine".parse()?)?.connect().await?;
//! for plugin in client.list_plugins(ListPluginsRequest {}).await?.into_inner().plugins {
//!     println!("{} {} is {}", plugin.id, plugin.version, plugin.state);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Who may use it
//!
//! A Unix socket serves only its own user. TCP requires a token or a client certificate, each with the roles that it has.
//! `docs/safety.md` in the repository describes what is checked.
#![forbid(unsafe_code)]

mod address;
mod ask;
mod auth;
pub mod client;
mod connections;
mod controller;
mod daemon;
mod error;
pub mod fleet;
mod page;
mod pages;
mod server;
pub mod sockets;
pub mod state;
mod streams;
mod text;

/// The messages and the client of the API, generated from `proto/controllerbus/api/v1/api.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("controllerbus.api.v1");
}

/// The descriptors of the proto file, as the reflection service serves them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

/// The revision of the API that is served: it is raised by each addition to the proto file, whose head says what clients
/// can rely on.
pub const API_REVISION: u32 = 5;

/// The config id of the controller that serves the API.
pub const CONFIG_ID: &str = "controllerbus/bus/api";

pub use address::{Address, is_name};
pub use client::Connection;
pub use controller::ApiConfig;
pub use daemon::{Host, Journal, PluginNotes, Problem, logs};
pub use error::{Error, Result};

/// For `cbus`.
#[doc(hidden)]
pub mod __private {
    pub use crate::ask::{ask_anybody, next};
    pub use crate::daemon::journal::now_ms;
    pub use crate::daemon::metrics::table as metrics;
    pub use crate::daemon::secrets::blot;
    pub use crate::text::{cut, duration, ms, plain};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadMe;

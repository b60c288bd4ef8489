//! Buses of many machines as one, over [zenoh](https://zenoh.io): the carrier of [`controllerbus_fleet`], with presence, certificates and
//! access rules.
//!
//! ```no_run
//! use controllerbus::prelude::*;
//!
//! #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
//! #[directive(id = "example/greet", value = String)]
//! struct Greet {
//!     name: String,
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<()> {
//!     let bus = Bus::new();
//!     let config = serde_json::from_str(r#"{ "name": "shop", "connect": ["hub-1.shop:7447"], "asks": ["example/greet"] }"#)?;
//!     let joined = controllerbus_zenoh::join(&bus, config).await?;
//!     // Answered by a controller on any host of the fleet that offers it.
//!     println!("{}", bus.resolve(Greet { name: "Ada".into() }).await?);
//!     joined.leave().await;
//!     Ok(())
//! }
//! ```
//!
//! With [`factory`], an entry of a config set does the same. Whoever lists addresses in `listen` is a *hub*, which routes for others and
//! is found by their `connect`; everybody else is connected to one hub at a time. A program with this crate is its own hub: there is no
//! server to install.
//!
//! The names, settings and threads that the engine gets are in `names.rs`, `settings.rs` and `engine.rs`.

#![warn(missing_debug_implementations)]

pub mod acl;
mod address;
mod carrier;
mod certificates;
mod engine;
mod expose;
mod factory;
mod hearing;
mod join;
mod names;
mod settings;

pub use carrier::{Ended, Zenoh};
pub use factory::factory;
pub use join::{Joined, join};

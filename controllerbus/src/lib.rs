//! Hot-swappable controllers: control loops whose code is replaced while the process keeps running.
//!
//! A **directive** asks for a state of the world, such as "a greeting for Ada". Equal directives are merged into one, which
//! stays active as long as anyone holds a reference. A **controller** runs on a bus and answers directives with **values**,
//! which come and go meanwhile. A **config set** says which controllers run. Requesters and resolvers share only the
//! directive's type, so a controller can be replaced by a new version of its code at any time.
//!
//! ```
//! use controllerbus::prelude::*;
//!
//! #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
//! #[directive(id = "example/greet", value = String)]
//! struct Greet { name: String }
//!
//! #[derive(Config, Serialize, Deserialize, PartialEq)]
//! #[config(id = "example/greeter")]
//! struct GreeterConfig { greeting: String }
//!
//! struct Greeter { config: GreeterConfig }
//!
//! #[hot_plugin(id = "example/greeter", version = "1.0.0")]
//! impl Controller for Greeter {
//!     type Config = GreeterConfig;
//!
//!     async fn construct(config: GreeterConfig, _: &Context) -> Result<Self> {
//!         Ok(Self { config })
//!     }
//!
//!     #[resolves]
//!     async fn greet(&self, request: Greet) -> Result<String> {
//!         Ok(format!("{}, {}!", self.config.greeting, request.name))
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     let bus = Bus::new();
//!     bus.apply(ConfigSet::from_yaml("greeter: { id: example/greeter, config: { greeting: Hello } }")?).await?;
//!     let greeting = bus.resolve(Greet { name: "Ada".into() }).await?;
//!     assert_eq!(*greeting, "Hello, Ada!");
//!     Ok(())
//! }
//! ```
//!
//! Here the controller is linked into the program, where [`hot_plugin`] registers it. The same crate, unchanged, is a plugin
//! that the crate `hot-runtime` builds, loads, and swaps while the process serves.
//!
//! # Where to go next
//!
//! * To write a controller: [`Controller`], with what it is given ([`Context`]) and its state across swaps ([`State`](struct@State)).
//! * To ask and to answer: [`Directive`], [`Request`] (the requester's side) and [`Values`] (a resolver).
//! * To run a bus: [`Bus`] and [`ConfigSet`]; [`BusError`] is what goes wrong there.
//! * To call a plugin's functions, without a bus: [`hot`](mod@hot).
//! * To keep sockets across swaps: [`listen`]. To hand out objects with methods: [`Interface`].
//!
//! # Features
//!
//! * `yaml` (on by default): config sets in YAML, and the places in them that errors name. Plugins can do without, because
//!   their host reads the config files; they build faster with
//!   `controllerbus = { version = "0.1", default-features = false }`. In a workspace that has the host too, cargo turns the
//!   feature on for both wherever it builds both at once, and then builds the plugin's dependencies again without it when it
//!   builds the plugin alone. That is correct, but the first build of the plugin is not faster there.
//! * `testing` (off by default): the module `testing`, a bus for tests. It belongs among the `[dev-dependencies]`.

#![warn(missing_debug_implementations)]

/// The README's program is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// The macros' output says `::controllerbus`; here as everywhere.
extern crate self as controllerbus;

mod backoff;
pub mod bus;
mod code;
pub mod config;
pub mod controller;
pub mod directive;
pub mod error;
mod few;
pub mod hot;
mod linked;
pub mod listen;
pub mod plugin;
pub mod remote;
mod spans;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;

pub(crate) use backoff::Backoff;
pub use backoff::Retry;
pub use bus::{Bus, BusHandle};
pub use config::{Config, ConfigSet, Schema};
pub use controller::{Context, Controller, Routes, State, Stateful};
pub use directive::{Directive, Event, Request, ValueId, Values};
pub use error::{BusError, Error, Result};
pub use plugin::Interface;

pub use controllerbus_macros::{Config, Directive, Schema, State, hot, hot_plugin, interface, resolves};

/// Everything that a controller crate needs.
pub mod prelude {
    pub use crate::{
        Bus, BusError, BusHandle, Config, ConfigSet, Context, Controller, Directive, Error, Event, Interface, Request,
        Result, Retry, Schema, State, Values, hot_plugin, resolves,
    };
    pub use serde::{Deserialize, Serialize};
}

/// What the macros' output and the framework's other crates refer to. Not part of the public interface: anything may change.
#[doc(hidden)]
pub mod __private {
    pub use crate::bus::contain::contained;
    pub use crate::config::nearest::{distance, nearest};
    pub use crate::controller::{Answer, SwapMode};
    pub use crate::directive::DirectiveType;
    pub use crate::linked::{DIRECTIVE_TYPES, FACTORIES, FactoryEntry, factory_of};
    pub use crate::plugin::{guest, manifest};
    pub use crate::spans::RUN;
    pub use libc;
    pub use linkme;
    pub use serde_json;

    pub mod state {
        pub use crate::controller::state::{FieldBytes, FieldError, FieldValue};
    }

    pub mod hot {
        pub use crate::hot::call::Bytes;
        pub use crate::hot::serve::{Kept, Object, Table, as_a, call, configs, factory, failed};
    }

    pub mod schema {
        pub use crate::config::probe::{Probe, Unknown};
        pub use crate::config::schema::{Field, Node};
    }
}

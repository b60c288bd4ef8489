//! Communicating control loops that can be replaced while they run.
//!
//! A [`Controller`] runs on a [`Bus`] and answers [`Directive`]s with values. With
//! [`hot_plugin`] on its `impl` block it can be built into a plugin and swapped while the
//! process serves; linked into an ordinary binary the same crate registers itself statically.

#![warn(missing_debug_implementations)]

/// The README's program is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// The macros' output says `::controllerbus`; here as everywhere.
extern crate self as controllerbus;

mod backoff;
pub mod bus;
pub mod config;
pub mod controller;
pub mod directive;
pub mod error;
pub mod listen;
pub mod plugin;

pub use backoff::Backoff;
pub use bus::{Bus, BusHandle};
pub use config::{Config, ConfigSet, Schema};
pub use controller::{Context, Controller, Routes, State};
pub use directive::{Directive, Event, Request, ValueId, Values};
pub use error::{BusError, Error, Result};
pub use plugin::Interface;

pub use controllerbus_macros::{Config, Directive, Schema, hot_plugin, interface};

/// Everything that a controller crate needs.
pub mod prelude {
    pub use crate::{
        Bus, BusError, BusHandle, Config, ConfigSet, Context, Controller, Directive, Error, Event, Interface, Request, Result,
        Schema, State, Values, hot_plugin,
    };
    pub use serde::{Deserialize, Serialize};
}

/// What the macros' output refers to. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::config::schema;
    pub use crate::controller::SwapMode;
    pub use crate::controller::factory::{FACTORIES, FactoryEntry, FactoryOf};
    pub use crate::directive::{DIRECTIVE_TYPES, DirectiveType};
    pub use crate::plugin::{guest, manifest};
    pub use libc;
    pub use linkme;
    pub use serde_json;
}

//! The bus API: its messages, the controller that serves it, and the client.

mod address;
mod auth;
pub mod client;
pub mod controller;
mod pages;
mod server;
pub mod sockets;
pub mod state;
mod streams;

/// Generated from `proto/controllerbus/api/v1/api.proto`.
#[allow(clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("controllerbus.api.v1");
}

/// The proto file, for the reflection service.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

/// The config id of the controller that serves the API.
pub const CONFIG_ID: &str = "controllerbus/bus/api";

pub use address::{Address, is_name};
pub use auth::{Caller, KEY};
pub use server::Service;
pub use streams::stream;

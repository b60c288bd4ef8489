//! The bus API: its messages, the controller that serves it, and the client.

mod address;
mod auth;
pub mod client;
pub mod controller;
mod server;
mod streams;

/// Made from `proto/controllerbus/api/v1/api.proto`.
#[allow(clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("controllerbus.api.v1");
}

/// The proto file, for the reflection service.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

/// Where a daemon listens, and a client looks for it, unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7411";

/// The config id of the controller that serves the API.
pub const CONFIG_ID: &str = "controllerbus/bus/api";

pub use address::Address;
pub use server::Service;
pub use streams::stream;

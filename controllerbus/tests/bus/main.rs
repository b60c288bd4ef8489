//! What the bus promises, by its public interface. One binary: every test file of the bus is a module of it.

mod bridged_origins;
mod bridges;
mod config_sets;
mod controllers;
mod directives;
mod inside;
mod introspection;
mod kit;
mod life;
mod life_model;
mod local;
mod lost;
mod mistakes;
mod model;
mod origins;
mod pins;
mod requests;
mod resolvers;
mod schemas;
mod several_hosts;
#[cfg(unix)]
mod sockets;
mod spans;
mod stop_first;
mod swaps;
mod waits;

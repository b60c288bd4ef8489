//! What the bus promises, by its public interface. One binary: every test file of the bus is a module of it.

mod config_sets;
mod introspection;
mod kit;
mod schemas;

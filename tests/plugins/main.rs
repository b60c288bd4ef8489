//! Plugins in a host, end to end. One program, because each that is linked costs what its slowest test costs.

mod bad_artifacts;
mod end_to_end;
#[cfg(unix)]
mod functions;
#[cfg(unix)]
mod loaders;
#[cfg(unix)]
mod owning;
#[cfg(unix)]
mod persist;
mod probation;
mod swap;

//! Hosts do not keep sockets on this system: asking for one is an error.

use std::convert::Infallible;

use super::HostSocket;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// The error that says so.
pub(crate) fn unsupported() -> Error {
    let what = "a host keeps sockets for its controllers on Unix only; bind the address in `execute`, and set \
                `swap = \"stop-first\"`";
    Error::new(ErrorKind::Invalid, what).permanent()
}

/// Has no values on this system.
#[derive(Debug)]
pub struct Listener(Infallible);

/// The other end of a connection. Has no values on this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {}

impl Listener {
    pub(crate) fn new(_: HostSocket) -> Result<Self> {
        Err(unsupported())
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub async fn accept(&mut self) -> std::io::Result<Option<(Infallible, Peer)>> {
        match self.0 {}
    }
}

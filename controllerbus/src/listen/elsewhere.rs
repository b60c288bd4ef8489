//! There are no sockets of the host on this system: asking for one is an error.

use std::convert::Infallible;

use super::HostSocket;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// Why there is none.
pub(crate) fn unsupported() -> Error {
    let what = "a host keeps sockets for its controllers on Unix only; bind the address in `execute`, and say \
                `swap = \"stop-first\"`";
    Error::new(ErrorKind::Invalid, what).permanent()
}

/// There is none on this system.
#[derive(Debug)]
pub struct Listener(Infallible);

/// Who has connected: nobody, on this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {}

impl Listener {
    pub(crate) fn new(_: HostSocket) -> Result<Self> {
        Err(unsupported())
    }

    /// Nothing comes.
    ///
    /// # Errors
    /// None.
    pub async fn accept(&mut self) -> std::io::Result<Option<(Infallible, Peer)>> {
        match self.0 {}
    }
}

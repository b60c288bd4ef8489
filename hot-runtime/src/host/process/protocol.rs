//! The protocol between a runtime and a plugin host: frames of a length and a MessagePack message.
//!
//! Payloads (directives, values, configs, states) are bytes in the boundary's own encoding, and are passed on
//! unchanged.

use std::time::Duration;

use controllerbus::Error;
use controllerbus::controller::{Info, SwapMode};
use controllerbus::plugin::manifest::{ABI_HEX, BOUNDARY_VERSION};
use controllerbus::remote::Message;
use serde::{Deserialize, Serialize};

use crate::artifact::PrivateCopy;
use crate::host::moment::Moment;
use crate::host::options::{Limits, Sandbox};

/// The protocol's version; increased when the messages change.
pub(super) const PROTOCOL: u32 = 7;

/// What both sides must agree on: the first fields of the first message each way, by name, whatever else follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    pub(super) protocol: u32,
    pub(super) boundary: u32,
    pub(super) abi: String,
}

impl Versions {
    pub(super) fn ours() -> Self {
        Self { protocol: PROTOCOL, boundary: BOUNDARY_VERSION, abi: ABI_HEX.to_owned() }
    }

    /// Why the other side is incompatible, if it is.
    pub(super) fn mismatch(&self, who: &str) -> Option<String> {
        let ours = Self::ours();
        (*self != ours).then(|| {
            format!(
                "{who} uses protocol {} with boundary {}/{}, but this side uses protocol {} with boundary {}/{}; \
                 use a plugin host that was built with this runtime",
                self.protocol, self.boundary, self.abi, ours.protocol, ours.boundary, ours.abi
            )
        })
    }
}

/// The first message to a plugin host, encoded with field names.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hello {
    #[serde(flatten)]
    pub(super) versions: Versions,
    pub(super) plugin: String,
    pub(super) generation: u64,
    pub(super) workers: u32,
    /// The private copy of the artifact that the runtime has verified.
    pub(super) library: PrivateCopy,
    pub(super) parent: u32,
    pub(super) trace_level: u8,
    pub(super) limits: Limits,
    pub(super) sandbox: Option<Sandbox>,
    /// When it ends itself, unless it is told otherwise.
    pub(super) deadline: Option<Moment>,
}

/// The first message of a plugin host, encoded with field names.
#[derive(Serialize, Deserialize)]
pub(super) struct Welcome {
    #[serde(flatten)]
    pub(super) versions: Versions,
    pub(super) factories: Result<Vec<Offered>, Error>,
    /// What confines it.
    pub(super) layers: Vec<String>,
}

/// The numbers that a plugin host gives to what its controllers have added begin here. The artifact's factories are numbered
/// from 0, and the runtime numbers controllers from 0.
pub(super) const ADDED: u64 = 1 << 63;

/// The number of the span in which a controller's code runs, which the runtime has. A plugin host numbers its own from 1.
pub(super) const fn span_of(controller: u64) -> u64 {
    controller | 1 << 62
}

/// A factory of the artifact.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Offered {
    pub(super) info: Info,
    /// The JSON schema of its configs.
    pub(super) schema: String,
    /// How its controllers replace others in a swap.
    pub(super) swap: SwapMode,
    /// How often its controllers' states are kept, if they are.
    #[serde(default)]
    pub(super) persist: Option<Duration>,
}

/// A message from a runtime to a plugin host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToChild<'a> {
    Construct {
        call: u64,
        controller: u64,
        factory: u64,
        #[serde(with = "serde_bytes")]
        config: &'a [u8],
    },
    Execute {
        call: u64,
        controller: u64,
    },
    Close {
        call: u64,
        controller: u64,
    },
    /// Drops a controller once nothing uses it.
    Part {
        call: u64,
        controller: u64,
        within_ms: u64,
    },
    Health {
        call: u64,
        controller: u64,
    },
    Save {
        call: u64,
        controller: u64,
    },
    Restore {
        call: u64,
        controller: u64,
        schema: u32,
        #[serde(with = "serde_bytes")]
        state: &'a [u8],
    },
    /// Cancels the context of a call.
    Cancel {
        call: u64,
    },
    /// Drops a call's future.
    Abort {
        call: u64,
    },
    /// Drops a controller.
    Forget {
        controller: u64,
    },
    /// What is asked and answered. Controllers have the numbers of the other messages.
    Remote(#[serde(borrow)] Message<'a>),
    /// The result of [`ToParent::Listen`], with a descriptor of the socket unless there is an error.
    Listening {
        listener: u64,
        error: Option<Error>,
    },
    /// Whether the controller of a listener serves: the value of a `controllerbus::listen::Service`.
    Serves {
        listener: u64,
        service: u8,
    },
    Ping {
        number: u64,
        trace_level: u8,
    },
    /// When the process ends itself from now on.
    Deadline {
        at: Option<Moment>,
    },
    Shutdown {
        timeout_ms: u64,
    },
}

/// A message from a plugin host to its runtime.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToParent<'a> {
    /// A call ended.
    Done {
        call: u64,
        #[serde(borrow)]
        result: Result<Answer<'a>, Error>,
    },
    /// An execution has reached its first wait, or its end without an error.
    Began {
        call: u64,
    },
    /// What is asked and answered.
    Remote(#[serde(borrow)] Message<'a>),
    /// A controller listens at an address.
    Listen {
        listener: u64,
        controller: u64,
        address: &'a str,
    },
    /// Whether controllers have open connections; sent when that changes.
    Connections {
        open: bool,
    },
    Trace(#[serde(borrow)] TraceEvent<'a>),
    SpanOpened {
        span: u64,
        parent: u64,
        level: u8,
        name: &'a str,
        module: &'a str,
        fields: &'a str,
    },
    SpanClosed {
        span: u64,
    },
    Pong {
        number: u64,
    },
}

/// The result of a call.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer<'a> {
    Nothing,
    Constructed {
        /// The ids of the directives that the controller resolves.
        resolves: Vec<String>,
        /// How often its resolvers are tried again, where it says so itself: a list of ids and `Retry`s, encoded.
        #[serde(with = "serde_bytes")]
        retries: &'a [u8],
    },
    NoState,
    State {
        schema: u32,
        #[serde(with = "serde_bytes")]
        bytes: &'a [u8],
    },
}

/// A `tracing` event of a plugin host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TraceEvent<'a> {
    /// 1 error to 5 trace.
    pub(super) level: u8,
    /// Its span, 0 for none.
    pub(super) span: u64,
    pub(super) module: &'a str,
    pub(super) message: &'a str,
    pub(super) fields: &'a str,
    pub(super) file: &'a str,
    pub(super) line: u32,
    /// How many events before this one were dropped, because they came faster than they were read.
    pub(super) lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::carrier::Carried;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let message = ToParent::Done { call: 7, result: Ok(Answer::State { schema: 2, bytes: b"state" }) };
        let bytes = rmp_serde::to_vec(&message).expect("encoding");
        assert_eq!(
            format!("{message:?}"),
            format!("{:?}", rmp_serde::from_slice::<ToParent<'_>>(&bytes).expect("decoding"))
        );
        for error in [Error::msg("no"), Error::msg("no").permanent()] {
            let message = Message::Failed { ask: 3, error };
            let bytes = rmp_serde::to_vec(&Carried::Remote(&message)).expect("encoding");
            let to_child = rmp_serde::from_slice::<ToChild<'_>>(&bytes).expect("decoding");
            assert_eq!(format!("Remote({message:?})"), format!("{to_child:?}"));
            let to_parent = rmp_serde::from_slice::<ToParent<'_>>(&bytes).expect("decoding");
            assert_eq!(format!("Remote({message:?})"), format!("{to_parent:?}"));
        }
        let message = ToChild::Ping { number: 1, trace_level: 3 };
        let bytes = rmp_serde::to_vec(&message).expect("encoding");
        assert!(matches!(rmp_serde::from_slice(&bytes), Ok(ToChild::Ping { number: 1, trace_level: 3 })));
    }

    #[test]
    fn a_plugin_host_of_another_version_is_understood_enough_to_be_refused() {
        #[derive(Serialize)]
        struct Later {
            protocol: u32,
            boundary: u32,
            abi: &'static str,
            something_new: bool,
        }
        let later = Later { protocol: PROTOCOL + 1, boundary: 9, abi: "other", something_new: true };
        let bytes = rmp_serde::to_vec_named(&later).expect("encoding");
        let versions: Versions = rmp_serde::from_slice(&bytes).expect("the versions are readable");
        let reason = versions.mismatch("the plugin host").expect("a mismatch");
        assert!(
            reason.contains(&format!("protocol {}", PROTOCOL + 1)) && reason.contains("boundary 9/other"),
            "{reason}"
        );
        assert!(Versions::ours().mismatch("the plugin host").is_none());
    }
}

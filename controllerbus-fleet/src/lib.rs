//! The buses of many machines as one: a directive that is added here is answered there.
//!
//! [`Fleet::join`] joins a bus to a fleet, over a [`Carrier`](carrier::Carrier) that moves frames between hosts and knows who is there.
//! The crate `controllerbus-zenoh` has one over the network; [`memory`] has one within a process, for tests.
//!
//! Nothing crosses unless it is named on both sides: `offers` on the host that answers, `asks` on the one that asks. Everything else is
//! as on one bus: values come and go, are withdrawn when their host is out of reach, and are there again when it is back.
#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

pub mod carrier;
pub mod config;
mod controllers;
mod counts;
mod event;
mod fleet;
mod link;
pub mod memory;
mod names;
mod options;
mod outbox;
mod presence;
mod shared;
pub mod status;
mod topology;

pub use event::FleetEvent;
pub use fleet::Fleet;
pub use options::FleetOptions;

/// The reader of frames, for who feeds it with what no host would send.
#[doc(hidden)]
pub mod __private {
    use crate::link::frame::Frame;
    use crate::link::greeting::LinkMessage;

    /// Reads a frame of a link and of a lane; whether each was understood.
    pub fn read_frame(bytes: &[u8]) -> (bool, bool) {
        let of_link = LinkMessage::read(bytes).is_ok();
        let of_lane = Frame::read("fuzz/lane", bytes).and_then(|mut frame| {
            while frame.next()?.is_some() {}
            Ok(())
        });
        (of_link, of_lane.is_ok())
    }
}

/// The README's program is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! What the tests of fleets share: directives, hosts as processes, a relay that cuts, places to listen at.

pub mod certificates;
pub mod directives;
pub mod harness;
pub mod network;
pub mod places;
pub mod relay;

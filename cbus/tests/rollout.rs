//! `cbus publish` and `cbus rollout`, with daemons that follow: `cargo test -p cbus --features fleet --test rollout`.
#![cfg(unix)]

#[path = "rollout/bad.rs"]
mod bad;
#[path = "cbus/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "rollout/fleet.rs"]
mod fleet;
#[path = "rollout/load.rs"]
mod load;
#[path = "rollout/one_host.rs"]
mod one_host;
#[path = "rollout/placed.rs"]
mod placed;
#[path = "rollout/placement.rs"]
mod placement;
#[path = "cbus/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "rollout/releases.rs"]
mod releases;
#[path = "../src/schema.rs"]
#[allow(dead_code)]
mod schema;
#[path = "rollout/twenty.rs"]
mod twenty;
#[path = "cbus/webdriver.rs"]
#[allow(dead_code)]
mod webdriver;

use command::*;

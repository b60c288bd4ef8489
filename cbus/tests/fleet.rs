//! `cbus` that is built with the feature `fleet`: `cargo test -p cbus --features fleet --test fleet`.
#![cfg(unix)]

#[path = "cbus/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "fleet/daemons.rs"]
mod daemons;
#[path = "fleet/doctor.rs"]
mod doctor;
#[path = "fleet/ends.rs"]
mod ends;
#[path = "fleet/init.rs"]
mod init;
#[path = "book/literals.rs"]
#[allow(dead_code)]
mod literals;
#[path = "book/page.rs"]
#[allow(dead_code)]
mod page;
#[path = "cbus/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../src/schema.rs"]
#[allow(dead_code)]
mod schema;
#[path = "book/steps.rs"]
mod steps;
#[path = "fleet/walk.rs"]
mod walk;
#[path = "cbus/webdriver.rs"]
#[allow(dead_code)]
mod webdriver;

use command::*;

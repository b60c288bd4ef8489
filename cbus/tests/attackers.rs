//! Those who do not belong: other users, other sites' pages, holders of the wrong token, texts that lie, and noise.
#![cfg(unix)]

#[path = "../../controllerbus-api/src/auth/caller.rs"]
#[allow(dead_code)]
mod caller;
#[path = "attackers/calls.rs"]
mod calls;
#[path = "cbus/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "attackers/noise.rs"]
mod noise;
#[path = "attackers/pages.rs"]
mod pages;
#[path = "cbus/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../../controllerbus-api/src/auth/rules.rs"]
#[allow(dead_code)]
mod rules;
#[path = "../../controllerbus-api/src/daemon/secrets.rs"]
#[allow(dead_code)]
mod secrets;
#[path = "attackers/terminal.rs"]
mod terminal;
#[path = "attackers/users.rs"]
mod users;
#[path = "cbus/webdriver.rs"]
#[allow(dead_code)]
mod webdriver;

use command::*;

//! The book in `docs/` and the README: what they show is built, run and led to. Their whole programs are doctests of the crate
//! `tests`.
#![cfg(unix)]

#[path = "book/built.rs"]
mod built;
#[path = "book/code.rs"]
mod code;
#[path = "cbus/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "book/commands.rs"]
mod commands;
#[path = "book/fleets.rs"]
mod fleets;
#[path = "book/links.rs"]
mod links;
#[path = "book/literals.rs"]
mod literals;
#[path = "book/operations.rs"]
mod operations;
#[path = "book/page.rs"]
mod page;
#[path = "cbus/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "book/steps.rs"]
mod steps;

use command::*;

//! What a program or a person looks up: the JSON of each command and its schema, codes, manual pages, completions, and the pages of
//! the book that are made from them.
#![cfg(unix)]

#[path = "reference/codes.rs"]
mod codes;
#[path = "cbus/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "reference/doctor.rs"]
mod doctor;
#[path = "reference/json.rs"]
mod json_of_commands;
#[path = "reference/pages.rs"]
mod pages;
#[path = "cbus/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../src/schema.rs"]
#[allow(dead_code)]
mod schema;

use command::*;

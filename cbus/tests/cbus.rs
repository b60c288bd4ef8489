//! `cbus` as a person uses it: the binary is run, with real builds of fixture crates.

#[path = "cbus/browser.rs"]
mod browser;
#[cfg(unix)]
#[path = "cbus/clients.rs"]
mod clients;
#[path = "cbus/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "cbus/daemon.rs"]
mod daemon;
#[cfg(unix)]
#[path = "cbus/dev.rs"]
mod dev;
#[path = "cbus/files.rs"]
mod files;
#[path = "cbus/help.rs"]
mod help;
#[path = "cbus/logs.rs"]
mod logs;
#[path = "cbus/metrics.rs"]
mod metrics;
#[path = "cbus/page.rs"]
mod page;
#[path = "cbus/pictures.rs"]
mod pictures;
#[path = "cbus/process.rs"]
#[allow(dead_code)]
mod process;
#[cfg(unix)]
#[path = "cbus/resume.rs"]
mod resume;
#[cfg(unix)]
#[path = "cbus/service.rs"]
mod service;
#[path = "cbus/tls.rs"]
mod tls;
#[cfg(unix)]
#[path = "cbus/view.rs"]
mod view;
#[path = "cbus/webdriver.rs"]
mod webdriver;

use command::*;

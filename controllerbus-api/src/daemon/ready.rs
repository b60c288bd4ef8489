//! Whether the daemon does what it was asked to do.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Host;
use crate::proto::{Config, Plugin};
use crate::state;

/// How long what strangers are told may be old.
const OLD: Duration = Duration::from_secs(1);

impl Host {
    /// Whether nothing is missing, for those who are told no more than that: it is looked up once a second at most, however often
    /// they ask.
    pub(crate) fn is_ready(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        match *looked {
            Some((at, is_ready)) if at.elapsed() < OLD => is_ready,
            _ => {
                let is_ready = self.not_ready().is_empty();
                *looked = Some((Instant::now(), is_ready));
                is_ready
            }
        }
    }

    /// What keeps the daemon from being ready, a line each; nothing if it is: its runtime has started, each plugin that is built or
    /// loaded serves, and each config has a controller that runs. A plugin or a config whose last change was not accepted is ready
    /// as long as the one before serves.
    pub fn not_ready(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.runtime().is_none() {
            missing.push("building and loading plugins".to_owned());
        }
        missing.extend(self.plugins().iter().filter_map(of_plugin));
        missing.extend(self.configs().iter().filter_map(of_config));
        missing
    }
}

fn of_plugin(plugin: &Plugin) -> Option<String> {
    let state = plugin.state.as_str();
    if plugin.serving().is_some() || !matches!(state, state::BUILDING | state::FAILED) {
        return None;
    }
    Some(with_reason(format!("plugin {} is {state}", plugin.id), &plugin.error))
}

fn of_config(config: &Config) -> Option<String> {
    let state = config.state.as_str();
    if !matches!(state, state::QUEUED | state::CONSTRUCTING | state::FAILED) {
        return None;
    }
    Some(with_reason(format!("config {} is {state}", config.key), &config.error))
}

/// With the first line of a reason, safe to print.
fn with_reason(what: String, reason: &str) -> String {
    let reason = crate::text::plain(reason);
    match reason.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => format!("{what}: {line}"),
        None => what,
    }
}

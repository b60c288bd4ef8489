//! The fleet's entry of a config file.

use std::path::{Path, PathBuf};

use controllerbus::{Config, ConfigSet};
use controllerbus_fleet::config::FleetConfig;
use miette::Result;

use crate::daemon::parse_config;
use crate::report::{io, report};

/// The config file that is read if none is named.
const DEFAULT: &str = "cbus.yaml";

/// An entry, and where it is.
pub struct Entry {
    pub path: PathBuf,
    pub config: FleetConfig,
}

impl Entry {
    /// This host's name.
    pub fn host(&self) -> Option<String> {
        self.config.host.clone().or_else(machine)
    }
}

/// The file that was named, or the one that is here.
pub fn path(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| Some(PathBuf::from(DEFAULT)).filter(|path| path.exists()))
}

/// Reads the entry of a file.
pub fn read(path: &Path) -> Result<Entry> {
    let text = std::fs::read_to_string(path).map_err(io("reading the config", path))?;
    let name = path.to_string_lossy();
    let set = parse_config(&text, &name)?;
    let mut entries = set.iter().filter(|(_, entry)| entry.id == FleetConfig::ID);
    let Some((key, entry)) = entries.next() else {
        return Err(report(
            format!("{name} has no entry with `id: {}`", FleetConfig::ID),
            "`cbus fleet init NAME` writes one; name another file if it is elsewhere",
        ));
    };
    if let Some((other, _)) = entries.next() {
        return Err(report(
            format!("{name} has two fleets, `{key}` and `{other}`"),
            "a daemon is in one fleet; remove one of them",
        ));
    }
    let config = serde_json::from_value(entry.config.clone()).map_err(|error| unfit(&set, key, &error))?;
    Ok(Entry { path: path.to_owned(), config })
}

fn unfit(set: &ConfigSet, key: &str, error: &serde_json::Error) -> miette::Report {
    let place = set.location(key).map(|place| format!("{place}: ")).unwrap_or_default();
    report(
        format!("{place}{key}: {error}"),
        "docs/fleet.md lists what there is; `cbus config check FILE` shows the place",
    )
}

/// The machine's name, if it can be a host's.
pub fn machine() -> Option<String> {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok()?;
    crate::cli::is_host(&name).then_some(name)
}

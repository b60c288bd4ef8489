//! The state of one key of the applied config sets, as tools see it.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::ControllerId;
use super::engine::{Engine, Life};
use super::entry::Execution;
use crate::Error;
use crate::config::nearest::nearest;
use crate::config::origin::Place;
use crate::directive::wire;
use crate::error::{Code, ErrorKind, Location};

/// What a config's controller is doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "lowercase")]
#[non_exhaustive]
pub enum RunState {
    /// There is no factory for its config ID yet, or none of a version that it accepts.
    Queued,
    /// It is being constructed.
    Constructing,
    /// It is running.
    Running(ControllerId),
    /// [`Bus::remove_controller`](super::Bus::remove_controller) has taken it off. It is constructed again when the config is
    /// applied again, for this key or another; a new factory does not bring it back.
    Removed,
    /// It could not be constructed, or its execution failed.
    Failed {
        /// Why.
        error: Error,
        /// When it is retried, counted from the failure; `None` if only another config or factory can help.
        #[serde(rename = "retry_in_ms", serialize_with = "optional_millis")]
        retry_in: Option<Duration>,
    },
}

pub(super) fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

pub(super) fn from_millis<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Duration::from_millis)
}

fn optional_millis<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_millis() as u64).serialize(serializer)
}

/// One key of the applied config sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConfigState {
    /// The key.
    pub key: String,
    /// The config ID.
    pub config_id: String,
    /// The versions that it accepts.
    pub version: Option<semver::VersionReq>,
    /// The elected revision: the highest one.
    pub revision: u64,
    /// Lower revisions that take over, highest first, when this one is withdrawn.
    pub candidates: Vec<u64>,
    /// What its controller is doing: that of the elected config or, until that is running, the one that still is.
    pub state: RunState,
    /// Since when.
    pub since: SystemTime,
    /// While the controller of an earlier config keeps running: why that of the elected one has not taken over.
    pub pending: Option<Pending>,
    /// Where it is in the text that it was read from, if it was.
    pub location: Option<Location>,
    /// Why the elected config is not running, with its location and what to do about it.
    pub problem: Option<Error>,
    /// Changes whenever the key asks for another config.
    #[serde(skip)]
    pub wanted: u64,
}

/// An elected config that is not running yet, while the previous one is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pending {
    /// What its controller is doing.
    pub state: RunState,
    /// Since when.
    pub since: SystemTime,
    /// The revision that is running meanwhile.
    pub running_revision: u64,
}

impl Engine {
    /// The state of a key.
    pub(super) fn config_state(&self, key: &str) -> Option<ConfigState> {
        let life = self.life();
        let applied = life.configs.by_key.get(key)?;
        let wanted = life.configs.instances.get(&applied.wanted)?;
        let place = applied.place.as_ref();
        let mut state = ConfigState {
            key: key.to_owned(),
            config_id: applied.config.id.clone(),
            version: applied.config.version.clone(),
            revision: applied.config.revision,
            candidates: applied.others(),
            state: wanted.shown(),
            since: wanted.since(),
            pending: None,
            location: place.and_then(Place::id),
            problem: None,
            wanted: applied.wanted,
        };
        if let RunState::Failed { error, .. } = &mut state.state {
            *error = placed(error.clone(), place);
        }
        let told = |error: Error| match state.location.clone() {
            Some(location) => error.at(location),
            None => error.context(format!("config `{key}`")),
        };
        state.problem = match &state.state {
            RunState::Failed { error, .. } => Some(error.clone()),
            RunState::Queued => Some(told(life.no_factory(&state.config_id, state.version.as_ref()))),
            RunState::Removed => {
                let what = "its controller was taken off the bus; apply the config again to construct it";
                Some(told(Error::new(ErrorKind::Closed, what)))
            }
            RunState::Constructing | RunState::Running(_) => None,
        };
        let mut running = wanted.running.as_ref();
        if let Some(serving) = applied.serving
            && let Some(before) = life.configs.instances.get(&serving.instance)
            && before.running.is_some()
        {
            running = before.running.as_ref();
            let pending = Pending { state: state.state, since: state.since, running_revision: serving.revision };
            state.pending = Some(pending);
            state.state = before.state().clone();
            state.since = before.since();
        }
        let failed = running.map(|entry| entry.own_execution()).and_then(|(execution, since)| match execution {
            Execution::Failed { error, retry_in } => Some((error, Some(retry_in), since)),
            Execution::Stopped { error } => Some((error, None, since)),
            _ => None,
        });
        if let Some((error, retry_in, since)) = failed {
            state.problem.get_or_insert_with(|| error.clone());
            state.state = RunState::Failed { error, retry_in };
            state.since = since;
        }
        Some(state)
    }
}

/// Adds the location in the config's text to an error about it.
fn placed(error: Error, place: Option<&Place>) -> Error {
    match place.and_then(|place| place.config(wire::path_of(&error).unwrap_or_default())) {
        Some(location) => error.at(location),
        None => error,
    }
}

impl Life {
    /// The error for a config without a factory.
    fn no_factory(&self, config_id: &str, version: Option<&semver::VersionReq>) -> Error {
        let versions = self.factories.versions(config_id);
        let (code, text) = match version {
            Some(range) if !versions.is_empty() => {
                let versions = versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let text =
                    format!("no factory of `{config_id}` has a version that matches `{range}`; available: {versions}");
                (Code::NO_SUCH_VERSION, text)
            }
            _ => {
                let ids = self.factories.config_ids();
                let meant = nearest(config_id, ids.iter().map(String::as_str));
                let meant = meant.map(|id| format!("; did you mean `{id}`?")).unwrap_or_default();
                (Code::UNKNOWN_CONFIG_ID, format!("no factory makes `{config_id}`{meant}"))
            }
        };
        Error::new(ErrorKind::NotFound, text).with_code(code)
    }
}

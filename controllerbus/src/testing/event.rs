//! What happens on a bus under test, in types and in words.

use std::fmt;
use std::time::Duration;

use semver::Version;

use crate::Error;

/// Something that happened on a bus under test. As text it is one line, which [`Events::until`](super::Events::until) looks for.
///
/// ```
/// use controllerbus::testing::TestEvent;
///
/// let event = TestEvent::Runs { key: "hall".into(), controller: "house/lamp".into(), version: "1.4.0".parse().unwrap() };
/// assert_eq!(event.to_string(), "hall: house/lamp 1.4.0 runs");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TestEvent {
    /// A key has a controller that runs; or runs again, after a failure.
    Runs {
        /// The key.
        key: String,
        /// The controller's plugin id.
        controller: String,
        /// Its version.
        version: Version,
    },
    /// A key's controller could not be made, or its execution failed.
    Failed {
        /// The key.
        key: String,
        /// Why.
        error: Error,
        /// When it is tried again, counted from here; `None` if it is not.
        retry_in: Option<Duration>,
    },
    /// There is nothing that makes a key's controller.
    Waits {
        /// The key.
        key: String,
        /// Why not.
        why: String,
    },
    /// The execution of a key's controller has ended without an error.
    Ended {
        /// The key.
        key: String,
        /// The controller's plugin id.
        controller: String,
    },
    /// A key was removed.
    Removed {
        /// The key.
        key: String,
    },
    /// A controller is over: it was closed.
    Closed {
        /// Its plugin id.
        controller: String,
        /// Its version.
        version: Version,
    },
    /// Other code makes the controllers of a config ID.
    Swapped {
        /// The config ID.
        config_id: String,
        /// The version before, if there was one.
        from: Option<Version>,
        /// The version that does now.
        to: Version,
    },
    /// A swap was refused.
    Refused {
        /// The config ID.
        config_id: String,
        /// The version that was to take over.
        version: Version,
        /// Why it did not.
        error: Error,
    },
    /// A line was logged with `tracing`, on the thread of the test.
    Logged(LogLine),
}

/// A line that was logged: from debug upwards, of the bus itself from info upwards.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// How important it is.
    pub level: tracing::Level,
    /// The module that it is of, unless it names another target.
    pub target: String,
    /// What it says.
    pub message: String,
    /// Its fields: `name=value`, with blanks between.
    pub fields: String,
    /// The plugin id of the controller whose code logged it, if it was one's.
    pub controller: Option<String>,
}

impl fmt::Display for TestEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs { key, controller, version } => write!(f, "{key}: {controller} {version} runs"),
            Self::Failed { key, error, retry_in: Some(wait) } => {
                write!(f, "{key}: failed: {error}; it is tried again in {wait:?}")
            }
            Self::Failed { key, error, retry_in: None } => write!(f, "{key}: failed: {error}; it is not tried again"),
            Self::Waits { key, why } => write!(f, "{key}: waits: {why}"),
            Self::Ended { key, controller } => write!(f, "{key}: the execution of {controller} has ended"),
            Self::Removed { key } => write!(f, "{key}: removed"),
            Self::Closed { controller, version } => write!(f, "{controller} {version} is closed"),
            Self::Swapped { config_id, from: Some(from), to } => write!(f, "{config_id}: {to} has replaced {from}"),
            Self::Swapped { config_id, from: None, to } => write!(f, "{config_id}: {to} makes its controllers"),
            Self::Refused { config_id, version, error } => write!(f, "{config_id}: {version} was refused: {error}"),
            Self::Logged(line) => line.fmt(f),
        }
    }
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, target, message, fields, controller } = self;
        write!(f, "{level} {}: {message}", controller.as_ref().unwrap_or(target))?;
        if fields.is_empty() { Ok(()) } else { write!(f, " {fields}") }
    }
}

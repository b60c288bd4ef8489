//! What can go wrong between a source and a serving generation: what, where, and what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use controllerbus::error::Code;

use crate::message::CompilerMessage;

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the runtime. Whatever it is, what served before keeps serving.
///
/// `Display` says what went wrong, and [`std::error::Error::source`] what caused it, where there is a cause beneath:
/// neither repeats the other. [`Error::with_causes`] is both on one line.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::error::Error as _;
///
/// let error = hot_runtime::artifact::inspect("there-is-none.cbus.so".as_ref()).err().ok_or("it is there")?;
/// assert_eq!(error.to_string(), "reading the plugin file: there-is-none.cbus.so");
/// let cause = error.source().ok_or("it has a cause")?.to_string();
/// assert_eq!(error.with_causes().to_string(), format!("{error}: {cause}"));
/// # Ok(())
/// # }
/// ```
///
/// `Debug` says the same as [`Error::with_causes`], because that is what a `main` prints which returns an error.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{what}: {path}", path = path.display())]
    Io {
        /// What was being done.
        what: String,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is nothing where a crate was to be.
    #[error("there is no crate at {path}: no such folder{}", start(from.as_deref()), path = path.display())]
    NoCrate {
        /// The absolute path.
        path: PathBuf,
        /// The current directory, if the path was given relative to it.
        from: Option<PathBuf>,
    },
    /// Cargo could not read a crate.
    #[error("cargo cannot read the crate at {path}: {message}", path = path.display())]
    Metadata {
        /// The crate's directory.
        path: PathBuf,
        /// Cargo's message.
        message: String,
    },
    /// A crate cannot be part of a plugin.
    #[error("the crate at {path} is not a controller crate: {message}", path = path.display())]
    NotAController {
        /// The crate's directory.
        path: PathBuf,
        /// What is missing and how to add it.
        message: String,
    },
    /// No crate of the plugin has this feature.
    #[error("no crate of {plugin} has the feature `{feature}`; known: {known}")]
    Feature {
        /// The plugin's id.
        plugin: String,
        /// The requested feature.
        feature: String,
        /// The available features.
        known: String,
    },
    /// A profile setting is not valid.
    #[error("the profile setting `{key}` of {plugin} is not valid: {message}; write its value as in Cargo.toml")]
    Profile {
        /// The plugin's id.
        plugin: String,
        /// The setting.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// The source does not compile.
    #[error("building {plugin} failed:\n{rendered}")]
    Build {
        /// The plugin's id.
        plugin: String,
        /// The errors as cargo renders them, with colours, or else cargo's own output.
        rendered: String,
        /// All of the compiler's messages, as data.
        messages: Vec<CompilerMessage>,
    },
    /// A build took too long and was stopped.
    #[error("building {plugin} took longer than {after:?} and was stopped; raise the limit with `build_timeout`")]
    BuildTimedOut {
        /// The plugin's id.
        plugin: String,
        /// The limit.
        after: Duration,
    },
    /// A build was stopped because its source changed or the runtime is shutting down.
    #[error("building {plugin} was cancelled")]
    Cancelled {
        /// The plugin's id.
        plugin: String,
    },
    /// A file is not an artifact that may be loaded. None of its code ran.
    #[error("{path} was refused: {reason}; {help}", path = path.display())]
    Artifact {
        /// The file.
        path: PathBuf,
        /// The code of what is wrong with it.
        code: Code,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        help: String,
    },
    /// A key for signatures cannot be used.
    #[error("the key in {path} cannot be used: {reason}", path = path.display())]
    Key {
        /// Where the key is, or was to be written.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A directory from which plugins cannot be loaded safely.
    #[error("{path} was refused: {reason}; {help}", path = path.display())]
    Folder {
        /// The directory.
        path: PathBuf,
        /// The code of what is wrong with it.
        code: Code,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        help: String,
    },
    /// The runtime's settings are missing something or contradict each other.
    #[error("the runtime's settings are not valid: {reason}")]
    Settings {
        /// Which of them, and what to change.
        reason: String,
    },
    /// A build was rolled back, and is not swapped in again.
    #[error(
        "build {build} of {plugin} was rolled back and will not be swapped in again ({reason}); change its sources, or roll back to \
         it by its build hash"
    )]
    TakenBack {
        /// The plugin's id.
        plugin: String,
        /// The build's hash.
        build: String,
        /// Why it was rolled back.
        reason: String,
    },
    /// There is no earlier generation to roll back to.
    #[error("{plugin} has no {} to roll back to; available: {}", wanted(to), list(known))]
    NothingToGoBackTo {
        /// The plugin's id.
        plugin: String,
        /// The requested build.
        to: Option<String>,
        /// The available builds, latest first.
        known: Vec<String>,
    },
    /// A verified artifact could not be loaded.
    #[error("{path} could not be loaded: {reason}", path = path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The error of the loader or the plugin.
        reason: String,
    },
    /// Whoever is asked before each swap did not allow this one; see [`Builder::before_swap`](crate::Builder::before_swap).
    #[error("{reason}")]
    NotAllowed {
        /// The plugin's id.
        plugin: String,
        /// Why.
        reason: String,
    },
    /// A new generation did not become ready.
    #[error("generation {generation} of {plugin} was rolled back: {reason}")]
    Swap {
        /// The plugin's id.
        plugin: String,
        /// The generation that was rolled back.
        generation: u64,
        /// The code of the bus's error, if it says more than that the generation did not become ready.
        code: Code,
        /// What kind of error the bus gave.
        kind: controllerbus::error::ErrorKind,
        /// Why.
        reason: String,
    },
    /// A file watcher could not be set up.
    #[error("cannot watch {path}: {message}", path = path.display())]
    Watch {
        /// What was to be watched.
        path: PathBuf,
        /// The system's message.
        message: String,
    },
    /// No plugin has this id.
    #[error("no plugin `{id}` is loaded{}", nearest.as_ref().map(|id| format!("; did you mean `{id}`?")).unwrap_or_default())]
    UnknownPlugin {
        /// The requested id.
        id: String,
        /// A known id that is close to it, if there is one.
        nearest: Option<String>,
    },
    /// There is no plugin whose functions could be called.
    #[error("{reason}")]
    NotServed {
        /// What is missing, and what there is instead.
        reason: String,
    },
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Closed,
}

impl Error {
    /// Makes an [`Error::Io`], for `map_err`.
    pub(crate) fn io(what: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let (what, path) = (what.to_owned(), path.to_owned());
        move |source| Self::Io { what, path, source }
    }

    /// The code by which it can be looked up: `cbus explain` prints what it means, what causes it and what to do.
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } => Code::IO,
            Self::NoCrate { .. } => Code::NO_CRATE,
            Self::Metadata { .. } => Code::METADATA,
            Self::NotAController { .. } => Code::NOT_A_CONTROLLER,
            Self::Feature { .. } => Code::FEATURE,
            Self::Profile { .. } => Code::PROFILE,
            Self::Build { .. } => Code::BUILD,
            Self::BuildTimedOut { .. } => Code::BUILD_TIMED_OUT,
            Self::Cancelled { .. } => Code::CANCELLED,
            Self::Artifact { code, .. } | Self::Folder { code, .. } | Self::Swap { code, .. } => *code,
            Self::Key { .. } => Code::KEY,
            Self::Settings { .. } => Code::SETTINGS,
            Self::TakenBack { .. } => Code::TAKEN_BACK,
            Self::NothingToGoBackTo { .. } => Code::NOTHING_TO_GO_BACK_TO,
            Self::Load { .. } => Code::LOAD,
            Self::NotAllowed { .. } => Code::NOT_WANTED,
            Self::Watch { .. } => Code::WATCH,
            Self::UnknownPlugin { .. } => Code::UNKNOWN_PLUGIN,
            Self::NotServed { .. } => Code::NOT_SERVED,
            Self::Closed => Code::CLOSED,
        }
    }

    /// The error and what caused it, each said once, on one line: for a log, an event, or anything else that is one
    /// text.
    #[must_use]
    pub fn with_causes(&self) -> impl std::fmt::Display {
        WithCauses(self)
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.with_causes(), f)
    }
}

/// An error and what caused it, on one line.
pub(crate) struct WithCauses<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// Where relative paths start.
fn start(from: Option<&std::path::Path>) -> String {
    from.map(|from| format!("; relative paths start at the current folder, {}", from.display())).unwrap_or_default()
}

fn wanted(build: &Option<String>) -> String {
    build.as_ref().map_or_else(|| "earlier generation".to_owned(), |build| format!("build {build}"))
}

fn list(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

#[cfg(all(test, unix))]
mod tests {
    use std::error::Error as _;

    #[test]
    fn a_cause_is_told_once_however_an_error_is_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("none/plugin.cbus.so");
        let error = crate::artifact::inspect(&missing).expect_err("it is not there");
        let told = |text: &str| text.matches("No such file").count();
        assert_eq!(told(&error.to_string()), 0);

        // As `anyhow` and `eyre` show it.
        let mut chain = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        assert_eq!(told(&chain.join("\nCaused by: ")), 1);

        let line = error.with_causes().to_string();
        assert_eq!(format!("{error:?}"), line, "what a `main` prints that returns it");
        assert_eq!(told(&line), 1);
        assert!(line.contains(&*missing.to_string_lossy()), "{line}");

        let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        assert_eq!(cause.map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
        assert_eq!(controllerbus::Error::from(error).to_string(), line);
    }
}

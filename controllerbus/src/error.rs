//! The one error type of the bus and of everything a controller answers with.

use std::fmt;

/// Shorthand for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do about it, as text that survives a plugin boundary.
///
/// Any `std::error::Error` converts into it with `?`; its chain of sources is kept as text,
/// because the original value must not outlive the library that it came from. For that reason it cannot itself
/// implement `std::error::Error`; it converts with `?` into `Box<dyn std::error::Error + Send + Sync>`, which
/// hosts that collect errors of many kinds can use.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    // Always written: where fields have no names, what follows it is found by its place.
    #[serde(default)]
    location: Option<Box<Location>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    permanent: bool,
}

/// A place in a text, such as a config file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Location {
    /// The file, where the text came from one.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: u64,
    /// The column in characters, from 1.
    pub column: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file}:{}:{}", self.line, self.column),
            None => write!(f, "line {}, column {}", self.line, self.column),
        }
    }
}

/// The class of an [`Error`], for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// User code returned an error.
    Failed,
    /// User code panicked; the panic was contained.
    Panicked,
    /// A value, config or directive could not be encoded or decoded; the message names type and field.
    Encoding,
    /// A directive or a config failed its own validation.
    Invalid,
    /// The thing asked for is not there: an unknown config ID, controller or plugin.
    NotFound,
    /// The bus, the controller or the generation is shutting down.
    Closed,
    /// Something did not happen within its time.
    TimedOut,
    /// The process of a plugin ended while it worked on this; it is restarted, and what stands is tried again.
    Crashed,
}

impl Error {
    /// An error of a class with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), location: None, permanent: false }
    }

    /// An error of class [`ErrorKind::Failed`]: the usual one in controllers.
    pub fn msg(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, message.to_string())
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text, as `Display` shows it.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The same error with a word in front about what was being done.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same error with what came of it behind its text.
    #[must_use]
    pub fn and(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{}; {what}", self.message), ..self }
    }

    /// The same error with the place that it is about, which also goes in front of its text.
    #[must_use]
    pub fn at(self, location: Location) -> Self {
        Self { message: format!("{location}: {}", self.message), location: Some(Box::new(location)), ..self }
    }

    /// The same error as one that trying again does not mend, such as a config that does not fit: what failed with it is
    /// tried again only when something else has changed (the config, the code), and not after a time.
    #[must_use]
    pub fn permanent(self) -> Self {
        Self { permanent: true, ..self }
    }

    /// The same error as one that trying again may mend.
    #[must_use]
    pub fn transient(self) -> Self {
        Self { permanent: false, ..self }
    }

    /// Whether trying again does not mend it; see [`Error::permanent`].
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The place in a text that the error is about. It does not cross a plugin's boundary; the error's text does.
    pub fn location(&self) -> Option<&Location> {
        self.location.as_deref()
    }

    /// The error for a caught panic payload, which is dropped here and now.
    pub fn from_panic(payload: Box<dyn std::any::Any + Send>) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a payload that is not text".to_owned());
        // A payload's own destructor may panic, and so may that of what it panics with.
        if let Err(again) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(payload))) {
            std::mem::forget(again);
        }
        Self::new(ErrorKind::Panicked, format!("panicked: {text}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// As `fn main() -> Result<()>` prints it.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: Error) -> Self {
        error.message.into()
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(ErrorKind::Failed, message)
    }
}

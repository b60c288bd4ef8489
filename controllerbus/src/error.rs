//! The two error types: [`Error`], which controllers answer with, and [`BusError`], which a host gets from the bus.
//!
//! * [`Error`] is what user code returns (everything in a trait that it implements), and what it is given to answer with:
//!   [`Context`](crate::Context), [`State`](struct@crate::State), [`Values`](crate::Values) and the encoding in
//!   [`directive::wire`](crate::directive::wire). It is also what events and snapshots contain.
//! * [`BusError`] is what every other function returns: of buses, requests, config sets, values and directives without a type.
//!   Inside a controller, `?` makes an [`Error`] of it.

use std::fmt;
use std::ops::Deref;

pub use crate::code::{Code, NoSuchCode};

/// Shorthand for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do about it, as text that survives a plugin boundary.
///
/// Every `std::error::Error` converts into it with `?`. Its chain of sources is kept as text, because the original value
/// must not outlive the library that it came from; a [`BusError`], by itself or in the chain, keeps its kind. A text is cut
/// at 64 KiB: errors are kept, by the bus and by whoever shows them.
///
/// Because everything converts into it, it cannot implement `std::error::Error` itself: that is what [`BusError`] is for.
///
/// ```
/// use controllerbus::error::ErrorKind;
/// use controllerbus::{ConfigSet, Error, Result};
///
/// fn port(text: &str) -> Result<u16> {
///     Ok(text.parse()?)
/// }
/// assert_eq!(port("none").unwrap_err().to_string(), "invalid digit found in string");
///
/// fn configs() -> Result<ConfigSet> {
///     Ok(ConfigSet::from_json("{]")?)
/// }
/// assert_eq!(configs().unwrap_err().kind(), ErrorKind::Invalid);
/// ```
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "Encoded", from = "Encoded")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    location: Option<Box<Location>>,
    permanent: bool,
    /// Known where the controller was constructed only.
    of_construction: bool,
    /// Known where the error was made only; its kind stands for it elsewhere.
    code: Option<Code>,
}

/// An [`Error`] as it is encoded. Whoever knows fewer classes reads a more general one: a plugin that was built with an earlier
/// version, or a host of a fleet that runs one.
#[derive(serde::Serialize, serde::Deserialize)]
struct Encoded {
    /// A class that every version knows.
    kind: ErrorKind,
    #[serde(deserialize_with = "read_text")]
    message: String,
    // Always written: where fields have no names, what follows it is found by its place.
    #[serde(default)]
    location: Option<Box<Location>>,
    /// Written if it is true, or for its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permanent: Option<bool>,
    /// The class, where not every version knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
}

impl From<Error> for Encoded {
    fn from(error: Error) -> Self {
        let exact = error.kind.since().map(|(name, _)| name.to_owned());
        Self {
            kind: error.kind.since().map_or(error.kind, |(_, before)| before),
            message: error.message,
            location: error.location,
            permanent: (error.permanent || exact.is_some()).then_some(error.permanent),
            exact,
        }
    }
}

impl From<Encoded> for Error {
    fn from(encoded: Encoded) -> Self {
        let exact = encoded.exact.as_deref().and_then(ErrorKind::named);
        Self {
            kind: exact.unwrap_or(encoded.kind),
            message: encoded.message,
            location: encoded.location,
            permanent: encoded.permanent.unwrap_or_default(),
            of_construction: false,
            code: None,
        }
    }
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
    /// What was asked for does not exist: an unknown config ID, controller or plugin.
    NotFound,
    /// The bus, the controller or the generation is shutting down.
    Closed,
    /// Something did not happen within its time.
    TimedOut,
    /// A plugin's process ended while it worked on this. It is restarted, and standing directives are resolved again.
    Crashed,
    /// Another host of a fleet went out of reach while it worked on this. What stands is asked again when it is back.
    Unreachable,
}

impl ErrorKind {
    /// The classes that came after the first version, each with its name and what it was before.
    const LATER: &[(Self, &str, Self)] = &[(Self::Unreachable, "Unreachable", Self::Failed)];

    /// The name and the more general class, of one that came later.
    fn since(self) -> Option<(&'static str, Self)> {
        Self::LATER.iter().find(|(kind, ..)| *kind == self).map(|(_, name, before)| (*name, *before))
    }

    /// A class that came later, by its name.
    fn named(name: &str) -> Option<Self> {
        Self::LATER.iter().find(|(_, known, _)| *known == name).map(|(kind, ..)| *kind)
    }
}

impl Error {
    /// An error of a class with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = bounded(message.into());
        Self { kind, message, location: None, permanent: false, of_construction: false, code: None }
    }

    /// An error of class [`ErrorKind::Failed`]: the usual one in controllers.
    pub fn msg(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, message.to_string())
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The code by which it can be looked up; `None` for what user code says in its own words.
    ///
    /// An error that has crossed a plugin's boundary, or comes from another process, may have a more general one than where it
    /// was made.
    pub fn code(&self) -> Option<Code> {
        self.code.or(match self.kind {
            ErrorKind::Panicked => Some(Code::PANICKED),
            ErrorKind::Encoding => Some(Code::NOT_DECODED),
            ErrorKind::Closed => Some(Code::CLOSED),
            ErrorKind::TimedOut => Some(Code::TIMED_OUT),
            ErrorKind::Crashed => Some(Code::CRASHED),
            ErrorKind::Unreachable => Some(Code::UNREACHABLE),
            ErrorKind::Failed | ErrorKind::Invalid | ErrorKind::NotFound => None,
        })
    }

    /// Gives it a code. One that it was given before, which is nearer to the cause, stays.
    #[must_use]
    pub fn with_code(self, code: Code) -> Self {
        Self { code: self.code.or(Some(code)), ..self }
    }

    /// The text, as `Display` shows it.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Puts what was being done in front of the text.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { message: bounded(format!("{what}: {}", self.message)), ..self }
    }

    /// Appends what came of it to the text.
    #[must_use]
    pub fn and(self, what: impl fmt::Display) -> Self {
        Self { message: bounded(format!("{}; {what}", self.message)), ..self }
    }

    /// Adds the place that the error is about, which is also put in front of the text.
    #[must_use]
    pub fn at(self, location: Location) -> Self {
        let message = bounded(format!("{location}: {}", self.message));
        Self { message, location: Some(Box::new(location)), ..self }
    }

    /// Marks the error as one that retrying does not fix, such as a config that does not fit: what failed with it is
    /// retried only once something else has changed (the config, the code), and not after a time.
    #[must_use]
    pub fn permanent(self) -> Self {
        Self { permanent: true, ..self }
    }

    /// Marks the error as one that retrying may fix, which is the default.
    #[must_use]
    pub fn transient(self) -> Self {
        Self { permanent: false, ..self }
    }

    /// Whether retrying does not fix it; see [`Error::permanent`].
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// Notes that a controller could not be constructed.
    pub(crate) fn of_construction(self) -> Self {
        Self { of_construction: true, ..self }
    }

    /// Whether it says why a controller could not be constructed: [`Bus::stage`](crate::Bus::stage) and
    /// [`Staged::commit`](crate::bus::Staged::commit) fail so when the new code does not take a config that the old code took.
    /// Not known of an error that has crossed a boundary.
    pub fn is_of_construction(&self) -> bool {
        self.of_construction
    }

    /// The place in a text that the error is about. It does not cross a plugin's boundary, but the text that names it does.
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
        Box::new(BusError(error))
    }
}

impl From<Error> for Box<dyn std::error::Error> {
    fn from(error: Error) -> Self {
        Box::new(BusError(error))
    }
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        from_chain(&error)
    }
}

fn from_chain(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut message = error.to_string();
    let mut kept = error.downcast_ref::<BusError>();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many error types tell their source in their own text too.
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        kept = kept.or_else(|| cause.downcast_ref());
        source = cause.source();
    }
    match kept {
        Some(BusError(kept)) => Error { message: bounded(message), ..kept.clone() },
        None => Error::msg(message),
    }
}

/// How many bytes of an error's text are kept.
const LONGEST: usize = 64 << 10;

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = text.floor_char_boundary(LONGEST);
        let more = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("… ({more} more bytes)"));
        text.shrink_to_fit();
    }
    text
}

fn read_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(bounded)
}

/// An [`Error`] as the functions that a host calls return it: a `std::error::Error`, so that `?` works into `anyhow`, `eyre`
/// and `Box<dyn std::error::Error>`, and into [`Error`], which keeps its kind.
///
/// It has the methods of [`Error`]. Its text tells the whole cause, so it has no `source`. An [`Error`] that a host finds in
/// an event or a snapshot converts with `BusError::from`.
///
/// ```
/// use controllerbus::prelude::*;
///
/// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// # #[directive(id = "example/greet", value = String)]
/// # struct Greet { name: String }
/// #[tokio::main]
/// async fn main() -> anyhow::Result<()> {
///     let bus = Bus::new();
///     bus.apply(ConfigSet::from_yaml("{}")?).await?;
///     assert!(bus.try_resolve(Greet { name: "Ada".into() }).await?.is_none());
///     Ok(())
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BusError(Error);

impl BusError {
    /// [`Error::context`].
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self(self.0.context(what))
    }

    /// The error as a controller returns it.
    pub fn into_inner(self) -> Error {
        self.0
    }
}

impl From<Error> for BusError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl Deref for BusError {
    type Target = Error;
    fn deref(&self) -> &Error {
        &self.0
    }
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for BusError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_a_bounded_part_of_its_text_whichever_way_it_comes() {
        let long = "ä".repeat(LONGEST);
        let cut = |error: &Error| {
            let text = error.to_string();
            assert!(text.len() < LONGEST + 100 && text.ends_with(" more bytes)"), "{} bytes", text.len());
        };
        cut(&Error::msg(&long));
        cut(&Error::msg("short").context(&long));
        cut(&Error::msg("short").and(&long));
        cut(&Error::from(BusError(Error::msg(&long))));
        cut(&Error::from_panic(Box::new(long.clone())));
        cut(&Error::from(std::io::Error::other(long.clone())));
        let mut told = serde_json::to_value(Error::msg("short")).expect("an encoding");
        told["message"] = long.into();
        cut(&serde_json::from_value(told).expect("an error"));
    }

    #[test]
    fn an_error_of_a_class_that_came_later_is_read_by_versions_that_do_not_know_it() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        enum KindBefore {
            Failed,
            Crashed,
        }
        #[derive(serde::Deserialize)]
        struct Before {
            kind: KindBefore,
            message: String,
            #[serde(default)]
            permanent: bool,
        }
        for (kind, before) in [(ErrorKind::Unreachable, KindBefore::Failed), (ErrorKind::Crashed, KindBefore::Crashed)]
        {
            for error in [Error::new(kind, "edge-7"), Error::new(kind, "edge-7").permanent()] {
                let bytes = crate::directive::wire::encode(&error).expect("an encoding");
                let read: Before = crate::directive::wire::decode(&bytes).expect("it is read");
                assert_eq!((read.kind == before, read.message.as_str()), (true, "edge-7"));
                assert_eq!(read.permanent, error.is_permanent());
                assert!(crate::directive::wire::decode::<Error>(&bytes).expect("it is read") == error);
                // As between a host and its own processes, where fields have no names.
                let bytes = rmp_serde::to_vec(&error).expect("an encoding");
                assert!(rmp_serde::from_slice::<Error>(&bytes).expect("it is read") == error);
            }
        }
        let newer = serde_json::json!({ "kind": "Failed", "message": "new", "exact": "OfTomorrow" });
        let read: Error = serde_json::from_value(newer).expect("it is read");
        assert_eq!((read.kind(), read.to_string().as_str()), (ErrorKind::Failed, "new"));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{what}: {source}")]
    struct TellsItsSource {
        what: &'static str,
        source: BusError,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the journey ended")]
    struct LeavesItToTheReport(#[source] TellsItsSource);

    fn missing() -> BusError {
        Error::new(ErrorKind::NotFound, "no such key").permanent().into()
    }

    #[test]
    fn an_error_of_the_bus_keeps_its_kind_in_a_controller_whatever_it_was_wrapped_in() {
        for error in [
            Error::from(missing()),
            Error::from(TellsItsSource { what: "reading", source: missing() }),
            Error::from(LeavesItToTheReport(TellsItsSource { what: "reading", source: missing() })),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.is_permanent(), "{error}");
        }
        assert_eq!(Error::from(std::fmt::Error).kind(), ErrorKind::Failed);
    }

    #[test]
    fn a_cause_is_told_once() {
        let wrapped = LeavesItToTheReport(TellsItsSource { what: "reading", source: missing() });
        assert_eq!(Error::from(wrapped).to_string(), "the journey ended: reading: no such key");
        assert_eq!(format!("{:#}", anyhow::Error::from(missing())), "no such key");
    }

    #[test]
    fn every_kind_of_report_takes_an_error_with_a_question_mark() {
        fn boxed(error: Error) -> Result<(), Box<dyn std::error::Error>> {
            Err(error)?
        }
        fn shared(error: BusError) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Err(error)?
        }
        fn anyhow(error: BusError) -> anyhow::Result<()> {
            Err(error)?
        }
        fn eyre(error: BusError) -> eyre::Result<()> {
            Err(error)?
        }
        let kind = |error: Option<&BusError>| error.map(|error| error.kind());
        assert_eq!(kind(boxed(missing().into_inner()).unwrap_err().downcast_ref()), Some(ErrorKind::NotFound));
        assert_eq!(kind(shared(missing()).unwrap_err().downcast_ref()), Some(ErrorKind::NotFound));
        assert_eq!(kind(anyhow(missing()).unwrap_err().downcast_ref()), Some(ErrorKind::NotFound));
        assert_eq!(kind(eyre(missing()).unwrap_err().downcast_ref()), Some(ErrorKind::NotFound));
    }
}

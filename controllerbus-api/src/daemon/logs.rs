//! The log of a program and its plugins, for the journal.

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use controllerbus::__private::RUN;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use super::Journal;
use super::journal::now_ms;
use crate::Error;
use crate::proto::LogLine;

/// The target under which the boundary forwards the logs of plugins.
const GUEST: &str = "controllerbus::guest";

/// Which lines are kept: such as `info`, or `warn,greeter=debug`.
#[derive(Clone, Debug)]
pub struct Filter(Targets);

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // A module's name alone would enable all of its lines; usually it is a mistyped level.
        let help = "use a level (error, warn, info, debug, trace) or MODULE=LEVEL, separated by commas";
        for part in text.split(',').filter(|part| !part.contains('=')) {
            part.trim()
                .parse::<LevelFilter>()
                .map_err(|_| Error::usage(format!("`{part}` is not a log level; {help}")))?;
        }
        text.parse().map(Self).map_err(|error| Error::usage(format!("{error}; {help}")))
    }
}

/// Crates whose finer lines are about connections, and hardly ever wanted by whoever asks for finer lines.
const NOISY: [&str; 6] = ["h2", "hyper", "hyper_util", "mio", "tonic", "tower"];

impl Filter {
    /// The finest level that it keeps of modules that it does not name; none if it keeps nothing of them.
    pub fn level(&self) -> Option<Level> {
        self.0.default_level().and_then(LevelFilter::into_level)
    }

    /// The same with another level for modules that it does not name. Those of the connections to clients are not made finer
    /// than `warn`.
    #[must_use]
    pub fn with_level(&self, level: Level) -> Self {
        let mut targets = self.0.clone().with_default(level);
        for name in NOISY {
            if !self.0.iter().any(|(named, _)| named == name) {
                targets = targets.with_target(name, level.min(Level::WARN));
            }
        }
        Self(targets)
    }

    /// What the subscriber has to let through.
    fn outer(&self) -> Targets {
        // Plugins' modules are filtered in the layer, where their names are known.
        let most = self.0.iter().map(|(_, level)| level).chain(self.0.default_level()).max();
        let outer = self.0.clone().with_target(GUEST, most.unwrap_or(LevelFilter::INFO));
        // Whose a line is, whichever modules' lines are kept.
        outer.with_target(RUN, LevelFilter::ERROR)
    }
}

/// Changes which lines a [`reloadable_layer`] keeps, of plugins too.
#[derive(Clone)]
pub struct FilterHandle(Arc<dyn Fn(Filter) + Send + Sync>);

impl FilterHandle {
    /// Keeps other lines from now on.
    pub fn set(&self, filter: Filter) {
        (self.0)(filter);
    }
}

impl std::fmt::Debug for FilterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterHandle").finish_non_exhaustive()
    }
}

/// A layer for the subscriber of `tracing` that records log lines in a journal. `print` gets each line too, without its
/// number; it is fit to be shown, but may have control characters.
///
/// ```
/// use std::sync::Arc;
///
/// use controllerbus_api::{Journal, logs};
/// use tracing_subscriber::layer::SubscriberExt;
///
/// let journal = Arc::new(Journal::new());
/// let filter = "info,greeter=debug".parse().unwrap();
/// let subscriber = tracing_subscriber::registry().with(logs::layer(&journal, filter, |_| {}));
/// tracing::subscriber::with_default(subscriber, || tracing::info!("all is well"));
/// assert_eq!(journal.lines().0[0].message, "all is well");
/// ```
pub fn layer<S>(
    journal: &Arc<Journal>,
    filter: Filter,
    print: impl Fn(&LogLine) + Send + Sync + 'static,
) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    reloadable_layer(journal, filter, print).0
}

/// As [`layer`], with a handle that changes the filter while the program runs.
pub fn reloadable_layer<S>(
    journal: &Arc<Journal>,
    filter: Filter,
    print: impl Fn(&LogLine) + Send + Sync + 'static,
) -> (impl Layer<S> + Send + Sync + 'static, FilterHandle)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (outer, handle) = reload::Layer::new(filter.outer());
    let filter = Arc::new(RwLock::new(filter));
    let lines = Lines { filter: Arc::clone(&filter), journal: Arc::clone(journal), print };
    let set = move |new: Filter| {
        let outer = new.outer();
        *filter.write().unwrap_or_else(PoisonError::into_inner) = new;
        // An error is that the subscriber is gone.
        let _ = handle.reload(outer);
    };
    (lines.with_filter(outer), FilterHandle(Arc::new(set)))
}

struct Lines<P> {
    filter: Arc<RwLock<Filter>>,
    journal: Arc<Journal>,
    print: P,
}

impl<S, P> Layer<S> for Lines<P>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    P: Fn(&LogLine) + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let target = attributes.metadata().target();
        if target != RUN && target != GUEST {
            return;
        }
        let mut found = FindOrigin { origin: Origin::default(), is_run: target == RUN };
        attributes.record(&mut found);
        let origin = found.origin;
        if let Some(span) = context.span(id).filter(|_| origin != Origin::default()) {
            span.extensions_mut().insert(origin);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut line = LogLine {
            at_ms: now_ms(),
            level: level.to_string(),
            target: event.metadata().target().to_owned(),
            ..LogLine::default()
        };
        let guest = line.target == GUEST;
        event.record(&mut Fields { line: &mut line, guest });
        let filter = || self.filter.read().unwrap_or_else(PoisonError::into_inner);
        if guest && !filter().0.would_enable(&line.target, &level) {
            return;
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(origin) = span.extensions().get::<Origin>() {
                origin.add_to(&mut line);
            }
        }
        let line = self.journal.shown_line(line);
        (self.print)(&line);
        self.journal.line(line);
    }
}

/// Whose code runs in a span, and what for.
#[derive(Debug, Default, PartialEq)]
struct Origin {
    controller: String,
    config_key: String,
    directive: String,
}

impl Origin {
    /// Adds what neither the event nor an inner span has said.
    fn add_to(&self, line: &mut LogLine) {
        let said = [
            (&mut line.controller, &self.controller),
            (&mut line.config_key, &self.config_key),
            (&mut line.directive, &self.directive),
        ];
        for (said, own) in said.into_iter().filter(|(said, _)| said.is_empty()) {
            said.clone_from(own);
        }
    }
}

/// Finds it in a span's fields.
struct FindOrigin {
    origin: Origin,
    /// Whether it is a span of this kind, and not one that a plugin's author has made.
    is_run: bool,
}

impl Visit for FindOrigin {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        let Origin { controller, config_key, directive } = &mut self.origin;
        match field.name() {
            "module" => self.is_run = value == RUN,
            _ if !self.is_run => {}
            "controller" => value.clone_into(controller),
            "config_key" => value.clone_into(config_key),
            "directive" => value.clone_into(directive),
            // Out of another process the fields come as text; the ids in it have no spaces.
            "fields" => {
                for (name, own) in [("controller", controller), ("directive", directive)] {
                    let said = value.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
                    if let Some(said) = said {
                        said.trim_matches('"').clone_into(own);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Collects an event's fields.
struct Fields<'a> {
    line: &'a mut LogLine,
    guest: bool,
}

impl Fields<'_> {
    fn add(&mut self, name: &str, value: &str) {
        match name {
            "message" => self.line.message = value.to_owned(),
            "plugin" => self.line.plugin = value.to_owned(),
            "controller" => self.line.controller = value.to_owned(),
            "config_key" => self.line.config_key = value.to_owned(),
            "directive" => self.line.directive = value.to_owned(),
            "module" if self.guest => self.line.target = value.to_owned(),
            "fields" if self.guest => self.line.fields = value.to_owned(),
            "file" | "line" if self.guest => {}
            _ => {
                let space = if self.line.fields.is_empty() { "" } else { " " };
                let _ = write!(self.line.fields, "{space}{name}={value}");
            }
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "generation" => self.line.generation = value,
            name => self.add(name, &value.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_is_logged_can_be_changed_at_the_source_while_the_program_runs() {
        let journal = Arc::new(Journal::new());
        let filter: Filter = "info,quiet=error".parse().expect("a filter");
        let (layer, handle) = reloadable_layer(&journal, filter.clone(), |_| {});
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let log = || {
                tracing::debug!(target: "loud", "a detail");
                tracing::info!(target: "quiet", "of no interest");
                tracing::debug!(target: "h2::frame", "a frame");
                tracing::debug!(target: GUEST, module = "greeter", plugin = "greeter", "of a plugin");
            };
            log();
            assert!(journal.lines().0.is_empty());
            handle.set(filter.with_level(Level::DEBUG));
            log();
            let told: Vec<String> = journal.lines().0.into_iter().map(|line| line.message).collect();
            assert_eq!(told, ["a detail", "of a plugin"]);
            handle.set(filter.with_level(Level::ERROR));
            log();
            assert_eq!(journal.lines().0.len(), 2);
        });
        assert_eq!(filter.level(), Some(Level::INFO));
    }
}

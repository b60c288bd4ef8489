//! What the view shows, wherever it comes from: the host of this process fills it (`own.rs`), or a daemon (`daemon.rs`), and
//! `draw` draws it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use controllerbus_api::proto::{Config, Controller, Directive, Event, LogLine, Plugin};
use controllerbus_api::{CONFIG_ID, state};

use crate::problems::{Kind, Problem, Tested, of_text, place};

/// How many log lines are kept.
const LINES: usize = 5000;

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The command.
    pub command: &'static str,
    /// What it shows: the plugins that are built, or the daemon.
    pub about: String,
    /// Where the API listens, if that is not said yet.
    pub address: Option<String>,
    /// The ids of plugins that will be there, in the order in which they are shown.
    pub awaited: Vec<String>,
    pub plugins: Vec<Plugin>,
    pub configs: Vec<Config>,
    pub controllers: Vec<Controller>,
    /// Only while they are wanted.
    pub directives: Vec<Directive>,
    pub directive_count: usize,
    pub value_count: usize,
    pub lines: VecDeque<LogLine>,
    /// The compiler's messages, by plugin.
    pub compiler: BTreeMap<String, Vec<Problem>>,
    pub tests: BTreeMap<String, Tested>,
    /// What has happened since the last drawing.
    pub news: Vec<Event>,
    /// Whether builds are paused.
    pub is_paused: bool,
    /// Why the daemon does not answer, and since when, in milliseconds since 1970.
    pub away: Option<(String, u64)>,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
    /// What is to be mended, the most urgent first; see [`Shown::arrange`].
    pub problems: Vec<Problem>,
}

impl Shown {
    /// Nothing yet.
    pub fn new(command: &'static str, about: impl Into<String>) -> Self {
        Self { command, about: about.into(), ..Self::default() }
    }

    /// Adds log lines, and forgets the oldest beyond what is kept.
    pub fn add_lines(&mut self, lines: impl IntoIterator<Item = LogLine>) {
        self.lines.extend(lines);
        let excess = self.lines.len().saturating_sub(LINES);
        self.lines.drain(..excess);
    }

    /// Puts what is broken first, and collects what is to be mended.
    pub fn arrange(&mut self) {
        for id in &self.awaited {
            if !self.plugins.iter().any(|plugin| plugin.id == *id) {
                self.plugins.push(Plugin { id: id.clone(), state: "waiting".to_owned(), ..Plugin::default() });
            }
        }
        let order: BTreeMap<&String, usize> = self.awaited.iter().zip(0..).collect();
        let tests = &self.tests;
        let rank = |plugin: &Plugin| (!is_broken(plugin, tests), order.get(&plugin.id).copied().unwrap_or(usize::MAX));
        self.plugins.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| natural(&a.id, &b.id)));
        // The API itself is what nobody looks for.
        let rank = |config: &Config| (!config.is_bad(), !config.is_waiting(), config.config_id == CONFIG_ID);
        self.configs.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| natural(&a.key, &b.key)));
        self.controllers.sort_by(|a, b| natural(&a.name, &b.name));
        self.problems = self.found();
    }

    /// How many plugins are broken. They come first.
    pub fn broken(&self) -> usize {
        self.plugins.iter().filter(|plugin| is_broken(plugin, &self.tests)).count()
    }

    /// Whether a plugin has never been built yet, so that configs may well wait for it.
    pub fn is_first_build(&self) -> bool {
        self.plugins
            .iter()
            .any(|plugin| plugin.version.is_empty() && plugin.error.is_empty() && plugin.state != state::UNLOADED)
    }

    /// The controllers that no config is shown for.
    pub fn without_config(&self) -> impl Iterator<Item = &Controller> {
        self.controllers.iter().filter(|found| !self.configs.iter().any(|config| config.controller == found.id))
    }

    fn found(&self) -> Vec<Problem> {
        let mut found: Vec<Problem> = Vec::new();
        for plugin in &self.plugins {
            let told = self.compiler.get(&plugin.id).map(Vec::as_slice).unwrap_or_default();
            found.extend(told.iter().cloned());
            let has_error = told.iter().any(|problem| problem.kind <= Kind::Failure);
            if !plugin.error.is_empty() && !has_error {
                found.extend(of_text(&plugin.id, &plugin.error));
            }
        }
        found.extend(
            self.tests
                .values()
                .filter_map(|tested| match tested {
                    Tested::Failed(problems) => Some(problems.iter().cloned()),
                    _ => None,
                })
                .flatten(),
        );
        let first_build = self.is_first_build();
        for config in &self.configs {
            let kind = match config.state.as_str() {
                _ if config.error.is_empty() => continue,
                _ if config.is_bad() => Kind::Failure,
                // The plugin that is being built may well provide its factory.
                _ if config.is_waiting() && !first_build => Kind::Waiting,
                _ => continue,
            };
            let mut problem = Problem::other(kind, &config.key, &config.error);
            problem.place = place(&config.location);
            found.push(problem);
        }
        for controller in self.without_config() {
            if !controller.error.is_empty() {
                found.push(Problem::other(Kind::Failure, &controller.name, &controller.error));
            }
        }
        found.sort_by_key(|problem| problem.kind);
        if let Some((why, _)) = &self.away {
            // What else there is may be out of date.
            found.insert(0, Problem::other(Kind::Failure, "the connection", why));
        }
        found
    }
}

/// Whether something about a plugin is to be mended.
pub fn is_broken(plugin: &Plugin, tests: &BTreeMap<String, Tested>) -> bool {
    !plugin.error.is_empty()
        || plugin.state == state::FAILED
        || matches!(tests.get(&plugin.id), Some(Tested::Failed(_)))
}

/// Orders names as people do: c2 before c10.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (in_a, in_b) = (digits(a), digits(b));
        if in_a > 0 && in_b > 0 {
            let number = |text: &str, end: usize| text[..end].trim_start_matches('0').to_owned();
            let (x, y) = (number(a, in_a), number(b, in_b));
            match x.len().cmp(&y.len()).then_with(|| x.cmp(&y)) {
                Ordering::Equal => (a, b) = (&a[in_a..], &b[in_b..]),
                other => return other,
            }
            continue;
        }
        let (mut rest_a, mut rest_b) = (a.chars(), b.chars());
        match (rest_a.next(), rest_b.next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (rest_a.as_str(), rest_b.as_str()),
            (x, y) => return x.cmp(&y),
        }
    }
}

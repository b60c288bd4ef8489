//! The live view of `cbus dev`: plugins, compiler errors, controllers and log lines, redrawn when they change.

mod ansi;
mod draw;
#[cfg(unix)]
pub mod keeper;
mod keys;

use std::time::Duration;

use controllerbus_api::Host;
use controllerbus_api::proto::{Config, LogLine, Plugin};
use miette::Result;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::Event;
use ratatui::crossterm::style::force_color_output;
use tokio::sync::broadcast::error::RecvError;

use keys::{Keys, Want};

/// The pause between two drawings, at least.
const PAUSE: Duration = Duration::from_millis(60);

/// How many log lines it keeps.
const LINES: usize = 5000;

/// The first line.
pub struct Title {
    /// The plugins that are built.
    pub plugins: Vec<String>,
    /// Where the API listens.
    pub api: Option<String>,
    /// Where standard error goes while the view is shown, for the process that reports why this one ended.
    pub last_words: Option<std::path::PathBuf>,
}

/// What is drawn.
struct Shown<'a> {
    title: &'a Title,
    plugins: Vec<Plugin>,
    configs: Vec<Config>,
    directives: usize,
    values: usize,
    lines: &'a [LogLine],
    filter: &'a Filter,
}

/// Which log lines are shown, and the scroll position.
pub struct Filter {
    /// 1 shows errors only, 5 everything.
    level: usize,
    /// Only lines of this plugin.
    plugin: Option<String>,
    /// Only lines that contain this text.
    text: String,
    /// Whether the text is being typed.
    typing: bool,
    /// How many lines it is scrolled up from the newest.
    above: usize,
}

impl Filter {
    fn takes(&self, line: &LogLine) -> bool {
        let level = LEVELS.iter().position(|level| *level == line.level).map_or(5, |at| at + 1);
        let text = self.text.to_lowercase();
        level <= self.level
            && self.plugin.as_ref().is_none_or(|plugin| *plugin == line.plugin)
            && (text.is_empty()
                || line.message.to_lowercase().contains(&text)
                || line.fields.to_lowercase().contains(&text)
                || line.plugin.to_lowercase().contains(&text))
    }
}

/// The levels, the most severe first.
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/// Shows a host until the user quits. The terminal is restored whatever happens.
pub async fn run(host: &Host, title: &Title) -> Result<()> {
    #[cfg(unix)]
    let words = title.last_words.as_deref().and_then(|file| keeper::LastWords::into_file(file).ok());
    #[cfg(unix)]
    let trim = || words.iter().for_each(keeper::LastWords::trim);
    #[cfg(not(unix))]
    let trim = || {};
    force_color_output(crate::text::has_colours(&std::io::stdout()));
    let mut terminal = ratatui::try_init().map_err(|error| {
        crate::report::report(format!("the terminal cannot be used: {error}"), "--plain prints plain log lines instead")
    })?;
    // Restored by a guard, because the view also ends by being dropped, on a signal.
    let _restored = Restored;
    let result = show(host, title, &mut terminal, trim).await;
    result.map_err(|error| crate::report::report(format!("the terminal cannot be used: {error}"), ""))
}

/// Restores the terminal when dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn show(host: &Host, title: &Title, terminal: &mut DefaultTerminal, trim: impl Fn()) -> std::io::Result<()> {
    let (known, mut coming) = host.journal.lines();
    let mut lines = known;
    let mut events = host.journal.events().1;
    let (mut changes, mut directives) = (host.bus.changes(), host.bus.directive_changes());
    let mut filter = Filter { level: 3, plugin: None, text: String::new(), typing: false, above: 0 };
    let mut keys = Keys::listen();
    loop {
        let standing = host.bus.directives();
        let shown = Shown {
            title,
            plugins: host.plugins(),
            configs: host.configs(),
            directives: standing.len(),
            values: standing.iter().map(|found| found.values.len()).sum(),
            lines: &lines,
            filter: &filter,
        };
        let building = shown.plugins.iter().any(|plugin| plugin.building_since_ms > 0);
        let names: Vec<String> = shown.plugins.iter().map(|plugin| plugin.id.clone()).collect();
        terminal.draw(|frame| draw::draw(frame, &shown))?;
        let clock = async {
            // Only a running build's time changes by itself.
            if building {
                tokio::time::sleep(Duration::from_millis(200)).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            key = keys.next() => match key? {
                Event::Key(key) => match keys::press(key, &mut filter, &names) {
                    Want::More => continue,
                    Want::End => return Ok(()),
                },
                _ => continue,
            },
            line = coming.recv() => match line {
                Ok(line) => {
                    let last = lines.last().map_or(0, |line| line.number);
                    lines.extend(Some(line).filter(|line| line.number > last));
                    while let Ok(line) = coming.try_recv() {
                        lines.push(line);
                    }
                    let excess = lines.len().saturating_sub(LINES);
                    lines.drain(..excess);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            told = events.recv() => if matches!(told, Err(RecvError::Closed)) { return Ok(()) },
            _ = changes.changed() => {}
            _ = directives.changed() => {}
            () = clock => {}
        }
        trim();
        tokio::time::sleep(PAUSE).await;
    }
}

//! The live view of `cbus dev` and `cbus top`: problems, plugins, controllers and log lines, redrawn when they change.

mod alarm;
mod ansi;
mod daemon;
mod draw;
mod editor;
#[cfg(unix)]
pub mod keeper;
mod keys;
mod model;
#[cfg(unix)]
mod outputs;
mod own;
mod screen;
mod source;
mod ui;

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use controllerbus_api::__private::now_ms;
use controllerbus_api::Journal;
use controllerbus_api::proto::LogLine;
use hot_runtime::text::{coloured_text, escaped};
use miette::Result;
use ratatui::crossterm::event::Event;
use ratatui::crossterm::style::force_color_output;
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tracing::Level;

use crate::problems::Place;
use crate::text::has_colours;
use alarm::Alarm;
pub use daemon::Daemon;
use keys::{Keys, Want};
pub use model::Shown;
pub use own::Own;
use screen::Screen;
use source::Source;
use ui::Ui;

/// The pause between two drawings, at least.
const PAUSE: Duration = Duration::from_millis(60);

/// How many log lines stay on the terminal at the end.
const LEFT: usize = 12;

/// How a view begins.
#[derive(Default)]
pub struct Setup {
    /// Log lines up to this level are shown.
    pub level: Option<Level>,
    /// Where this process's own output goes while the view is shown, for the process that reports why this one ended.
    pub last_words: Option<PathBuf>,
    /// The journal of this process, which gets what is printed.
    pub journal: Option<Arc<Journal>>,
}

/// Shows a source until the user quits. The terminal is restored whatever happens.
///
/// # Errors
/// The terminal cannot be used.
pub async fn run(source: impl Source, shown: Shown, setup: Setup) -> Result<()> {
    let unusable = |error: std::io::Error| {
        crate::report::report(format!("the terminal cannot be used: {error}"), "--plain prints plain log lines instead")
    };
    let mut view = View::open(shown, setup).map_err(unusable)?;
    view.show(source).await.map_err(unusable)
}

/// The view on the terminal. When it is dropped, which a signal may cause too, the terminal is as it was, and what was shown last
/// is left on it.
struct View {
    screen: Screen,
    #[cfg(unix)]
    outputs: Option<outputs::Outputs>,
    journal: Option<Arc<Journal>>,
    shown: Shown,
    ui: Ui,
    coloured: bool,
}

impl View {
    fn open(shown: Shown, setup: Setup) -> std::io::Result<Self> {
        let Setup { level, last_words, journal } = setup;
        let coloured = has_colours(&std::io::stdout());
        force_color_output(coloured);
        let screen = Screen::open()?;
        #[cfg(unix)]
        let outputs = last_words.zip(journal.clone()).and_then(|(file, journal)| {
            let say = move |line: String| {
                let line = LogLine {
                    at_ms: now_ms(),
                    level: Level::INFO.to_string(),
                    target: "output".to_owned(),
                    message: line,
                    ..LogLine::default()
                };
                journal.line(journal.shown_line(line));
            };
            outputs::Outputs::into_file(&file, say).ok()
        });
        #[cfg(not(unix))]
        let _ = last_words;
        Ok(Self {
            screen,
            #[cfg(unix)]
            outputs,
            journal,
            shown,
            ui: Ui::new(level),
            coloured,
        })
    }

    async fn show(&mut self, mut source: impl Source) -> std::io::Result<()> {
        let mut keys = Keys::listen();
        let mut alarm = Alarm::since(now_ms());
        let (notify, mut notices) = unbounded_channel();
        loop {
            self.fill(&mut source);
            for event in std::mem::take(&mut self.shown.news) {
                if let Some(text) = alarm.hear(&event) {
                    self.screen.alarm(&format!("{}: {text}", self.shown.command));
                }
            }
            self.draw()?;
            loop {
                let want = tokio::select! {
                    key = keys.next() => match key? {
                        Event::Key(key) => keys::press(key, &mut self.ui, &self.shown),
                        _ => Want::Nothing,
                    },
                    notice = notices.recv() => {
                        self.ui.notice = notice;
                        Want::Nothing
                    }
                    () = source.changed() => break,
                };
                match want {
                    Want::End => return Ok(()),
                    Want::Edit => keys = self.edit(keys).await?,
                    want => self.ask(&mut source, &want, &notify),
                }
                // What was asked for may be seen at once, as a pause is.
                self.fill(&mut source);
                self.draw()?;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn draw(&mut self) -> std::io::Result<()> {
        let (shown, ui) = (&self.shown, &mut self.ui);
        self.screen.terminal.draw(|frame| draw::draw(frame, shown, ui)).map(drop)
    }

    fn fill(&mut self, source: &mut impl Source) {
        let last = self.shown.lines.back().map_or(0, |line| line.number);
        source.fill(&mut self.shown, &self.ui);
        if self.ui.above > 0 {
            // What is being read stays where it is.
            let new = self.shown.lines.iter().rev().take_while(|line| line.number > last);
            let taken = new.filter(|line| self.ui.filter.takes(line));
            self.ui.above += taken.map(|line| draw::rows_of(line, self.ui.width)).sum::<usize>();
        }
        self.shown.arrange();
    }

    fn ask(&mut self, source: &mut impl Source, want: &Want, notify: &UnboundedSender<String>) {
        if let Some(job) = source.ask(want, &self.shown) {
            let notify = notify.clone();
            tokio::spawn(async move {
                if let Some(notice) = job.await {
                    let _ = notify.send(notice);
                }
            });
        }
    }

    /// Opens the editor at the first problem that has a place; an editor without a window gets the terminal until it ends.
    async fn edit(&mut self, keys: Keys) -> std::io::Result<Keys> {
        let found = self.shown.problems.iter().find_map(|problem| problem.place.as_ref());
        let Some(place) = found else {
            self.ui.notice = Some("there is nothing to mend whose place is known".to_owned());
            return Ok(keys);
        };
        let file = std::path::absolute(&place.file).unwrap_or_else(|_| place.file.clone());
        // The place may be a plugin's or another machine's word: what begins with `+` or `-` would be an option of the editor.
        if !file.is_file() {
            self.ui.notice = Some(format!("{} is not a file on this machine", escaped(&place.file.to_string_lossy())));
            return Ok(keys);
        }
        let place = &Place { file, line: place.line, column: place.column };
        let at = format!("{}:{}", place.file.display(), place.line);
        let Some(opening) = editor::chosen(place) else {
            self.ui.notice = Some(format!("set VISUAL or EDITOR to open {at}"));
            return Ok(keys);
        };
        let Some((program, arguments)) = opening.words.split_first() else { return Ok(keys) };
        let mut command = Command::new(program);
        command.args(arguments);
        if opening.has_window {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.ui.notice = Some(match command.spawn() {
                Ok(_) => format!("{program} opens {at}"),
                Err(error) => format!("{program} cannot be run: {error}"),
            });
            return Ok(keys);
        }
        keys.stop().await;
        self.screen.leave();
        command.stdout(self.screen.handle()?).stderr(self.screen.handle()?);
        let ended = command.status().await;
        self.screen.enter()?;
        self.ui.notice = match ended {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("{program} ended with {status}")),
            Err(error) => Some(format!("{program} cannot be run: {error}")),
        };
        Ok(Keys::listen())
    }

    /// What stays on the terminal: all that is to be mended, and the last log lines.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        for problem in &self.shown.problems {
            left.push(coloured_text(&format!("{}: {}", problem.whose, problem.text), self.coloured));
            left.push(String::new());
        }
        let own = self.journal.as_ref().map(|journal| journal.lines().0);
        let lines: Vec<LogLine> = own.unwrap_or_else(|| self.shown.lines.iter().cloned().collect());
        let taken: Vec<&LogLine> = lines.iter().filter(|line| self.ui.filter.takes(line)).collect();
        let last = &taken[taken.len().saturating_sub(LEFT)..];
        left.extend(last.iter().map(|line| {
            let mut line = (*line).clone();
            // It is above, whole.
            if line.generation == 0 && line.target == "cbus" {
                line.message = line.message.split(":\n").next().unwrap_or_default().to_owned();
            }
            crate::daemon::render_line(&line, self.coloured)
        }));
        left
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.screen.leave();
        // Its last lines are in the journal then.
        #[cfg(unix)]
        drop(self.outputs.take());
        for line in self.left() {
            // The terminal may be gone.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return;
            }
        }
    }
}

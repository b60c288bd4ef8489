//! Keyboard input of the live view.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::model::Shown;
use super::ui::{LEVELS, Part, Ui};

/// Keyboard input, read on its own thread.
pub struct Keys {
    typed: UnboundedReceiver<std::io::Result<Event>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    pub fn listen() -> Self {
        let (sender, typed) = unbounded_channel();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // With a timeout, so that the thread ends with the view.
                let typed = match event::poll(Duration::from_millis(100)) {
                    Ok(true) => event::read(),
                    Ok(false) => continue,
                    Err(error) => Err(error),
                };
                let failed = typed.is_err();
                if sender.send(typed).is_err() || failed {
                    return;
                }
            }
        });
        Self { typed, end, thread: Some(thread) }
    }

    /// The next event.
    ///
    /// # Errors
    /// If the terminal cannot be read.
    pub async fn next(&mut self) -> std::io::Result<Event> {
        let gone = || Err(std::io::Error::other("the keyboard is no longer read"));
        self.typed.recv().await.unwrap_or_else(gone)
    }

    /// Reads no more, so that somebody else can: waits until the thread has ended, a tenth of a second at most.
    pub async fn stop(mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// What is done after a key, besides drawing.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    Nothing,
    /// Quit.
    End,
    /// Build a plugin, or all of them.
    Rebuild(Option<String>),
    /// Roll a plugin back; the person was asked.
    RollBack(String),
    /// Pause builds, or resume them.
    Pause,
    /// Open the page.
    Page,
    /// Open the editor at the first problem.
    Edit,
    /// Log up to this one of [`LEVELS`].
    Level(usize),
}

/// The keys, with what they do.
pub const KEYS: [(&str, &str); 16] = [
    ("q", "quit"),
    ("r", "rebuild the selected plugin, or all"),
    ("space", "pause builds, or resume them"),
    ("e", "open the editor at the first error"),
    ("o", "open the page in a browser"),
    ("b", "roll the selected plugin back"),
    ("/", "filter the log by text"),
    ("p", "the log of one plugin"),
    ("l", "log level"),
    ("d", "directives, or the log"),
    ("tab", "the next part; shift-tab, the one before"),
    ("enter", "make that part larger, or as before"),
    ("↑ ↓", "scroll, or select a plugin; also j k"),
    ("pgup pgdn", "scroll by a page"),
    ("home end", "to the begin, to the end; also g G"),
    ("esc", "close, and clear filters"),
];

/// Handles a key press.
pub fn press(key: KeyEvent, ui: &mut Ui, shown: &Shown) -> Want {
    if key.kind == KeyEventKind::Release {
        return Want::Nothing;
    }
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        return Want::End;
    }
    if ui.filter.typing {
        type_filter(key.code, ui);
        return Want::Nothing;
    }
    if let Some(plugin) = ui.question.take() {
        return if matches!(key.code, KeyCode::Char('y' | 'Y')) { Want::RollBack(plugin) } else { Want::Nothing };
    }
    ui.notice = None;
    if std::mem::take(&mut ui.help) && !matches!(key.code, KeyCode::Char('q')) {
        return Want::Nothing;
    }
    let page = ui.page.max(2).cast_signed() - 1;
    match key.code {
        KeyCode::Char('q') => return Want::End,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => ui.help = true,
        KeyCode::Char('r') | KeyCode::F(5) => return Want::Rebuild(ui.about(shown)),
        KeyCode::Char(' ') => return Want::Pause,
        KeyCode::Char('e') => return Want::Edit,
        KeyCode::Char('o') => return Want::Page,
        KeyCode::Char('b') => match ui.about(shown) {
            Some(plugin) => ui.question = Some(plugin),
            None => ui.notice = Some("select a plugin first: tab, then ↑ ↓".to_owned()),
        },
        KeyCode::Char('l') => {
            ui.filter.level = (ui.filter.level + 1) % LEVELS.len();
            return Want::Level(ui.filter.level);
        }
        KeyCode::Char('p') => {
            let at = ui.filter.plugin.as_ref().and_then(|id| shown.plugins.iter().position(|found| found.id == *id));
            let next = if ui.filter.plugin.is_none() { Some(0) } else { at.map(|at| at + 1) };
            ui.filter.plugin = next.and_then(|at| shown.plugins.get(at)).map(|plugin| plugin.id.clone());
        }
        KeyCode::Char('d') => {
            ui.shows_directives = !ui.shows_directives;
            ui.chosen = Some(Part::Lower);
        }
        KeyCode::Char('/') => {
            (ui.filter.typing, ui.above, ui.shows_directives) = (true, 0, false);
        }
        KeyCode::Esc => {
            (ui.filter.text, ui.filter.plugin) = (String::new(), None);
            (ui.above, ui.zoomed, ui.chosen) = (0, false, None);
        }
        KeyCode::Enter => ui.zoomed = !ui.zoomed,
        KeyCode::Tab => ui.choose(shown, true),
        KeyCode::BackTab => ui.choose(shown, false),
        KeyCode::Up | KeyCode::Char('k') => ui.scroll(shown, -1),
        KeyCode::Down | KeyCode::Char('j') => ui.scroll(shown, 1),
        KeyCode::PageUp => ui.scroll(shown, -page),
        KeyCode::PageDown => ui.scroll(shown, page),
        KeyCode::Home | KeyCode::Char('g') => ui.scroll_to(shown, false),
        KeyCode::End | KeyCode::Char('G') => ui.scroll_to(shown, true),
        _ => {}
    }
    Want::Nothing
}

fn type_filter(key: KeyCode, ui: &mut Ui) {
    let filter = &mut ui.filter;
    match key {
        KeyCode::Enter => filter.typing = false,
        KeyCode::Esc => (filter.typing, filter.text) = (false, String::new()),
        KeyCode::Backspace => drop(filter.text.pop()),
        KeyCode::Char(letter) => filter.text.push(letter),
        _ => {}
    }
}

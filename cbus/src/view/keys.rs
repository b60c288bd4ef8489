//! Keyboard input of the live view.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Filter;

/// Keyboard input, read on its own thread.
pub struct Keys {
    typed: UnboundedReceiver<std::io::Result<Event>>,
    end: Arc<AtomicBool>,
}

impl Keys {
    pub fn listen() -> Self {
        let (sender, typed) = unbounded_channel();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        std::thread::spawn(move || {
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
        Self { typed, end }
    }

    /// The next event.
    ///
    /// # Errors
    /// If the terminal cannot be read.
    pub async fn next(&mut self) -> std::io::Result<Event> {
        let gone = || Err(std::io::Error::other("the keyboard is no longer read"));
        self.typed.recv().await.unwrap_or_else(gone)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// What the view does after a key.
pub enum Want {
    /// Redraw.
    More,
    /// Quit.
    End,
}

/// Handles a key press.
pub fn press(key: KeyEvent, filter: &mut Filter, plugins: &[String]) -> Want {
    if key.kind == KeyEventKind::Release {
        return Want::More;
    }
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        return Want::End;
    }
    if filter.typing {
        match key.code {
            KeyCode::Enter => filter.typing = false,
            KeyCode::Esc => (filter.typing, filter.text) = (false, String::new()),
            KeyCode::Backspace => drop(filter.text.pop()),
            KeyCode::Char(letter) => filter.text.push(letter),
            _ => {}
        }
        return Want::More;
    }
    match key.code {
        KeyCode::Char('q') => return Want::End,
        KeyCode::Char('l') => filter.level = filter.level % 5 + 1,
        KeyCode::Char('p') => {
            let at = filter.plugin.as_ref().and_then(|plugin| plugins.iter().position(|found| found == plugin));
            filter.plugin = match (at, filter.plugin.is_some()) {
                (None, false) => plugins.first().cloned(),
                (Some(at), _) => plugins.get(at + 1).cloned(),
                (None, true) => None,
            };
        }
        KeyCode::Char('/') => (filter.typing, filter.above) = (true, 0),
        KeyCode::Esc => (filter.text, filter.plugin, filter.above) = (String::new(), None, 0),
        KeyCode::Up | KeyCode::Char('k') => filter.above += 1,
        KeyCode::Down | KeyCode::Char('j') => filter.above = filter.above.saturating_sub(1),
        KeyCode::PageUp => filter.above += 10,
        KeyCode::PageDown => filter.above = filter.above.saturating_sub(10),
        KeyCode::End | KeyCode::Char('G') => filter.above = 0,
        _ => {}
    }
    Want::More
}

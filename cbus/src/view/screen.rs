//! The terminal: it is drawn on through a handle of its own, so that what this process prints goes elsewhere.

use std::fs::File;
use std::io::{BufWriter, Result, Write};

use hot_runtime::text::escaped;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// The terminal while the view is on it; as it was when this is dropped.
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<BufWriter<File>>>,
    tty: File,
    is_entered: bool,
}

impl Screen {
    /// Shows an empty view.
    ///
    /// # Errors
    /// There is no terminal, or it cannot be set.
    pub fn open() -> Result<Self> {
        let tty = of_stdout()?;
        let terminal = new_terminal(&tty)?;
        let mut screen = Self { terminal, tty, is_entered: false };
        screen.enter()?;
        Ok(screen)
    }

    /// Shows the view again after [`Screen::leave`].
    ///
    /// # Errors
    /// The terminal cannot be set.
    pub fn enter(&mut self) -> Result<()> {
        enable_raw_mode()?;
        self.is_entered = true;
        execute!(self.tty, EnterAlternateScreen, Clear(ClearType::All))?;
        // One that knows of nothing on the screen draws all of it. `Terminal::clear` would ask the terminal where its cursor is,
        // and wait for the answer.
        self.terminal = new_terminal(&self.tty)?;
        Ok(())
    }

    /// Restores the terminal, with what was on it before.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.is_entered) {
            let _ = disable_raw_mode();
            let _ = execute!(self.tty, LeaveAlternateScreen, Show);
        }
    }

    /// Another handle to it, for a program that gets the terminal.
    ///
    /// # Errors
    /// There are no more handles.
    pub fn handle(&self) -> Result<File> {
        self.tty.try_clone()
    }

    /// Rings the bell, and shows a notification where the terminal has them (OSC 9).
    pub fn alarm(&mut self, text: &str) {
        let _ = write!(self.tty, "\x07\x1b]9;{}\x07", escaped(text));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn new_terminal(tty: &File) -> Result<Terminal<CrosstermBackend<BufWriter<File>>>> {
    // A drawing is one write, or nearly.
    Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(1 << 16, tty.try_clone()?)))
}

#[cfg(unix)]
fn of_stdout() -> Result<File> {
    Ok(File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?))
}

#[cfg(not(unix))]
fn of_stdout() -> Result<File> {
    File::options().read(true).write(true).open("CONOUT$")
}

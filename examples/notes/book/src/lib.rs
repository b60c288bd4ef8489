//! Notes in a SQLite database. Each generation has a SQLite of its own, and two of those in one process must never have one
//! file open: so the old controller is ended, and dropped, before the new one is made (`swap = "stop-first"`).
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use controllerbus::prelude::*;
use rusqlite::Connection;

/// Which version of the code answers. Edit it while it runs.
static VERSION: &str = "version-0000001";

fn version() -> &'static str {
    // Not computed at compile time, so that one build can be made many.
    std::hint::black_box(VERSION)
}

/// Writes a note down. Whoever has the answer can rely on it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/note", value = Noted)]
pub struct Note {
    /// What it says. The same text is one note, however often it is asked for.
    pub text: String,
}

/// A note that is written down.
#[derive(Serialize, Deserialize)]
pub struct Noted {
    /// How many there are.
    pub notes: u64,
    /// Who has written it down.
    pub version: String,
}

/// Where the notes are.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "example/book")]
pub struct BookConfig {
    /// The database.
    pub file: PathBuf,
}

/// The controller. The database is closed when this is dropped: nothing else keeps the connection.
pub struct Book {
    database: Mutex<Connection>,
}

/// Keeps notes.
#[hot_plugin(id = "example/book", version = "1.0.0", swap = "stop-first")]
impl Controller for Book {
    type Config = BookConfig;

    async fn construct(config: BookConfig, _: &Context) -> Result<Self> {
        let open = || {
            let database = Connection::open(&config.file)?;
            database.pragma_update(None, "journal_mode", "WAL")?;
            database.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT PRIMARY KEY, version TEXT)", ())?;
            Ok(database)
        };
        let database = open().map_err(|error: rusqlite::Error| {
            Error::msg(format!("{} cannot be opened: {error}", config.file.display()))
        })?;
        Ok(Self { database: Mutex::new(database) })
    }

    #[resolves]
    async fn note(&self, request: Note) -> Result<Noted> {
        let write = || {
            let database = self.database();
            database.execute("INSERT OR IGNORE INTO notes VALUES (?1, ?2)", (&request.text, version()))?;
            database.query_row("SELECT max(rowid) FROM notes", (), |row| row.get::<_, i64>(0))
        };
        let notes = write().map_err(Error::msg)?;
        Ok(Noted { notes: notes.unsigned_abs(), version: version().to_owned() })
    }
}

impl Book {
    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

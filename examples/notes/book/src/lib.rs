//! Notes in a SQLite database. Each generation has its own copy of SQLite, and two copies in one process must never
//! have the same file open. So the old controller is ended and dropped before the new one is constructed
//! (`swap = "stop-first"`).
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use controllerbus::prelude::*;
use rusqlite::Connection;

/// The version of the code that answers. Edit it while the program runs.
static VERSION: &str = "version-0000001";

fn version() -> &'static str {
    // Kept from constant folding, so that the tests can make many versions from one build.
    std::hint::black_box(VERSION)
}

/// Writes a note. Once this is answered, the note is stored.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/note", value = Noted)]
pub struct Note {
    /// The text. Requests with the same text write one note.
    pub text: String,
}

/// The acknowledgement of a note.
#[derive(Serialize, Deserialize)]
pub struct Noted {
    /// How many notes there are.
    pub notes: u64,
    /// The version of the code that wrote it.
    pub version: String,
}

/// The config.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "example/book")]
pub struct BookConfig {
    /// The database file.
    pub file: PathBuf,
}

/// The controller. Dropping it closes the database, because nothing else holds the connection.
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
        let database = open()
            .map_err(|error: rusqlite::Error| Error::msg(format!("cannot open {}: {error}", config.file.display())))?;
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

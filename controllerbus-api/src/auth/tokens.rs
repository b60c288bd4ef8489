//! The tokens that a daemon accepts, from a file whose changes are followed.
//!
//! Each line is a token, which allows everything, or a name, roles and a token:
//!
//! ```text
//! # NAME   ROLES          TOKEN
//! grafana  look           0f5c2d…
//! deploy   apply,control  9b1e77…
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};

use super::caller::{Caller, Roles};

/// The shortest token that is accepted, in characters.
const SHORTEST: usize = 16;

/// A followed file of tokens.
pub struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    stamp: Option<Stamp>,
    tokens: Vec<Token>,
}

/// What distinguishes one state of a file from another.
type Stamp = (SystemTime, u64, u64, i64);

struct Token {
    hash: blake3::Hash,
    caller: Caller,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, others can write to it, or a line is invalid.
    pub fn read(path: &Path) -> Result<Self> {
        let tokens = parse_file(path)?;
        Ok(Self { path: path.to_owned(), known: Mutex::new(Known { stamp: stamp(path), tokens }) })
    }

    /// The caller that a token belongs to.
    pub fn find(&self, shown: &str) -> Option<Caller> {
        self.refresh();
        // Hashes are compared in constant time.
        let hash = blake3::hash(shown.as_bytes());
        self.lock().tokens.iter().find(|token| token.hash == hash).map(|token| token.caller.clone())
    }

    /// Reads the file again if it has changed. Callers whose token was removed, or has other roles now, are disconnected. An
    /// invalid file changes nothing; without a file, nobody gets in.
    pub fn refresh(&self) {
        let mut known = self.lock();
        let now = stamp(&self.path);
        if now == known.stamp {
            return;
        }
        known.stamp = now;
        let tokens = match (now, parse_file(&self.path)) {
            (None, _) => {
                tracing::error!(target: "cbus", "{} is gone: no token is accepted until it is back", self.path.display());
                Vec::new()
            }
            (Some(_), Ok(tokens)) => {
                tracing::info!(target: "cbus", "{} was reloaded: {} tokens", self.path.display(), tokens.len());
                tokens
            }
            (Some(_), Err(error)) => {
                tracing::error!(target: "cbus", "the accepted tokens are unchanged: {error}");
                return;
            }
        };
        let before = std::mem::replace(&mut known.tokens, tokens);
        for old in before {
            let same = |new: &&mut Token| new.hash == old.hash && new.caller.roles == old.caller.roles;
            match known.tokens.iter_mut().find(same) {
                Some(new) => new.caller = old.caller,
                None => old.caller.revoked.cancel(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(unix)]
fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    // The change time cannot be set by whoever writes the file.
    Some((found.modified().ok()?, found.len(), found.ino(), found.ctime() * 1_000_000_000 + found.ctime_nsec()))
}

#[cfg(not(unix))]
fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), 0, 0))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn parse_file(path: &Path) -> Result<Vec<Token>> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| invalid(format!("reading the token file {shown}: {error}")))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
        if mode & 0o022 != 0 {
            let what = format!("others can write to {shown} and so give themselves access; run `chmod 600 {shown}`");
            return Err(invalid(what));
        }
        if mode & 0o044 != 0 {
            tracing::warn!(target: "cbus", "others can read the tokens in {shown}; run `chmod 600 {shown}`");
        }
    }
    let mut tokens: Vec<Token> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let wrong = |why: String| invalid(format!("{shown}:{}: {why}", at + 1));
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, roles, token) = match words.as_slice() {
            [] => continue,
            [comment, ..] if comment.starts_with('#') => continue,
            [token] => ("the token", Roles::ALL, *token),
            [name, roles, token] => (*name, Roles::parse(roles).map_err(wrong)?, *token),
            _ => return Err(wrong("a line must be a token, or a name, roles and a token".to_owned())),
        };
        if token.len() < SHORTEST {
            let length = token.len();
            return Err(wrong(format!("the token has {length} characters; at least {SHORTEST} are required")));
        }
        let hash = blake3::hash(token.as_bytes());
        if tokens.iter().any(|known| known.hash == hash) {
            return Err(wrong("this token occurs twice".to_owned()));
        }
        tokens.push(Token { hash, caller: Caller::new(name, roles) });
    }
    if tokens.is_empty() {
        return Err(invalid(format!("there is no token in {shown}")));
    }
    Ok(tokens)
}

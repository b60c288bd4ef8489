//! The page's sessions: begun with a code that counts once, kept by a cookie and a key, known to one port only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::caller::Caller;

/// How long a code counts.
const CODE: Duration = Duration::from_secs(60);

/// How long a session lasts that nobody uses.
const IDLE: Duration = Duration::from_secs(12 * 3600);

/// How many codes or sessions there may be; the oldest goes.
const MOST: usize = 256;

/// The sessions of one port.
#[derive(Default)]
pub struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    codes: HashMap<blake3::Hash, (Caller, Instant)>,
    sessions: HashMap<blake3::Hash, Session>,
}

struct Session {
    caller: Caller,
    key: blake3::Hash,
    used: Instant,
}

/// What a browser keeps of a session. The cookie goes to every port of this machine, for cookies know none; so it is
/// worth nothing without the key, which only scripts of this port can read.
pub struct Ticket {
    pub cookie: String,
    pub key: String,
}

impl Sessions {
    /// A code that begins one session for somebody, within a minute.
    pub fn code(&self, caller: Caller) -> std::io::Result<String> {
        let code = random()?;
        let mut inner = self.lock();
        inner.codes.retain(|_, (_, made)| made.elapsed() < CODE);
        let made = |codes: &HashMap<blake3::Hash, (Caller, Instant)>| {
            codes.iter().min_by_key(|(_, (_, made))| *made).map(|(hash, _)| *hash)
        };
        evict(&mut inner.codes, made);
        inner.codes.insert(hash(&code), (caller, Instant::now()));
        Ok(code)
    }

    /// Whose code this is; it counts no more from now on.
    pub fn redeem(&self, code: &str) -> Option<Caller> {
        let (caller, made) = self.lock().codes.remove(&hash(code))?;
        (made.elapsed() < CODE && !caller.revoked.is_cancelled()).then_some(caller)
    }

    /// Begins a session.
    pub fn begin(&self, caller: Caller) -> std::io::Result<Ticket> {
        let ticket = Ticket { cookie: random()?, key: random()? };
        let mut inner = self.lock();
        inner.sessions.retain(|_, session| session.used.elapsed() < IDLE && !session.caller.revoked.is_cancelled());
        let oldest = |sessions: &HashMap<blake3::Hash, Session>| {
            sessions.iter().min_by_key(|(_, session)| session.used).map(|(hash, _)| *hash)
        };
        evict(&mut inner.sessions, oldest);
        let session = Session { caller, key: hash(&ticket.key), used: Instant::now() };
        inner.sessions.insert(hash(&ticket.cookie), session);
        Ok(ticket)
    }

    /// Whose session a cookie is of; where `key` is asked for too, only with that.
    pub fn find(&self, cookie: &str, key: Option<&str>) -> Option<Caller> {
        let mut inner = self.lock();
        let session = inner.sessions.get_mut(&hash(cookie))?;
        if session.used.elapsed() >= IDLE || session.caller.revoked.is_cancelled() {
            return None;
        }
        if key.is_some_and(|key| hash(key) != session.key) {
            return None;
        }
        session.used = Instant::now();
        Some(session.caller.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn evict<V>(map: &mut HashMap<blake3::Hash, V>, oldest: impl Fn(&HashMap<blake3::Hash, V>) -> Option<blake3::Hash>) {
    while map.len() >= MOST {
        let Some(oldest) = oldest(map) else { return };
        map.remove(&oldest);
    }
}

/// What is kept of a secret: looked up by its hash, how long that takes tells nothing.
fn hash(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

/// 256 bits that nobody can guess, as hex.
pub fn random() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

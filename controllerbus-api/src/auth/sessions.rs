//! The page's sessions: started with a one-time code, held by a cookie and a key, and valid for one port.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::caller::Caller;

/// How long a code is valid.
const CODE: Duration = Duration::from_secs(60);

/// After how long an unused session expires.
const IDLE: Duration = Duration::from_secs(12 * 3600);

/// The limit of codes and of sessions; the oldest is dropped.
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

/// What a browser keeps of a session. Browsers send the cookie to every port of this machine, so it is worthless without
/// the key, which only scripts of this port can read.
pub struct Ticket {
    pub cookie: String,
    pub key: String,
}

impl Sessions {
    /// A code that starts one session for a caller, within a minute.
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

    /// The caller that a code belongs to. The code is used up.
    pub fn redeem(&self, code: &str) -> Option<Caller> {
        let (caller, made) = self.lock().codes.remove(&hash(code))?;
        (made.elapsed() < CODE && !caller.revoked.is_cancelled()).then_some(caller)
    }

    /// Starts a session.
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

    /// The caller that a cookie belongs to; if a `key` is given, it must match.
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

/// Secrets are kept and looked up by their hashes, so that timing reveals nothing.
fn hash(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

/// 256 random bits, as hex.
pub fn random() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

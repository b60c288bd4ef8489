//! Pages that come back by themselves after a restart of the daemon.
//!
//! A page that is open gets a secret, which the next daemon finds in a file beside the socket. While there is no daemon, another
//! user's program may listen on its port, and even have the browser load a page of its own there. So the page keeps the secret in
//! its memory, where no other page gets, and neither side ever shows it: each proves that it knows it, by a hash over it, a random
//! number of either side, and the port. What passes through somebody on another port proves nothing.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::random;

/// How long a page that is not open any more may come back.
const LIFE: Duration = Duration::from_secs(12 * 3600);

/// How many pages are remembered; the oldest is dropped.
const MOST: usize = 64;

/// The secrets of the open pages.
pub struct Kept {
    file: PathBuf,
    /// A proof is only good for this one.
    port: u16,
    secrets: Mutex<HashMap<String, Secret>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Secret {
    secret: String,
    /// In seconds since 1970.
    until: u64,
    /// The random number over which the page has to prove that it knows the secret. Each is good for one attempt.
    #[serde(skip)]
    challenge: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct File {
    port: u16,
    secrets: HashMap<String, Secret>,
}

/// What a page keeps in its memory.
#[derive(Serialize)]
pub struct Ticket {
    /// Names the secret.
    pub id: String,
    pub secret: String,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The port on which an earlier daemon had pages that may come back.
pub fn port_of(file: &Path) -> Option<u16> {
    let File { port, secrets } = read(file)?;
    secrets.values().any(|secret| secret.until > now()).then_some(port)
}

fn read(file: &Path) -> Option<File> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

impl Kept {
    /// The secrets of pages on this port, with those that an earlier daemon has left.
    pub fn at(file: PathBuf, port: u16) -> Self {
        let earlier = read(&file).filter(|earlier| earlier.port == port);
        let secrets = earlier.map(|earlier| earlier.secrets).unwrap_or_default();
        Self { file, port, secrets: Mutex::new(secrets) }
    }

    /// A secret for a page, instead of the one that it had.
    pub fn issue(&self, instead: &str) -> io::Result<Ticket> {
        let ticket = Ticket { id: random()?, secret: random()? };
        let mut secrets = self.lock();
        secrets.remove(instead);
        secrets.retain(|_, secret| secret.until > now());
        while secrets.len() >= MOST {
            let Some(oldest) = secrets.iter().min_by_key(|(_, secret)| secret.until).map(|(id, _)| id.clone()) else {
                break;
            };
            secrets.remove(&oldest);
        }
        let secret = Secret { secret: ticket.secret.clone(), until: now() + LIFE.as_secs(), challenge: None };
        secrets.insert(ticket.id.clone(), secret);
        self.write(&secrets)?;
        Ok(ticket)
    }

    /// The number over which the page with this id has to prove that it knows its secret; none if the page is unknown.
    pub fn challenge(&self, id: &str) -> Option<String> {
        let mut secrets = self.lock();
        let secret = secrets.get_mut(id).filter(|secret| secret.until > now())?;
        let challenge = random().ok()?;
        secret.challenge = Some(challenge.clone());
        Some(challenge)
    }

    /// Checks what a page has to show, and returns what proves to it that this is the daemon. The secret is used up.
    pub fn redeem(&self, id: &str, nonce: &str, proof: &str) -> Option<String> {
        let is_number = nonce.len() == 64 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut secrets = self.lock();
        let known = secrets.get_mut(id).filter(|secret| is_number && secret.until > now())?;
        let challenge = known.challenge.take()?;
        let over = |whose: &str| proof_of(whose, &known.secret, nonce, &challenge, self.port);
        let (theirs, ours) = (over("page"), over("daemon"));
        // Hashes are compared in constant time.
        if blake3::hash(theirs.as_bytes()) != blake3::hash(proof.as_bytes()) {
            return None;
        }
        secrets.remove(id);
        self.write(&secrets).ok()?;
        Some(ours)
    }

    /// Replaces the file, which only this user can read.
    fn write(&self, secrets: &HashMap<String, Secret>) -> io::Result<()> {
        let text = serde_json::to_vec(&File { port: self.port, secrets: secrets.clone() })?;
        let new = self.file.with_extension("page.new");
        let _ = std::fs::remove_file(&new);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        io::Write::write_all(&mut options.open(&new)?, &text)?;
        std::fs::rename(new, &self.file)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Secret>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What proves that somebody knows a secret.
fn proof_of(whose: &str, secret: &str, nonce: &str, challenge: &str, port: u16) -> String {
    let hash = Sha256::digest(format!("{whose} {secret} {nonce} {challenge} {port}"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_page_comes_back_to_the_next_daemon_on_its_port_once_and_to_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.sock.page");
        let first = Kept::at(file.clone(), 61_001);
        let Ticket { id, secret } = first.issue("").expect("a secret");
        drop(first);
        assert_eq!(port_of(&file), Some(61_001));
        // On another port there is nothing for it.
        assert_eq!(Kept::at(file.clone(), 61_002).challenge(&id), None);

        let next = Kept::at(file.clone(), 61_001);
        let challenge = next.challenge(&id).expect("a challenge");
        // Made for a page on another port, of something else, and twice with one challenge.
        let elsewhere = proof_of("page", &secret, NONCE, &challenge, 61_002);
        assert_eq!(next.redeem(&id, NONCE, &elsewhere), None);
        let right = proof_of("page", &secret, NONCE, &challenge, 61_001);
        assert_eq!(next.redeem(&id, NONCE, &right), None, "the challenge was used up");
        let challenge = next.challenge(&id).expect("a challenge");
        assert_eq!(next.redeem(&id, "a b", &proof_of("page", &secret, "a b", &challenge, 61_001)), None);
        let challenge = next.challenge(&id).expect("a challenge");
        let mirrored = proof_of("daemon", &secret, NONCE, &challenge, 61_001);
        assert_eq!(next.redeem(&id, NONCE, &mirrored), None);
        let challenge = next.challenge(&id).expect("a challenge");
        let right = proof_of("page", &secret, NONCE, &challenge, 61_001);
        let shown = next.redeem(&id, NONCE, &right).expect("it is let in");
        assert_eq!(shown, proof_of("daemon", &secret, NONCE, &challenge, 61_001));
        assert!(next.challenge(&id).is_none() && Kept::at(file.clone(), 61_001).challenge(&id).is_none(), "once");
        assert_eq!(port_of(&file), None, "nobody is left");
    }

    #[test]
    fn a_secret_replaces_the_one_before_and_old_ones_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Kept::at(folder.path().join("a.sock.page"), 1);
        let first = kept.issue("").expect("a secret");
        let second = kept.issue(&first.id).expect("a secret");
        assert!(kept.challenge(&first.id).is_none() && kept.challenge(&second.id).is_some());
        for _ in 0..2 * MOST {
            kept.issue("").expect("a secret");
        }
        assert_eq!(kept.lock().len(), MOST);
        kept.lock().values_mut().for_each(|secret| secret.until = now() - 1);
        let ids: Vec<String> = kept.lock().keys().cloned().collect();
        assert!(ids.iter().all(|id| kept.challenge(id).is_none()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&kept.file).expect("the file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}

//! Pages that come back by themselves after a restart of the daemon.
//!
//! A page that is open gets a secret, which the next daemon finds in a file beside the socket. While there is no daemon, another
//! user's program may listen on the page's port, answer what it likes, and even have the browser load a page of its own there.
//! Therefore:
//!
//! * The secret goes over the wire once, from the daemon to the page that it has just let in, and stays in the page's memory, where
//!   no other page gets. From then on each proves that it knows it: by a hash over it, a random number of the other's, and the port.
//! * The page believes no stream before the daemon has proved itself in it. A new session begins once both have.
//! * A port that pages know is opened again only where nobody holds a connection of it, and serves nothing that a browser would run:
//!   see [`crate::pages`]. So nobody stands between the two who could pass on what they prove and keep what follows.
//! * The file is believed only if it is this user's own, and nobody else can read or write it.

use std::collections::{BTreeSet, HashMap};
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

/// How much of the file is read, in bytes: more than so many pages need.
const LONGEST: u64 = 1 << 16;

/// The secrets of the open pages.
pub struct Kept {
    file: PathBuf,
    secrets: Mutex<Secrets>,
}

/// By the id that the page names.
type Secrets = HashMap<String, Secret>;

#[derive(Clone, Serialize, Deserialize)]
struct Secret {
    secret: String,
    /// The page's port. On another it is unknown.
    port: u16,
    /// In seconds since 1970.
    until: u64,
    /// The random number over which the page has to prove that it knows the secret. Each is good for one attempt.
    #[serde(skip)]
    challenge: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct File {
    secrets: Secrets,
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

fn read(file: &Path) -> Option<File> {
    match read_private(file) {
        Ok(text) => serde_json::from_slice(&text).ok(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(target: "cbus", "open pages cannot come back: {}: {error}", file.display());
            }
            None
        }
    }
}

/// What is in a file of this user's own that nobody else can read or write. The folder may be one in which others write.
fn read_private(file: &Path) -> io::Result<Vec<u8>> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        // A pipe would have it wait for somebody who writes.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    let open = options.open(file)?;
    if !is_private(&open.metadata()?) {
        return Err(io::Error::other("it is not a file that only this user can read and write; remove it"));
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(open, LONGEST), &mut text)?;
    Ok(text)
}

fn is_private(found: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let is_own = found.uid() == rustix::process::geteuid().as_raw();
        found.is_file() && is_own && found.mode() & 0o077 == 0 && found.nlink() == 1
    }
    #[cfg(not(unix))]
    found.is_file()
}

/// Drops what is over, and the oldest where there are too many for one more.
fn make_room(secrets: &mut Secrets, most: usize) {
    let now = now();
    secrets.retain(|_, secret| secret.until > now && secret.until <= now + LIFE.as_secs());
    while secrets.len() > most {
        let Some(oldest) = secrets.iter().min_by_key(|(_, secret)| secret.until).map(|(id, _)| id.clone()) else {
            break;
        };
        secrets.remove(&oldest);
    }
}

/// The secret of a page on a port.
fn find<'a>(secrets: &'a mut Secrets, id: &str, port: u16) -> Option<&'a mut Secret> {
    secrets.get_mut(id).filter(|secret| secret.port == port && secret.until > now())
}

fn is_number(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Kept {
    /// The secrets that an earlier daemon has left in a file, and where those of this one are kept.
    pub fn at(file: PathBuf) -> Self {
        let mut secrets = read(&file).map(|earlier| earlier.secrets).unwrap_or_default();
        make_room(&mut secrets, MOST);
        Self { file, secrets: Mutex::new(secrets) }
    }

    /// The ports of the pages that may come back.
    pub fn ports(&self) -> BTreeSet<u16> {
        let now = now();
        self.lock().values().filter(|secret| secret.until > now).map(|secret| secret.port).collect()
    }

    /// A secret for a page on a port.
    pub fn issue(&self, port: u16) -> io::Result<Ticket> {
        let ticket = Ticket { id: random()?, secret: random()? };
        let until = now() + LIFE.as_secs();
        let mut secrets = self.lock();
        make_room(&mut secrets, MOST - 1);
        secrets.insert(ticket.id.clone(), Secret { secret: ticket.secret.clone(), port, until, challenge: None });
        self.write(&secrets);
        Ok(ticket)
    }

    /// The page with this id is still open.
    pub fn renew(&self, id: &str) {
        let mut secrets = self.lock();
        if let Some(secret) = secrets.get_mut(id) {
            secret.until = now() + LIFE.as_secs();
            self.write(&secrets);
        }
    }

    /// What proves to the page with this id that a stream comes from the daemon; none if the page is unknown.
    pub fn prove(&self, id: &str, port: u16, nonce: &str) -> Option<String> {
        let mut secrets = self.lock();
        let known = find(&mut secrets, id, port).filter(|_| is_number(nonce))?;
        Some(proof_of("stream", &known.secret, nonce, "", port))
    }

    /// Has the page with this id prove over a random number that it knows its secret; none if the page is unknown.
    pub fn challenge(&self, id: &str, port: u16, number: String) -> Option<String> {
        find(&mut self.lock(), id, port)?.challenge = Some(number.clone());
        Some(number)
    }

    /// Checks what a page has to show, and returns what proves to it that this is the daemon. The challenge is used up.
    pub fn redeem(&self, id: &str, port: u16, nonce: &str, proof: &str) -> Option<String> {
        let mut secrets = self.lock();
        let known = find(&mut secrets, id, port).filter(|_| is_number(nonce))?;
        let challenge = known.challenge.take()?;
        let over = |whose: &str| proof_of(whose, &known.secret, nonce, &challenge, port);
        // Hashes are compared in constant time.
        let is_right = blake3::hash(over("page").as_bytes()) == blake3::hash(proof.as_bytes());
        is_right.then(|| over("daemon"))
    }

    /// Replaces the file. Where that fails, the pages of this daemon stay, but do not come back to the next.
    fn write(&self, secrets: &Secrets) {
        if let Err(error) = self.replace(secrets) {
            let file = self.file.display();
            tracing::warn!(target: "cbus", "open pages cannot come back after a restart: {file}: {error}");
        }
    }

    /// Replaces the file by one that only this user can read.
    fn replace(&self, secrets: &Secrets) -> io::Result<()> {
        let text = serde_json::to_vec(&File { secrets: secrets.clone() })?;
        let new = self.file.with_extension("page.new");
        let _ = std::fs::remove_file(&new);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        io::Write::write_all(&mut options.open(&new)?, &text)?;
        std::fs::rename(new, &self.file)
    }

    fn lock(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What proves that somebody knows a secret. `whose` keeps apart what is proved on different occasions.
fn proof_of(whose: &str, secret: &str, nonce: &str, challenge: &str, port: u16) -> String {
    let hash = Sha256::digest(format!("{whose} {secret} {nonce} {challenge} {port}"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_page_comes_back_to_the_next_daemon_on_its_port_and_to_no_other_with_each_proof_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.sock.page");
        let Ticket { id, secret } = Kept::at(file.clone()).issue(61_001).expect("a secret");

        let next = Kept::at(file.clone());
        assert_eq!(next.ports(), BTreeSet::from([61_001]));
        let challenge = || next.challenge(&id, 61_001, random().expect("a number")).expect("it is known");
        // On another port there is nothing for it.
        assert_eq!(next.challenge(&id, 61_002, NONCE.to_owned()), None);
        assert_eq!(next.prove(&id, 61_002, NONCE), None);
        assert_eq!(next.prove(&id, 61_001, NONCE), Some(proof_of("stream", &secret, NONCE, "", 61_001)));
        // What proves a stream, or was made over another port, by the daemon, or of something else, lets nobody in.
        let first = challenge();
        let right = proof_of("page", &secret, NONCE, &first, 61_001);
        assert_eq!(next.redeem(&id, 61_002, NONCE, &proof_of("page", &secret, NONCE, &first, 61_002)), None);
        assert_eq!(next.redeem(&id, 61_001, NONCE, &proof_of("page", &secret, NONCE, &first, 61_002)), None);
        assert_eq!(next.redeem(&id, 61_001, NONCE, &right), None, "the challenge was used up");
        for whose in ["daemon", "stream", "x"] {
            let over = challenge();
            assert_eq!(next.redeem(&id, 61_001, NONCE, &proof_of(whose, &secret, NONCE, &over, 61_001)), None);
        }
        let over = challenge();
        assert_eq!(next.redeem(&id, 61_001, "a b", &proof_of("page", &secret, "a b", &over, 61_001)), None);
        // An answer may be lost: the page asks once more.
        for _ in 0..2 {
            let over = challenge();
            let right = proof_of("page", &secret, NONCE, &over, 61_001);
            let shown = next.redeem(&id, 61_001, NONCE, &right).expect("it is let in");
            assert_eq!(shown, proof_of("daemon", &secret, NONCE, &over, 61_001));
            assert_eq!(next.redeem(&id, 61_001, NONCE, &right), None, "once");
        }
    }

    #[test]
    fn secrets_are_bounded_and_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Kept::at(folder.path().join("a.sock.page"));
        for port in 0..2 * MOST as u16 {
            kept.issue(port).expect("a secret");
        }
        assert_eq!(kept.lock().len(), MOST);
        let ids: Vec<(String, u16)> = kept.lock().iter().map(|(id, secret)| (id.clone(), secret.port)).collect();
        kept.lock().values_mut().for_each(|secret| secret.until = now() - 1);
        assert!(ids.iter().all(|(id, port)| kept.prove(id, *port, NONCE).is_none()) && kept.ports().is_empty());
        // Renewed while it is open.
        kept.renew(&ids[0].0);
        assert!(kept.prove(&ids[0].0, ids[0].1, NONCE).is_some());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&kept.file).expect("the file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // A file that claims more than this daemon would have written.
        let secret = |until| Secret { secret: "s".to_owned(), port: 1, until, challenge: None };
        let secrets = (0..3 * MOST as u64).map(|number| (number.to_string(), secret(now() + 60 + number)));
        let forever = ("forever".to_owned(), secret(u64::MAX));
        kept.write(&secrets.chain([forever]).collect());
        let next = Kept::at(kept.file.clone());
        assert!(next.lock().len() == MOST && next.prove("forever", 1, NONCE).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_not_this_users_own_and_private_lets_no_page_in() {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.sock.page");
        let Ticket { id, .. } = Kept::at(file.clone()).issue(61_001).expect("a secret");
        let is_known = |file: &Path| Kept::at(file.to_owned()).prove(&id, 61_001, NONCE).is_some();
        assert!(is_known(&file));
        // Others can read it, or write it.
        for mode in [0o644, 0o606, 0o620] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode");
            assert!(!is_known(&file), "{mode:o}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        assert!(is_known(&file));
        // By another name.
        let other = folder.path().join("b.sock.page");
        symlink(&file, &other).expect("a link");
        assert!(!is_known(&other));
        std::fs::remove_file(&other).expect("removing");
        std::fs::hard_link(&file, &other).expect("a link");
        assert!(!is_known(&other));
        std::fs::remove_file(&other).expect("removing");
        // A pipe, into which nobody writes.
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&other).status();
        assert!(made.is_ok_and(|status| status.success()) && !is_known(&other));
        // Another user's: only root can try.
        if rustix::process::geteuid().is_root() {
            chown(&file, Some(65_534), None).expect("its owner");
            assert!(!is_known(&file));
        }
    }
}

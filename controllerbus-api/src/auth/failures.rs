//! Slows down clients that show wrong tokens: checks run one after another, and each failure makes the next one slower.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The wait after the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// How many requests of one address may wait.
const WAITING: u32 = 8;

/// After this time without a failure an address is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// How many addresses are remembered; further ones share one entry.
const ADDRESSES: usize = 1024;

/// The addresses that have recently shown wrong tokens.
#[derive(Default)]
pub struct Failures {
    peers: Mutex<HashMap<Option<IpAddr>, Arc<Peer>>>,
}

struct Peer {
    turn: Semaphore,
    failed: AtomicU32,
    waiting: AtomicU32,
    last: Mutex<Instant>,
}

/// A waiting request; the client may disconnect meanwhile.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Too many requests of this address are waiting.
pub struct Busy;

impl Failures {
    /// Runs a check that may fail: immediately for an address without recent failures, in turn and after a pause for others.
    pub async fn check<T>(&self, from: Option<IpAddr>, check: impl FnOnce() -> Option<T>) -> Result<Option<T>, Busy> {
        let Some(peer) = self.known(from) else {
            let found = check();
            if found.is_none() {
                self.remember(from);
            }
            return Ok(found);
        };
        let waiting = Waiting(&peer.waiting);
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= WAITING {
            return Err(Busy);
        }
        let turn = peer.turn.acquire().await;
        let pause = FIRST * (1 << peer.failed.load(Ordering::Relaxed).min(10));
        tokio::time::sleep(pause.min(LONGEST)).await;
        let found = check();
        match &found {
            Some(_) => drop(self.lock().remove(&from)),
            None => {
                peer.failed.fetch_add(1, Ordering::Relaxed);
                *peer.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
        }
        drop(turn);
        Ok(found)
    }

    fn known(&self, from: Option<IpAddr>) -> Option<Arc<Peer>> {
        let peers = self.lock();
        let place = if peers.len() >= ADDRESSES && !peers.contains_key(&from) { None } else { from };
        peers.get(&place).cloned()
    }

    fn remember(&self, from: Option<IpAddr>) {
        let mut peers = self.lock();
        let recent = |peer: &Arc<Peer>| peer.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < FORGOTTEN;
        peers.retain(|_, peer| recent(peer));
        let place = if peers.len() >= ADDRESSES { None } else { from };
        let new = || {
            Arc::new(Peer {
                turn: Semaphore::new(1),
                failed: AtomicU32::new(0),
                waiting: AtomicU32::new(0),
                last: Mutex::new(Instant::now()),
            })
        };
        peers.entry(place).or_insert_with(new);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Option<IpAddr>, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

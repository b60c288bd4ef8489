//! A load of clients, and what happens to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Broken, Echo, Http};

/// The results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// How often the server was swapped.
    pub swaps: u64,
    /// How many requests, and texts on WebSockets, were answered.
    pub requests: u64,
    /// How many clients could not connect.
    pub refused: u64,
    /// How many connections were closed before a response began.
    pub reset: u64,
    /// How many responses or WebSockets were cut off.
    pub cut: u64,
}

impl Counts {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        (self.refused, self.reset, self.cut) == (0, 0, 0)
    }
}

/// Clients that send requests until they are stopped.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    at: SocketAddr,
    stop: AtomicBool,
    /// The version that answered last.
    version: watch::Sender<String>,
    requests: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
    cut: AtomicU64,
}

impl Shared {
    fn is_running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn answered(&self, version: &str) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.version.send_if_modified(|last| {
            let is_new = last != version;
            if is_new {
                version.clone_into(last);
            }
            is_new
        });
    }

    fn broken(&self, how: Broken) {
        let count = match how {
            Broken::Refused => &self.refused,
            Broken::Reset => &self.reset,
            Broken::Cut => &self.cut,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Load {
    /// Starts clients: `keeping` keep their connections, `connecting` connect for each request, and `sockets` are
    /// WebSockets, which stay open all the time.
    pub fn new(at: SocketAddr, keeping: usize, connecting: usize, sockets: usize) -> Self {
        let shared = Arc::new(Shared {
            at,
            stop: AtomicBool::new(false),
            version: watch::Sender::new(String::new()),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        });
        let mut clients = JoinSet::new();
        for _ in 0..keeping {
            clients.spawn(keep(Arc::clone(&shared)));
        }
        for _ in 0..connecting {
            clients.spawn(connect_each_time(Arc::clone(&shared)));
        }
        for _ in 0..sockets {
            clients.spawn(stay(Arc::clone(&shared)));
        }
        Self { shared, clients }
    }

    /// Waits until a version has answered a client.
    pub async fn answered_by(&self, version: &str) {
        // Cannot fail: `self` holds the sender.
        let _ = self.shared.version.subscribe().wait_for(|last| last == version).await;
    }

    /// Stops the clients and returns the results.
    pub async fn end(mut self, swaps: u64) -> Counts {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            if let Err(error) = ended
                && let Ok(payload) = error.try_into_panic()
            {
                std::panic::resume_unwind(payload);
            }
        }
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { requests, refused, reset, cut, .. } = &*self.shared;
        Counts { swaps, requests: count(requests), refused: count(refused), reset: count(reset), cut: count(cut) }
    }
}

async fn keep(shared: Arc<Shared>) {
    let mut open = None;
    while shared.is_running() {
        let asked = async {
            let mut http = match open.take() {
                Some(http) => http,
                None => Http::connect(shared.at).await?,
            };
            let answer = http.get(true).await?;
            shared.answered(&answer.version);
            Ok(Some(http).filter(|_| !answer.is_last))
        };
        match asked.await {
            Ok(kept) => open = kept,
            Err(how) => shared.broken(how),
        }
    }
}

async fn connect_each_time(shared: Arc<Shared>) {
    while shared.is_running() {
        let asked = async { Http::connect(shared.at).await?.get(false).await };
        match asked.await {
            Ok(answer) => shared.answered(&answer.version),
            Err(how) => shared.broken(how),
        }
        // Without a pause the client ports would soon run out.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn stay(shared: Arc<Shared>) {
    let talked = async {
        let mut echo = Echo::connect(shared.at).await?;
        let first = echo.say("first").await?;
        for number in 0_u64.. {
            if !shared.is_running() {
                break;
            }
            // It stays with the generation that accepted it.
            if echo.say(&number.to_string()).await? != first {
                return Err(Broken::Cut);
            }
            shared.requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    if let Err(how) = talked.await {
        shared.broken(how);
    }
}

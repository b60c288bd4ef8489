//! Requests without pause on every host, each of which has to get a greeting.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use controllerbus_api::client::Client;
use controllerbus_api::proto::AskRequest;
use controllerbus_api::{Address, Connection};
use tokio::task::JoinSet;

use crate::Result;

/// How many ask a host at the same time.
const TASKS: u64 = 4;

/// How long each waits between two requests.
const PAUSE: Duration = Duration::from_millis(100);

/// A request without a greeting by then is lost.
const LIMIT: Duration = Duration::from_secs(60);

/// What came of the requests.
#[derive(Default)]
pub struct Counts {
    pub requests: AtomicU64,
    pub lost: AtomicU64,
    /// When each host has first failed a request.
    failed: Mutex<BTreeMap<String, Instant>>,
}

impl Counts {
    /// The hosts that have failed requests, and when the first did.
    pub fn failed(&self) -> (usize, Option<Instant>) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        (failed.len(), failed.values().min().copied())
    }
}

/// Asks hosts, until it is dropped.
#[derive(Default)]
pub struct Load {
    pub counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Asks the host whose daemon listens at a socket, too.
    pub async fn put_on(&mut self, host: &str, socket: &Path) -> Result<()> {
        let address: Address = format!("unix:{}", socket.display()).parse()?;
        let client = Connection::to(address)?.connect().await?;
        for task in 0..TASKS {
            let (client, counts, host) = (client.clone(), Arc::clone(&self.counts), host.to_owned());
            self.tasks.spawn(async move {
                for number in 0_u64.. {
                    let name = format!("guest {task}-{number}");
                    let asked = tokio::time::timeout(LIMIT, one(client.clone(), &name, &host, &counts)).await;
                    counts.requests.fetch_add(1, Ordering::Relaxed);
                    counts.lost.fetch_add(u64::from(!matches!(asked, Ok(Ok(())))), Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Ok(())
    }
}

/// One request, which stands until it has a greeting: a release that fails it takes nothing from it, for the one that comes back
/// answers.
async fn one(mut client: Client, name: &str, host: &str, counts: &Counts) -> Result<()> {
    let json = serde_json::json!({ "name": name }).to_string();
    let request = AskRequest { directive: "rollout/greet".to_owned(), json, once: false };
    let mut told = client.ask(request).await?.into_inner();
    while let Some(event) = told.message().await? {
        match event.kind.as_str() {
            "added" if event.json.ends_with(&format!(", {name}!\"")) => return Ok(()),
            "added" => return Err("it is no greeting".into()),
            "failed" => {
                let mut failed = counts.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.entry(host.to_owned()).or_insert_with(Instant::now);
            }
            _ => {}
        }
    }
    Err("the daemon went away".into())
}

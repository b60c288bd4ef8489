//! Requests without pause on every host, each of which has to get a value.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus_api::Connection;
use controllerbus_api::client::Client;
use controllerbus_api::proto::AskRequest;

use crate::releases::{ASK, number_of};

/// How many ask a host at the same time.
const TASKS: u64 = 6;

/// How long each waits between two requests.
const PAUSE: Duration = Duration::from_millis(800);

/// A request without a value by then is lost: longer than any rollout takes to be back.
const LIMIT: Duration = Duration::from_secs(120);

/// What came of the requests.
#[derive(Default)]
pub struct Counts {
    pub asked: AtomicU64,
    pub lost: AtomicU64,
    /// The numbers that each host has answered with, and how often.
    pub answered: Mutex<BTreeMap<String, BTreeMap<u64, u64>>>,
    /// The answer that each host gave last.
    pub last: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    /// The hosts that have answered with a number.
    pub fn hosts_of(&self, number: u64) -> Vec<String> {
        let answered = self.answered.lock().expect("counts");
        answered.iter().filter(|(_, numbers)| numbers.contains_key(&number)).map(|(host, _)| host.clone()).collect()
    }
}

/// Asks a host until the runtime ends.
pub fn put_on(runtime: &tokio::runtime::Runtime, host: &str, address: &str, counts: &Arc<Counts>) {
    let address = address.parse().expect("an address");
    let client = runtime.block_on(async { Connection::to(address).expect("a connection").connect().await });
    let client = client.expect("a daemon");
    for task in 0..TASKS {
        let (client, counts, host) = (client.clone(), Arc::clone(counts), host.to_owned());
        runtime.spawn(async move {
            for nonce in 0.. {
                let nonce = task + TASKS * nonce;
                match tokio::time::timeout(LIMIT, one(client.clone(), nonce)).await {
                    Ok(Ok(number)) => {
                        let mut answered = counts.answered.lock().expect("counts");
                        *answered.entry(host.clone()).or_default().entry(number).or_default() += 1;
                        drop(answered);
                        counts.last.lock().expect("counts").insert(host.clone(), number);
                    }
                    Ok(Err(error)) => lose(&counts, &host, &error),
                    Err(_) => lose(&counts, &host, "no value in time"),
                }
                counts.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

fn lose(counts: &Counts, host: &str, why: &str) {
    println!("lost on {host}: {why}");
    counts.lost.fetch_add(1, Ordering::Relaxed);
}

/// One request, which stands until it has a value. A release that fails it takes nothing from it: the one that comes back answers.
async fn one(mut client: Client, nonce: u64) -> Result<u64, String> {
    let json = serde_json::json!({ "what": "number", "nonce": nonce }).to_string();
    let request = AskRequest { directive: ASK.to_owned(), json, once: false };
    let mut told = client.ask(request).await.map_err(|status| status.to_string())?.into_inner();
    while let Some(event) = told.message().await.map_err(|status| status.to_string())? {
        if event.kind == "added" && event.error.is_empty() {
            let text: String = serde_json::from_str(&event.json).map_err(|error| error.to_string())?;
            return number_of(&text).ok_or(format!("{text} is no answer"));
        }
    }
    Err("the daemon has ended it".to_owned())
}

//! A request that stands during all of it, with the moment of each change.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use controllerbus_api::client::Client;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use crate::Result;
use crate::api::{self, Greeting, Told};

/// How long a change may take. The machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// A greeting that is asked for all the time.
pub struct Standing {
    events: UnboundedReceiver<(Instant, Result<Told>)>,
    /// The greetings that stand now.
    pub values: BTreeMap<u64, Greeting>,
    reader: JoinHandle<()>,
}

impl Standing {
    /// Asks as soon as the daemon knows somebody who may answer.
    pub async fn ask(mut client: Client, name: &str) -> Result<Self> {
        let asked = async {
            loop {
                if let Some(told) = api::greet(&mut client, name).await? {
                    return Ok::<_, crate::Error>(told);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut told = tokio::time::timeout(LIMIT, asked).await.map_err(|_| "nobody of the fleet can be asked")??;
        let (sender, events) = unbounded_channel();
        // The moment is that of reading, and does not wait for whoever looks at it.
        let reader = tokio::spawn(async move {
            loop {
                let event = api::next(&mut told).await;
                let is_end = event.is_err();
                if sender.send((Instant::now(), event)).is_err() || is_end {
                    return;
                }
            }
        });
        Ok(Self { events, values: BTreeMap::new(), reader })
    }

    /// The greeting of a host.
    pub fn of(&self, host: &str) -> Option<&Greeting> {
        self.values.values().find(|greeting| greeting.host == host)
    }

    /// Waits until what stands is so; when it became so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<Instant> {
        let mut at = Instant::now();
        let waiting = async {
            while !is_so(self) {
                let (when, event) = self.events.recv().await.ok_or("the request has ended")?;
                at = when;
                match event? {
                    Told::Added(id, greeting) => drop(self.values.insert(id, greeting)),
                    Told::Removed(id) => drop(self.values.remove(&id)),
                    Told::Idle | Told::Failed(_) => {}
                }
            }
            Ok(at)
        };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(done) => done,
            Err(_) => {
                Err(format!("after {} s, {what} has not happened; what stands is {:?}", LIMIT.as_secs(), self.values)
                    .into())
            }
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

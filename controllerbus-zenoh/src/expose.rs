//! What this host offers, for programs in other languages: queries of the engine, in JSON.
//!
//! The payload has the directive's fields, and each value that stands once no resolver is at work is a reply. All replies have one
//! key, of which the engine gives only the last unless the query's consolidation is `NONE`.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::directive::{DirectiveType, RawEvent, wire};
use controllerbus::error::ErrorKind;
use controllerbus::{BusHandle, Error, Result, ValueId};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use zenoh::query::{Query, Queryable};
use zenoh::{Session, Wait};

/// How long resolvers may take to become idle.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many queries are at work at a time; more wait.
const AT_A_TIME: usize = 64;

/// How many queries wait or are at work; more are refused.
const AT_MOST: usize = 1024;

/// Asks a bus what other programs query.
#[derive(Clone)]
pub(crate) struct Exposed {
    bus: BusHandle,
    runtime: Handle,
    at_work: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Exposed {
    /// Must be called in a runtime, which does the work.
    pub(crate) fn new(bus: BusHandle) -> Self {
        let (at_work, waiting) = (Arc::new(Semaphore::new(AT_A_TIME)), Arc::new(Semaphore::new(AT_MOST)));
        Self { bus, runtime: Handle::current(), at_work, waiting }
    }

    /// Declares that queries for an id are answered.
    pub(crate) fn declare(self, session: &Session, key: String, id: Arc<str>) -> zenoh::Result<Queryable<()>> {
        let callback = move |query: Query| {
            let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else { return refuse(&query) };
            let (this, id) = (self.clone(), Arc::clone(&id));
            self.runtime.spawn(async move {
                this.answer(id, query).await;
                drop(place);
            });
        };
        session.declare_queryable(key).complete(false).callback(callback).wait()
    }

    async fn answer(self, id: Arc<str>, query: Query) {
        let Ok(_works) = self.at_work.acquire().await else { return };
        let fields = query.payload().map(|payload| payload.to_bytes().into_owned()).unwrap_or_default();
        let standing = tokio::time::timeout(PATIENCE, standing(&self.bus, &id, &fields)).await;
        let late =
            || Err(Error::new(ErrorKind::TimedOut, format!("`{id}` was not idle within {} s", PATIENCE.as_secs())));
        reply(query, standing.unwrap_or_else(|_| late())).await;
    }
}

/// The values that stand once no resolver is at work, in JSON.
async fn standing(bus: &BusHandle, id: &str, fields: &[u8]) -> Result<Vec<String>> {
    let fields = if fields.is_empty() {
        // What a struct without fields, or with defaults for all of them, is read from.
        serde_json::Value::Array(Vec::new())
    } else {
        let wrong = |error| Error::new(ErrorKind::Invalid, format!("`{id}`: the fields are not JSON: {error}"));
        serde_json::from_slice(fields).map_err(wrong)?
    };
    let mut request = bus.raw(DirectiveType::decode(id, &wire::encode(&fields)?)?)?;
    let (mut values, mut failed): (Vec<(ValueId, String)>, _) = (Vec::new(), None);
    loop {
        match poll_fn(|context| request.poll_event(context)).await {
            Some(RawEvent::Added(id, value)) => values.push((id, value.to_json().to_string())),
            Some(RawEvent::Removed(id)) => values.retain(|(found, _)| *found != id),
            Some(RawEvent::Failed(error)) => failed = Some(error),
            Some(RawEvent::Busy) => {}
            Some(RawEvent::Idle) | None => break,
        }
    }
    match failed {
        Some(error) if values.is_empty() => Err(error),
        _ => Ok(values.into_iter().map(|(_, json)| json).collect()),
    }
}

/// Refuses a query where it came in, on the engine's thread: whoever asks too much waits for that, and nobody else.
fn refuse(query: &Query) {
    if let Err(error) = query.reply_err("too many queries wait for an answer; ask again later").wait() {
        tracing::debug!("a query cannot be refused: {error}");
    }
}

/// Replies, on a thread that the engine may block. The query ends when it is dropped.
async fn reply(query: Query, told: Result<Vec<String>>) {
    let replied = tokio::task::spawn_blocking(move || {
        let key = query.key_expr().clone();
        match told {
            Ok(values) => values.into_iter().try_for_each(|json| query.reply(key.clone(), json).wait()),
            Err(error) => query.reply_err(error.to_string()).wait(),
        }
    });
    if let Ok(Err(error)) = replied.await {
        tracing::debug!("a query cannot be answered: {error}");
    }
}

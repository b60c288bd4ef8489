//! What a fleet has counted, asked once for a scrape.

use std::time::Duration;

use controllerbus::Bus;
use controllerbus::directive::RawEvent;

use super::{COUNTS, Counts};
use crate::proto::AskRequest;

/// How long the fleet may take. A scrape does not wait for it longer.
const LIMIT: Duration = Duration::from_secs(1);

/// What the fleet has counted; nothing where there is none.
pub async fn of(bus: &Bus) -> Option<Counts> {
    if !bus.controllers().iter().any(|found| found.resolves.iter().any(|id| id == COUNTS)) {
        return None;
    }
    let request = AskRequest { directive: COUNTS.to_owned(), ..AskRequest::default() };
    let mut request = crate::ask::ask(bus, &request).ok()?;
    let first = async {
        loop {
            match std::future::poll_fn(|context| request.poll_event(context)).await? {
                RawEvent::Added(_, value) => return serde_json::from_value(value.to_json()).ok(),
                RawEvent::Idle => return None,
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, first).await.ok().flatten()
}

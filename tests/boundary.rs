//! What the boundary keeps from the host: panics anywhere in a plugin, and what of a plugin would outlive its code.

#[path = "boundary/panics.rs"]
mod panics;
#[path = "boundary/spans.rs"]
mod spans;
#[path = "boundary/ties.rs"]
mod ties;

use controllerbus::prelude::*;
use hot_runtime::RuntimeEvent;
use hot_runtime::compile::BuiltBy;
use tests::{nonce, wait_for};
use tokio::sync::mpsc::UnboundedReceiver;

/// The same directive as in the `brittle` fixture.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "brittle/do", value = String)]
struct Do {
    what: String,
    nonce: u64,
}

/// The same directive as in the fixture, with a value that can be dropped well.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "brittle/bad", value = u64)]
struct AskBad {
    nonce: u64,
}

/// What a brittle controller answers, or its error as text.
async fn ask(bus: &Bus, what: &str) -> String {
    let answer = bus.resolve(Do { what: what.to_owned(), nonce: nonce() });
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answer).await.expect("an answer within 20 s");
    answer.map_or_else(|error| error.to_string(), |answer| (*answer).clone())
}

/// Waits for a build, and says who made it.
async fn built(told: &mut UnboundedReceiver<RuntimeEvent>) -> BuiltBy {
    wait_for(told, |event| match event {
        RuntimeEvent::Built { by, .. } => Some(*by),
        _ => None,
    })
    .await
}

fn rolled_back(event: &RuntimeEvent) -> Option<String> {
    match event {
        RuntimeEvent::RolledBack { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

//! What is asked, and what is told, as the bus API has it: this program links no controller.

use controllerbus_api::proto::{AskRequest, AskResponse};
use controllerbus_api::{Address, Connection, client::Client, fleet};
use serde::Deserialize;
use tonic::{Code, Status, Streaming};

use crate::Result;

/// As in `greeter/src/lib.rs`.
pub const GREET: &str = "fleet/greet";

/// A greeting, as in `greeter/src/lib.rs`.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct Greeting {
    pub text: String,
    pub host: String,
    pub run: u64,
}

/// Something that happened to a request.
#[derive(Debug)]
pub enum Told {
    Added(u64, Greeting),
    Removed(u64),
    Idle,
    Failed(String),
}

/// Connects to the daemon at a socket.
pub async fn connect(socket: &std::path::Path) -> Result<Client> {
    let address: Address = format!("unix:{}", socket.display()).parse()?;
    Ok(Connection::to(address)?.connect().await?)
}

/// Asks for a greeting; it stands as long as the stream. `None` as long as the daemon knows nobody who gives any.
pub async fn greet(client: &mut Client, name: &str) -> Result<Option<Streaming<AskResponse>>> {
    let json = serde_json::json!({ "name": name }).to_string();
    known(client.ask(AskRequest { directive: GREET.to_owned(), json, once: false }).await)
}

fn known(
    asked: std::result::Result<tonic::Response<Streaming<AskResponse>>, Status>,
) -> Result<Option<Streaming<AskResponse>>> {
    match asked {
        Ok(told) => Ok(Some(told.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.message().to_owned().into()),
    }
}

/// What happens next to a request.
pub async fn next(told: &mut Streaming<AskResponse>) -> Result<Told> {
    loop {
        let Some(event) = told.message().await.map_err(|status| status.message().to_owned())? else {
            return Err("the daemon went away".into());
        };
        return Ok(match event.kind.as_str() {
            "added" if event.error.is_empty() => Told::Added(event.value, serde_json::from_str(&event.json)?),
            "removed" => Told::Removed(event.value),
            "idle" => Told::Idle,
            "added" | "failed" => Told::Failed(event.error),
            _ => continue,
        });
    }
}

/// The hosts that a daemon sees, with how the links to them are.
pub async fn hosts(client: &mut Client) -> Result<Vec<fleet::Host>> {
    let request = AskRequest { directive: fleet::HOSTS.to_owned(), ..AskRequest::default() };
    let Some(mut told) = known(client.ask(request).await)? else { return Ok(Vec::new()) };
    let mut hosts = std::collections::BTreeMap::new();
    while let Some(event) = told.message().await.map_err(|status| status.message().to_owned())? {
        match event.kind.as_str() {
            "added" => drop(hosts.insert(event.value, serde_json::from_str(&event.json)?)),
            "removed" => drop(hosts.remove(&event.value)),
            "idle" => break,
            _ => {}
        }
    }
    Ok(hosts.into_values().collect())
}

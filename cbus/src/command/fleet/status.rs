//! What a daemon's fleet says of itself, asked as any directive is.

use std::time::Duration;

use controllerbus_api::client::Client;
use controllerbus_api::proto::{AskRequest, AskResponse, ListControllersRequest};
use controllerbus_api::{Connection, fleet};
use miette::{Report, Result};
use serde::de::DeserializeOwned;
use tonic::{Code, Status, Streaming};

use crate::client::refused;
use crate::report::report;

/// How long a daemon may take to tell what it knows.
const LIMIT: Duration = Duration::from_secs(5);

/// A status that is asked as long as this is there.
pub struct Asked {
    told: Streaming<AskResponse>,
    to: Connection,
    /// Whether one of several that answer may fail.
    is_patient: bool,
}

/// Something that was told.
pub enum Told<T> {
    /// A value, by its number.
    Added(u64, T),
    /// It does not stand any more.
    Removed(u64),
    /// All that there is now has been told.
    Idle,
}

impl Asked {
    pub async fn of(client: &mut Client, to: &Connection, directive: &str, json: String) -> Result<Self> {
        let request = AskRequest { directive: directive.to_owned(), json, once: false };
        let told = client.ask(request).await.map_err(|status| not_told(to, &status))?;
        Ok(Self { told: told.into_inner(), to: to.clone(), is_patient: false })
    }

    /// What others tell is told, also where one of them has failed, such as a host that is out of reach.
    #[cfg(feature = "fleet")]
    pub fn patient(self) -> Self {
        Self { is_patient: true, ..self }
    }

    /// What happens next. Cancel-safe.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Told<T>> {
        loop {
            let Some(event) = self.told.message().await.map_err(refused(&self.to))? else {
                return Err(crate::command::went_away(&self.to));
            };
            match event.kind.as_str() {
                "added" if event.error.is_empty() => {
                    let value = serde_json::from_str(&event.json).map_err(|error| {
                        report(
                            format!("the daemon tells what is not understood here: {error}"),
                            "use the cbus of its version",
                        )
                    })?;
                    return Ok(Told::Added(event.value, value));
                }
                "removed" => return Ok(Told::Removed(event.value)),
                "idle" => return Ok(Told::Idle),
                "failed" if !self.is_patient => {
                    return Err(report(
                        format!("the fleet does not answer: {}", event.error),
                        "`cbus logs` may say more",
                    ));
                }
                _ => {}
            }
        }
    }

    /// All that there is now.
    pub async fn now<T: DeserializeOwned>(&mut self) -> Result<Vec<(u64, T)>> {
        let mut values: Vec<(u64, T)> = Vec::new();
        let all = async {
            loop {
                match self.next().await? {
                    Told::Added(id, value) => values.push((id, value)),
                    Told::Removed(gone) => values.retain(|(id, _)| *id != gone),
                    Told::Idle => return Ok::<_, Report>(()),
                }
            }
        };
        match tokio::time::timeout(LIMIT, all).await {
            Ok(told) => told?,
            Err(_) => {
                return Err(report(
                    format!("the fleet did not answer within {} s", LIMIT.as_secs()),
                    "`cbus fleet doctor` may say why",
                ));
            }
        }
        Ok(values)
    }
}

/// Whether somebody on a daemon's bus answers a directive. Nobody need: it may only know the directive.
pub async fn answers(client: &mut Client, to: &Connection, directive: &str) -> Result<bool> {
    let told = client.list_controllers(ListControllersRequest {}).await.map_err(refused(to))?.into_inner();
    Ok(told.controllers.iter().any(|found| found.resolves.iter().any(|id| id == directive)))
}

/// What a daemon's fleet tells now. A daemon that is in a fleet knows one host at least, so that one without is asked whether it is.
pub async fn of_fleet<T: DeserializeOwned>(
    client: &mut Client,
    to: &Connection,
    directive: &str,
    json: String,
) -> Result<(Asked, Vec<(u64, T)>)> {
    let mut asked = Asked::of(client, to, directive, json).await?;
    let now = asked.now().await?;
    if now.is_empty() && !answers(client, to, fleet::HOSTS).await? {
        return Err(in_no_fleet(to));
    }
    Ok((asked, now))
}

/// Why a daemon does not say anything of a fleet.
fn not_told(to: &Connection, status: &Status) -> Report {
    if status.code() == Code::NotFound { in_no_fleet(to) } else { refused(to)(status.clone()) }
}

fn in_no_fleet(to: &Connection) -> Report {
    report(
        format!("the daemon at {} is in no fleet", to.address()),
        format!(
            "its config needs an entry with `id: {}`: `cbus fleet init NAME` begins a fleet; `cbus controllers` says why an entry that \
             is there does not run",
            fleet::CONFIG_ID
        ),
    )
}

//! `cbus ask`: asks a directive on a daemon's bus.

use std::time::Duration;

use controllerbus::Schema;
use controllerbus_api::proto::{AskRequest, AskResponse};
use hot_runtime::text::{coloured_text, is_unprintable};
use miette::Result;
use serde::Serialize;

use crate::cli::Ask;
use crate::client::{connect, daemon, refused};
use crate::report::report;
use crate::text::{print_json, print_line};

pub async fn run(args: Ask) -> Result<()> {
    let json = args.fields.clone().unwrap_or_default();
    if !json.is_empty()
        && let Err(error) = serde_json::from_str::<serde_json::Value>(&json)
    {
        return Err(report(format!("the fields are not JSON: {error}"), r#"write them as '{"name":"Ada"}'"#));
    }
    if args.fleet {
        #[cfg(feature = "fleet")]
        return super::fleet::joining::ask(&args, json).await;
        #[cfg(not(feature = "fleet"))]
        return Err(super::fleet::missing("--fleet"));
    }
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let request = AskRequest { directive: args.directive.clone(), json, once: args.once };
    let mut told = client.ask(request).await.map_err(refused(&to))?.into_inner();
    let mut limit = std::pin::pin!(limit(&args));
    let mut asked = Asked::default();
    loop {
        let next = tokio::select! {
            next = told.message() => next.map_err(refused(&to))?,
            () = &mut limit => return asked.end(&args, Some(args.within)),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(event) = next else { return Err(super::went_away(&to)) };
        asked.hear(&event, None, &args);
        if event.kind == "idle" && !args.watch {
            return asked.end(&args, None);
        }
    }
}

/// Passes when it is waited no longer.
pub async fn limit(args: &Ask) {
    if args.watch {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_secs(args.within)).await;
}

/// JSON in which what a terminal does not simply show is written as JSON escapes it: it can only be in strings.
fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unprintable(c) {
            plain.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Something that happened to a directive that was asked.
#[derive(Serialize, Schema)]
pub struct Told {
    /// `added`, `removed`, `idle` (no controller has anything more to add for now), `busy` (one works again) or `failed` (one
    /// failed, and is retried).
    kind: String,
    /// The value that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    /// Its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<serde_json::Value>,
    /// The host of the fleet that gave it; only with --fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// Why one failed, or why a value cannot be shown here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What came until now.
#[derive(Default)]
pub struct Asked {
    pub values: usize,
    error: Option<String>,
}

impl Asked {
    /// Takes in what happened, and prints it; a value with the host that gave it, if that is known.
    pub fn hear(&mut self, event: &AskResponse, host: Option<&str>, args: &Ask) {
        let AskResponse { kind, value, json, error } = event;
        match kind.as_str() {
            "added" if error.is_empty() => self.values += 1,
            "added" | "failed" => self.error = Some(coloured_text(error, false)),
            _ => {}
        }
        if args.json {
            let line = Told {
                kind: kind.clone(),
                value: Some(*value).filter(|value| *value != 0),
                content: (!json.is_empty()).then(|| serde_json::from_str(json).unwrap_or_default()),
                host: host.map(str::to_owned),
                error: Some(error.clone()).filter(|error| !error.is_empty()),
            };
            print_json(&line, true);
            return;
        }
        let from = host.map(|host| format!("{host}  ")).unwrap_or_default();
        match (kind.as_str(), args.watch) {
            ("added", _) if !error.is_empty() => {}
            ("added", false) => print_line(&format!("{from}{}", plain_json(json))),
            ("added", true) => print_line(&format!("added #{value} {from}{}", plain_json(json))),
            ("removed", true) => print_line(&format!("removed #{value}")),
            ("failed", true) => print_line(&format!("failed: {}", coloured_text(error, false))),
            _ => {}
        }
    }

    /// The result of a question that is not followed any more.
    pub fn end(self, args: &Ask, waited: Option<u64>) -> Result<()> {
        if self.values > 0 {
            return Ok(());
        }
        let id = &args.directive;
        Err(match (self.error, waited) {
            (Some(error), _) => report(format!("`{id}` was not answered: {error}"), "`cbus logs` may say more"),
            (None, Some(waited)) => report(
                format!("`{id}` has no value after {waited} s, and a controller is still working on it"),
                "wait longer with --within, or follow it with --watch",
            ),
            (None, None) => report(format!("`{id}` has no value: its controllers have none for this"), ""),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::plain_json;

    #[test]
    fn what_is_printed_is_json_that_no_terminal_obeys() {
        let json = serde_json::json!({ "text": "a\u{9b}2K\u{202e}\u{e0041}\u{7f}\"\n" }).to_string();
        let plain = plain_json(&json);
        assert!(plain.is_ascii(), "{plain}");
        let (read, was): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&plain).expect("JSON"), serde_json::from_str(&json).expect("JSON"));
        assert_eq!(read, was);
    }
}

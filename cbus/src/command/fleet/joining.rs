//! `cbus ask --fleet`: is in the fleet for as long as it asks.
//!
//! It joins as the host of a config file, with another epoch, rather than have a daemon ask: a daemon asks others only what its
//! config names, answers of its own controllers would be among theirs, and nobody should have to run one to look at a fleet. It
//! offers nothing, listens nowhere, and asks one directive.

use std::time::Duration;

use controllerbus::{Bus, ConfigSet, Directive, Event};
use controllerbus_api::__private::{ask_anybody, next};
use controllerbus_api::fleet::CONTROLLER;
use controllerbus_api::proto::AskRequest;
use controllerbus_fleet::config::{Asks, FleetConfig};
use controllerbus_fleet::status::{HostStatus, Hosts, LinkState, Offer, Offers};
use miette::Result;

use super::entry;
use crate::cli::Ask;
use crate::command::ask::{Asked, limit};
use crate::report::{explain_bus, report};

/// The key of the entry, on a bus that has no other.
const KEY: &str = "fleet";

/// How long leaving the fleet may take.
const LEAVING: Duration = Duration::from_secs(2);

/// How long the fleet may take to say what it knows.
const STATUS: Duration = Duration::from_secs(1);

/// How often it is looked whether those who offer it have all been reached.
const AGAIN: Duration = Duration::from_millis(20);

/// Asks everybody who offers it.
pub async fn ask(args: &Ask, json: String) -> Result<()> {
    let Some(path) = entry::path(args.config.as_deref()) else {
        return Err(report("there is no cbus.yaml here", "name the config file of a host with --config"));
    };
    let config = guest(entry::read(&path)?.config, &args.directive)?;
    let bus = Bus::new();
    crate::daemon::fleet::add_to(&bus);
    let asked = asked(&bus, &config, args, json).await;
    // It says goodbye, if there is time.
    let _ = tokio::time::timeout(LEAVING, bus.close()).await;
    asked
}

/// The config of a host, of somebody who only asks one directive.
fn guest(mut config: FleetConfig, directive: &str) -> Result<FleetConfig> {
    config.asks = vec![Asks::OfAll(directive.to_owned())];
    config.offers.clear();
    config.expose = false;
    config.access = None;
    let host = config.host.or_else(entry::machine);
    // With certificates its name is that of the certificate; otherwise nobody takes it for the host itself.
    config.host = match &config.tls {
        Some(_) => host,
        None => host.map(|host| format!("{host}-asks-{}", std::process::id())),
    };
    let own = std::mem::take(&mut config.listen);
    if config.connect.is_empty() {
        config.connect = own.iter().map(|address| from_here(address)).collect();
    }
    if config.connect.is_empty() && !config.discover {
        return Err(report("this host neither connects to a hub nor listens", "set `connect` in its config"));
    }
    Ok(config)
}

/// Where a program of this machine reaches what listens at an address.
fn from_here(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    }
}

async fn asked(bus: &Bus, config: &FleetConfig, args: &Ask, json: String) -> Result<()> {
    let explain = |error: controllerbus::BusError| explain_bus(&error.into(), None);
    let mut set = ConfigSet::new();
    set.insert(KEY, 0, config).map_err(|error| report(error.to_string(), ""))?;
    bus.apply(set).await.map_err(explain)?;
    let mut limit = std::pin::pin!(limit(args));
    let mut joining = bus.watch_config(KEY);
    tokio::select! {
        joined = joining.running() => drop(joined.map_err(explain)?),
        () = &mut limit => return Err(report(format!("the fleet was not joined within {} s", args.within), "`cbus fleet doctor` may say why")),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    }
    let request = AskRequest { directive: args.directive.clone(), json, once: args.once };
    let mut request = ask_anybody(bus, &request).map_err(|status| report(status.message(), ""))?;
    let (mut found, mut is_idle) = (Asked::default(), false);
    loop {
        let event = tokio::select! {
            event = next(&mut request) => event,
            all = everybody(bus, &args.directive), if is_idle && !args.watch => return end(found, args, &all, None),
            () = &mut limit => return end(found, args, &unanswered(bus, &args.directive).await, Some(args.within)),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(event) = event else { return Err(report("the fleet's controller has ended", "`--json` shows why")) };
        is_idle = event.kind == "idle" || is_idle && event.kind != "busy";
        let host = (event.kind == "added").then(|| giver(bus, event.value)).flatten();
        found.hear(&event, host.as_deref(), args);
    }
}

/// The host that gave a value.
fn giver(bus: &Bus, value: u64) -> Option<String> {
    let given = bus.directives().into_iter().flat_map(|found| found.values).find(|found| found.id.0 == value)?;
    let by = bus.controllers().into_iter().find(|found| found.id == given.controller)?;
    by.info.id.strip_prefix(CONTROLLER).map(str::to_owned)
}

/// The hosts that offer a directive, once there is a link to each of them that can have one.
async fn everybody(bus: &Bus, directive: &str) -> Vec<(String, Option<String>)> {
    loop {
        let offering = unanswered(bus, directive).await;
        if offering.iter().all(|(_, waits)| waits.is_none()) {
            return offering;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The hosts that offer a directive; of those that have not been reached, why.
async fn unanswered(bus: &Bus, directive: &str) -> Vec<(String, Option<String>)> {
    let offers: Vec<Offer> = now(bus, Offers { id: Some(directive.to_owned()) }).await;
    let hosts: Vec<HostStatus> = now(bus, Hosts {}).await;
    let waits = |offer: Offer| {
        let link = hosts.iter().find(|host| host.host == offer.host && !host.own);
        let waits = match link {
            Some(host) if host.link == LinkState::Up => None,
            Some(host) if host.link == LinkState::Refused => Some(host.problem.clone().unwrap_or_default()),
            _ => Some("there is no link to it yet".to_owned()),
        };
        (offer.host, waits)
    };
    offers.into_iter().map(waits).collect()
}

/// What a status is now, as far as it is known within a second.
async fn now<D: Directive>(bus: &Bus, status: D) -> Vec<D::Value>
where
    D::Value: Clone,
{
    let Ok(mut request) = bus.request(status) else { return Vec::new() };
    let idle = async { while !matches!(request.next().await, Some(Event::Idle) | None) {} };
    let _ = tokio::time::timeout(STATUS, idle).await;
    request.standing().map(|value| (**value).clone()).collect()
}

fn end(found: Asked, args: &Ask, offering: &[(String, Option<String>)], waited: Option<u64>) -> Result<()> {
    for (host, why) in offering {
        if let Some(why) = why {
            crate::text::tell(&format!("{host} offers it, and was not reached: {why}"));
        }
    }
    if offering.is_empty() && found.values == 0 {
        let id = &args.directive;
        return Err(report(
            format!("no host of the fleet offers `{id}`"),
            "`cbus fleet offers` shows what is offered; a host's `offers` must name it",
        ));
    }
    found.end(args, waited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_as_a_hub_neither_listens_nor_enforces_its_policy() {
        let hub = serde_json::json!({
            "name": "shop", "host": "hub-1", "listen": ["0.0.0.0:7447"], "access": "policy.yaml", "offers": ["a/b"], "expose": true,
            "tls": { "ca": "ca.pem", "cert": "hub-1.pem", "key": "hub-1.key" },
        });
        let guest = guest(serde_json::from_value(hub).expect("a config"), "example/greet").expect("a guest");
        assert_eq!((&guest.listen, &guest.access), (&Vec::new(), &None));
        assert_eq!((guest.connect, guest.host.as_deref()), (vec!["127.0.0.1:7447".to_owned()], Some("hub-1")));
        assert!(guest.offers.is_empty() && !guest.expose);
    }
}

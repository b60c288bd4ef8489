//! `cbus fleet hosts`: who is there.

use std::collections::BTreeMap;

use controllerbus_api::fleet::{HOSTS, Host};
use miette::Result;

use super::printed::HostChange;
use super::status::{Asked, Told, of_fleet};
use crate::cli::FleetHosts;
use crate::client::{connect, daemon};
use crate::text::{clock, duration, print_json, print_line, table, time};

pub async fn run(args: &FleetHosts) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let (mut asked, hosts) = of_fleet(&mut client, &to, HOSTS, String::new()).await?;
    let mut hosts: BTreeMap<u64, Host> = hosts.into_iter().collect();
    if args.json && !args.watch {
        print_json(&sorted(&hosts), false);
        return Ok(());
    }
    if args.json {
        sorted(&hosts).into_iter().for_each(|host| print_change("added", host));
    } else {
        show(&sorted(&hosts));
    }
    if args.watch { follow(&mut asked, &mut hosts, args.json).await } else { Ok(()) }
}

fn sorted(hosts: &BTreeMap<u64, Host>) -> Vec<&Host> {
    let mut sorted: Vec<&Host> = hosts.values().collect();
    sorted.sort_by(|one, other| {
        other.own.cmp(&one.own).then_with(|| (&one.host, one.since_ms).cmp(&(&other.host, other.since_ms)))
    });
    sorted
}

fn show(hosts: &[&Host]) {
    let row = |host: &&Host| {
        vec![
            host.host.clone(),
            link(host),
            host.round_trip_us.map(|us| duration(us as f64 / 1000.0)).unwrap_or_default(),
            host.asks.to_string(),
            host.asked.to_string(),
            time(host.since_ms),
            host.version.clone(),
            labels(host),
        ]
    };
    let rows: Vec<_> = hosts.iter().map(row).collect();
    table(&["HOST", "LINK", "ROUND TRIP", "ASKS IT", "IT ASKS", "SINCE", "VERSION", "LABELS"], &rows);
    for host in hosts {
        if let Some(problem) = &host.problem {
            print_line("");
            print_line(&format!("{}: {problem}", host.host));
        }
    }
}

/// How the link to a host is, in words.
fn link(host: &Host) -> String {
    if host.own { "this host".to_owned() } else { host.link.replace('_', " ") }
}

fn labels(host: &Host) -> String {
    host.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn print_change(kind: &str, host: &Host) {
    print_json(&HostChange { kind: kind.to_owned(), host: host.clone() }, true);
}

/// Whether two are the same start of the same host.
fn is_same(one: &Host, other: &Host) -> bool {
    (&one.host, &one.epoch) == (&other.host, &other.epoch)
}

/// Tells what changes, until Ctrl-C.
async fn follow(asked: &mut Asked, hosts: &mut BTreeMap<u64, Host>, json: bool) -> Result<()> {
    loop {
        let told = tokio::select! {
            told = asked.next() => told?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let (kind, host) = match told {
            Told::Idle => continue,
            Told::Added(id, host) => {
                let before = hosts.values().find(|known: &&Host| is_same(known, &host)).cloned();
                hosts.insert(id, host.clone());
                match before {
                    // Only figures.
                    Some(before) if !json && said(&before) == said(&host) => continue,
                    Some(_) => ("changed", host),
                    None => ("added", host),
                }
            }
            Told::Removed(id) => match hosts.remove(&id) {
                Some(gone) if !hosts.values().any(|left| is_same(left, &gone)) => ("removed", gone),
                // Another value has taken its place.
                _ => continue,
            },
        };
        if json {
            print_change(kind, &host);
        } else {
            let now = clock(controllerbus_api::__private::now_ms());
            let what = if kind == "removed" { "gone".to_owned() } else { said(&host) };
            print_line(&format!("{now}  {}: {what}", host.host));
        }
    }
}

/// What is said of a host where it changes.
fn said(host: &Host) -> String {
    let parts = [link(host), host.version.clone(), labels(host), host.problem.clone().unwrap_or_default()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

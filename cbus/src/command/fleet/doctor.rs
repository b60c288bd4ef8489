//! `cbus fleet doctor`: what a host's place in its fleet depends on, and what to do about it.

use controllerbus_api::fleet::{HOSTS, Host, MANY_ASKS, OFFERS, Offer};
use hot_runtime::doctor::Finding;
use miette::Result;

use super::status::of_fleet;
use crate::cli::{Connect, FleetDoctor};
use crate::client::connection;
use crate::command::doctor::conclude;

/// How far apart clocks may be.
const CLOCKS: u64 = 5_000;

pub async fn run(args: &FleetDoctor) -> Result<()> {
    let mut found = of_config(args).await?;
    found.extend(of_daemon(&args.to).await);
    conclude(&found, args.json, "this host from its fleet")
}

#[cfg(not(feature = "fleet"))]
async fn of_config(_: &FleetDoctor) -> Result<Vec<Finding>> {
    let found = format!("certificates and addresses are not looked at: that needs {}", crate::daemon::fleet::FEATURE);
    Ok(vec![Finding::warn("cbus", found, crate::daemon::fleet::HOW_TO_GET_IT)])
}

/// What can be looked at without a daemon.
#[cfg(feature = "fleet")]
async fn of_config(args: &FleetDoctor) -> Result<Vec<Finding>> {
    use super::{certificates, entry, policy, reach};

    let Some(path) = entry::path(args.config.as_deref()) else {
        let remedy = "name it: `cbus fleet doctor FILE` looks at its certificates and addresses too";
        return Ok(vec![Finding::warn("config", "there is no cbus.yaml here", remedy)]);
    };
    let entry = entry::read(&path)?;
    let config = &entry.config;
    let at = entry.path.display();
    let Some(host) = entry.host() else {
        let remedy = "set `host` in the config";
        return Ok(vec![Finding::fail(
            "config",
            format!("{at}: this machine has no name that a host can have"),
            remedy,
        )]);
    };
    let mut found = vec![Finding::ok("config", format!("{at}: host `{host}` of the fleet `{}`", config.name))];
    if config.listen.is_empty() && config.connect.is_empty() && !config.discover {
        let remedy = "set `connect` to the address of a hub, or `listen`, so that others connect to this one";
        found.push(Finding::fail("config", "it neither connects nor listens, so it meets nobody", remedy));
    }
    match &config.tls {
        Some(tls) => found.extend(certificates::examine(tls, &host, !config.listen.is_empty())),
        None if config.listen.iter().all(|address| is_local(address)) => {
            found.push(Finding::ok("certificate", "none, and it listens on this machine only"));
        }
        None => {
            let remedy = "`cbus fleet init` and `cbus fleet cert` make certificates; without them, listen on 127.0.0.1 or unix:PATH";
            found.push(Finding::fail(
                "certificate",
                "none, and it would listen beyond this machine, which is refused",
                remedy,
            ));
        }
    }
    found.extend(policy::examine(config));
    if config.asks.is_empty() && config.offers.is_empty() {
        let remedy = "name directives under `asks` or `offers`: nothing crosses unless it is named on both sides";
        found.push(Finding::warn("directives", "it neither asks nor offers any", remedy));
    }
    for address in &config.connect {
        found.push(reach::examine(address, config.tls.as_ref()).await);
    }
    Ok(found)
}

/// Whether only this machine can connect there.
#[cfg(feature = "fleet")]
fn is_local(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    address.starts_with("unix:")
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What a daemon that is in the fleet knows.
async fn of_daemon(args: &Connect) -> Vec<Finding> {
    const WHAT: &str = "daemon";
    let to = match connection(args) {
        Ok(to) => to,
        Err(error) if args.connect.is_none() => {
            let remedy = "start one with `cbus run CONFIG`: it says how the links to the other hosts are";
            return vec![Finding::warn(WHAT, error.to_string(), remedy)];
        }
        Err(error) => return vec![Finding::fail(WHAT, error.to_string(), error.help())],
    };
    let asked = async {
        let mut client = crate::client::connect(&to).await?;
        let (_, hosts) = of_fleet::<Host>(&mut client, &to, HOSTS, String::new()).await?;
        let (_, offers) = of_fleet::<Offer>(&mut client, &to, OFFERS, String::new()).await?;
        Ok::<_, miette::Report>((hosts, offers))
    };
    match asked.await {
        Ok((hosts, offers)) => {
            let hosts: Vec<Host> = hosts.into_iter().map(|(_, host)| host).collect();
            let offers: Vec<Offer> = offers.into_iter().map(|(_, offer)| offer).collect();
            of_hosts(&hosts, &offers)
        }
        Err(error) => {
            let help = error.help().map(|help| help.to_string()).unwrap_or_default();
            vec![Finding::fail(WHAT, format!("{}: {error}", to.address()), help)]
        }
    }
}

/// What is wrong between hosts.
fn of_hosts(hosts: &[Host], offers: &[Offer]) -> Vec<Finding> {
    let mut found = Vec::new();
    let own = hosts.iter().find(|host| host.own);
    let others: Vec<&Host> = hosts.iter().filter(|host| !host.own).collect();
    if others.is_empty() {
        let remedy = "is the hub running, and is the fleet's name the same there? the hub's `cbus fleet hosts` shows whom it sees";
        found.push(Finding::warn("hosts", "no other host is there", remedy));
    }
    if let Some(problem) = own.and_then(|own| own.problem.as_ref()) {
        found.push(Finding::fail("this host", problem, ""));
    }
    found.extend(others.iter().map(|host| of_host(host, own)));
    let asks: u64 = others.iter().map(|host| host.asks).sum();
    let remedy = "ask `of: one` what many hosts offer, or fewer directives: each is kept on both hosts";
    found.push(match asks {
        _ if asks > MANY_ASKS => {
            Finding::warn("asks", format!("{asks} of other hosts, and more than {MANY_ASKS} are many"), remedy)
        }
        _ => Finding::ok("asks", format!("{asks} of other hosts")),
    });
    let offered: std::collections::BTreeSet<&str> = offers.iter().map(|offer| offer.id.as_str()).collect();
    found.push(Finding::ok(
        "offers",
        match offered.len() {
            0 => "no host offers anything".to_owned(),
            _ => offered.into_iter().collect::<Vec<_>>().join(", "),
        },
    ));
    found
}

fn of_host(host: &Host, own: Option<&Host>) -> Finding {
    let what = &host.host;
    let problem = host.problem.clone().unwrap_or_default();
    match host.link.as_str() {
        "refused" => {
            return Finding::fail(
                what,
                format!("it is refused: {problem}"),
                "correct what it says, on the host that it names",
            );
        }
        "lost" => {
            return Finding::warn(
                what,
                format!("it is out of reach. {problem}").trim().to_owned(),
                "is it running, and is there a way to it?",
            );
        }
        _ if !problem.is_empty() => return Finding::warn(what, problem, ""),
        _ => {}
    }
    if let Some(offset) = host.clock_offset_ms.filter(|offset| offset.unsigned_abs() > CLOCKS) {
        let (ms, way) = (offset.unsigned_abs(), if offset > 0 { "ahead of" } else { "behind" });
        let found = format!("its clock is {} {way} this one's", crate::text::duration(ms as f64));
        return Finding::warn(what, found, "`timedatectl set-ntp true` on both: certificates end by the clock");
    }
    let link = host.link.replace('_', " ");
    match own.filter(|own| !host.version.is_empty() && own.version != host.version) {
        Some(own) => {
            let found = format!("{link}; it runs {}, and this host {}", host.version, own.version);
            Finding::warn(what, found, "that works while hosts are upgraded; then use one version")
        }
        None => Finding::ok(what, link),
    }
}

#[cfg(test)]
mod tests {
    use hot_runtime::doctor::Level;

    use super::*;

    fn host(name: &str, change: impl FnOnce(&mut Host)) -> Host {
        let mut host = Host::default();
        (host.host, host.link, host.version) = (name.to_owned(), "up".to_owned(), "0.1.0".to_owned());
        change(&mut host);
        host
    }

    #[test]
    fn each_trouble_between_hosts_is_found_with_what_to_do() {
        let own = || host("own", |own| own.own = true);
        let level = |hosts: &[Host], what: &str| {
            let found = of_hosts(hosts, &[]);
            let finding =
                found.into_iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("nothing of {what}"));
            assert_eq!(finding.level == Level::Ok, finding.remedy.is_empty(), "{finding:?}");
            finding.level
        };
        assert_eq!(level(&[own()], "hosts"), Level::Warn);
        assert_eq!(level(&[own(), host("b", |_| {})], "b"), Level::Ok);
        let refused = host("b", |b| (b.link, b.problem) = ("refused".to_owned(), Some("why".to_owned())));
        assert_eq!(level(&[own(), refused], "b"), Level::Fail);
        assert_eq!(level(&[own(), host("b", |b| b.link = "lost".to_owned())], "b"), Level::Warn);
        assert_eq!(level(&[own(), host("b", |b| b.version = "0.2.0".to_owned())], "b"), Level::Warn);
        assert_eq!(level(&[own(), host("b", |b| b.clock_offset_ms = Some(-60_000))], "b"), Level::Warn);
        assert_eq!(level(&[own(), host("b", |b| b.asks = MANY_ASKS)], "asks"), Level::Ok);
        let many = [own(), host("b", |b| b.asks = MANY_ASKS), host("c", |c| c.asks = 1)];
        assert_eq!(level(&many, "asks"), Level::Warn);
    }
}

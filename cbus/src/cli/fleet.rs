//! The words of `cbus fleet`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use super::Connect;
use crate::complete;

/// `cbus fleet`
#[derive(Subcommand)]
pub enum Fleet {
    /// Begin a fleet: an authority, a certificate for this host, and its config
    Init(FleetInit),
    /// Make a certificate and a config for another host
    Cert(FleetCert),
    /// Show the hosts of a daemon's fleet, and how the links to them are
    Hosts(FleetHosts),
    /// Show which hosts offer which directives
    Offers(FleetOffers),
    /// Turn a policy into the rules by which hubs decide who may ask and offer what
    Acl(FleetAcl),
    /// Check addresses, names, certificates, clocks, versions and links, and say what to do about them
    Doctor(FleetDoctor),
}

/// What a certificate says of a host
#[derive(Args, Clone)]
pub struct Certificate {
    /// A name or address under which others reach the host, beside its name; can be given several times
    #[arg(long, value_name = "NAME|IP", value_parser = address)]
    pub address: Vec<String>,
    /// For how many days the certificate is valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Make a new key and certificate in place of those that are there; configs and authorities are never replaced
    #[arg(long)]
    pub force: bool,
}

/// `cbus fleet init`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus fleet init shop                            on the machine to which the others will connect
  cbus fleet init shop --host hub-1 --address hub-1.shop.example --address 10.0.0.4

It writes ca.pem, ca.key, HOST.pem, HOST.key, HOST.yaml and fleet.json into the folder, and says what to do on the next host.
Whoever has ca.key decides who is in the fleet: keep it where only you can read it.")]
pub struct FleetInit {
    /// The fleet's name
    #[arg(value_parser = name)]
    pub name: String,
    /// This host's name [default: the machine's]
    #[arg(long, value_name = "NAME", value_parser = host)]
    pub host: Option<String>,
    /// The folder to write into [default: the fleet's name]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The port on which this host listens for the others
    #[arg(long, value_name = "PORT", default_value_t = 7447)]
    pub port: u16,
    #[command(flatten)]
    pub certificate: Certificate,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus fleet cert`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus fleet cert edge-7                          where `cbus fleet init` was run
  cbus fleet cert edge-7 --force                  a new certificate in place of one that will end soon

It writes HOST.pem, HOST.key and HOST.yaml into the fleet's folder, and says how to bring them to the host.
With --force it writes HOST.pem and HOST.key only, with the names of the certificate before unless --address is given.")]
pub struct FleetCert {
    /// The host's name
    #[arg(value_parser = host)]
    pub host: String,
    /// The fleet's folder, with ca.key in it [default: the one that is here]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub certificate: Certificate,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus fleet hosts`
#[derive(Args)]
pub struct FleetHosts {
    /// Keep running, and print what changes until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON; with --watch, one line for each change
    #[arg(long)]
    pub json: bool,
}

/// `cbus fleet offers`
#[derive(Args)]
pub struct FleetOffers {
    /// Only of this directive
    #[arg(value_name = "ID", add = ArgValueCandidates::new(complete::directives))]
    pub id: Option<String>,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus fleet acl`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus fleet acl policy.yaml                      for the hosts that have a certificate in the fleet's folder
  cbus fleet acl policy.yaml --host edge-8        and for one that will have one

A policy says by role which hosts may ask and offer what. At its top are the hosts for which patterns stand:
  hosts: [edge-1, edge-2, core-1, core-2]
  edge:  { hosts: [edge-*], ask: [example/greet], offer: [\"inventory/**\"] }
  core:  { hosts: [core-1, core-2], ask: [\"**\"], offer: [payments/charge] }

A hub follows it with `access: policy.yaml` in its fleet's entry. A host that no role names may do nothing then.")]
pub struct FleetAcl {
    /// The policy, YAML or JSON
    pub policy: PathBuf,
    /// The fleet's folder, whose certificates say which hosts there are [default: the one that is here]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Another host; can be given several times
    #[arg(long, value_name = "NAME", value_parser = host)]
    pub host: Vec<String>,
    /// Print JSON; it is JSON in any case, which is YAML too
    #[arg(long)]
    pub json: bool,
}

/// `cbus fleet doctor`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus fleet doctor                               cbus.yaml, if it is here, and your running daemon, if there is one
  cbus fleet doctor shop/edge-7.yaml              before the daemon is started

It fails if something keeps this host from being in the fleet.")]
pub struct FleetDoctor {
    /// The config file with the fleet's entry [default: cbus.yaml, if it is here]
    #[arg(value_name = "CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Whether a text can be a host's name. Files are called by it, and `ca.pem` and `ca.key` are the authority's.
pub fn is_host(text: &str) -> bool {
    is_name(text) && !text.eq_ignore_ascii_case("ca")
}

/// What names a fleet or a host: it is part of keys, of certificates and of the names of files.
fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= 63 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_plain)
}

fn name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name consists of up to 63 letters, digits, `-`, `_` and `.`, and begins with a letter or digit"
            .to_owned())
    }
}

fn host(text: &str) -> Result<String, String> {
    match name(text)? {
        name if is_host(&name) => Ok(name),
        _ => Err("the authority's files are called `ca`: give the host another name".to_owned()),
    }
}

/// A name or an address, without a port.
fn address(text: &str) -> Result<String, String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    name(text).map_err(|_| "use a host's name or an IP address, without a port".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_keys_certificates_and_files() {
        for good in ["shop", "edge-7", "hub_1.shop", "7"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "-x", "a/b", "a*", "a b", "ä", "@x", "a#", &"x".repeat(64)] {
            assert!(name(bad).is_err() && host(bad).is_err(), "{bad}");
        }
        assert!(host("edge-7").is_ok() && host("ca").is_err() && host("CA").is_err() && !is_host("ca"));
        assert!(address("10.0.0.4").is_ok() && address("::1").is_ok() && address("hub-1.shop").is_ok());
        assert!(address("hub-1:7447").is_err() && address("").is_err());
    }
}

//! Machines around a hub: network namespaces with a cable each, where this user may make them; otherwise processes on the loopback
//! device with a relay each, which a test says on its standard error. Where the variable `CBUS_TEST_NAMESPACES` is set, as in CI, there must
//! be namespaces.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::Host;
use crate::places::free_address;
use crate::relay::Relay;

/// Machine 0 is the hub's; each other one has a cable to it.
pub struct Network {
    kind: Kind,
    machines: usize,
}

enum Kind {
    /// The names of the namespaces begin with this.
    Namespaces(String),
    Loopback {
        hub: String,
        relays: Vec<Relay>,
    },
}

/// How a cable is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The cable is pulled out at the machine.
    Pulled,
    /// What the machine sends to the hub is thrown away, and what the hub sends arrives.
    OneWay,
}

impl Network {
    /// A hub's machine and others.
    pub fn new(others: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("cb{:x}{:x}", std::process::id() & 0xffff, NEXT.fetch_add(1, Ordering::Relaxed));
        let mut network = Self { kind: Kind::Namespaces(tag.clone()), machines: others + 1 };
        if let Err(why) = network.make(&tag) {
            let missing = format!("network namespaces cannot be made here ({why})");
            assert!(std::env::var_os("CBUS_TEST_NAMESPACES").is_none(), "{missing}");
            eprintln!("{missing}: this test runs on the loopback device with a relay instead");
            let hub = free_address();
            let relays = (0..others).map(|_| Relay::to(&hub)).collect();
            // What was made so far is removed with the old one.
            network = Self { kind: Kind::Loopback { hub, relays }, machines: others + 1 };
        }
        network
    }

    fn make(&self, tag: &str) -> Result<(), String> {
        for machine in 0..self.machines {
            let name = format!("{tag}-{machine}");
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            if machine == 0 {
                continue;
            }
            let (near, far, hub) = (format!("{tag}m{machine}"), format!("{tag}h{machine}"), format!("{tag}-0"));
            ip(&["link", "add", &near, "netns", &name, "type", "veth", "peer", "name", &far, "netns", &hub])?;
            ip(&["-n", &name, "addr", "add", &format!("10.77.{machine}.2/24"), "dev", &near])?;
            ip(&["-n", &hub, "addr", "add", &format!("10.77.{machine}.1/24"), "dev", &far])?;
            ip(&["-n", &hub, "link", "set", &far, "up"])?;
            ip(&["-n", &name, "link", "set", &near, "up"])?;
        }
        Ok(())
    }

    /// Whether these are real networks.
    pub fn is_real(&self) -> bool {
        matches!(self.kind, Kind::Namespaces(_))
    }

    /// Starts a host on a machine. It has not joined anything.
    pub fn start(&self, machine: usize, program: &str, name: &str) -> Host {
        assert!(machine < self.machines);
        match &self.kind {
            Kind::Namespaces(tag) => {
                Host::start_in(&["ip", "netns", "exec", &format!("{tag}-{machine}")], program, name)
            }
            Kind::Loopback { .. } => Host::start(program, name),
        }
    }

    /// Where the hub listens, and the address by which a machine reaches it.
    pub fn hub(&self, machine: usize) -> (String, String) {
        match &self.kind {
            Kind::Namespaces(_) => ("0.0.0.0:7447".to_owned(), format!("10.77.{machine}.1:7447")),
            Kind::Loopback { hub, relays } => (hub.clone(), relays[machine - 1].address().to_owned()),
        }
    }

    /// Where another hub listens on its own machine.
    pub fn local(&self) -> String {
        match &self.kind {
            Kind::Namespaces(_) => "127.0.0.1:7447".to_owned(),
            Kind::Loopback { .. } => free_address(),
        }
    }

    /// The hub's machine has no IPv6 any more.
    pub fn without_ipv6(&self) {
        if let Kind::Namespaces(tag) = &self.kind {
            let script = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
            ip(&["netns", "exec", &format!("{tag}-0"), "sh", "-c", script]).expect("it can be turned off");
        }
    }

    /// Cuts a machine's cable.
    pub fn cut(&self, machine: usize, how: Cut) {
        match &self.kind {
            Kind::Namespaces(tag) => {
                let (name, near, hub) =
                    (format!("{tag}-{machine}"), format!("{tag}m{machine}"), format!("10.77.{machine}.1/32"));
                match how {
                    Cut::Pulled => ip(&["-n", &name, "link", "set", &near, "down"]),
                    Cut::OneWay => ip(&["-n", &name, "route", "add", "blackhole", &hub]),
                }
                .expect("it can be cut");
            }
            Kind::Loopback { relays, .. } => relays[machine - 1].hold(),
        }
    }

    /// Heals it.
    pub fn heal(&self, machine: usize, how: Cut) {
        match &self.kind {
            Kind::Namespaces(tag) => {
                let (name, near, hub) =
                    (format!("{tag}-{machine}"), format!("{tag}m{machine}"), format!("10.77.{machine}.1/32"));
                match how {
                    Cut::Pulled => ip(&["-n", &name, "link", "set", &near, "up"]),
                    Cut::OneWay => ip(&["-n", &name, "route", "del", "blackhole", &hub]),
                }
                .expect("it can be healed");
            }
            Kind::Loopback { relays, .. } => relays[machine - 1].heal(),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Kind::Namespaces(tag) = &self.kind {
            for machine in 0..self.machines {
                let _ = ip(&["netns", "del", &format!("{tag}-{machine}")]);
            }
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("`ip`, of the package iproute2, does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

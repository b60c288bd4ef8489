//! Somebody who does what docs/fleet.md says, on one machine or on two, which are network namespaces.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::page::{Block, Page, ROOT};
use crate::process::Daemon;
use crate::steps::{apply, words};
use crate::{cbus, finish};

/// How long a state is waited for. The machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The port in the page, for which another one is used, so that tests beside each other do not meet.
const PORT: &str = "7447";

/// Two network namespaces with a cable between them, which end with this.
pub struct Networks {
    names: [String; 2],
    /// Where the first is reached from the second.
    pub address: String,
}

impl Networks {
    /// None where they are not permitted. Where the variable `CBUS_TEST_NAMESPACES` is set, as in CI, they must be.
    pub fn make() -> Option<Self> {
        let id = std::process::id();
        let names = ["a", "b"].map(|end| format!("cbus-{id}-{end}"));
        let ip = |words: &str| {
            let done = Command::new("ip").args(words.split(' ')).output();
            done.is_ok_and(|done| done.status.success())
        };
        if !ip(&format!("netns add {}", names[0])) {
            let missing = "no network namespaces here (they need root, and `ip` of Debian's iproute2)";
            assert!(std::env::var_os("CBUS_TEST_NAMESPACES").is_none(), "{missing}");
            println!("SKIPPED: {missing}");
            return None;
        }
        let (cable, made) = (format!("cb{}", id % 100_000), Self { names, address: "10.77.7.1".to_owned() });
        let [a, b] = &made.names;
        for words in [
            format!("netns add {b}"),
            format!("link add {cable}a netns {a} type veth peer name {cable}b netns {b}"),
            format!("-n {a} addr add 10.77.7.1/24 dev {cable}a"),
            format!("-n {b} addr add 10.77.7.2/24 dev {cable}b"),
            format!("-n {a} link set {cable}a up"),
            format!("-n {b} link set {cable}b up"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
        ] {
            assert!(ip(&words), "ip {words}");
        }
        Some(made)
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Does something in a namespace: what is started there stays in it.
fn inside<T: Send>(name: Option<&str>, work: impl FnOnce() -> T + Send) -> T {
    let Some(name) = name else { return work() };
    let inside = || {
        let there = std::fs::File::open(format!("/run/netns/{name}")).expect("a namespace");
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&there), Some(LinkNameSpaceType::Network))
            .expect("going there");
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Somebody who does what the page says.
pub struct Reader<'a> {
    pub folder: &'a Path,
    networks: Option<&'a Networks>,
    port: u16,
    pub daemons: BTreeMap<String, Daemon>,
    /// What the last commands have printed.
    printed: String,
    /// The daemons are called as the page calls them, and so only one reader can have them at a time. Given back last.
    _alone: MutexGuard<'static, ()>,
}

impl<'a> Reader<'a> {
    pub fn of(folder: &'a Path, networks: Option<&'a Networks>) -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr());
        let port = free.expect("a port").port();
        Self { folder, networks, port, daemons: BTreeMap::new(), printed: String::new(), _alone: alone }
    }

    /// Does all of a section, up to the next one of its rank.
    pub fn read(&mut self, title: &str) {
        let page = Page::read("docs/fleet.md");
        let line = |text: &str| page.text.lines().position(|line| line == text).map(|at| at + 1);
        let begin = line(title).expect("the section");
        let next = page.text.lines().skip(begin).position(|line| line.starts_with("## "));
        let end = next.map_or(usize::MAX, |at| begin + at);
        let blocks = page.blocks().into_iter().filter(|block| (begin..end).contains(&block.line));
        assert!(blocks.map(|block| self.take(&block)).count() > 8, "the section has its steps");
    }

    fn take(&mut self, block: &Block) {
        match block.info.as_str() {
            "sh" => {
                self.printed.clear();
                block.text.lines().for_each(|line| self.run(&words(line)));
            }
            "diff" => {
                apply(&self.folder.join(block.file.as_ref().expect("the sentence above names the file")), &block.text);
            }
            "text" => {
                for line in block.text.lines() {
                    assert!(
                        self.printed.lines().any(|said| said == line),
                        "`{line}` was not printed, but:\n{}",
                        self.printed
                    );
                }
            }
            other => panic!("nobody knows what to do with `{other}`, line {}", block.line),
        }
    }

    fn run(&mut self, words: &[String]) {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let address = self.networks.map(|networks| networks.address.clone());
        if let (Some(address), Some(word)) = (&address, words.iter_mut().find(|word| **word == "127.0.0.1")) {
            *word = address;
        }
        match words.as_slice() {
            ["cargo", "install", ..] => {}
            ["mkdir", name] => std::fs::create_dir(self.folder.join(name)).expect("a folder"),
            ["cbus", "run", arguments @ ..] => {
                let at = arguments.iter().position(|word| *word == "--name").expect("a name") + 1;
                let name = arguments[at].to_owned();
                let started = self.at(&name, || {
                    Daemon::start_with(self.folder, "run", arguments, |run| {
                        run.env("CBUS_LOG", "info");
                    })
                });
                self.daemons.insert(name, started);
            }
            ["cbus", "new", arguments @ ..] => {
                let own = Path::new(ROOT).join("controllerbus");
                let own = own.to_str().expect("a path");
                self.printed += &self.fine("", &[&["new"], arguments, &["--controllerbus", own]].concat());
            }
            ["cbus", arguments @ ..] => {
                if let Some(at) = arguments.iter().position(|word| *word == "--connect") {
                    self.wait_until_met(arguments[at + 1]);
                }
                self.printed += &self.fine("", arguments);
                if arguments.starts_with(&["fleet", "init"]) {
                    self.use_port();
                }
            }
            _ => panic!("nobody knows what to do with {words:?}"),
        }
    }

    /// Does something where a host is: the hub is in the first network, all others are in the second.
    fn at<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        // What is of no host, such as a build, needs the machine's own network.
        let names = self.networks.map(|networks| &networks.names).filter(|_| !host.is_empty());
        inside(names.map(|names| names[usize::from(host != "hub-1")].as_str()), work)
    }

    /// Runs a command where a host is; it must succeed.
    pub fn fine(&self, host: &str, arguments: &[&str]) -> String {
        let said = self.at(host, || finish(cbus(self.folder).args(arguments)));
        assert_eq!(said.code, Some(0), "cbus {arguments:?}: {}{}", said.out, said.err);
        said.out
    }

    /// Reads JSON that a command prints.
    pub fn json(&self, host: &str, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.fine(host, arguments)).expect("JSON")
    }

    /// Has the fleet use another port than the page.
    fn use_port(&self) {
        for name in ["shop/hub-1.yaml", "shop/fleet.json"] {
            let path = self.folder.join(name);
            let text = std::fs::read_to_string(&path).expect("a file");
            assert!(text.contains(PORT), "{text}");
            std::fs::write(&path, text.replace(PORT, &self.port.to_string())).expect("writing");
        }
    }

    /// A person looks a second time; a test waits.
    fn wait_until_met(&self, name: &str) {
        self.wait("both hosts, and what is offered", || {
            let hosts = self.json("", &["fleet", "hosts", "--connect", name, "--json"]);
            let offers = self.json("", &["fleet", "offers", "--connect", name, "--json"]);
            let up = hosts
                .as_array()
                .is_some_and(|hosts| hosts.iter().any(|host| host["own"] == false && host["link"] == "up"));
            (up && offers[0]["id"] == "greeter/greet").then_some(()).ok_or(format!("{hosts:#}\n{offers:#}"))
        });
    }

    /// Waits until something is so; what it is instead is said otherwise.
    pub fn wait<T>(&self, what: &str, look: impl Fn() -> Result<T, String>) -> T {
        let begun = Instant::now();
        loop {
            match look() {
                Ok(found) => return found,
                Err(instead) if begun.elapsed() > LIMIT => {
                    panic!("not {what} after {} s, but {instead}", LIMIT.as_secs())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

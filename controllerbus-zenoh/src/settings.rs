//! A fleet's config as the engine's settings.

use std::path::Path;
use std::time::Duration;

use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use controllerbus_fleet::carrier::Peer;
use controllerbus_fleet::config::FleetConfig;
use serde_json::{Map, Value, json};

use crate::acl::{self, Policy};
use crate::address::Address;
use crate::certificates;

/// The longest frame that the engine lets in: a message of 64 MiB, and what the protocol adds.
pub(crate) const MAX_FRAME: usize = (64 << 20) + (256 << 10);

/// How long a connection may be silent until it counts as gone: this is what withdraws the presence of hosts.
const LEASE_MS: u64 = 3000;

/// How a host begins.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) engine: zenoh::Config,
    /// Whether it routes for others.
    pub(crate) is_hub: bool,
    /// The hubs without one of which it cannot begin.
    pub(crate) hubs: Vec<String>,
    /// How many addresses may be tried one after the other.
    pub(crate) tries: u32,
    /// Where hubs are looked for by multicast, the protocols by which they may be reached.
    pub(crate) scouts: Option<&'static [&'static str]>,
}

/// The engine's settings for a host of a fleet.
///
/// # Errors
/// What cannot be used, and what to do.
pub(crate) fn of(config: &FleetConfig, host: &Peer) -> Result<Settings> {
    let mut settings = own(config, &host.host)?;
    let is_hub = settings["mode"] == "router";
    if is_hub {
        settings["id"] = json!(id_of(host));
    }
    merge(&mut settings, &Value::Object(config.zenoh.clone()));
    // Only a client's session needs a hub to begin with.
    let is_client = settings["mode"] == "client";
    let protocols: &[_] = if config.tls.is_some() { &["tls"] } else { &["tcp", "unixsock-stream"] };
    let scouts = (is_client && config.discover && config.connect.is_empty()).then_some(protocols);
    let mut hubs = if is_client { config.connect.clone() } else { Vec::new() };
    hubs.extend(scouts.map(|_| "whoever is found by multicast".to_owned()));
    let tries = u32::try_from(config.connect.len()).unwrap_or(u32::MAX);
    let engine = zenoh::Config::from_json5(&settings.to_string()).map_err(|error| {
        let what = if config.zenoh.is_empty() { "the engine's settings" } else { "`zenoh`: a setting of the engine" };
        invalid(format!("{what}: {error}"))
    })?;
    Ok(Settings { engine, is_hub, hubs, tries, scouts })
}

/// By what the engine knows a hub: so that other hubs know which of their connections is to which host.
pub(crate) fn id_of(hub: &Peer) -> String {
    format!("{:x}", hub.epoch)
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::Invalid, what).permanent()
}

fn own(config: &FleetConfig, host: &str) -> Result<Value> {
    if config.name.is_empty() || host.is_empty() {
        return Err(invalid("`name` and `host` must not be empty".to_owned()));
    }
    let read =
        |field: &str, texts: &[String]| texts.iter().map(|text| Address::read(field, text)).collect::<Result<Vec<_>>>();
    let (listen, connect) = (read("listen", &config.listen)?, read("connect", &config.connect)?);
    let mode = mode(config)?;
    let tls = config.tls.is_some();
    if let Some(address) = listen.iter().find(|address| !address.is_local()).filter(|_| !tls) {
        let text = address.endpoint(false);
        return Err(invalid(format!(
            "`listen` at {} is reached from other machines, which could ask everything that this host offers: set `tls` \
             (`cbus fleet init` makes certificates), or listen at 127.0.0.1 or `unix:PATH`",
            text.trim_start_matches("tcp/")
        )));
    }
    for path in listen.iter().filter_map(Address::path) {
        check_socket(path)?;
    }
    let endpoints = |addresses: &[Address]| addresses.iter().map(|address| address.endpoint(tls)).collect::<Vec<_>>();
    let mut settings = json!({
        "mode": mode,
        "connect": {
            "endpoints": endpoints(&connect),
            // A client tries each hub once, and is opened again by us: see `engine.rs`.
            "timeout_ms": if mode == "client" { 0 } else { -1 },
            "exit_on_failure": mode == "client",
            "retry": { "period_init_ms": 200, "period_max_ms": 4000, "period_increase_factor": 2 },
        },
        "listen": { "endpoints": endpoints(&listen), "timeout_ms": 0, "exit_on_failure": true },
        // A hub waits this long in any case.
        "scouting": { "delay": 1, "multicast": { "enabled": config.discover }, "gossip": { "enabled": false } },
        "adminspace": { "enabled": false },
        "transport": {
            "unicast": { "max_sessions": 2000, "open_timeout": 3000 },
            "link": {
                "tx": {
                    "lease": LEASE_MS,
                    "keep_alive": 4,
                    "queue": {
                        "size": { "data": 16 },
                        "congestion_control": { "block": { "wait_before_close": 1_000_000 } },
                    },
                },
                "rx": { "max_message_size": MAX_FRAME },
            },
        },
    });
    if let Some(tls) = &config.tls {
        certificates::check(tls, host)?;
        settings["transport"]["link"]["tls"] = json!({
            "root_ca_certificate": tls.ca,
            "listen_certificate": tls.cert,
            "listen_private_key": tls.key,
            "connect_certificate": tls.cert,
            "connect_private_key": tls.key,
            "enable_mtls": true,
            "verify_name_on_connect": true,
            "close_link_on_expiration": true,
        });
    }
    if let Some(path) = &config.access {
        settings["access_control"] = access(config, path)?;
    }
    Ok(settings)
}

/// A hub routes for others; anybody else has one hub at a time.
fn mode(config: &FleetConfig) -> Result<&'static str> {
    match (config.listen.is_empty(), config.connect.is_empty()) {
        (false, _) => Ok("router"),
        (true, false) => Ok("client"),
        (true, true) if config.discover => Ok("client"),
        (true, true) => Err(invalid(
            "this host reaches nobody: name the hubs in `connect`, or make this host a hub with `listen`".to_owned(),
        )),
    }
}

fn access(config: &FleetConfig, path: &Path) -> Result<Value> {
    let wrong = |error: String| invalid(format!("`access: {}`: {error}", path.display()));
    if config.listen.is_empty() || config.tls.is_none() {
        return Err(wrong(
            "rules are enforced by a hub, which knows hosts by their certificates: set `listen` and `tls`".to_owned(),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    let policy = Policy::from_yaml(&text).map_err(|error| wrong(error.to_string()))?;
    acl::check(&policy, &config.name, &[]).map_err(|error| wrong(error.to_string()))
}

/// A socket's folder has to be there, and the engine would remove any file that has its name, also another program's socket.
fn check_socket(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let wrong = |what: &str| Err(invalid(format!("`listen: unix:{}`: {what}", path.display())));
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return wrong("this is another file, and not a socket"),
        Ok(_) if is_live(path) => {
            return wrong("another program listens there: end it, or set another address in `listen`");
        }
        _ => {}
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => wrong("its folder does not exist"),
        _ => Ok(()),
    }
}

/// Whether somebody listens at a socket. Connecting blocks while its queue is full, so that is done on a thread.
fn is_live(path: &Path) -> bool {
    let (told, heard) = std::sync::mpsc::channel();
    let path = path.to_owned();
    let asks = move || {
        let _ = told.send(std::os::unix::net::UnixStream::connect(path).is_ok());
    };
    match std::thread::Builder::new().name("fleet socket".to_owned()).spawn(asks) {
        Ok(_) => heard.recv_timeout(Duration::from_secs(1)).unwrap_or(true),
        Err(_) => true,
    }
}

/// Puts settings over others, object by object.
fn merge(settings: &mut Value, over: &Value) {
    match (settings, over) {
        (Value::Object(settings), Value::Object(over)) => {
            for (name, value) in over {
                merge(settings.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (settings, over) => *settings = over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: Value) -> FleetConfig {
        serde_json::from_value(json).expect("a config")
    }

    fn own() -> Peer {
        Peer { host: "edge-7".into(), epoch: 7 }
    }

    fn refused(json: Value) -> String {
        of(&config(json), &own()).map(|_| ()).expect_err("it is refused").to_string()
    }

    #[test]
    fn who_listens_is_a_hub_and_who_connects_a_client() {
        for (json, mode) in [
            (json!({ "name": "shop", "listen": ["127.0.0.1:7447"] }), "router"),
            (json!({ "name": "shop", "listen": ["127.0.0.1:7447"], "connect": ["hub:7447"] }), "router"),
            (json!({ "name": "shop", "connect": ["hub:7447"] }), "client"),
            (json!({ "name": "shop", "discover": true }), "client"),
        ] {
            let settings = of(&config(json.clone()), &own()).expect("settings").engine;
            assert_eq!(settings.get_json("mode").expect("a mode"), format!("\"{mode}\""), "{json}");
        }
        assert!(refused(json!({ "name": "shop" })).contains("`connect`"));
    }

    #[test]
    fn listening_beyond_this_machine_needs_certificates() {
        let error = refused(json!({ "name": "shop", "listen": ["0.0.0.0:7447"] }));
        assert!(error.contains("0.0.0.0:7447") && error.contains("set `tls`"), "{error}");
    }

    #[test]
    fn settings_of_the_engine_go_through_and_leave_the_others_as_they_are() {
        let json = json!({ "name": "shop", "connect": ["hub:7447"], "zenoh": { "transport": { "link": { "tx": { "lease": 500 } } } } });
        let settings = of(&config(json), &own()).expect("settings").engine;
        let get = |name: &str| settings.get_json(name).expect(name);
        assert_eq!(get("transport/link/tx/lease"), "500");
        assert_eq!(get("transport/link/tx/queue/size/data"), "16");
        assert_eq!(get("transport/link/tx/queue/congestion_control/block/wait_before_close"), "1000000");
        assert!(get("connect/retry").contains("\"period_max_ms\":4000"), "{}", get("connect/retry"));
        let error = refused(json!({ "name": "shop", "connect": ["hub:7447"], "zenoh": { "transprot": {} } }));
        assert!(error.contains("`zenoh`") && error.contains("transprot"), "{error}");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let tls = json!({ "ca": "/none/ca.pem", "cert": "/none/cert.pem", "key": "/none/key.pem" });
        let error = refused(json!({ "name": "shop", "connect": ["hub:7447"], "tls": tls }));
        assert!(error.contains("`tls: ca: /none/ca.pem`: it cannot be read"), "{error}");
        let error = refused(json!({ "name": "shop", "listen": ["unix:/none/hub.sock"] }));
        assert!(error.contains("`listen: unix:/none/hub.sock`: its folder does not exist"), "{error}");
        let file = std::env::current_exe().expect("this program");
        let error = refused(json!({ "name": "shop", "listen": [format!("unix:{}", file.display())] }));
        assert!(error.contains("not a socket"), "{error}");
    }

    #[test]
    fn a_socket_at_which_another_program_listens_is_left_to_it() {
        let path = std::env::temp_dir().join(format!("controllerbus-zenoh-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let json = json!({ "name": "shop", "listen": [format!("unix:{}", path.display())] });
        let error = refused(json.clone());
        assert!(error.contains("another program listens there"), "{error}");
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "it is still reached");
        drop(listener);
        of(&config(json), &own()).expect("what a crash has left is no hindrance");
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn a_hub_refuses_a_policy_that_it_cannot_expand_by_itself_and_says_what_is_missing() {
        let policy = std::env::temp_dir().join(format!("controllerbus-zenoh-{}.yaml", std::process::id()));
        let config = config(json!({ "name": "shop", "listen": ["127.0.0.1:7447"], "access": policy,
            "tls": { "ca": "ca.pem", "cert": "hub.pem", "key": "hub.key" } }));
        std::fs::write(&policy, "edge: { hosts: [edge-*], ask: [example/greet] }").expect("a policy");
        let error = access(&config, &policy).expect_err("it stands for nobody").to_string();
        assert!(error.contains("`access: ") && error.contains("under `hosts:`"), "{error}");
        std::fs::write(&policy, "hosts: [edge-1]\nedge: { hosts: [edge-*], ask: [example/greet] }").expect("a policy");
        assert_eq!(access(&config, &policy).expect("rules")["default_permission"], "deny");
        let _ = std::fs::remove_file(&policy);
    }
}

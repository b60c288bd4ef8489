//! A host of a fleet, which is commanded over its standard input and answers in JSON lines.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use controllerbus::bus::Source;
use controllerbus::directive::{DirectiveType, RawEvent, wire};
use controllerbus::prelude::*;
use controllerbus_zenoh::Joined;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;
use zenoh_tests::directives::{Greet, LAMP, RUNS};

/// One line, whole.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    // Whoever commands it may be gone, and then its input ends, too.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// How many threads run the host's tasks.
const WORKERS: usize = 2;

/// Keeps all threads that run tasks from it for a while. The engine has threads of its own.
fn hang(time: Duration) {
    let all = Arc::new(Barrier::new(WORKERS));
    for _ in 0..WORKERS {
        let all = Arc::clone(&all);
        drop(tokio::spawn(async move {
            all.wait();
            std::thread::sleep(time);
        }));
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    zenoh::init_log_from_env_or("error");
    let bus = Bus::new();
    bus.add_factories(Source::STATIC, vec![controllerbus_zenoh::factory(&bus)]);
    let mut host = Host { bus: bus.clone(), asks: Arc::default(), joined: None };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let (done, error) = match host.carry_out(&command).await {
            Ok(done) => (done, Value::Null),
            Err(error) => (Value::Null, error.to_string().into()),
        };
        say(&json!({ "done": command["number"], "is": done, "error": error }));
    }
    if let Some(joined) = host.joined {
        joined.leave().await;
    }
    bus.close().await;
    Ok(())
}

struct Host {
    bus: Bus,
    asks: Arc<Mutex<HashMap<u64, JoinHandle<()>>>>,
    joined: Option<Joined>,
}

impl Host {
    async fn carry_out(&mut self, command: &Value) -> Result<Value> {
        match command["do"].as_str().unwrap_or_default() {
            "join" => {
                let config = serde_json::from_value(command["config"].clone())?;
                self.joined = Some(controllerbus_zenoh::join(&self.bus, config).await?);
            }
            "leave" => {
                if let Some(joined) = self.joined.take() {
                    joined.leave().await;
                }
            }
            "apply" => {
                let set = ConfigSet::from_json(&command["set"].to_string())?;
                self.bus.apply(set).await?.all_running()?;
            }
            "remove" => {
                let key = command["key"].as_str().unwrap_or_default();
                return Ok(self.bus.remove_config(key).await.into());
            }
            "lamp" => drop(LAMP.send_replace(command["on"] == true)),
            "ask" => self.ask(command)?,
            "release" => {
                let ask = command["ask"].as_u64().unwrap_or_default();
                if let Some(task) = self.asks.lock().expect("the asks").remove(&ask) {
                    task.abort();
                }
            }
            "hang" => hang(Duration::from_millis(command["ms"].as_u64().unwrap_or_default())),
            "many" => return self.many(command).await,
            "stats" => return self.stats(),
            other => return Err(Error::msg(format!("no such command: {other}"))),
        }
        Ok(Value::Null)
    }

    /// Asks a directive, and says what happens to it. With `paused` nothing is read.
    fn ask(&self, command: &Value) -> Result<()> {
        let (number, paused) = (command["ask"].as_u64().unwrap_or_default(), command["paused"] == true);
        let lengths = command["lengths"] == true;
        let id = command["id"].as_str().unwrap_or_default();
        let directive = DirectiveType::decode(id, &wire::encode(&command["fields"])?)?;
        let mut request = self.bus.handle().raw(directive)?;
        let task = tokio::spawn(async move {
            if paused {
                std::future::pending::<()>().await;
            }
            while let Some(event) = poll_fn(|context| request.poll_event(context)).await {
                say(&match event {
                    RawEvent::Added(id, value) => {
                        let value = value.to_json();
                        let value = if lengths { value.as_str().map_or(0, str::len).into() } else { value };
                        json!({ "ask": number, "added": id.0, "value": value })
                    }
                    RawEvent::Removed(id) => json!({ "ask": number, "removed": id.0 }),
                    RawEvent::Idle => json!({ "ask": number, "is": "idle" }),
                    RawEvent::Busy => json!({ "ask": number, "is": "busy" }),
                    RawEvent::Failed(error) => {
                        json!({ "ask": number, "failed": format!("{:?}", error.kind()), "text": error.to_string() })
                    }
                });
            }
            say(&json!({ "ask": number, "is": "ended" }));
        });
        self.asks.lock().expect("the asks").insert(number, task);
        Ok(())
    }

    /// Asks for many greetings at once, which stand from then on, and says how many were answered.
    async fn many(&self, command: &Value) -> Result<Value> {
        let (count, from) =
            (command["count"].as_u64().unwrap_or_default(), command["from"].as_u64().unwrap_or_default());
        let begun = std::time::Instant::now();
        let mut standing = Vec::new();
        for number in from..from + count {
            standing.push(self.bus.request(Greet { name: format!("n{number}") })?);
        }
        for request in &mut standing {
            request.value().await?;
        }
        let (answered, took) = (standing.len(), begun.elapsed());
        let keeps = tokio::spawn(async move {
            let _standing = standing;
            std::future::pending().await
        });
        self.asks.lock().expect("the asks").insert(command["ask"].as_u64().unwrap_or_default(), keeps);
        Ok(json!({ "answered": answered, "took_ms": u64::try_from(took.as_millis())? }))
    }

    fn stats(&self) -> Result<Value> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().split(' ').next().and_then(|text| text.parse::<u64>().ok())
        };
        let mut sockets = 0;
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let to = std::fs::read_link(entry?.path()).unwrap_or_default();
            sockets += u64::from(to.to_string_lossy().starts_with("socket:"));
        }
        let controllers = self.bus.controllers();
        Ok(json!({
            "runs": RUNS.load(Ordering::Relaxed),
            "rss_kib": field("VmRSS:"),
            "threads": field("Threads:"),
            "sockets": sockets,
            "directives": self.bus.directives().len(),
            "controllers": controllers.iter().map(|found| found.info.id.clone()).collect::<Vec<_>>(),
        }))
    }
}

//! Chaos: twenty plugins that misbehave, eight tasks that change everything at random, and a probe that must not be
//! affected.
//!
//! It runs in a child process, to keep the plugins' output off the terminal and to report a crash of the host.

mod calls;
mod plugins;
mod probe;
mod report;
mod tasks;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controllerbus::bus::Limits;
use controllerbus::{Bus, ConfigSet, Error, Result};
use hot_runtime::{HotRuntime, Isolation, Probation, ShutdownReport, Trust};

use self::calls::{Calls, UNLOAD};
use self::plugins::Plugins;
use self::probe::Probe;
use self::report::{Outcome, Report};
use self::tasks::Chaos;
use crate::scratch::{Scratch, target};

/// The environment variable that tells the child process where to write the outcome.
const OUTCOME: &str = "HOT_DEMO_CHAOS_OUTCOME";

/// The limits for each step of a controller's life, in a host whose plugins misbehave.
fn limits() -> Limits {
    let tenths = |tenths: u64| Duration::from_millis(100 * tenths);
    Limits::default()
        .construct(tenths(10))
        .cancel(tenths(3))
        .close(tenths(3))
        .save(tenths(3))
        .restore(tenths(3))
        .hand_over(tenths(3))
}

/// Runs it in a child process, and shows the outcome.
pub fn run(seconds: u64, json: bool) -> Result<ExitCode> {
    let folder = target()?.join("hot-demo");
    std::fs::create_dir_all(&folder)?;
    let (outcome, printed) = (folder.join("chaos.json"), folder.join("chaos.log"));
    let _ = std::fs::remove_file(&outcome);
    let log = File::create(&printed)?;
    if !json {
        println!("building the plugins, then {seconds} s of chaos; their output goes to {}", printed.display());
    }
    let ended = Command::new(std::env::current_exe()?)
        .args(["--chaos", &seconds.to_string()])
        .env(OUTCOME, &outcome)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    let Ok(text) = std::fs::read(&outcome) else {
        let printed = String::from_utf8_lossy(&std::fs::read(&printed)?).into_owned();
        let lines: Vec<_> = printed.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        return Err(Error::msg(format!("the host process ended, which no plugin may cause: {ended}\n{last}")));
    };
    let outcome: Outcome = serde_json::from_slice(&text).map_err(|error| Error::msg(error.to_string()))?;
    if json {
        println!("{}", serde_json::to_string(&outcome.report).map_err(|error| Error::msg(error.to_string()))?);
    } else {
        outcome.show();
    }
    let broken = outcome.broken();
    broken.iter().for_each(|promise| eprintln!("broken promise: {promise}"));
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the child process is to write the outcome; `None` in any other process.
pub fn is_inside() -> Option<PathBuf> {
    std::env::var_os(OUTCOME).map(PathBuf::from)
}

/// Runs in the child process.
pub async fn inside(seconds: u64, outcome: PathBuf) -> Result<()> {
    let scratch = Scratch::new(&["greeter", "trouble"])?;
    let plugins = Plugins::build(&scratch).await?;
    let bus = Bus::with_limits(limits());
    let runtime = |name: &str, isolation| {
        let probation = Probation::lasting(Duration::from_secs(2));
        let builder = HotRuntime::builder(&bus).work_dir(scratch.work_dir().join(name)).isolation(isolation);
        let builder = builder.trust(Trust::anyone()).probation(probation);
        builder.grace(Duration::from_secs(1)).drain(Duration::from_secs(1))
    };
    let in_host = runtime("in-host", Isolation::None).plugins_dir(plugins.folder()).start().await?;
    let isolated = runtime("isolated", Isolation::Process).start().await?;
    bus.apply(ConfigSet::from_yaml("greeter:\n  id: example/greeter\n  config: { greeting: Hello }\n")?).await?;
    in_host.load_file(&plugins.greeter).await?;

    let calls = Arc::new(Calls::default());
    let chaos = Arc::new(Chaos::new(bus.clone(), in_host, isolated, plugins, Arc::clone(&calls)));
    let begun = Instant::now();
    let probe = Probe::start(&bus).await?;
    chaos.run(Duration::from_secs(seconds)).await;
    let hazards = chaos.hazards();
    let chaos = Arc::into_inner(chaos).ok_or_else(|| Error::msg("a chaos task has not ended"))?;
    let (in_host, isolated) = chaos.unload_all().await;
    let probed = probe.stop().await;
    let mut left = Vec::new();
    for runtime in [in_host, isolated] {
        let ShutdownReport { left: found, .. } =
            calls.call("shutdown", UNLOAD, runtime.shutdown()).await.unwrap_or_default();
        left.extend(found.into_iter().map(|found| report::Left { plugin: found.plugin, why: found.why }));
    }
    calls.call("close", UNLOAD, bus.close()).await;
    let (api_calls, over_limit) = calls.result();
    let report = Report {
        seconds: begun.elapsed().as_secs(),
        probe_requests: probed.requests,
        probe_failed: probed.failed,
        probe_longest_ms: probed.longest.as_secs_f64() * 1000.0,
        timer_longest_ms: probed.timer_longest.as_secs_f64() * 1000.0,
        api_calls,
        api_over_limit: over_limit.len() as u64,
        hazards,
        left_loaded: left,
    };
    let text = serde_json::to_vec(&Outcome { report, over_limit, first_failure: probed.why });
    Ok(std::fs::write(outcome, text.map_err(|error| Error::msg(error.to_string()))?)?)
}

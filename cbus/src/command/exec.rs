//! `cbus exec`: runs the controllers of a config set on a daemon's bus.

use std::io::Read;
use std::path::Path;

use controllerbus::error::Code;
use controllerbus_api::proto::{Config, ExecuteRequest, RemoveConfigsRequest};
use miette::Result;

use crate::cli::Exec;
use crate::client::{connect, daemon, refused};
use crate::report::{io, refusal, report};
use crate::text::{coded, print_json, print_line};

pub async fn run(args: &Exec) -> Result<()> {
    let Some(file) = &args.file else { return remove(args).await };
    let (text, name) = read(file)?;
    // Errors in the text are reported here, where its lines are known.
    crate::daemon::parse_config(&text, &name)?;
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let request = ExecuteRequest { config_set: text, name, attach: args.attach };
    let mut told = client.execute(request).await.map_err(refused(&to))?.into_inner();
    let mut last: Vec<Config> = Vec::new();
    loop {
        let next = tokio::select! {
            next = told.message() => next.map_err(refused(&to))?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(response) = next else { break };
        for config in response.configs.iter().filter(|config| !last.contains(config)) {
            if args.json {
                print_json(config, true);
            } else {
                print_line(&line(config));
            }
        }
        last = response.configs;
    }
    let failed: Vec<&str> = last.iter().filter(|config| config.is_bad()).map(|config| config.key.as_str()).collect();
    if args.attach {
        return Err(super::went_away(&to));
    }
    let waiting: Vec<&str> =
        last.iter().filter(|config| config.is_waiting()).map(|config| config.key.as_str()).collect();
    let told = last.iter().filter(|config| config.is_waiting()).find_map(|config| config.error_code.parse().ok());
    let code = told.unwrap_or(Code::UNKNOWN_CONFIG_ID);
    let why = match code {
        Code::NO_SUCH_VERSION => "no controller of that id that is loaded has a version that it accepts",
        _ => "no controller of that id is loaded",
    };
    match (failed.as_slice(), waiting.as_slice()) {
        ([], []) => Ok(()),
        ([], waiting) => Err(refusal(
            code,
            format!("{} is not running: {why}", waiting.join(", ")),
            "it starts once a plugin that has it is loaded; `cbus exec --remove KEY` takes it back, and --attach waits for it",
        )),
        (failed, _) => Err(report(
            format!("{} did not start", failed.join(", ")),
            "it will be retried; `cbus controllers` shows its state",
        )),
    }
}

fn line(config: &Config) -> String {
    let why = if config.error.is_empty() { String::new() } else { format!(": {}", config.error) };
    format!("{} ({}) {}{why}{}", config.key, config.config_id, config.state, coded(&config.error_code))
}

async fn remove(args: &Exec) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let asked = client.remove_configs(RemoveConfigsRequest { keys: args.remove.clone() }).await;
    let removed = asked.map_err(refused(&to))?.into_inner().removed;
    for key in &removed {
        if args.json {
            let state = controllerbus_api::state::REMOVED.to_owned();
            print_json(&Config { key: key.clone(), state, ..Config::default() }, true);
        } else {
            print_line(&format!("{key} removed"));
        }
    }
    let missing: Vec<&str> = args.remove.iter().filter(|key| !removed.contains(key)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(report(format!("there is no config {}", missing.join(", ")), "`cbus controllers` lists them by key"))
}

fn read(file: &Path) -> Result<(String, String)> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(io("reading the config set", Path::new("standard input")))?;
        return Ok((text, "standard input".to_owned()));
    }
    let text = std::fs::read_to_string(file).map_err(io("reading the config set", file))?;
    Ok((text, file.to_string_lossy().into_owned()))
}

//! `cbus controllers`: a daemon's controllers, and the configs that are not running.

use controllerbus_api::proto::{ListConfigsRequest, ListControllersRequest};
use controllerbus_api::state;
use miette::Result;

use super::schemas::Controllers;
use crate::cli::Show;
use crate::client::{connect, daemon, refused};
use crate::text::{coded, duration, print_json, print_line, table};

pub async fn run(args: &Show) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let controllers = client.list_controllers(ListControllersRequest {}).await.map_err(refused(&to))?;
    let controllers = controllers.into_inner().controllers;
    let configs = client.list_configs(ListConfigsRequest {}).await.map_err(refused(&to))?.into_inner().configs;
    if args.json {
        print_json(&Controllers { controllers, configs }, false);
        return Ok(());
    }
    let mut rows = Vec::new();
    for config in &configs {
        let of = controllers.iter().find(|found| found.id == config.controller && config.controller > 0);
        let from = of.map(|found| match found.plugin.as_str() {
            "" => "the daemon".to_owned(),
            plugin => format!("{plugin} #{}", found.generation),
        });
        rows.push(vec![
            config.key.clone(),
            config.config_id.clone(),
            config.state.clone(),
            of.map(|found| found.version.clone()).unwrap_or_default(),
            from.unwrap_or_default(),
            of.map(|found| found.answers.to_string()).unwrap_or_default(),
        ]);
    }
    for found in controllers.iter().filter(|found| found.key.is_empty()) {
        let from = if found.plugin.is_empty() { "the daemon" } else { &found.plugin };
        let cells = ["-", &found.config_id, &found.state, &found.version, from, &found.answers.to_string()];
        rows.push(cells.map(str::to_owned).to_vec());
    }
    if rows.is_empty() {
        print_line("no controllers");
        return Ok(());
    }
    table(&["KEY", "CONFIG", "STATE", "VERSION", "FROM", "ANSWERS"], &rows);
    for found in controllers.iter().filter(|found| !found.error.is_empty()) {
        print_line("");
        match found.state.as_str() {
            state::STUCK => print_line(&format!("{}, removed from the bus: {}", found.name, found.error)),
            _ => print_line(&format!("{} failed and will be restarted: {}", found.name, found.error)),
        }
    }
    for config in configs.iter().filter(|config| !config.error.is_empty()) {
        let again = if config.retry_in_ms > 0 {
            format!("; will be retried {} after the failure", duration(config.retry_in_ms as f64))
        } else {
            String::new()
        };
        let runs_on = if config.state == state::REFUSED { "; the previous config is still running" } else { "" };
        print_line("");
        print_line(&format!(
            "{} is {}: {}{again}{runs_on}{}",
            config.key,
            config.state,
            config.error,
            coded(&config.error_code)
        ));
    }
    Ok(())
}

//! `cbus plugins`: a daemon's plugins, their generations, and how their last swaps went.

use controllerbus_api::proto::{Generation, ListPluginsRequest, Plugin};
use miette::Result;

use crate::cli::Show;
use crate::client::{connect, daemon, refused};
use crate::text::{self, print_json, print_line, table};

pub async fn run(args: &Show) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let plugins = client.list_plugins(ListPluginsRequest {}).await.map_err(refused(&to))?.into_inner().plugins;
    if args.json {
        print_json(&plugins, false);
        return Ok(());
    }
    if plugins.is_empty() {
        print_line("no plugins");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = plugins.iter().map(row).collect();
    table(&["PLUGIN", "STATE", "VERSION", "GENERATION", "LEASES", "LAST SWAP"], &rows);
    for plugin in &plugins {
        let is_confined = |found: &&Generation| found.has_own_process() || !found.layers.is_empty();
        if let Some(serving) = plugin.serving().filter(is_confined) {
            let place = if serving.has_own_process() { "in a process of its own" } else { "in the daemon's process" };
            let layers = if serving.layers.is_empty() { "nothing".to_owned() } else { serving.layers.join(", ") };
            print_line("");
            print_line(&format!("{}: {place}, confined by {layers}", plugin.id));
        }
        for found in plugin.generations.iter().filter(|found| found.is_leaving()) {
            let why = match (found.reason.as_str(), found.leases()) {
                ("", 0) => "it is being unloaded".to_owned(),
                ("", _) => format!("held by {}", found.holders()),
                (reason, _) => reason.to_owned(),
            };
            print_line("");
            print_line(&format!("{}: generation {} is {}: {why}", plugin.id, found.number, found.state));
        }
        for conflict in plugin.serving().into_iter().flat_map(|serving| &serving.conflicts) {
            print_line("");
            print_line(&format!("{}: {conflict}", plugin.id));
        }
        if !plugin.error.is_empty() {
            print_line("");
            print_line(&format!("{}: the last change was not applied:{}", plugin.id, text::coded(&plugin.error_code)));
            text::print_compiler(&plugin.error);
        }
    }
    Ok(())
}

fn row(plugin: &Plugin) -> Vec<String> {
    let (generation, leases, swap) = match plugin.serving() {
        Some(found) => (
            found.number.to_string(),
            found.leases().to_string(),
            found.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
        ),
        None => Default::default(),
    };
    vec![plugin.id.clone(), plugin.state.clone(), plugin.version.clone(), generation, leases, swap]
}

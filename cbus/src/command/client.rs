//! The commands that ask a daemon.

use hot_runtime::text::{coloured_lines, escaped};
use miette::Result;

use crate::api::client::{Client, To, connect, refused};
use crate::api::proto::{
    Directive, Generation, GetInfoRequest, ListConfigsRequest, ListControllersRequest, ListDirectivesRequest,
    ListPluginsRequest, Plugin, ReloadPluginRequest, RollBackPluginRequest, UnloadPluginRequest, WatchEventsRequest,
    WatchLogsRequest,
};
use crate::cli::{Events, Logs, OnePlugin, Rollback, Show};
use crate::report::report;
use crate::text::{self, duration, print_json, print_line, size, table, time};

/// `cbus bus`
pub async fn bus(args: &Show) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let info = client.get_info(GetInfoRequest {}).await.map_err(refused(&to))?.into_inner();
    if args.json {
        print_json(&info, false);
        return Ok(());
    }
    let allowed = |yes: bool| if yes { "allowed" } else { "off" };
    let rows = [
        ("daemon", format!("cbus {}, process {}, at {}", info.version, info.process_id, to.address)),
        ("up", duration(info.uptime_ms as f64)),
        ("memory", size(info.memory_bytes)),
        ("plugins", info.plugins.to_string()),
        ("controllers", info.controllers.to_string()),
        ("directives", format!("{} standing, {} values", info.directives, info.values)),
        ("configs", info.configs.to_string()),
        ("config ids", info.config_ids.join(", ")),
        ("exec", allowed(info.allow_exec).to_owned()),
        ("control", allowed(info.allow_control).to_owned()),
    ];
    for (name, value) in rows {
        print_line(&format!("{name:<12} {value}"));
    }
    Ok(())
}

/// `cbus plugins`
pub async fn plugins(args: &Show) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let plugins = list(&mut client, &to).await?;
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
        let serving = plugin.generations.iter().rfind(|found| found.state == "serving");
        if let Some(serving) = serving.filter(|found| found.isolation == "process" || !found.layers.is_empty()) {
            let place =
                if serving.isolation == "process" { "in a process of its own" } else { "in the daemon's process" };
            let layers = if serving.layers.is_empty() { "nothing".to_owned() } else { serving.layers.join(", ") };
            print_line("");
            print_line(&format!("{}: {place}, confined by {layers}", plugin.id));
        }
        for found in plugin.generations.iter().filter(|found| matches!(found.state.as_str(), "draining" | "stuck")) {
            let why = if found.reason.is_empty() { held(found) } else { found.reason.clone() };
            print_line("");
            print_line(&format!("{}: generation {} is {}: {why}", plugin.id, found.number, found.state));
        }
        if !plugin.error.is_empty() {
            print_line("");
            print_line(&format!("{}: the last change did not make it:", plugin.id));
            text::print_compiler(&plugin.error);
        }
    }
    Ok(())
}

async fn list(client: &mut Client, to: &To) -> Result<Vec<Plugin>> {
    Ok(client.list_plugins(ListPluginsRequest {}).await.map_err(refused(to))?.into_inner().plugins)
}

fn row(plugin: &Plugin) -> Vec<String> {
    let serving = plugin.generations.iter().rfind(|found| found.state == "serving");
    let (generation, leases, swap) = match serving {
        Some(found) => (
            found.number.to_string(),
            (found.factories + found.controllers + found.calls + found.wakers).to_string(),
            found.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
        ),
        None => Default::default(),
    };
    vec![plugin.id.clone(), plugin.state.clone(), plugin.version.clone(), generation, leases, swap]
}

/// What keeps a generation loaded.
fn held(generation: &Generation) -> String {
    let holders = [
        (generation.factories, "factory", "factories"),
        (generation.controllers, "controller", "controllers"),
        (generation.calls, "call", "calls"),
        (generation.wakers, "waker", "wakers"),
    ];
    let counts = holders.iter().filter(|(count, ..)| *count > 0);
    let counts: Vec<String> =
        counts.map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many })).collect();
    if counts.is_empty() { "it is being unloaded".to_owned() } else { format!("held by {}", counts.join(", ")) }
}

/// `cbus controllers`
pub async fn controllers(args: &Show) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let controllers = client.list_controllers(ListControllersRequest {}).await.map_err(refused(&to))?;
    let controllers = controllers.into_inner().controllers;
    let configs = client.list_configs(ListConfigsRequest {}).await.map_err(refused(&to))?.into_inner().configs;
    if args.json {
        print_json(&serde_json::json!({ "controllers": controllers, "configs": configs }), false);
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
            "stuck" => print_line(&format!("{}, taken off the bus: {}", found.name, found.error)),
            _ => print_line(&format!("{} fails, and is executed again: {}", found.name, found.error)),
        }
    }
    for config in configs.iter().filter(|config| !config.error.is_empty()) {
        let again = if config.retry_in_ms > 0 {
            format!("; tried again {} after the failure", duration(config.retry_in_ms as f64))
        } else {
            String::new()
        };
        let runs_on = if config.state == "refused" { "; the config before runs on" } else { "" };
        print_line("");
        print_line(&format!("{} is {}: {}{again}{runs_on}", config.key, config.state, config.error));
    }
    Ok(())
}

/// `cbus directives`
pub async fn directives(args: &Show) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let directives = client.list_directives(ListDirectivesRequest {}).await.map_err(refused(&to))?;
    let directives = directives.into_inner().directives;
    if args.json {
        print_json(&directives, false);
        return Ok(());
    }
    if directives.is_empty() {
        print_line("no directives stand");
        return Ok(());
    }
    let row = |found: &Directive| {
        let value = found.values.first().map(|value| text::cut(&value.json, 60)).unwrap_or_default();
        vec![
            text::cut(&format!("{} {}", found.name, found.about), 60),
            found.references.to_string(),
            found.resolvers.len().to_string(),
            if found.idle { "idle" } else { "busy" }.to_owned(),
            found.values.len().to_string(),
            value,
        ]
    };
    let rows: Vec<_> = directives.iter().map(row).collect();
    table(&["DIRECTIVE", "REFERENCES", "RESOLVERS", "STATE", "VALUES", "FIRST VALUE"], &rows);
    for found in &directives {
        for resolver in found.resolvers.iter().filter(|resolver| !resolver.error.is_empty()) {
            print_line("");
            print_line(&format!("{}: controller {} failed: {}", found.name, resolver.controller, resolver.error));
        }
    }
    Ok(())
}

/// `cbus reload`
pub async fn reload(args: &OnePlugin) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let asked = client.reload_plugin(ReloadPluginRequest { id: args.id.clone() }).await;
    let reloaded = asked.map_err(refused(&to))?.into_inner();
    if args.json {
        print_json(&reloaded, false);
    } else if reloaded.unchanged {
        print_line(&format!("{}: nothing changed, generation {} goes on", args.id, reloaded.generation));
    } else {
        let timeline = reloaded.timeline.map(|timeline| timeline.to_string()).unwrap_or_default();
        print_line(&format!("{}: generation {} serves: {timeline}", args.id, reloaded.generation));
    }
    Ok(())
}

/// `cbus rollback`
pub async fn roll_back(args: &Rollback) -> Result<()> {
    let (plugin, build) = (&args.plugin, args.build.clone().unwrap_or_default());
    let to = To::of(&plugin.to)?;
    let mut client = connect(&to).await?;
    let asked = client.roll_back_plugin(RollBackPluginRequest { id: plugin.id.clone(), build }).await;
    let back = asked.map_err(refused(&to))?.into_inner();
    if plugin.json {
        print_json(&back, false);
    } else {
        let timeline = back.timeline.map(|timeline| timeline.to_string()).unwrap_or_default();
        print_line(&format!("{}: generation {} serves: {timeline}", plugin.id, back.generation));
    }
    Ok(())
}

/// `cbus unload`
pub async fn unload(args: &OnePlugin) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let asked = client.unload_plugin(UnloadPluginRequest { id: args.id.clone() }).await;
    let unloaded = asked.map_err(refused(&to))?.into_inner();
    if args.json {
        print_json(&unloaded, false);
    } else {
        let seen = if unloaded.unmapped == Some(true) { ", and the library is unmapped" } else { "" };
        let took = duration(unloaded.unload_ms);
        let number = unloaded.generation;
        print_line(&match unloaded.left.as_str() {
            "" => format!("{}: generation {number} unloaded in {took}{seen}", args.id),
            left => format!("{}: generation {number} is off the bus, and still loaded after {took}: {left}", args.id),
        });
    }
    Ok(())
}

/// `cbus logs`
pub async fn logs(args: Logs) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let request = WatchLogsRequest {
        follow: args.follow,
        tail: args.tail,
        plugin: args.plugin.unwrap_or_default(),
        level: args.level.unwrap_or_default(),
    };
    let mut lines = client.watch_logs(request).await.map_err(refused(&to))?.into_inner();
    let colour = text::has_colours(&std::io::stdout());
    while let Some(line) = lines.message().await.map_err(refused(&to))? {
        if args.json {
            print_json(&line, true);
        } else {
            text::print_as_it_is(&crate::daemon::render_line(&line, colour));
        }
    }
    gone(args.follow, &to)
}

/// `cbus events`
pub async fn events(args: &Events) -> Result<()> {
    let to = To::of(&args.to)?;
    let mut client = connect(&to).await?;
    let request = WatchEventsRequest { past: args.past };
    let mut events = client.watch_events(request).await.map_err(refused(&to))?.into_inner();
    let colour = text::has_colours(&std::io::stdout());
    while let Some(event) = events.message().await.map_err(refused(&to))? {
        if args.json {
            print_json(&event, true);
        } else {
            let said = coloured_lines(&event.text, colour);
            text::print_as_it_is(&format!("{} {}: {said}", time(event.at_ms), escaped(&event.plugin)));
        }
    }
    gone(true, &to)
}

/// A stream that should have gone on has ended.
fn gone(followed: bool, to: &To) -> Result<()> {
    if followed { Err(report(format!("the daemon at {} went away", to.address), "")) } else { Ok(()) }
}

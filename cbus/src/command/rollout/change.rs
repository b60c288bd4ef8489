//! `cbus rollout pause`, `resume`, `promote`, `abort`, `back` and `history`.

use controllerbus_rollout::{Link, Rollouts};
use miette::Result;

use super::store::{changed, explain, of, tell, who};
use crate::cli::{RolloutChange, RolloutHistory};
use crate::report::report;
use crate::text::{print_json, print_line, table, time};

/// What is done to a rollout.
#[derive(Clone, Copy)]
pub enum Change {
    Pause,
    Resume,
    Promote,
    Abort,
    Back,
}

pub async fn run(args: &RolloutChange, change: Change) -> Result<()> {
    let store = of(&args.of.store, &args.of.to).await?;
    let rollouts = Rollouts::new(&store, who());
    let plugin = match &args.plugin {
        Some(plugin) => plugin.clone(),
        None => only_one(&rollouts).await?,
    };
    let why = |usual: &str| args.why.clone().unwrap_or_else(|| usual.to_owned());
    let link = match change {
        Change::Pause => rollouts.pause(&plugin, &why("paused")).await,
        Change::Resume => rollouts.resume(&plugin).await,
        Change::Promote => rollouts.promote(&plugin).await,
        Change::Abort => rollouts.abort(&plugin, &why("aborted")).await,
        Change::Back => rollouts.back(&plugin, &why("taken back")).await,
    };
    let link = link.map_err(explain)?;
    tell(&link, &args.of.to).await;
    print(&link, args.of.json);
    Ok(())
}

/// Prints what a rollout is now.
pub fn print(link: &Link, json: bool) {
    let now = changed(link);
    if json {
        print_json(&now, false);
    } else {
        print_line(&format!("{} {}: {}", now.plugin, link.release, link.stage));
    }
}

/// The plugin whose rollout is in progress.
async fn only_one(rollouts: &Rollouts) -> Result<String> {
    let mut going = Vec::new();
    for plugin in rollouts.plugins().await.map_err(explain)? {
        if rollouts.newest(&plugin).await.map_err(explain)?.is_some_and(|link| !link.stage.is_over()) {
            going.push(plugin);
        }
    }
    match going.len() {
        0 => Err(report("no rollout is in progress", "`cbus rollout status` shows those that are over")),
        1 => Ok(going.remove(0)),
        _ => Err(report(format!("several rollouts are in progress: {}", going.join(", ")), "name the plugin")),
    }
}

/// `cbus rollout history`
pub async fn history(args: &RolloutHistory) -> Result<()> {
    let store = of(&args.of.store, &args.of.to).await?;
    let links = Rollouts::new(&store, who()).history(&args.plugin).await.map_err(explain)?;
    let all: Vec<_> = links.iter().map(changed).collect();
    if args.of.json {
        print_json(&all, false);
        return Ok(());
    }
    if all.is_empty() {
        print_line(&format!("{} has no rollout in {}", args.plugin, store.url()));
        return Ok(());
    }
    let row = |one: &super::printed::Changed| {
        let stage = one.stage.replace('_', " ");
        vec![one.number.to_string(), time(one.at_ms), one.release.clone(), stage, one.by.clone(), one.why.clone()]
    };
    table(&["CHANGE", "TIME", "RELEASE", "STAGE", "BY", "WHY"], &all.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

//! `cbus rollout start`: starts a rollout, or shows who would get it when.

use controllerbus_rollout::{Rollout, Rollouts};
use miette::Result;

use super::printed::Planned;
use super::status::{Source, follow};
use super::store::{explain, hosts, of, tell, who};
use crate::cli::RolloutStart;
use crate::report::{io, report};
use crate::text::{duration, print_json, print_line, table};

pub async fn run(args: &RolloutStart) -> Result<()> {
    let wanted = wanted(args)?;
    let store = of(&args.of.store, &args.of.to).await?;
    let rollouts = Rollouts::new(&store, who());
    if args.plan {
        return plan(args, &rollouts, &wanted).await;
    }
    let plugin = wanted.plugin.clone();
    let link = rollouts.start(wanted).await.map_err(explain)?;
    tell(&link, &args.of.to).await;
    if !args.watch {
        super::change::print(&link, args.of.json);
        return Ok(());
    }
    let mut source = Source::of_store(store.url(), Some(plugin.clone()), &args.of.to).await?;
    let first = source.next().await?;
    let Some(over) = follow(source, first, Some(&plugin), args.of.json).await? else { return Ok(()) };
    match over.first().filter(|rollout| rollout.stage != "done") {
        Some(other) => Err(report(
            format!("{plugin} {} was {}: {}", other.release, other.stage.replace('_', " "), other.why),
            format!("`cbus rollout history {plugin}` has each step"),
        )),
        None => Ok(()),
    }
}

/// What is asked for: the file, the arguments, or the file with what the arguments say.
fn wanted(args: &RolloutStart) -> Result<Rollout> {
    let mut wanted = match (&args.file, &args.what) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path).map_err(io("reading the rollout", path))?;
            Rollout::parse(&path.to_string_lossy(), &text).map_err(explain)?
        }
        (None, Some((plugin, version))) => Rollout::new(plugin, version.clone()),
        (None, None) => return Err(report("no plugin was named", "name it and its version: greeter@1.4.0")),
    };
    if let Some((plugin, version)) = &args.what {
        if *plugin != wanted.plugin {
            return Err(report(
                format!("the file is about {}, and {plugin} was named", wanted.plugin),
                "name the plugin of the file, or no plugin",
            ));
        }
        wanted.release = version.clone();
    }
    wanted.despite |= args.despite;
    Ok(wanted)
}

async fn plan(args: &RolloutStart, rollouts: &Rollouts, wanted: &Rollout) -> Result<()> {
    let hosts = hosts(&wanted.plugin, &args.of.to).await?;
    let steps = rollouts.plan(wanted, &hosts).await.map_err(explain)?;
    let steps: Vec<Planned> =
        steps.into_iter().map(|step| Planned { step: step.step, groups: step.groups, bake_ms: step.bake_ms }).collect();
    if args.of.json {
        print_json(&steps, false);
        return Ok(());
    }
    if steps.iter().all(|step| step.groups.is_empty()) {
        print_line("No host that it is for answers now: `cbus fleet hosts` shows who is there.");
        return Ok(());
    }
    print_line(&format!(
        "{} {} would go to {} hosts. Nothing was changed.",
        wanted.plugin,
        wanted.release,
        steps.iter().flat_map(|step| &step.groups).map(Vec::len).sum::<usize>()
    ));
    print_line("");
    let mut rows = Vec::new();
    for step in &steps {
        let bake = if step.bake_ms == 0 { "-".to_owned() } else { duration(step.bake_ms as f64) };
        for (at, group) in step.groups.iter().enumerate() {
            let is_last = at + 1 == step.groups.len();
            let watched = if is_last { bake.clone() } else { "-".to_owned() };
            rows.push(vec![step.step.to_string(), watched, group.join(" ")]);
        }
    }
    table(&["STEP", "WATCHED", "HOSTS"], &rows);
    Ok(())
}

//! The steps of the demo: load, edit, swap, break, fix, unload.

use std::sync::atomic::Ordering;
use std::time::Duration;

use console::style;
use controllerbus::{Bus, ConfigSet, Error, Result};
use hot_runtime::{GenerationInfo, GenerationState, HotRuntime, Isolation, PluginSpec, RuntimeEvent};
use tokio::sync::mpsc;

use crate::api::{Boilerplate, Greet};
use crate::load::Load;
use crate::scratch::Scratch;
use crate::show::Show;
use crate::summary::{Summary, Swap, millis};

/// The crates that the demo bundles into one plugin.
const CRATES: [&str; 2] = ["boilerplate", "greeter"];

/// One controller of each crate.
const CONFIG: &str = "\
greeter:
  id: example/greeter
  config: { greeting: Hello }
boilerplate:
  id: boilerplate/1
  config: { exampleField: from the config }
";

/// The time limit of a step; the first build compiles all dependencies.
const STEP: Duration = Duration::from_secs(900);

struct Demo<'a> {
    show: &'a Show,
    scratch: Scratch,
    bus: Bus,
    events: mpsc::UnboundedReceiver<RuntimeEvent>,
    swaps: Vec<Swap>,
}

/// Runs the whole demo.
pub async fn run(show: &Show, isolation: Isolation) -> Result<Summary> {
    show.part("Two controller crates become one plugin");
    let scratch = Scratch::new(&CRATES)?;
    show.say(&format!("copied {} to {}", CRATES.join(" and "), scratch.work_dir().join("crates").display()));

    let bus = Bus::new();
    let (sender, events) = mpsc::unbounded_channel();
    let mut spec = PluginSpec::new("demo");
    for name in CRATES {
        spec = spec.crate_path(scratch.path(name));
    }
    let builder = HotRuntime::builder(&bus)
        .plugin(spec)
        .work_dir(scratch.work_dir())
        .target_dir(scratch.target_dir())
        .isolation(isolation)
        .on_event(move |event| drop(sender.send(event.clone())));
    show.busy("building the plugin; the first build compiles its dependencies, which takes a minute or two");
    let runtime = builder.start().await?;
    let mut demo = Demo { show, scratch, bus, events, swaps: Vec::new() };
    let loaded = demo
        .event(|event| match event {
            RuntimeEvent::Swapped { to, timeline, .. } => Some(Ok((*to, timeline.clone()))),
            RuntimeEvent::BuildFailed { rendered, .. } => Some(Err(rendered.clone())),
            RuntimeEvent::RolledBack { reason, .. } => Some(Err(reason.clone())),
            _ => None,
        })
        .await?;
    let (generation, timeline) = loaded.map_err(Error::msg)?;
    show.say(&format!(
        "built in {:.0} ms, verified in {:.1} ms, loaded in {:.1} ms: generation {generation}{}",
        millis(timeline.build),
        millis(timeline.verify),
        millis(timeline.load),
        pid_of(&runtime, generation).map(|pid| format!(", in its own process {pid}")).unwrap_or_default(),
    ));

    show.part("A config set starts a controller of each crate, and requests begin");
    demo.bus.apply(ConfigSet::from_yaml(CONFIG)?).await?;
    demo.answers().await?;
    let load = Load::start(&demo.bus);
    show.count(&load.counts);

    show.part("A live edit of the greeter");
    demo.edit("greeter", "{}, {}!", "{}, dear {}! Nice to see you.", "greeter").await?;
    demo.answers().await?;

    show.part("An edit of the other crate");
    demo.edit("boilerplate", "{} is done", "{} is done, and well", "boilerplate").await?;
    demo.answers().await?;

    show.part("An edit that does not compile");
    demo.scratch.edit("greeter", "dear {}! Nice to see you.\"", "dear {}! Oops\" +")?;
    show.busy("building");
    let rendered = demo
        .event(|event| match event {
            RuntimeEvent::BuildFailed { rendered, .. } => Some(rendered.clone()),
            _ => None,
        })
        .await?;
    show.compiler(&rendered);
    show.say("the old code keeps serving:");
    demo.answers().await?;

    show.part("The error is fixed");
    demo.edit("greeter", "dear {}! Oops\" +", "dear {}! All is well again.\"", "the fix").await?;
    demo.answers().await?;

    show.part("The plugin is removed");
    let counts = load.stop().await;
    let report = runtime.unload("demo").await?;
    let left = |found: &&GenerationInfo| found.mapped == Some(true) || found.pid.is_some();
    let mapped = runtime.generations().iter().filter(left).count();
    let unmapped = runtime.generations().iter().filter(|found| found.state == GenerationState::Unloaded).count();
    show.say(&format!(
        "unloaded in {:.1} ms; of {unmapped} unloaded generations, {}: {}",
        millis(report.took),
        match isolation {
            Isolation::Process => "processes still running",
            _ => "still mapped",
        },
        if mapped == 0 { style("none".to_owned()).green() } else { style(mapped.to_string()).red() },
    ));
    if demo.bus.try_resolve(Greet { name: "Ada".into() }).await?.is_some() {
        return Err(Error::msg("something still answers in place of the plugin"));
    }
    show.say("its directives are no longer answered");
    runtime.shutdown().await;

    if let Some(why) = counts.first_failure() {
        show.say(&format!("{} {why}", style("a request failed:").red()));
    }
    Ok(Summary {
        requests: counts.served.load(Ordering::Relaxed),
        failed: counts.failed.load(Ordering::Relaxed),
        swaps: demo.swaps,
        generations_mapped_at_end: mapped,
        slowest_ms: counts.slowest().as_secs_f64() * 1000.0,
    })
}

/// The id of a generation's own process, if it has one.
fn pid_of(runtime: &HotRuntime, generation: u64) -> Option<u32> {
    runtime.generations().iter().find(|found| found.generation == generation)?.pid
}

impl Demo<'_> {
    /// Edits a crate, and waits until the new code serves and the old code is unloaded.
    async fn edit(&mut self, name: &str, from: &str, to: &str, what: &str) -> Result<()> {
        self.scratch.edit(name, from, to)?;
        self.show.say(&format!("{} {}", style("-").red(), style(from).dim()));
        self.show.say(&format!("{} {to}", style("+").green()));
        self.show.busy("building");
        let swapped = self
            .event(|event| match event {
                RuntimeEvent::Swapped { from: Some(from), to, timeline, .. } => {
                    Some(Ok((*from, *to, timeline.clone())))
                }
                RuntimeEvent::BuildFailed { rendered, .. } => Some(Err(rendered.clone())),
                RuntimeEvent::RolledBack { reason, .. } => Some(Err(reason.clone())),
                _ => None,
            })
            .await?;
        let (old, new, timeline) = swapped.map_err(Error::msg)?;
        let mut swap = Swap::new(what, old, new, &timeline);
        let (took, unmapped) = self
            .event(|event| match event {
                RuntimeEvent::Unloaded { generation, took, unmapped, .. } if *generation == old => {
                    Some((*took, *unmapped))
                }
                _ => None,
            })
            .await?;
        if unmapped == Some(false) {
            return Err(Error::msg(format!("generation {old} is closed, but still mapped")));
        }
        swap.unload_ms = millis(took);
        self.show.say(&format!(
            "generation {} serves {} after the save; generation {} is unloaded",
            swap.to,
            style(format!("{:.0} ms", swap.edit_to_live_ms)).green().bold(),
            swap.from,
        ));
        self.swaps.push(swap);
        Ok(())
    }

    /// Asks both controllers and shows their answers.
    async fn answers(&self) -> Result<()> {
        let greeting = self.bus.resolve(Greet { name: "Ada".into() }).await?;
        let result = self.bus.resolve(Boilerplate { boilerplate_id: "this".into() }).await?;
        self.show.say(&format!("greeter:     {}", style(&greeting.0).cyan()));
        self.show.say(&format!("boilerplate: {}", style(&result.print_output).cyan()));
        Ok(())
    }

    async fn event<T>(&mut self, mut take: impl FnMut(&RuntimeEvent) -> Option<T>) -> Result<T> {
        let found = async {
            loop {
                let event = self.events.recv().await.ok_or_else(|| Error::msg("the runtime has ended"))?;
                if let Some(found) = take(&event) {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(STEP, found).await.map_err(|_| Error::msg("nothing happened for fifteen minutes"))?
    }
}

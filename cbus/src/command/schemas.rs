//! `cbus schema`: the JSON schemas of what commands print with `--json`, from the very types that are printed.

use controllerbus::Schema;
use controllerbus::config::schema::Node;
use controllerbus_api::fleet::rollout::Rollout;
use controllerbus_api::fleet::{Host, Offer};
use controllerbus_api::proto::{
    Config, Controller, Directive, Event, Info, LogLine, Plugin, Reload, ReloadPluginResponse, RollBackPluginResponse,
    UnloadPluginResponse,
};
use hot_runtime::doctor::Finding;
use miette::Result;
use serde::Serialize;
use serde_json::{Value, json};

use super::ask::Told;
use super::config::Problem;
use super::directives::Crossing;
use super::explain::Explained;
use super::fleet::printed::{HostChange, Written};
use super::inspect::Inspected;
use super::new::Created;
use super::publish::{Published, Pushed};
use super::rollout::printed::{Changed, Planned, Rollouts};
use super::sign::{Keys, Signed, Verified};
use crate::cli::OutputSchema;
use crate::pipeline::{Codegen, Output};
use crate::report::report;
use crate::text::{print_json, print_line};

/// What a command prints with `--json`.
pub struct Printed {
    /// The command, and the option that makes it print this, if there is one.
    pub command: &'static str,
    /// What that is.
    pub about: &'static str,
    /// Whether it is a line for each thing, not one document.
    pub is_lines: bool,
    node: &'static Node,
}

const fn document<T: Schema>(command: &'static str, about: &'static str) -> Printed {
    Printed { command, about, is_lines: false, node: T::NODE }
}

const fn lines<T: Schema>(command: &'static str, about: &'static str) -> Printed {
    Printed { command, about, is_lines: true, node: T::NODE }
}

/// What `cbus controllers` prints.
#[derive(Serialize, Schema)]
pub struct Controllers {
    /// The controllers on the bus.
    pub controllers: Vec<Controller>,
    /// The applied configs, also those that are not running.
    pub configs: Vec<Config>,
}

/// All of it, in the order of `cbus --help`.
pub const PRINTED: [Printed; 45] = [
    document::<Created>("new", "What was created."),
    document::<Output>("build", "The plugin file."),
    document::<Codegen>("build --codegen-only", "The overlay crate."),
    lines::<Output>("watch", "A plugin file, for each build that succeeds."),
    document::<Inspected>("inspect", "What is in the plugin file."),
    document::<Verified>("verify", "What was verified."),
    document::<Signed>("sign", "The signature."),
    document::<Keys>("keygen", "The two keys."),
    document::<Info>("bus", "An overview of the daemon."),
    document::<Vec<Plugin>>("plugins", "The plugins."),
    document::<Controllers>("controllers", "The controllers and the configs."),
    document::<Vec<Directive>>("directives", "The active directives."),
    document::<Vec<Crossing>>("directives --fleet", "What is asked of other hosts of the fleet, and by them."),
    lines::<Config>(
        "exec",
        "The state of a config of the set, whenever it changes; with --remove, each that was removed.",
    ),
    lines::<Told>("ask", "What happens to the directive that is asked."),
    document::<ReloadPluginResponse>("reload", "What serves now."),
    document::<RollBackPluginResponse>("rollback", "What serves now."),
    document::<UnloadPluginResponse>("unload", "What was unloaded."),
    lines::<LogLine>("logs", "A line of the log."),
    lines::<Event>("events", "An event."),
    document::<Written>("fleet init", "What was written, and what to do next."),
    document::<Written>("fleet cert", "What was written, and what to do next."),
    document::<Vec<Host>>("fleet hosts", "The hosts."),
    lines::<HostChange>("fleet hosts --watch", "A host that is there, or that changed."),
    document::<Vec<Offer>>("fleet offers", "Who offers what."),
    document::<Value>("fleet acl", "A section of the engine's config."),
    document::<Vec<Finding>>("fleet doctor", "What was looked at, and how it is."),
    document::<Published>("publish", "The release."),
    document::<Changed>("rollout start", "The rollout."),
    document::<Vec<Planned>>("rollout start --plan", "The steps, with their hosts."),
    lines::<Rollout>("rollout start --watch", "The rollout, whenever something of it or of its hosts changes."),
    document::<Rollouts>("rollout status", "The rollouts."),
    lines::<Rollout>("rollout status --watch", "A rollout, whenever something of it or of its hosts changes."),
    document::<Changed>("rollout pause", "The rollout."),
    document::<Changed>("rollout resume", "The rollout."),
    document::<Changed>("rollout promote", "The rollout."),
    document::<Changed>("rollout abort", "The rollout."),
    document::<Changed>("rollout back", "The rollout."),
    document::<Vec<Changed>>("rollout history", "Every change, the oldest first."),
    document::<Pushed>("sets push", "The set."),
    document::<Vec<Problem>>("config check", "The problems of the config file; none if it is valid."),
    document::<Value>("config schema", "A JSON schema itself, without --json."),
    document::<Vec<Finding>>("doctor", "What was looked at, and how it is."),
    document::<Vec<Reload>>("doctor --timings", "The last reloads, the latest last."),
    document::<Vec<Explained>>("explain", "The codes that were asked for."),
];

impl Printed {
    /// Its JSON schema.
    pub fn schema(&self) -> Value {
        let mut schema: Value = serde_json::from_str(&self.node.to_json()).unwrap_or(Value::Bool(true));
        if let Value::Object(members) = &mut schema {
            members.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
            members.entry("title").or_insert_with(|| json!(format!("cbus {}", self.command)));
            members.entry("description").or_insert_with(|| json!(self.about));
        }
        schema
    }
}

pub fn run(args: &OutputSchema) -> Result<()> {
    if args.command.is_empty() {
        let widest = PRINTED.iter().map(|printed| printed.command.len()).max().unwrap_or_default();
        for Printed { command, about, is_lines, .. } in &PRINTED {
            let each = if *is_lines { "a line each: " } else { "" };
            print_line(&format!("{command:<widest$}  {each}{about}"));
        }
        return Ok(());
    }
    let asked = args.command.join(" ");
    // An option that is part of the name can be written without its dashes, which would be an option of this command.
    let is = |printed: &&Printed| printed.command == asked || printed.command.replace("--", "") == asked;
    let Some(printed) = PRINTED.iter().find(is) else {
        let hint = match controllerbus::__private::nearest(&asked, PRINTED.iter().map(|printed| printed.command)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`cbus schema` lists the commands that do".to_owned(),
        };
        return Err(report(format!("`{asked}` prints no JSON"), hint));
    };
    print_json(&printed.schema(), false);
    Ok(())
}

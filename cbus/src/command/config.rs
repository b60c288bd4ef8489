//! `cbus config`: checks config files, and prints a JSON schema of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use controllerbus::error::Code;
use controllerbus::{Config, ConfigSet, Error, Schema};
use controllerbus_api::ApiConfig;
use controllerbus_api::proto::ListFactoriesRequest;
use hot_runtime::artifact::{FactoryRecord, conflicts, inspect};
use hot_runtime::{CrateConfig, FolderConfig, PluginConfig};
use miette::Result;
use serde::Serialize;
use serde_json::Value;

use crate::cli::{ConfigCheck, ConfigSchema, Connect, Known};
use crate::client::{connect, daemon, refused};
use crate::report::{explain, explain_bus, io, report, tell};
use crate::schema::{misfits, of_config_sets};
use crate::text::{print_json, print_line};

/// `cbus config schema`
pub async fn schema(args: &ConfigSchema) -> Result<()> {
    print_json(&of_config_sets(&known(&args.known).await?), false);
    Ok(())
}

/// A problem of a config file.
#[derive(Serialize, Schema)]
pub struct Problem {
    /// The key that it is about; empty if it is about the whole file.
    key: String,
    /// What is wrong, with the place, and what to do about it.
    message: String,
    /// The code of that, such as `CB0053`.
    code: Option<Code>,
    /// The line, from 1.
    line: Option<u64>,
    /// The column in characters, from 1.
    column: Option<u64>,
}

/// `cbus config check`
pub async fn check(args: &ConfigCheck) -> Result<()> {
    let text = std::fs::read_to_string(&args.file).map_err(io("reading the config", &args.file))?;
    let name = args.file.to_string_lossy();
    let configs = known(&args.known).await?;
    let complete = !args.known.plugin.is_empty() || args.known.plugins.is_some() || args.known.connect.is_some();
    let (count, problems, unchecked) = match ConfigSet::parse(&name, &text) {
        Ok(set) => {
            let (problems, unchecked) = problems(&set, &configs, complete);
            (set.iter().count(), problems, unchecked)
        }
        Err(error) => (0, vec![(String::new(), error.into())], Vec::new()),
    };
    if args.json {
        let problems: Vec<Problem> = problems
            .iter()
            .map(|(key, error)| Problem {
                key: key.clone(),
                message: error.to_string(),
                code: error.code(),
                line: error.location().map(|place| place.line),
                column: error.location().map(|place| place.column),
            })
            .collect();
        print_json(&problems, false);
    } else if let [(_, only)] = problems.as_slice() {
        return Err(explain_bus(only, Some(&text)));
    } else {
        for (_, error) in &problems {
            tell(&explain_bus(error, Some(&text)));
        }
    }
    match problems.len() {
        0 if args.json => Ok(()),
        0 => {
            let told = match count - unchecked.len() {
                0 if count > 0 => "its syntax is valid".to_owned(),
                1 => "1 config is valid".to_owned(),
                many => format!("{many} configs are valid"),
            };
            print_line(&format!("{name}: {told}"));
            if !unchecked.is_empty() {
                let ids = unchecked.join(", ");
                crate::text::tell(&format!(
                    "not checked, because their schemas are not known: {ids}; pass --plugins DIR, --plugin FILE or --connect ADDR"
                ));
            }
            Ok(())
        }
        1 => Err(report(format!("{name} has a problem"), "")),
        many => Err(report(format!("{name} has {many} problems"), "")),
    }
}

/// The problems of a set by key, and the config ids that cannot be checked.
fn problems(set: &ConfigSet, configs: &BTreeMap<String, Value>, complete: bool) -> (Vec<(String, Error)>, Vec<String>) {
    let (mut problems, mut unchecked) = (Vec::new(), Vec::new());
    for (key, entry) in set.iter() {
        let Some(schema) = configs.get(&entry.id) else {
            if complete {
                let hint = match controllerbus::__private::nearest(&entry.id, configs.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known ids are {}", configs.keys().cloned().collect::<Vec<_>>().join(", ")),
                };
                let error = Error::msg(format!("{key}: unknown config id `{}`; {hint}", entry.id));
                let error = error.with_code(Code::UNKNOWN_CONFIG_ID);
                problems.push((key.to_owned(), placed(error, set.location(key))));
            } else {
                unchecked.push(entry.id.clone());
            }
            continue;
        };
        for (path, why) in misfits(schema, &entry.config) {
            let place = set.location_in(key, &path);
            let at = if path.is_empty() { String::new() } else { format!(".{path}") };
            let error = Error::msg(format!("{key}{at}: {why}")).with_code(Code::CONFIG_MISFIT);
            problems.push((key.to_owned(), placed(error, place)));
        }
    }
    (problems, unchecked)
}

fn placed(error: Error, place: Option<controllerbus::error::Location>) -> Error {
    match place {
        Some(place) => error.at(place),
        None => error,
    }
}

/// All known schemas, by config id.
async fn known(from: &Known) -> Result<BTreeMap<String, Value>> {
    let mut configs = BTreeMap::new();
    let mut add = |id: &str, schema: &str| {
        configs.insert(id.to_owned(), serde_json::from_str(schema).unwrap_or(Value::Bool(true)));
    };
    add(ApiConfig::ID, &ApiConfig::SCHEMA.to_json());
    add(PluginConfig::ID, &PluginConfig::SCHEMA.to_json());
    add(FolderConfig::ID, &FolderConfig::SCHEMA.to_json());
    add(CrateConfig::ID, &CrateConfig::SCHEMA.to_json());
    #[cfg(feature = "fleet")]
    {
        use controllerbus_rollout::{AgentConfig, PlacementConfig, RolloutConfig};
        add(controllerbus_fleet::config::FleetConfig::ID, &controllerbus_fleet::config::FleetConfig::SCHEMA.to_json());
        add(AgentConfig::ID, &AgentConfig::SCHEMA.to_json());
        add(RolloutConfig::ID, &RolloutConfig::SCHEMA.to_json());
        add(PlacementConfig::ID, &PlacementConfig::SCHEMA.to_json());
    }
    // They are known, although this build has no more of them.
    #[cfg(not(feature = "fleet"))]
    {
        use controllerbus_api::fleet::{CONFIG_ID, rollout};
        [CONFIG_ID, rollout::AGENT, rollout::ORCHESTRATOR, rollout::PLACEMENT]
            .into_iter()
            .for_each(|id| add(id, "true"));
    }
    let mut files = from.plugin.clone();
    if let Some(dir) = &from.plugins {
        files.extend(plugin_files(dir)?);
    }
    let mut seen: Vec<(String, Vec<FactoryRecord>)> = Vec::new();
    for file in files {
        let read = tokio::task::spawn_blocking(move || inspect(&file)).await;
        let artifact = read.map_err(|error| report(error.to_string(), ""))?.map_err(explain)?;
        for (other, theirs) in seen.iter().filter(|(other, _)| *other != artifact.bundle.id) {
            for conflict in conflicts(&artifact.factories, other, theirs) {
                crate::text::tell(&format!("warning: {}: {}", artifact.bundle.id, conflict.what));
            }
        }
        for factory in &artifact.factories {
            // As in a daemon: that of the highest version, and among equal ones that of the plugin that comes first.
            let theirs = seen.iter().flat_map(|(_, theirs)| theirs).filter(|their| their.config == factory.config);
            if theirs.map(|their| &their.version).max().is_none_or(|theirs| factory.version > *theirs) {
                configs.insert(factory.config.clone(), factory.schema.clone());
            }
        }
        seen.push((artifact.bundle.id, artifact.factories));
    }
    if let Some(address) = &from.connect {
        let token_file = from.token_file.clone();
        let connect_to = Some(address.clone());
        let to = daemon(&Connect { connect: connect_to, token_file, tls_ca: None, tls_cert: None, tls_key: None })?;
        let mut client = connect(&to).await?;
        let found = client.list_factories(ListFactoriesRequest {}).await.map_err(refused(&to))?.into_inner();
        for factory in found.factories {
            configs.insert(factory.config_id, serde_json::from_str(&factory.schema).unwrap_or(Value::Bool(true)));
        }
    }
    Ok(configs)
}

fn plugin_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(io("listing the plugins directory", dir))?;
    let plugin = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        [".cbus.so", ".cbus.dylib", ".cbus.dll"].iter().any(|ending| name.ends_with(ending))
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(plugin).collect();
    files.sort();
    Ok(files)
}

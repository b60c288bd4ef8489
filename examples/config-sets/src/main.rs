//! Config sets declare what runs. Shows revisions, candidates, states, errors, and a controller that starts others.
#![forbid(unsafe_code)]

use controllerbus::bus::loading::LoadControllerWithConfig;
use controllerbus::bus::{ConfigState, RunState};
use controllerbus::prelude::*;

/// The config of a lamp.
#[derive(Config, Serialize, Deserialize, PartialEq, Clone)]
#[config(id = "house/lamp", validate = LampConfig::check)]
struct LampConfig {
    /// In lumens.
    brightness: u32,
    #[serde(default)]
    colour: Colour,
}

#[derive(Schema, Serialize, Deserialize, PartialEq, Clone, Copy, Debug, Default)]
#[serde(rename_all = "lowercase")]
enum Colour {
    #[default]
    Warm,
    Cold,
}

impl LampConfig {
    fn check(&self) -> Result<()> {
        if self.brightness > 2000 { Err(Error::msg("that is too bright; at most 2000")) } else { Ok(()) }
    }
}

struct Lamp {
    config: LampConfig,
}

/// A lamp.
#[hot_plugin(id = "house/lamp", version = "1.4.0")]
impl Controller for Lamp {
    type Config = LampConfig;

    async fn construct(config: LampConfig, _: &Context) -> Result<Self> {
        Ok(Self { config })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        println!("    a lamp is switched on: {} lumens, {:?}", self.config.brightness, self.config.colour);
        context.cancelled().await;
        Ok(())
    }

    async fn close(&self) {
        println!("    a lamp of {} lumens is switched off", self.config.brightness);
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "house/party")]
struct PartyConfig {
    lamps: u32,
}

struct Party {
    lamps: u32,
}

/// Keeps lamps on for as long as it runs.
#[hot_plugin(id = "house/party", version = "1.0.0")]
impl Controller for Party {
    type Config = PartyConfig;

    async fn construct(config: PartyConfig, _: &Context) -> Result<Self> {
        Ok(Self { lamps: config.lamps })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        let mut lit = Vec::new();
        for number in 1..=self.lamps {
            let lamp = LampConfig { brightness: 100 * number, colour: Colour::Cold };
            let mut request = context.bus().request(LoadControllerWithConfig::of(&lamp)?)?;
            request.value().await?;
            lit.push(request);
        }
        println!("    {} lamps light the party", lit.len());
        context.cancelled().await;
        Ok(())
    }
}

fn show(title: &str, bus: &Bus) {
    println!("{title}");
    for ConfigState { key, config_id, revision, candidates, state, problem, .. } in bus.configs() {
        let state = match state {
            RunState::Running(id) => format!("running as controller {}", id.0),
            RunState::Queued => "queued".to_owned(),
            RunState::Constructing => "being constructed".to_owned(),
            RunState::Removed => "taken off the bus".to_owned(),
            RunState::Failed { retry_in, .. } => format!("failed, retrying in {retry_in:?}"),
            _ => "in an unknown state".to_owned(),
        };
        println!("    {key} ({config_id}, revision {revision}, other candidates {candidates:?}): {state}");
        if let Some(problem) = problem {
            println!("        {problem}");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let bus = Bus::new();
    println!("the schema of a lamp config:\n    {}", bus.factories()[0].schema);

    println!("apply revision 1 of the hall");
    bus.apply(ConfigSet::from_yaml("hall: { id: house/lamp, revision: 1, config: { brightness: 400 } }")?).await?;
    tokio::task::yield_now().await;
    println!("apply revision 3: its config is different, so it gets a new controller");
    bus.apply(ConfigSet::from_yaml("hall: { id: house/lamp, revision: 3, config: { brightness: 800 } }")?).await?;
    // A lower revision is kept as a candidate. JSON works as well as YAML.
    bus.apply(ConfigSet::from_json(r#"{"hall": {"id": "house/lamp", "revision": 2, "config": {"brightness": 600}}}"#)?)
        .await?;
    show("the higher revision runs:", &bus);
    bus.withdraw_config("hall", 3).await;
    show("after its withdrawal the next one runs:", &bus);

    // Errors name the file and line, and do not keep other controllers from running.
    let faulty = "\
cellar:
  id: house/lmp
attic:
  id: house/lamp
  config:
    brightness: very
kitchen:
  id: house/lamp
  version: ^2
  config: { brightness: 300 }
garden:
  id: house/lamp
  config: { brightness: 9000 }
";
    bus.apply(ConfigSet::parse("house.yaml", faulty)?).await?;
    show("errors:", &bus);
    println!("not a config set: {}", ConfigSet::parse("house.yaml", "hall:\n  brightness: 3\n").expect_err("no id"));
    for key in ["attic", "cellar", "garden", "kitchen"] {
        bus.remove_config(key).await;
    }

    // A controller that requests other controllers: they run as long as it holds the requests.
    bus.apply(ConfigSet::from_yaml("party: { id: house/party, config: { lamps: 2 } }")?).await?;
    let mut changes = bus.changes();
    while bus.controllers().len() < 4 {
        changes.changed().await?;
    }
    tokio::task::yield_now().await;
    println!("the party is over");
    bus.remove_config("party").await;
    while bus.controllers().len() > 1 {
        changes.changed().await?;
    }
    show("what remains:", &bus);
    bus.close().await;
    Ok(())
}

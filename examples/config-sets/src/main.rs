//! Config sets: what runs is what is written down. Revisions, candidates, states, mistakes, and a controller that asks
//! for another one.
#![forbid(unsafe_code)]

use controllerbus::bus::loading::LoadControllerWithConfig;
use controllerbus::bus::{ConfigState, RunState};
use controllerbus::prelude::*;

/// How a lamp shines.
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
        if self.brightness > 2000 { Err(Error::msg("that blinds people")) } else { Ok(()) }
    }
}

struct Lamp {
    config: LampConfig,
}

/// Shines.
#[hot_plugin(id = "house/lamp", version = "1.4.0")]
impl Controller for Lamp {
    type Config = LampConfig;

    async fn construct(config: LampConfig, _: &Context) -> Result<Self> {
        Ok(Self { config })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        println!("    a lamp goes on: {} lumens, {:?}", self.config.brightness, self.config.colour);
        context.cancelled().await;
        Ok(())
    }

    async fn close(&self) {
        println!("    a lamp of {} lumens goes off", self.config.brightness);
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

/// Wants lamps for as long as it lasts.
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
        println!("    the party is lit by {} lamps", lit.len());
        context.cancelled().await;
        Ok(())
    }
}

fn show(title: &str, bus: &Bus) {
    println!("{title}");
    for ConfigState { key, config_id, revision, candidates, state, problem, .. } in bus.configs() {
        let state = match state {
            RunState::Running(id) => format!("runs as controller {}", id.0),
            RunState::Queued => "waits".to_owned(),
            RunState::Constructing => "is being made".to_owned(),
            RunState::Failed { retry_in, .. } => format!("failed, again in {retry_in:?}"),
        };
        println!("    {key} ({config_id}, revision {revision}, also there {candidates:?}): {state}");
        if let Some(problem) = problem {
            println!("        {problem}");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let bus = Bus::new();
    println!("the schema of a lamp:\n    {}", bus.factories()[0].schema);

    println!("revision 1 of the hall");
    bus.apply(ConfigSet::from_yaml("hall: { id: house/lamp, revision: 1, config: { brightness: 400 } }")?).await?;
    tokio::task::yield_now().await;
    println!("revision 3; another controller, for another config");
    bus.apply(ConfigSet::from_yaml("hall: { id: house/lamp, revision: 3, config: { brightness: 800 } }")?).await?;
    // A lower revision waits, and JSON will do as well.
    bus.apply(ConfigSet::from_json(r#"{"hall": {"id": "house/lamp", "revision": 2, "config": {"brightness": 600}}}"#)?)
        .await?;
    show("the higher revision runs:", &bus);
    bus.withdraw_config("hall", 3).await;
    show("it is withdrawn, so the next one runs:", &bus);

    // Mistakes are told with their place, and keep nothing else from running.
    let mistakes = "\
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
    bus.apply(ConfigSet::parse("house.yaml", mistakes)?).await?;
    show("mistakes:", &bus);
    println!(
        "no config set at all: {}",
        ConfigSet::parse("house.yaml", "hall:\n  brightness: 3\n").expect_err("no id")
    );
    for key in ["attic", "cellar", "garden", "kitchen"] {
        bus.remove_config(key).await;
    }

    // A controller that asks for controllers: they run while it asks for them.
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
    show("what is left:", &bus);
    bus.close().await;
    Ok(())
}

//! A controller that misbehaves in every way: it hangs, panics, blocks, floods, leaks, lies and crashes.
//!
//! `hot-demo --chaos` builds it once, and makes many plugins from the library by overwriting the two strings below.

mod acts;

use std::time::Duration;

use controllerbus::prelude::*;

/// The plugin's id, a different one in each copy.
const ID: &str = "trouble-00";

/// The version of the plugin that this copy is.
static VERSION: &str = "version-0000000";

/// How long it blocks a thread: longer than any limit set by the host.
const BLOCKS: Duration = Duration::from_millis(1200);

/// Tells one of the plugins what to do.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/do", value = Done)]
pub struct Do {
    /// The plugin's id, such as `trouble-00`; the others do not answer.
    pub plugin: String,
    /// One of the actions in `acts.rs`.
    pub what: String,
    /// Makes requests distinct, so that they are not merged.
    pub nonce: u64,
}

/// The result.
#[derive(Serialize, Deserialize)]
pub struct Done(pub String);

/// The requester expects words, and gets a number.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/words", value = u64)]
pub struct Words {
    /// Makes requests distinct, so that they are not merged.
    pub nonce: u64,
}

/// Where and how it misbehaves.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "trouble-00")]
pub struct TroubleConfig {
    /// For example `construct panics` or `close hangs`; empty for no misbehaviour.
    #[serde(default)]
    pub does: String,
}

impl TroubleConfig {
    /// Misbehaves as configured for this place.
    async fn at(&self, place: &str) -> Result<()> {
        if self.behaviour(place) == Some("hangs") {
            std::future::pending::<()>().await;
        }
        self.at_once(place)
    }

    /// The same where it cannot await.
    fn at_once(&self, place: &str) -> Result<()> {
        match self.behaviour(place) {
            Some("panics") => panic!("{place} was configured to panic"),
            Some("fails") => Err(Error::msg(format!("{place} was configured to fail"))),
            Some("blocks") => {
                std::thread::sleep(BLOCKS);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn behaviour(&self, place: &str) -> Option<&str> {
        self.does.strip_prefix(place).map(str::trim_start)
    }
}

/// The controller.
pub struct Trouble {
    config: TroubleConfig,
    context: Context,
}

impl Drop for Trouble {
    fn drop(&mut self) {
        let _ = self.config.at_once("drop");
    }
}

/// Misbehaves.
#[hot_plugin(id = "trouble-00", version = "1.0.0")]
impl Controller for Trouble {
    type Config = TroubleConfig;

    async fn construct(config: TroubleConfig, context: &Context) -> Result<Self> {
        config.at("construct").await?;
        Ok(Self { config, context: context.clone() })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        self.config.at("execute").await?;
        context.cancelled().await;
        Ok(())
    }

    async fn close(&self) {
        let _ = self.config.at("close").await;
    }

    async fn health(&self) -> Result<()> {
        self.config.at("health").await
    }

    fn save(&self) -> Result<Option<State>> {
        self.config.at_once("save")?;
        State::encode(1, &self.config.does).map(Some)
    }

    async fn restore(&self, state: State) -> Result<()> {
        self.config.at("restore").await?;
        state.decode::<String>().map(drop)
    }

    #[resolves]
    async fn act(&self, request: Do, values: Values<Done>) -> Result<()> {
        if request.plugin == std::hint::black_box(ID) {
            let done = acts::act(&request.what, request.nonce, &self.context, &values).await?;
            values.add(Done(done));
        }
        Ok(())
    }

    #[resolves]
    async fn words(&self, request: Words, values: Values<u64>) -> Result<()> {
        values.add(request.nonce);
        Ok(())
    }
}

/// The version of this copy.
fn version() -> &'static str {
    std::hint::black_box(VERSION)
}

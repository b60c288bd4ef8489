//! A controller that does whatever a host would rather it did not: it hangs, panics, blocks, floods, leaks, lies and crashes.
//!
//! `hot-demo --chaos` builds it once, and makes many plugins of the library by writing over the two texts below.

mod acts;

use std::time::Duration;

use controllerbus::prelude::*;

/// The plugin's number, in each copy another one.
const ID: &str = "trouble-00";

/// Which of several versions of that plugin this copy is.
static VERSION: &str = "version-0000000";

/// How long it blocks a thread: longer than any limit that the host gives it.
const BLOCKS: Duration = Duration::from_millis(1200);

/// What one of the plugins shall do.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/do", value = Done)]
pub struct Do {
    /// Which plugin, as `trouble-00`; the others have nothing to say.
    pub plugin: String,
    /// One of the words in `acts.rs`.
    pub what: String,
    /// Makes requests differ, so that they are not merged.
    pub nonce: u64,
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub struct Done(pub String);

/// Whoever asks this expects words, and is given a number.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/words", value = u64)]
pub struct Words {
    /// Makes requests differ, so that they are not merged.
    pub nonce: u64,
}

/// Where it misbehaves.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "trouble-00")]
pub struct TroubleConfig {
    /// Such as `construct panics` or `close hangs`; nothing if it is empty.
    #[serde(default)]
    pub does: String,
}

impl TroubleConfig {
    /// Does here what it was told to do here.
    async fn at(&self, place: &str) -> Result<()> {
        if self.is_told(place) == Some("hangs") {
            std::future::pending::<()>().await;
        }
        self.at_once(place)
    }

    /// The same where nothing can be awaited.
    fn at_once(&self, place: &str) -> Result<()> {
        match self.is_told(place) {
            Some("panics") => panic!("{place} was told to panic"),
            Some("fails") => Err(Error::msg(format!("{place} was told to fail"))),
            Some("blocks") => {
                std::thread::sleep(BLOCKS);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_told(&self, place: &str) -> Option<&str> {
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

/// What this copy is.
fn version() -> &'static str {
    std::hint::black_box(VERSION)
}

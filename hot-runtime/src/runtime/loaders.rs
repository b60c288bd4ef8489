//! Where plugins come from, as entries of a config set: any number of directories and crates, added and removed while the
//! runtime runs.
//!
//! ```yaml
//! plugins:
//!   id: hot-runtime/folder
//!   config: { dir: plugins }
//! greeter:
//!   id: hot-runtime/crate
//!   config: { crates: [../greeter] }
//! ```
//!
//! A changed entry of the same directory, or the same plugin, takes the place of the one before, and its plugins go on running
//! meanwhile.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info, OnStarted, starting};
use controllerbus::directive::wire;
use controllerbus::error::ErrorKind;
use controllerbus::{Config, Error, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::runtime::claims::Loader;
use crate::runtime::task::{Command, NewSource};
use crate::runtime::{Inner, folder};
use crate::source::spec::PluginSpec;
use crate::source::workspace::Workspace;
use crate::util::blocking;

const fn yes() -> bool {
    true
}

/// A folder of plugin files, as an entry of a config set: config ID `hot-runtime/folder`.
///
/// Every `*.cbus.so` (`.dylib`, `.dll`) in it is loaded, as far as [`Builder::trust`](crate::Builder::trust) accepts it.
/// What appears or changes there is loaded, and what is removed is unloaded. When the entry is removed, its plugins are
/// unloaded. A plugin that is in several directories is loaded from the one that had it first.
///
/// ```
/// use controllerbus::ConfigSet;
/// use hot_runtime::FolderConfig;
///
/// # fn main() -> controllerbus::Result<()> {
/// let mut set = ConfigSet::new();
/// set.insert("plugins", 0, &FolderConfig::new("plugins"))?;
/// let written = ConfigSet::from_json(
///     r#"{ "plugins": { "id": "hot-runtime/folder", "config": { "dir": "plugins", "watch": true } } }"#,
/// )?;
/// assert_eq!(set.get("plugins"), written.get("plugins"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Config)]
#[config(id = "hot-runtime/folder")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FolderConfig {
    /// The directory. A relative path is relative to the working directory of the process.
    pub dir: PathBuf,
    /// Whether changes of the directory are followed. Otherwise it is read once.
    #[serde(default = "yes")]
    pub watch: bool,
}

impl FolderConfig {
    /// A directory whose changes are followed.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), watch: true }
    }

    /// Follows changes, or not.
    #[must_use]
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }
}

/// A plugin that is built from its crates, as an entry of a config set: config ID `hot-runtime/crate`.
///
/// When the entry is removed, the plugin is unloaded. Two entries cannot build the same plugin: the second one fails until
/// the first is removed.
///
/// ```
/// use controllerbus::ConfigSet;
/// use hot_runtime::CrateConfig;
///
/// # fn main() -> controllerbus::Result<()> {
/// let mut set = ConfigSet::new();
/// set.insert("greeter", 0, &CrateConfig::new("../greeter").release(true))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Config)]
#[config(id = "hot-runtime/crate", validate = CrateConfig::check)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CrateConfig {
    /// The directories of its controller crates. A relative path is relative to the working directory of the process.
    pub crates: Vec<PathBuf>,
    /// The plugin's id; the first crate's name unless set.
    #[serde(default)]
    pub plugin: Option<String>,
    /// The plugin's version, in which `{buildHash}` stands for the build's hash; the first crate's unless set.
    #[serde(default)]
    pub version: Option<String>,
    /// Features to enable: `name` in every crate that has it, or `crate/name`.
    #[serde(default)]
    pub features: Vec<String>,
    /// Whether the crates' default features are enabled.
    #[serde(default = "yes")]
    pub default_features: bool,
    /// Whether to optimise, as `cargo build --release` does.
    #[serde(default)]
    pub release: bool,
    /// Whether changes of the sources are followed. Otherwise it is built once.
    #[serde(default = "yes")]
    pub watch: bool,
}

impl CrateConfig {
    /// A plugin of one crate, whose sources are followed.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            crates: vec![path.into()],
            plugin: None,
            version: None,
            features: Vec::new(),
            default_features: true,
            release: false,
            watch: true,
        }
    }

    /// Adds a crate.
    #[must_use]
    pub fn crate_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.crates.push(path.into());
        self
    }

    /// Sets the plugin's id.
    #[must_use]
    pub fn plugin(mut self, id: impl Into<String>) -> Self {
        self.plugin = Some(id.into());
        self
    }

    /// Sets the plugin's version, in which `{buildHash}` stands for the build's hash.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Enables a feature: `name` in every crate that has it, or `crate/name`.
    #[must_use]
    pub fn feature(mut self, feature: impl Into<String>) -> Self {
        self.features.push(feature.into());
        self
    }

    /// Enables the crates' default features, or not.
    #[must_use]
    pub fn default_features(mut self, on: bool) -> Self {
        self.default_features = on;
        self
    }

    /// Optimises, or not.
    #[must_use]
    pub fn release(mut self, release: bool) -> Self {
        self.release = release;
        self
    }

    /// Follows changes of the sources, or not.
    #[must_use]
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    fn check(&self) -> Result<()> {
        let invalid = |what: &str| Err(Error::new(ErrorKind::Invalid, what));
        if self.crates.is_empty() {
            return invalid("`crates` is empty; name the directory of a controller crate");
        }
        if self.plugin.as_ref().is_some_and(String::is_empty) {
            return invalid("`plugin` is empty; leave it out for the first crate's name");
        }
        if let Some(version) = &self.version {
            let parsed = PluginSpec::new("").version_text(version);
            parsed.map_err(|error| Error::new(ErrorKind::Invalid, format!("`version: {version}`: {error}")))?;
        }
        Ok(())
    }

    /// What it describes. Runs cargo to read the crates.
    async fn spec(self) -> Result<PluginSpec> {
        let crates = self.crates.clone();
        let workspace = blocking(move || Workspace::read(&crates)).await.map_err(told)?;
        let Some(first) = workspace.crates.first() else { return Err(Error::msg("there is no crate")) };
        let mut spec = PluginSpec::new(self.plugin.unwrap_or_else(|| first.name.clone()))
            .version(first.version.clone())
            .default_features(self.default_features)
            .release(self.release)
            .watch(self.watch);
        if let Some(version) = &self.version {
            spec = spec.version_text(version).map_err(Error::msg)?;
        }
        for path in self.crates {
            spec = spec.crate_path(path);
        }
        for feature in self.features {
            spec = spec.feature(feature);
        }
        Ok(spec)
    }
}

fn told(error: crate::Error) -> Error {
    Error::msg(error.with_causes())
}

/// The factories of both.
pub(crate) fn factories(runtime: &Weak<Inner>) -> [Arc<dyn Factory>; 2] {
    [Arc::new(Folders { runtime: Weak::clone(runtime) }), Arc::new(Crates { runtime: Weak::clone(runtime) })]
}

pub(super) fn info(id: &str, description: &str) -> Info {
    let version = env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0));
    Info::new(id, version, id).with_description(description)
}

pub(super) fn upgraded(runtime: &Weak<Inner>) -> Result<Arc<Inner>> {
    runtime.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the runtime has ended"))
}

pub(super) fn decoded<C: Config>(config: &[u8]) -> Result<C> {
    let config: C = wire::decode(config).map_err(Error::permanent)?;
    config.validate().map_err(Error::permanent)?;
    Ok(config)
}

struct Folders {
    runtime: Weak<Inner>,
}

impl Factory for Folders {
    fn info(&self) -> Info {
        info(FolderConfig::ID, "Loads the plugin files of a directory.")
    }

    fn schema(&self) -> String {
        FolderConfig::SCHEMA.to_json()
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let config: FolderConfig = decoded(&config)?;
            let runtime = upgraded(&self.runtime)?;
            let stop = runtime.stop.child_token();
            let ended = folder::load(&runtime, config.dir, config.watch, stop.clone()).map_err(told)?;
            Ok(Arc::new(FolderLoader { stop: stop.drop_guard(), ended }) as Arc<dyn AnyController>)
        })
    }
}

/// The controller of a directory, which is followed by a task.
struct FolderLoader {
    stop: DropGuard,
    /// Cancelled when its plugins are unloaded.
    ended: CancellationToken,
}

impl AnyController for FolderLoader {
    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.stop.token().cancel();
            self.ended.cancelled().await;
        })
    }
}

struct Crates {
    runtime: Weak<Inner>,
}

impl Factory for Crates {
    fn info(&self) -> Info {
        info(CrateConfig::ID, "Builds a plugin from its crates.")
    }

    fn schema(&self) -> String {
        CrateConfig::SCHEMA.to_json()
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let spec = decoded::<CrateConfig>(&config)?.spec().await?;
            let runtime = upgraded(&self.runtime)?;
            let (loader, stop) = (runtime.claims.add_crate(&spec.id), runtime.stop.child_token());
            Ok(Arc::new(CrateLoader { runtime: self.runtime.clone(), loader, spec, stop }) as Arc<dyn AnyController>)
        })
    }
}

/// The controller of a plugin that is built.
struct CrateLoader {
    runtime: Weak<Inner>,
    loader: Loader,
    spec: PluginSpec,
    /// Ends its builds.
    stop: CancellationToken,
}

impl CrateLoader {
    /// Has the plugin's task build from here.
    async fn begin(&self) -> Result<()> {
        let runtime = upgraded(&self.runtime)?;
        let id = &self.spec.id;
        if !runtime.claims.builds(self.loader, id) {
            let what =
                format!("the plugin `{id}` is built by another config, or by the program; set another id (`plugin`)");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let (answer, answered) = oneshot::channel();
        let source = NewSource {
            spec: self.spec.clone(),
            options: runtime.build.clone(),
            watcher: runtime.watcher.clone(),
            stop: self.stop.clone(),
        };
        let task = runtime.task_of(id);
        drop(runtime);
        task.send(Command::Source(Box::new(source), answer)).await.map_err(|_| told(crate::Error::Closed))?;
        answered.await.unwrap_or(Err(crate::Error::Closed)).map_err(told)
    }

    /// Unloads the plugin, unless another config builds it from now on.
    async fn end(&self) {
        self.stop.cancel();
        let Some(runtime) = self.runtime.upgrade() else { return };
        if !runtime.claims.remove_crate(self.loader, &self.spec.id) {
            return;
        }
        let (answer, answered) = oneshot::channel();
        if runtime.send(&self.spec.id, Command::Leave(answer)).await.is_ok() {
            drop(runtime);
            let _ = answered.await;
        }
    }
}

impl Drop for CrateLoader {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.upgrade() {
            runtime.claims.remove_crate(self.loader, &self.spec.id);
        }
    }
}

impl AnyController for CrateLoader {
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let execution = async {
                self.begin().await?;
                context.cancelled().await;
                Ok(())
            };
            starting(execution, on_started).await
        })
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.end().await })
    }
}

//! What the API shows, and how a program serves it.

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Instant;

use controllerbus::{Bus, BusError, ConfigSet};
use hot_runtime::{GenerationInfo, HotRuntime, RuntimeEvent};

use super::Journal;
use super::applied::Applied;
use crate::CONFIG_ID;
use crate::controller::{self, Api, ApiConfig, ApiFactory};

/// A bus with a runtime and a journal of what happened, for the API to show.
pub struct Host {
    /// The bus.
    pub bus: Bus,
    /// What happened.
    pub journal: Arc<Journal>,
    pub(crate) started: Instant,
    started_ms: u64,
    /// APIs that already listen and wait for their controllers to be constructed.
    pub(crate) prepared_apis: Mutex<Vec<Api>>,
    runtime: OnceLock<HotRuntime>,
    /// The keys of the APIs that the program serves.
    served: Mutex<BTreeSet<String>>,
    /// Where what clients apply is kept, if it is.
    pub(crate) applied: OnceLock<Arc<Applied>>,
    /// Held while the bus and those files are changed, so that both say the same. No user code is awaited under it.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while somebody scrapes the metrics, from the asking of the fleet, which has a limit, until all is counted: what one
    /// scrape has seen and counts late looks to the next one like a fleet that was joined anew.
    pub(super) scraping: Arc<tokio::sync::Mutex<()>>,
    /// When it was last looked up whether all is ready, and what was found.
    pub(super) looked: Mutex<Option<(Instant, bool)>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("started_ms", &self.started_ms).finish_non_exhaustive()
    }
}

impl Host {
    /// Prepares a bus for serving its API. Adds the API's factory to it, so that config sets can serve the API too.
    pub fn new(bus: Bus) -> Arc<Self> {
        Self::with_journal(bus, Arc::default())
    }

    /// The same with a journal that exists already, because the log goes there.
    pub fn with_journal(bus: Bus, journal: Arc<Journal>) -> Arc<Self> {
        let host = Arc::new(Self {
            bus,
            journal,
            started: Instant::now(),
            started_ms: super::journal::now_ms(),
            prepared_apis: Mutex::default(),
            runtime: OnceLock::new(),
            served: Mutex::default(),
            applied: OnceLock::new(),
            changing: tokio::sync::Mutex::default(),
            scraping: Arc::default(),
            looked: Mutex::default(),
        });
        let factory = Arc::new(ApiFactory::new(&host));
        host.bus.add_factories(controllerbus::bus::Source::STATIC, vec![factory]);
        host
    }

    /// Records the events of a runtime: for [`on_event`](hot_runtime::Builder::on_event).
    pub fn observer(&self) -> impl Fn(&RuntimeEvent) + Send + Sync + 'static + use<> {
        let journal = Arc::clone(&self.journal);
        move |event: &RuntimeEvent| journal.runtime_event(event)
    }

    /// The runtime whose plugins are shown, once it has started. Only the first one counts.
    pub fn set_runtime(&self, runtime: HotRuntime) {
        let _ = self.runtime.set(runtime);
    }

    /// Serves the API until its config is removed from the bus, and returns its address.
    ///
    /// # Errors
    /// It cannot listen there, its files cannot be read, or anybody could use it.
    pub async fn serve(self: &Arc<Self>, config: ApiConfig) -> Result<String, BusError> {
        self.serve_as(CONFIG_ID, config).await
    }

    /// [`serve`](Self::serve) under another key than [`CONFIG_ID`], for more than one API.
    ///
    /// # Errors
    /// As for [`serve`](Self::serve).
    pub async fn serve_as(self: &Arc<Self>, key: &str, config: ApiConfig) -> Result<String, BusError> {
        // An address that cannot be listened on at the start is an error, and not retried.
        let address = controller::prepare(config.clone(), self).await?;
        let mut set = ConfigSet::new();
        set.insert(key, 0, &config)?;
        self.served.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        self.bus.apply(set).await?;
        self.bus.watch_config(key).running().await?;
        Ok(address)
    }

    /// The applied configs as a set, secrets among them, without what is there by itself: the APIs that the program serves, and the
    /// functions of plugins.
    pub fn config_set(&self) -> ConfigSet {
        let mut set = self.bus.config_set();
        let by_itself = |(key, entry): (&str, &controllerbus::config::Entry)| {
            (key == entry.id && entry.id.starts_with(controllerbus::hot::PREFIX)).then(|| key.to_owned())
        };
        let mut left: BTreeSet<String> = set.iter().filter_map(by_itself).collect();
        left.extend(self.served.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        left.iter().for_each(|key| drop(set.remove(key)));
        set
    }

    /// Keeps what clients apply from now on in files of a folder, which only this user can read, until they remove it; and reads
    /// what an earlier daemon has kept there, for [`resume`](Self::resume). What clients apply only while they are attached is not
    /// kept. Blocks. Only the first folder counts.
    ///
    /// # Errors
    /// The folder cannot be used: others can write to it, or another daemon keeps its configs there. A file that cannot be used is
    /// logged, and stays as it is.
    pub fn keep_applied(&self, folder: &Path) -> Result<(), BusError> {
        let (applied, errors) = Applied::open(folder)?;
        for error in errors {
            tracing::error!(target: "cbus", "a config that was kept is not applied: {error}");
        }
        let _ = self.applied.set(Arc::new(applied));
        Ok(())
    }

    /// Applies what an earlier daemon has kept, but for what clients have applied or removed since: see
    /// [`keep_applied`](Self::keep_applied). Returns how many configs that are.
    ///
    /// # Errors
    /// The bus is closed.
    pub async fn resume(&self) -> Result<usize, BusError> {
        let Some(applied) = self.applied.get() else { return Ok(0) };
        let changing = self.changing.lock().await;
        let set = applied.take_before();
        let count = set.iter().count();
        if count == 0 {
            return Ok(0);
        }
        let known = self.bus.config_set();
        for (key, entry) in set.iter() {
            if known.get(key).is_some_and(|file| file != entry && file.revision <= entry.revision) {
                let what = "what a client has applied runs instead of the config file's: raise the `revision` there if it is newer";
                tracing::warn!(target: "cbus", config_key = key, "{what}");
            }
        }
        let mut applying = Box::pin(self.bus.apply(set));
        let first = begun(&mut applying).await;
        drop(changing);
        match first {
            Poll::Ready(done) => done?,
            Poll::Pending => applying.await?,
        };
        Ok(count)
    }

    /// When the daemon started, in milliseconds since 1970.
    pub(crate) fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// The runtime, once it has started.
    pub fn runtime(&self) -> Option<&HotRuntime> {
        self.runtime.get()
    }

    /// All loaded generations, and the last unloaded ones.
    pub fn generations(&self) -> Vec<GenerationInfo> {
        self.runtime().map(HotRuntime::generations).unwrap_or_default()
    }
}

/// Begins a call of the bus: its first poll changes the bus, and all after that waits for controllers.
pub(crate) async fn begun<T>(call: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) -> Poll<T> {
    std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
}

/// Resident memory of this process in bytes; 0 if unknown.
pub fn memory_bytes() -> u64 {
    super::metrics::process::usage("self").map_or(0, |used| used.resident)
}

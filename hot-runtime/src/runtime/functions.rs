//! The functions of plugins: `runtime.hot()`.

use std::pin::pin;
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::hot::{Hot, HotTrait, ListFunctions, PREFIX};
use tokio::time::timeout;

use super::HotRuntime;
use crate::error::{Error, Result};
use crate::generation::context::Shared;
use crate::generation::registry::GenerationState;

impl HotRuntime {
    /// The bus that its plugins are on.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.inner.shared.bus
    }

    /// The functions of the plugin that implements a trait; see [`controllerbus::hot`](mod@controllerbus::hot).
    ///
    /// ```no_run
    /// # #[controllerbus::hot]
    /// # trait Greeter { fn greet(&self, name: &str) -> String; }
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use controllerbus::hot::Hot;
    /// use hot_runtime::HotRuntime;
    ///
    /// let runtime = HotRuntime::watch("greeter").await?;
    /// let greeter: Hot<dyn Greeter> = runtime.hot().await?;
    /// println!("{}", greeter.greet("Ada").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Waits until a plugin serves it: while one is being built or loaded, and then for the time that
    /// [`Builder::grace`](super::Builder::grace) sets.
    ///
    /// # Errors
    /// [`Error::NotServed`], which says what there is instead, or which plugins implement it if several do.
    pub async fn hot<T: ?Sized + HotTrait>(&self) -> Result<Hot<T>> {
        let finding = self.inner.shared.bus.hot();
        self.find(finding).await
    }

    /// The same of the plugin whose `#[hot_plugin]` has this id, for a trait that several plugins implement.
    ///
    /// # Errors
    /// As [`HotRuntime::hot`]; also if it implements another trait.
    pub async fn hot_of<T: ?Sized + HotTrait>(&self, plugin: &str) -> Result<Hot<T>> {
        let finding = self.inner.shared.bus.hot_of(plugin);
        self.find(finding).await
    }

    async fn find<T: ?Sized + HotTrait>(
        &self,
        finding: impl Future<Output = Result<Hot<T>, controllerbus::BusError>>,
    ) -> Result<Hot<T>> {
        let shared = &self.inner.shared;
        let mut finding = pin!(finding);
        let limit = shared.settings.grace;
        loop {
            match timeout(limit, &mut finding).await {
                Ok(found) => return found.map_err(|error| Error::NotServed { reason: error.to_string() }),
                Err(_) if shared.builds.is_going() && !self.inner.stop.is_cancelled() => {}
                Err(_) => {
                    let there = there_is(shared).await;
                    return Err(Error::NotServed { reason: format!("no plugin implements `{}`: {there}", T::NAME) });
                }
            }
        }
    }
}

/// What there is, for somebody who waits for something else.
async fn there_is(shared: &Shared) -> String {
    let mut said: Vec<String> =
        shared.builds.said().into_iter().map(|(plugin, what)| format!("`{plugin}` {what}")).collect();
    if let Ok(mut request) = shared.bus.request(ListFunctions {}) {
        // What stands already: whoever looks for a plugin has asked, and waited.
        while let Ok(Some(_)) = timeout(Duration::ZERO, request.next()).await {}
        said.extend(request.standing().map(|found| format!("`{}` implements `{}`", found.plugin, found.of)));
        if !request.is_idle() {
            said.push("a plugin is too busy to say what it implements".to_owned());
        }
    }
    let configs = shared.bus.configs();
    for config in configs.iter().filter(|config| config.config_id.starts_with(PREFIX)) {
        if let Some(problem) = &config.problem {
            said.push(format!("`{}` could not be started: {problem}", &config.config_id[PREFIX.len()..]));
        }
    }
    if said.is_empty() {
        let loaded = shared.registry.generations().into_iter().filter(|info| info.state == GenerationState::Serving);
        said.extend(loaded.map(|info| format!("`{}` is loaded, and has no functions", info.plugin)));
    }
    if said.is_empty() { "none is loaded".to_owned() } else { said.join("; ") }
}

//! What a plugin may do on the bus: which directives it asks and answers, which controllers it starts, which configs it
//! applies, whether it can look others up, and where the host listens for it.
//!
//! It is enforced on the host's side of the boundary. For a plugin in a process of its own that is a guarantee: it has
//! no other way to the bus. For one in the host's process, which can access all memory, it is a guard against mistakes.

use std::sync::Arc;

use controllerbus::bus::loading::{
    ApplyConfigSet, ExecController, ListControllers, ListDirectives, ListFactories, LoadConfig,
    LoadControllerWithConfig, LoadFactory, LookupConfigSet,
};
use controllerbus::bus::{Backend, BusHandle, RawRunning, Source};
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Context, Info};
use controllerbus::directive::{ANY_DIRECTIVE, AnyDirective, Directive, RawRequest, wire};
use controllerbus::error::{Code, ErrorKind};
use controllerbus::hot::{ListFunctions, PREFIX};
use controllerbus::listen::{Address, HostSocket, Sockets};
use controllerbus::{Config, ConfigSet, Error, Result, Retry, Schema};
use serde::{Deserialize, Serialize};

use crate::host::Isolation;
use crate::host::answers_only::AnswersOnly;
use crate::host::config::PluginConfig;
use crate::host::factory::{Change, changed};
use crate::host::placement::Placement;

/// What a plugin may do on the bus. Without capabilities it may do everything; with them, only what they name. An id is
/// named in full, by a prefix and `*` (`example/*`), or by `*` alone.
///
/// ```yaml
/// greeter:
///   id: hot-runtime/plugin
///   config:
///     plugin: greeter
///     isolation: process
///     capabilities: { ask: [example/name], answer: [example/greet] }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Capabilities {
    /// The directives that it may ask, by id.
    pub ask: Vec<String>,
    /// The directives that it may answer, by id. What others answer to them it reads only if it may ask them, too.
    pub answer: Vec<String>,
    /// The config ids of the controllers that it may start. `*` does not include those that load plugins, decide what
    /// plugins may do, or who may control the daemon: these must be named in full.
    pub load_controllers: Vec<String>,
    /// The config ids that it may apply; named as in `load_controllers`.
    pub apply_configs: Vec<String>,
    /// The config ids that its controllers may add factories for, while they run; named as in `load_controllers`. Whoever makes
    /// controllers of configs sees these, with what is secret in them.
    pub add_factories: Vec<String>,
    /// Whether it may look up the factories and schemas of others, and answer directives with any id.
    pub see_others: bool,
    /// The addresses at which the host may listen for it (`context.listen`), as it requests them: `127.0.0.1:8080`,
    /// `unix:/run/web.sock`, `systemd:web`.
    pub listen: Vec<String>,
}

/// Config ids with which a plugin could grant itself everything: the last two load code into the host.
const POWERFUL: [&str; 4] = [PluginConfig::ID, "controllerbus/bus/api", "hot-runtime/folder", "hot-runtime/crate"];

fn names(list: &[String], id: &str) -> bool {
    list.iter().any(|named| match named.strip_suffix('*') {
        Some(start) => id.starts_with(start),
        None => named == id,
    })
}

fn names_config(list: &[String], id: &str) -> bool {
    names(list, id) && (!POWERFUL.contains(&id) || list.iter().any(|named| named == id))
}

impl Capabilities {
    /// Allows asking a directive.
    #[must_use]
    pub fn ask(mut self, directive: impl Into<String>) -> Self {
        self.ask.push(directive.into());
        self
    }

    /// Allows answering a directive.
    #[must_use]
    pub fn answer(mut self, directive: impl Into<String>) -> Self {
        self.answer.push(directive.into());
        self
    }

    /// Allows starting controllers of a config ID.
    #[must_use]
    pub fn load_controllers(mut self, config_id: impl Into<String>) -> Self {
        self.load_controllers.push(config_id.into());
        self
    }

    /// Allows applying configs of a config ID.
    #[must_use]
    pub fn apply_configs(mut self, config_id: impl Into<String>) -> Self {
        self.apply_configs.push(config_id.into());
        self
    }

    /// Allows adding factories for a config ID.
    #[must_use]
    pub fn add_factories(mut self, config_id: impl Into<String>) -> Self {
        self.add_factories.push(config_id.into());
        self
    }

    /// Allows looking up others' factories and schemas and answering directives of every id, or not.
    #[must_use]
    pub fn see_others(mut self, allowed: bool) -> Self {
        self.see_others = allowed;
        self
    }

    /// Allows having the host listen at an address.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(address.into());
        self
    }

    /// Why a plugin may not ask a directive; `None` if it may.
    fn refusal(&self, directive: &dyn AnyDirective) -> Result<Option<String>> {
        let loads = |load: &LoadControllerWithConfig| {
            let allowed = names_config(&self.load_controllers, &load.config_id);
            (!allowed).then(|| format!("start controllers of `{}` (`load_controllers`)", load.config_id))
        };
        Ok(match directive.id() {
            LoadControllerWithConfig::ID => loads(&wire::decode(&directive.encode()?)?),
            ExecController::ID => loads(&wire::decode::<ExecController>(&directive.encode()?)?.load),
            ApplyConfigSet::ID => {
                let apply: ApplyConfigSet = wire::decode(&directive.encode()?)?;
                let set = ConfigSet::parse("the set", &apply.set)?;
                let refused = set.iter().find(|(_, entry)| !names_config(&self.apply_configs, &entry.id));
                refused.map(|(_, entry)| format!("apply configs of `{}` (`apply_configs`)", entry.id))
            }
            LookupConfigSet::ID if wire::decode::<LookupConfigSet>(&directive.encode()?)?.keep => {
                Some("keep the configs of others".to_owned())
            }
            LoadFactory::ID
            | LoadConfig::ID
            | LookupConfigSet::ID
            | ListControllers::ID
            | ListDirectives::ID
            | ListFactories::ID => (!self.see_others).then(|| "look up what others are (`see_others`)".to_owned()),
            id => (!names(&self.ask, id)).then(|| format!("ask `{id}` (`ask`)")),
        })
    }

    /// Why a plugin's controller may not answer these directives; `None` if it may.
    fn answers(&self, resolves: &[String]) -> Option<String> {
        resolves.iter().find_map(|id| match id.as_str() {
            ANY_DIRECTIVE if !self.see_others => Some("answer every directive (`see_others`)".to_owned()),
            ANY_DIRECTIVE => None,
            // Whoever has functions says so.
            ListFunctions::ID if resolves.iter().any(|other| other.starts_with(PREFIX)) => None,
            id => (!names(&self.answer, id)).then(|| format!("answer `{id}` (`answer`)")),
        })
    }
}

/// The bus as a plugin with these capabilities sees it.
pub(crate) fn guarded(bus: BusHandle, plugin: &str, placement: &Placement) -> BusHandle {
    match May::of(plugin, placement) {
        None => bus,
        Some(may) => BusHandle::new(Arc::new(Guarded { bus, may })),
    }
}

struct Guarded {
    bus: BusHandle,
    may: Arc<May>,
}

fn may_not(plugin: &str, what: &str) -> Error {
    refuse(plugin, &format!("{what}: its capabilities do not name it"))
}

fn refuse(plugin: &str, what: &str) -> Error {
    let what = format!("the plugin `{plugin}` may not {what}");
    tracing::warn!(plugin, "{what}");
    Error::new(ErrorKind::Invalid, what).with_code(Code::NOT_ALLOWED).permanent()
}

impl Backend for Guarded {
    fn add(&self, directive: Arc<dyn AnyDirective>) -> Result<Box<dyn RawRequest>> {
        match self.may.unless(|capabilities| capabilities.refusal(&*directive))? {
            Some(refused) => Err(refused),
            None => Ok(self.bus.raw(directive)?),
        }
    }

    fn add_for(&self, directive: Arc<dyn AnyDirective>, source: Source) -> Result<Box<dyn RawRequest>> {
        match self.may.unless(|capabilities| capabilities.refusal(&*directive))? {
            Some(refused) => Err(refused),
            None => self.bus.backend().add_for(directive, source),
        }
    }

    fn add_controller(
        &self,
        controller: Arc<dyn AnyController>,
        info: Info,
        source: Source,
        retry: Retry,
    ) -> Result<Box<dyn RawRunning>> {
        match self.may.unless(|capabilities| Ok(capabilities.answers(&controller.resolves())))? {
            Some(refused) => Err(refused),
            None => self.bus.backend().add_controller(self.may.within(controller), info, source, retry),
        }
    }

    fn add_factories(&self, factories: Vec<Arc<dyn Factory>>, source: Source) -> Result<Box<dyn Send + Sync>> {
        for factory in &factories {
            let id = factory.info().config_id;
            let adds = |capabilities: &Capabilities| {
                let named = names_config(&capabilities.add_factories, &id);
                Ok((!named).then(|| format!("add factories of `{id}` (`add_factories`)")))
            };
            if let Some(refused) = self.may.unless(adds)? {
                return Err(refused);
            }
        }
        self.bus.backend().add_factories(self.may.guard(factories), source)
    }
}

/// Why the host does not listen at an address for a plugin; `None` if it does. What a plugin's sandbox forbids, the
/// host does for it only if its capabilities name it.
fn listens(placement: &Placement, address: &Address) -> Option<String> {
    if let Some(capabilities) = &placement.capabilities {
        let named = names(&capabilities.listen, &address.to_string());
        return (!named).then(|| format!("listen at {address} (`listen`): its capabilities do not name it"));
    }
    let sandbox = placement.process.sandbox.as_ref().filter(|_| placement.isolation == Isolation::Process)?;
    let (is_open, what) = match address {
        Address::Unix(_) => (sandbox.unix_sockets, "Unix sockets (`unix_sockets`)"),
        _ => (sandbox.network, "a network (`network`)"),
    };
    (!is_open).then(|| {
        format!("listen at {address}: its sandbox does not allow {what}, and no capabilities name it (`listen`)")
    })
}

/// A plugin's factories, whose controllers answer only what they may, and listen only where they may. A plugin in a
/// process of its own offers only the factories in its verified manifest.
pub(crate) fn guarded_factories(
    factories: Vec<Arc<dyn Factory>>,
    plugin: &str,
    placement: &Placement,
    manifest: &[String],
) -> Vec<Arc<dyn Factory>> {
    let is_apart = placement.isolation == Isolation::Process;
    let told = |factory: &Arc<dyn Factory>| {
        let id = factory.info().config_id;
        let told = !is_apart || manifest.contains(&id);
        if !told {
            tracing::warn!(plugin, "it offers controllers of `{id}`, which its manifest does not list");
        }
        told
    };
    let kept = factories.into_iter().filter(told).collect();
    match May::of(plugin, placement) {
        None => kept,
        Some(may) => may.guard(kept),
    }
}

/// What the controllers of one plugin may do.
pub(super) struct May {
    plugin: String,
    placement: Placement,
}

impl May {
    /// `None` if they may do everything.
    fn of(plugin: &str, placement: &Placement) -> Option<Arc<Self>> {
        let is_sandboxed = placement.isolation == Isolation::Process && placement.process.sandbox.is_some();
        (placement.capabilities.is_some() || is_sandboxed)
            .then(|| Arc::new(Self { plugin: plugin.to_owned(), placement: placement.clone() }))
    }

    /// The error of what its capabilities refuse, if they do.
    fn unless(&self, refusal: impl FnOnce(&Capabilities) -> Result<Option<String>>) -> Result<Option<Error>> {
        let refused = self.placement.capabilities.as_ref().map_or(Ok(None), refusal)?;
        Ok(refused.map(|what| may_not(&self.plugin, &what)))
    }

    /// Whether a resolver of this directive reads the values of others, as those do who ask it.
    pub(super) fn reads(&self, directive: &dyn AnyDirective) -> bool {
        let capabilities = self.placement.capabilities.as_ref();
        capabilities.is_none_or(|capabilities| matches!(capabilities.refusal(directive), Ok(None)))
    }

    /// A controller that may answer what it resolves, and reads nothing that it may not ask.
    pub(super) fn within(self: &Arc<Self>, controller: Arc<dyn AnyController>) -> Arc<dyn AnyController> {
        let reads_all = |capabilities: &Capabilities| {
            controller.resolves().iter().all(|id| id != ANY_DIRECTIVE && names(&capabilities.ask, id))
        };
        if self.placement.capabilities.as_ref().is_none_or(reads_all) {
            return controller;
        }
        Arc::new(AnswersOnly::new(controller, self))
    }

    #[cfg(test)]
    pub(super) fn with(capabilities: Capabilities) -> Self {
        let placement = Placement { capabilities: Some(capabilities), ..Placement::default() };
        Self { plugin: "plugin".to_owned(), placement }
    }

    /// Factories whose controllers do no more.
    fn guard(self: &Arc<Self>, factories: Vec<Arc<dyn Factory>>) -> Vec<Arc<dyn Factory>> {
        factories.into_iter().map(|factory| changed(factory, self)).collect()
    }
}

/// A controller's sockets, limited to where it may listen.
struct GuardedSockets {
    sockets: Arc<dyn Sockets>,
    may: Arc<May>,
}

impl Sockets for GuardedSockets {
    fn listen(&self, address: Address) -> BoxFuture<'static, Result<HostSocket>> {
        match listens(&self.may.placement, &address) {
            None => self.sockets.listen(address),
            Some(what) => Box::pin(std::future::ready(Err(refuse(&self.may.plugin, &what)))),
        }
    }
}

impl Change for May {
    fn construct(
        self: Arc<Self>,
        factory: Arc<dyn Factory>,
        config: Vec<u8>,
        context: Context,
    ) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let (sockets, may) = (Arc::clone(context.sockets()), Arc::clone(&self));
            let context = context.with_sockets(Arc::new(GuardedSockets { sockets, may }));
            let controller = factory.construct(config, context).await?;
            match self.unless(|capabilities| Ok(capabilities.answers(&controller.resolves())))? {
                None => Ok(self.within(controller)),
                Some(refused) => {
                    controller.close().await;
                    Err(refused)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use controllerbus::controller::SwapMode;

    use super::*;
    use crate::host::with_value_types;

    fn capabilities() -> Capabilities {
        Capabilities {
            ask: vec!["example/greet".to_owned(), "open/*".to_owned()],
            answer: vec!["example/name".to_owned()],
            load_controllers: vec!["*".to_owned()],
            apply_configs: vec!["example/*".to_owned(), PluginConfig::ID.to_owned()],
            add_factories: vec!["example/*".to_owned()],
            see_others: false,
            listen: vec!["127.0.0.1:*".to_owned(), "unix:/run/web.sock".to_owned()],
        }
    }

    /// A factory that says everything that one can say.
    struct Outspoken;

    impl Factory for Outspoken {
        fn info(&self) -> Info {
            Info::new("outspoken", semver::Version::new(1, 0, 0), "example/outspoken")
        }
        fn schema(&self) -> String {
            "{\"title\":\"Outspoken\"}".to_owned()
        }
        fn swap_mode(&self) -> SwapMode {
            SwapMode::StopFirst
        }
        fn persist(&self) -> Option<Duration> {
            Some(Duration::from_secs(3))
        }
        fn ends_when_cancelled(&self) -> bool {
            true
        }
        fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
            Box::pin(async { Err(controllerbus::Error::msg("it only speaks")) })
        }
    }

    #[test]
    fn what_stands_before_a_factory_says_what_that_says() {
        let placement = Placement { capabilities: Some(capabilities()), ..Placement::default() };
        let guarded = guarded_factories(vec![Arc::new(Outspoken)], "one", &placement, &[]).remove(0);
        let types = [("example/greet".to_owned(), "greeter::Greeting".to_owned())];
        let typed = with_value_types(vec![Arc::new(Outspoken)], &types).remove(0);
        assert_eq!(typed.info().value_types, types);
        for factory in [guarded, typed] {
            assert_eq!(factory.info().config_id, "example/outspoken");
            assert_eq!(factory.schema(), Outspoken.schema());
            assert_eq!(factory.swap_mode(), SwapMode::StopFirst);
            assert_eq!((factory.persist(), factory.ends_when_cancelled()), (Outspoken.persist(), true));
        }
    }

    #[test]
    fn a_plugin_has_the_host_listen_where_it_may_and_not_beyond_its_sandbox() {
        let at = |address: &str| address.parse::<Address>().expect("an address");
        let named = Placement { capabilities: Some(capabilities()), ..Placement::default() };
        assert_eq!(listens(&named, &at("127.0.0.1:80")), None);
        assert_eq!(listens(&named, &at("/run/web.sock")), None);
        for address in ["0.0.0.0:80", "systemd:web", "/run/other.sock"] {
            assert!(listens(&named, &at(address)).is_some_and(|what| what.contains("`listen`")), "{address}");
        }
        let mut placement = Placement { isolation: Isolation::Process, ..Placement::default() };
        assert_eq!(listens(&placement, &at("0.0.0.0:80")), None);
        placement.process.sandbox = Some(crate::host::Sandbox::default());
        assert!(listens(&placement, &at("0.0.0.0:80")).is_some_and(|what| what.contains("`network`")));
        assert!(listens(&placement, &at("/run/web.sock")).is_some_and(|what| what.contains("`unix_sockets`")));
        placement.capabilities = Some(capabilities());
        assert_eq!(listens(&placement, &at("127.0.0.1:80")), None);
    }

    fn refused(directive: &dyn AnyDirective) -> bool {
        capabilities().refusal(directive).expect("it is understood").is_some()
    }

    #[test]
    fn a_plugin_starts_and_applies_what_it_may_and_never_what_would_give_it_more() {
        let load = |id: &str| LoadControllerWithConfig::by_id(id, "{}");
        assert!(!refused(&load("anything")));
        for powerful in POWERFUL {
            assert!(refused(&load(powerful)), "{powerful}");
        }
        assert!(POWERFUL.contains(&crate::FolderConfig::ID) && POWERFUL.contains(&crate::CrateConfig::ID));
        assert!(refused(&ExecController { load: load(PluginConfig::ID) }));
        let apply = |id: &str| ApplyConfigSet { set: format!("a:\n  id: example/one\nb:\n  id: {id}\n") };
        assert!(!refused(&apply("example/two")) && !refused(&apply(PluginConfig::ID)));
        assert!(refused(&apply("other")) && refused(&apply("controllerbus/bus/api")));
        assert!(refused(&LoadConfig { config_id: "example/one".to_owned() }));
    }

    #[test]
    fn ids_are_named_whole_or_by_their_beginning() {
        let list = ["example/greet".to_owned(), "open/*".to_owned()];
        for (id, named) in [("example/greet", true), ("example/greeting", false), ("open/door", true), ("open", false)]
        {
            assert_eq!(names(&list, id), named, "{id}");
        }
        assert!(!names(&[], "anything") && names(&["*".to_owned()], "anything"));
        assert_eq!(capabilities().answers(&["example/name".to_owned()]), None);
        assert!(capabilities().answers(&["example/name".to_owned(), "example/greet".to_owned()]).is_some());
        assert!(capabilities().answers(&[ANY_DIRECTIVE.to_owned()]).is_some());
        let functions = ["functions/greeter".to_owned(), ListFunctions::ID.to_owned()];
        assert!(capabilities().answers(&functions).is_some_and(|what| what.contains("`functions/greeter`")));
        assert_eq!(capabilities().answer("functions/*").answers(&functions), None);
    }
}

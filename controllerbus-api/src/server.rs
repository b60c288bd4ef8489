//! Answers the calls of the bus API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use controllerbus::{BusError, ConfigSet};
use hot_runtime::text::{coloured_text, escaped};
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Level;

use super::auth::{Caller, Door, Way};
use super::pages::Pages;
use super::proto::bus_api_server::BusApi;
use super::proto::{
    AskRequest, AskResponse, Config, Event, ExecuteRequest, ExecuteResponse, ExportConfigsRequest,
    ExportConfigsResponse, GetInfoRequest, Info, ListConfigsRequest, ListConfigsResponse, ListControllersRequest,
    ListControllersResponse, ListDirectivesRequest, ListDirectivesResponse, ListFactoriesRequest,
    ListFactoriesResponse, ListPluginsRequest, ListPluginsResponse, ListReloadsRequest, ListReloadsResponse, LogLine,
    OpenPageRequest, OpenPageResponse, Plugin, ReloadPluginRequest, ReloadPluginResponse, RemoveConfigsRequest,
    RemoveConfigsResponse, RollBackPluginRequest, RollBackPluginResponse, Timeline, UnloadPluginRequest,
    UnloadPluginResponse, WatchEventsRequest, WatchLogsRequest,
};
use super::state;
use super::streams::stream;
use crate::daemon::{Applied, Host, begun};
use crate::text;

/// What the calls and the page operate on.
#[derive(Clone)]
pub struct Service {
    pub host: Arc<Host>,
    pub allow_exec: bool,
    pub allow_control: bool,
    pub end: CancellationToken,
    /// The page on its own port, once `cbus page` has asked for it.
    pub pages: Arc<Pages>,
}

/// How long `Execute` waits for a controller to get to the first wait of its execution.
const BEGUN: Duration = Duration::from_secs(10);

/// How long a request waits for controllers that are about to run.
const STARTS: Duration = Duration::from_secs(2);

/// The caller, as the door has determined it.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("the caller is unknown"))
}

impl Service {
    pub fn info(&self) -> Info {
        self.host.info(self.allow_exec, self.allow_control)
    }

    fn may_execute(&self) -> Result<(), Status> {
        if self.allow_exec {
            return Ok(());
        }
        Err(Status::permission_denied(
            "this daemon does not allow clients to execute config sets or ask directives; start it with --allow-exec, or set \
             `allow_exec: true` in the config of controllerbus/bus/api",
        ))
    }

    fn may_control(&self) -> Result<(), Status> {
        if self.allow_control {
            return Ok(());
        }
        Err(Status::permission_denied(
            "this daemon does not allow clients to reload or unload plugins; start it with --allow-control, or set \
             `allow_control: true` in the config of controllerbus/bus/api",
        ))
    }

    /// Rebuilds a plugin and swaps it in, if that is allowed.
    pub async fn reload(&self, id: &str, caller: &Caller) -> Result<ReloadPluginResponse, Status> {
        self.may_control()?;
        caller.audit(format_args!("reloads the plugin {}", escaped(id)));
        let runtime = self.host.runtime().ok_or_else(starting)?;
        let rebuilt = runtime.rebuild(id).await.map_err(|error| match &error {
            hot_runtime::Error::UnknownPlugin { .. } if self.host.plugins().iter().any(|plugin| plugin.id == id) => {
                Status::failed_precondition(format!(
                    "`{id}` was loaded from a file, so there are no sources to rebuild; put a newer file into the plugins directory"
                ))
            }
            _ => status(error),
        });
        match rebuilt? {
            Some(report) => Ok(ReloadPluginResponse {
                unchanged: false,
                generation: report.to,
                timeline: Some(Timeline::from(&report.timeline)),
            }),
            None => {
                let plugins = self.host.plugins();
                let serving = plugins.iter().find(|plugin| plugin.id == id).and_then(Plugin::serving);
                Ok(ReloadPluginResponse {
                    unchanged: true,
                    generation: serving.map_or(0, |found| found.number),
                    timeline: None,
                })
            }
        }
    }

    /// Removes a plugin from the bus and unloads it, if that is allowed.
    pub async fn unload(&self, id: &str, caller: &Caller) -> Result<UnloadPluginResponse, Status> {
        self.may_control()?;
        caller.audit(format_args!("unloads the plugin {}", escaped(id)));
        let runtime = self.host.runtime().ok_or_else(starting)?;
        let report = runtime.unload(id).await.map_err(status)?;
        Ok(UnloadPluginResponse {
            generation: report.generation,
            unload_ms: crate::text::ms(report.took),
            unmapped: report.unmapped,
            left: report.left.unwrap_or_default(),
        })
    }

    /// Goes back to an earlier generation of a plugin, if that is allowed: to that of a build, or the previous one.
    pub async fn roll_back(&self, id: &str, build: &str, caller: &Caller) -> Result<RollBackPluginResponse, Status> {
        self.may_control()?;
        caller.audit(format_args!("rolls the plugin {} back", escaped(id)));
        let runtime = self.host.runtime().ok_or_else(starting)?;
        let report = runtime.roll_back(id, (!build.is_empty()).then_some(build)).await.map_err(status)?;
        Ok(RollBackPluginResponse { generation: report.to, timeline: Some(Timeline::from(&report.timeline)) })
    }

    /// Asks a directive, if that is allowed; what comes of it, until the receiver is dropped.
    pub async fn asked<T: Send + 'static>(
        &self,
        request: &AskRequest,
        caller: &Caller,
        show: impl Fn(AskResponse) -> T + Send + 'static,
    ) -> Result<ReceiverStream<T>, Status> {
        let ends = [self.end.clone(), caller.revoked.clone()];
        // What a daemon knows of its fleet is what it shows anyway.
        if !crate::fleet::only_looks(&request.directive) {
            self.may_execute()?;
            caller.audit(format_args!("asks {}", escaped(&request.directive)));
        }
        let mut request = request.clone();
        // Where only its plugin knows the type, the plugin's manifest says that it is a call.
        request.once |= crate::ask::is_call(&self.host.generations(), &request.directive);
        self.started(&request.directive).await;
        let mut asked = crate::ask::ask(&self.host.bus, &request)?;
        Ok(stream(ends, |sender| async move {
            while let Some(event) = crate::ask::next(&mut asked).await {
                if sender.send(show(event)).await.is_err() {
                    return;
                }
            }
        }))
    }

    /// Waits for a moment where no controller resolves a directive, but the controller of a config is about to run and may: after a
    /// start, and after a config has changed.
    async fn started(&self, directive: &str) {
        let mut changes = self.host.bus.changes();
        let about_to_run = |found: &Config| found.state == state::CONSTRUCTING || found.state == state::QUEUED;
        let starting = async {
            while !crate::ask::is_resolved(&self.host.bus, directive)
                && self.host.configs().iter().any(about_to_run)
                && changes.changed().await.is_ok()
            {}
        };
        let _ = tokio::time::timeout(STARTS, starting).await;
    }

    /// What can be asked, with the JSON schemas of the fields, if asking is allowed.
    pub fn askable(&self) -> Result<BTreeMap<String, serde_json::Value>, Status> {
        self.may_execute()?;
        Ok(crate::ask::askable(&self.host.bus, &self.host.generations()))
    }

    /// Changes what is kept of what clients have applied, if it is kept.
    async fn keep(
        &self,
        change: impl FnOnce(&Applied) -> controllerbus::Result<()> + Send + 'static,
    ) -> Result<(), Status> {
        let Some(applied) = self.host.applied.get().cloned() else { return Ok(()) };
        let changed = tokio::task::spawn_blocking(move || change(&applied)).await;
        changed.unwrap_or_else(|panic| Err(controllerbus::Error::msg(panic))).map_err(|error| {
            tracing::error!(target: "cbus", "a daemon that is started anew will not know this: {error}");
            Status::internal(format!("it is done, but a daemon that is started anew will not know it: {error}"))
        })
    }

    /// Applies a set, and keeps it where that is wanted.
    async fn apply_kept(self, set: ConfigSet) -> Result<(), Status> {
        let (kept, bus) = (set.clone(), self.host.bus.clone());
        let mut applying = Box::pin(async move { bus.apply(set).await });
        let changing = self.host.changing.lock().await;
        let first = match begun(&mut applying).await {
            Poll::Ready(done) => Some(done.map_err(|error| not_applied(&error))?),
            Poll::Pending => None,
        };
        let told = self.keep(move |applied| applied.keep(&kept)).await;
        drop(changing);
        if first.is_none() {
            applying.await.map_err(|error| not_applied(&error))?;
        }
        told
    }

    /// Removes a config, and what is kept of it. Whether it was there, and whether a daemon that is started anew knows it.
    async fn remove_kept(&self, key: String) -> (bool, Result<(), Status>) {
        let (bus, own) = (self.host.bus.clone(), key.clone());
        let mut removing = Box::pin(async move { bus.remove_config(&own).await });
        let changing = self.host.changing.lock().await;
        let first = begun(&mut removing).await;
        let told = self.keep(move |applied| applied.forget(&key)).await;
        drop(changing);
        let was_there = match first {
            Poll::Ready(was_there) => was_there,
            Poll::Pending => removing.await,
        };
        (was_there, told)
    }

    /// The states of some keys, and whether all of them have settled: a controller that runs has begun to, because until
    /// then it may fail at once.
    fn settled(&self, keys: &[String]) -> (Vec<Config>, bool) {
        let configs: Vec<Config> =
            self.host.configs().into_iter().filter(|config| keys.contains(&config.key)).collect();
        let controllers = self.host.bus.controllers();
        let begins = |id: u64| controllers.iter().any(|controller| controller.id.0 == id && !controller.begun);
        let settled = configs.iter().all(|config| match config.state.as_str() {
            state::CONSTRUCTING => false,
            state::RUNNING => !begins(config.controller),
            _ => true,
        });
        (configs, settled)
    }
}

/// Does something to its end, even if nobody waits for it any more.
async fn in_any_case<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

fn not_applied(error: &BusError) -> Status {
    let status = Status::invalid_argument(coloured_text(&error.to_string(), false));
    match error.code() {
        Some(code) => with_code(status, code),
        None => status,
    }
}

fn starting() -> Status {
    Status::unavailable("the daemon is still building and loading its plugins")
}

fn status(error: hot_runtime::Error) -> Status {
    let status = match &error {
        hot_runtime::Error::UnknownPlugin { .. } => Status::not_found(error.to_string()),
        hot_runtime::Error::Closed => Status::unavailable(error.to_string()),
        _ => Status::failed_precondition(text::plain(&error.with_causes().to_string())),
    };
    with_code(status, error.code())
}

/// The header in which a refused call has the code of what it was refused for.
pub(crate) const CODE_HEADER: &str = "controllerbus-code";

fn with_code(mut status: Status, code: controllerbus::error::Code) -> Status {
    if let Ok(code) = code.to_string().parse() {
        status.metadata_mut().insert(CODE_HEADER, code);
    }
    status
}

type Streamed<T> = Result<Response<ReceiverStream<Result<T, Status>>>, Status>;

#[tonic::async_trait]
impl BusApi for Service {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<Info>, Status> {
        Ok(Response::new(self.info()))
    }

    async fn list_plugins(&self, _: Request<ListPluginsRequest>) -> Result<Response<ListPluginsResponse>, Status> {
        Ok(Response::new(ListPluginsResponse { plugins: self.host.plugins() }))
    }

    async fn list_controllers(
        &self,
        _: Request<ListControllersRequest>,
    ) -> Result<Response<ListControllersResponse>, Status> {
        Ok(Response::new(ListControllersResponse { controllers: self.host.controllers() }))
    }

    async fn list_directives(
        &self,
        _: Request<ListDirectivesRequest>,
    ) -> Result<Response<ListDirectivesResponse>, Status> {
        Ok(Response::new(ListDirectivesResponse { directives: self.host.directives() }))
    }

    async fn list_configs(&self, _: Request<ListConfigsRequest>) -> Result<Response<ListConfigsResponse>, Status> {
        Ok(Response::new(ListConfigsResponse { configs: self.host.configs() }))
    }

    async fn export_configs(
        &self,
        request: Request<ExportConfigsRequest>,
    ) -> Result<Response<ExportConfigsResponse>, Status> {
        let is_own = request.extensions().get::<Arc<Door>>().is_some_and(|door| matches!(door.way, Way::Socket));
        // Whoever reaches the socket could read the daemon's memory as well.
        if !is_own && !self.allow_exec {
            return Err(Status::permission_denied(
                "this daemon does not give its configs, which may have secrets in them, to clients over TCP; ask it over its socket, \
                 start it with --allow-exec, or set `allow_exec: true` in the config of controllerbus/bus/api",
            ));
        }
        caller(&request)?.audit(format_args!("exports the configs"));
        Ok(Response::new(ExportConfigsResponse { config_set: self.host.config_set().to_yaml() }))
    }

    async fn list_factories(
        &self,
        _: Request<ListFactoriesRequest>,
    ) -> Result<Response<ListFactoriesResponse>, Status> {
        Ok(Response::new(ListFactoriesResponse { factories: self.host.factories() }))
    }

    async fn list_reloads(&self, _: Request<ListReloadsRequest>) -> Result<Response<ListReloadsResponse>, Status> {
        Ok(Response::new(ListReloadsResponse { reloads: self.host.journal.reloads() }))
    }

    type WatchEventsStream = ReceiverStream<Result<Event, Status>>;

    async fn watch_events(&self, request: Request<WatchEventsRequest>) -> Streamed<Event> {
        let ends = [self.end.clone(), caller(&request)?.revoked];
        let WatchEventsRequest { past, end } = request.into_inner();
        let (known, mut coming) = self.host.journal.events();
        Ok(Response::new(stream(ends, |sender| async move {
            let mut last = known.last().map_or(0, |event| event.number);
            for event in known.into_iter().filter(|_| past) {
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if end {
                return;
            }
            loop {
                match coming.recv().await {
                    Ok(event) if event.number <= last => {}
                    Ok(event) => {
                        last = event.number;
                        if sender.send(Ok(event)).await.is_err() {
                            return;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        })))
    }

    type WatchLogsStream = ReceiverStream<Result<LogLine, Status>>;

    async fn watch_logs(&self, request: Request<WatchLogsRequest>) -> Streamed<LogLine> {
        let ends = [self.end.clone(), caller(&request)?.revoked];
        let WatchLogsRequest { follow, tail, plugin, level } = request.into_inner();
        let most = match level.as_str() {
            "" => Level::TRACE,
            text => text.parse().map_err(|_| Status::invalid_argument(format!("`{text}` is not a log level")))?,
        };
        let wanted = move |line: &LogLine| {
            (plugin.is_empty() || line.plugin == plugin) && line.level.parse::<Level>().is_ok_and(|level| level <= most)
        };
        let (known, mut coming) = self.host.journal.lines();
        Ok(Response::new(stream(ends, |sender| async move {
            let mut last = known.last().map_or(0, |line| line.number);
            let known: Vec<LogLine> = known.into_iter().filter(|line| wanted(line)).collect();
            let skip = known.len().saturating_sub(tail as usize);
            for line in known.into_iter().skip(skip) {
                if sender.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            if !follow {
                return;
            }
            loop {
                match coming.recv().await {
                    Ok(line) if line.number <= last => {}
                    Ok(line) => {
                        last = line.number;
                        if wanted(&line) && sender.send(Ok(line)).await.is_err() {
                            return;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        })))
    }

    type AskStream = ReceiverStream<Result<AskResponse, Status>>;

    async fn ask(&self, request: Request<AskRequest>) -> Streamed<AskResponse> {
        let caller = caller(&request)?;
        self.asked(&request.into_inner(), &caller, Ok).await.map(Response::new)
    }

    type ExecuteStream = ReceiverStream<Result<ExecuteResponse, Status>>;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Streamed<ExecuteResponse> {
        self.may_execute()?;
        let caller = caller(&request)?;
        let ends = [self.end.clone(), caller.revoked.clone()];
        let ExecuteRequest { config_set, name, attach } = request.into_inner();
        let set = ConfigSet::parse(&name, &config_set).map_err(|error| {
            let status = Status::invalid_argument(coloured_text(&error.to_string(), false));
            with_code(status, controllerbus::error::Code::CONFIG_SYNTAX)
        })?;
        let keys: Vec<String> = set.iter().map(|(key, _)| key.to_owned()).collect();
        caller.audit(format_args!("applies the configs {}", escaped(&keys.join(", "))));
        let service = self.clone();
        // Configs that others have applied for the same keys keep running when this client leaves.
        let owner = attach.then(|| self.host.bus.config_owner());
        Ok(Response::new(stream(ends, |sender| async move {
            let mut changes = service.host.bus.changes();
            // The owner is dropped with this task, however it ends.
            let applied = match &owner {
                Some(owner) => owner.apply(set).await.map(drop).map_err(|error| not_applied(&error)),
                // It goes on if the client leaves.
                None => in_any_case(service.clone().apply_kept(set)).await,
            };
            if let Err(error) = applied {
                let _ = sender.send(Err(error)).await;
                return;
            }
            let mut told = Vec::new();
            let mut patience = std::pin::pin!(tokio::time::sleep(BEGUN));
            let mut is_over = false;
            loop {
                changes.borrow_and_update();
                let (configs, settled) = service.settled(&keys);
                if configs != told {
                    told.clone_from(&configs);
                    if sender.send(Ok(ExecuteResponse { configs })).await.is_err() {
                        return;
                    }
                }
                if !attach && (settled || is_over) {
                    return;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() {
                        return;
                    },
                    () = &mut patience, if !is_over => is_over = true,
                }
            }
        })))
    }

    async fn remove_configs(
        &self,
        request: Request<RemoveConfigsRequest>,
    ) -> Result<Response<RemoveConfigsResponse>, Status> {
        self.may_execute()?;
        let caller = caller(&request)?;
        let keys = request.into_inner().keys;
        keys.iter().for_each(|key| caller.audit(format_args!("removes the config {}", escaped(key))));
        let service = self.clone();
        let removed = in_any_case(async move {
            let (mut removed, mut problem) = (Vec::new(), Ok(()));
            for key in keys {
                let (was_there, forgotten) = service.remove_kept(key.clone()).await;
                removed.extend(was_there.then_some(key));
                problem = problem.and(forgotten);
            }
            problem.map(|()| removed)
        });
        Ok(Response::new(RemoveConfigsResponse { removed: removed.await? }))
    }

    async fn reload_plugin(
        &self,
        request: Request<ReloadPluginRequest>,
    ) -> Result<Response<ReloadPluginResponse>, Status> {
        let caller = caller(&request)?;
        self.reload(&request.into_inner().id, &caller).await.map(Response::new)
    }

    async fn roll_back_plugin(
        &self,
        request: Request<RollBackPluginRequest>,
    ) -> Result<Response<RollBackPluginResponse>, Status> {
        let caller = caller(&request)?;
        let RollBackPluginRequest { id, build } = request.into_inner();
        self.roll_back(&id, &build, &caller).await.map(Response::new)
    }

    async fn unload_plugin(
        &self,
        request: Request<UnloadPluginRequest>,
    ) -> Result<Response<UnloadPluginResponse>, Status> {
        let caller = caller(&request)?;
        self.unload(&request.into_inner().id, &caller).await.map(Response::new)
    }

    async fn open_page(&self, request: Request<OpenPageRequest>) -> Result<Response<OpenPageResponse>, Status> {
        let caller = caller(&request)?;
        let door = request.extensions().get::<Arc<Door>>().cloned();
        let failed = |error: std::io::Error| Status::internal(format!("the page cannot be opened: {error}"));
        // A browser can use this door itself, unless it is a Unix socket.
        let (door, port) = match door {
            Some(door) if matches!(door.way, Way::Tcp { .. }) => (door, 0),
            _ => self.pages.open(self).await.map_err(failed)?,
        };
        let code = door.sessions.code(caller).map_err(failed)?;
        Ok(Response::new(OpenPageResponse { port: port.into(), code }))
    }
}

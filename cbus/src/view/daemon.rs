//! A daemon as what the view shows: a task follows it over its API, and connects again when it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use controllerbus_api::__private::now_ms;
use controllerbus_api::Connection;
use controllerbus_api::client::Client;
use controllerbus_api::proto::{
    Config, Controller, Directive, Event, GetInfoRequest, Info, ListConfigsRequest, ListControllersRequest,
    ListDirectivesRequest, ListPluginsRequest, LogLine, Plugin, ReloadPluginRequest, RollBackPluginRequest,
    WatchEventsRequest, WatchLogsRequest,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::keys::Want;
use super::model::Shown;
use super::source::{Job, Source, open_page};
use super::ui::Ui;
use crate::problems::{Kind, of_text};

/// How often the state is read if nothing is told.
const OFTEN: Duration = Duration::from_secs(1);

/// The pause between two reads of the state.
const PAUSE: Duration = Duration::from_millis(150);

/// How long to wait before connecting again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How much that it told may wait to be shown, as while an editor has the terminal; more waits at the daemon, which has its own limits.
const NEWS: usize = 256;

/// How many of the log lines that a daemon has kept are read at first.
const TAIL: u32 = 1000;

/// A daemon.
pub struct Daemon {
    to: Connection,
    news: Receiver<News>,
    /// The first one that has not been taken in.
    next: Option<News>,
    wants_directives: Arc<AtomicBool>,
    /// The process whose lines are shown.
    process: u32,
    _following: AbortOnDropHandle<()>,
}

/// What the daemon told.
enum News {
    State(Box<State>),
    Line(LogLine),
    Event(Event),
    /// It does not answer.
    Away(String),
}

struct State {
    info: Info,
    plugins: Vec<Plugin>,
    configs: Vec<Config>,
    controllers: Vec<Controller>,
    /// Only if they were wanted.
    directives: Vec<Directive>,
}

impl Daemon {
    /// Follows a daemon until this is dropped.
    pub fn follow(to: Connection) -> Self {
        let (sender, news) = channel(NEWS);
        let wants_directives = Arc::new(AtomicBool::new(false));
        let following = tokio::spawn(follow(to.clone(), sender, Arc::clone(&wants_directives)));
        Self { to, news, next: None, wants_directives, process: 0, _following: AbortOnDropHandle::new(following) }
    }

    fn take_in(&mut self, shown: &mut Shown, news: News) {
        match news {
            News::Away(why) => {
                let since = shown.away.as_ref().map_or_else(now_ms, |(_, since)| *since);
                shown.away = Some((why, since));
            }
            News::State(state) => {
                let State { info, plugins, configs, controllers, directives } = *state;
                shown.away = None;
                (shown.directive_count, shown.value_count) = (info.directives as usize, info.values as usize);
                shown.address = Some(format!("cbus {}, process {}", info.version, info.process_id));
                if self.process != info.process_id {
                    self.process = info.process_id;
                    // What the one before said of its builds is no longer true.
                    shown.compiler.clear();
                }
                shown.compiler.retain(|id, _| plugins.iter().any(|plugin| plugin.id == *id));
                (shown.plugins, shown.configs, shown.controllers) = (plugins, configs, controllers);
                shown.directives = directives;
            }
            News::Line(line) => shown.add_lines([line]),
            News::Event(event) => {
                // The compiler's errors are the plugin's error.
                match event.kind.as_str() {
                    "built" => {
                        let mut found = event.text.split_once('\n').map(|(_, said)| of_text(&event.plugin, said));
                        found.iter_mut().flatten().for_each(|problem| problem.kind = Kind::Warning);
                        shown.compiler.insert(event.plugin.clone(), found.unwrap_or_default());
                    }
                    "build_failed" => drop(shown.compiler.remove(&event.plugin)),
                    _ => {}
                }
                shown.news.push(event);
            }
        }
    }
}

impl Source for Daemon {
    async fn changed(&mut self) {
        if self.next.is_none() {
            self.next = self.news.recv().await;
        }
        if self.next.is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn fill(&mut self, shown: &mut Shown, ui: &Ui) {
        self.wants_directives.store(ui.shows_directives, Ordering::Relaxed);
        // A flood must not keep it from being drawn.
        for _ in 0..=4 * NEWS {
            let Some(news) = self.next.take().or_else(|| self.news.try_recv().ok()) else { break };
            self.take_in(shown, news);
        }
        shown.now_ms = now_ms();
    }

    fn ask(&mut self, want: &Want, shown: &Shown) -> Option<Job> {
        let to = self.to.clone();
        match want {
            Want::Rebuild(plugin) => {
                let all = shown.plugins.iter().map(|plugin| plugin.id.clone());
                let ids: Vec<String> = plugin.clone().map_or_else(|| all.collect(), |plugin| vec![plugin]);
                Some(Box::pin(async move { told(rebuild(&to, &ids).await) }))
            }
            Want::RollBack(plugin) => {
                let plugin = plugin.clone();
                Some(Box::pin(async move { told(roll_back(&to, plugin).await) }))
            }
            Want::Page => Some(Box::pin(open_page(to))),
            Want::Pause => {
                let what = "only `cbus dev` pauses builds: a daemon builds when it sees a change";
                Some(Box::pin(async move { Some(what.to_owned()) }))
            }
            Want::Level(_) => {
                let what = "only what the daemon logs is shown: its own --log says how much that is";
                Some(Box::pin(async move { Some(what.to_owned()) }))
            }
            Want::Nothing | Want::End | Want::Edit => None,
        }
    }
}

/// The error's text, or what was done.
fn told(result: Result<String, controllerbus_api::Error>) -> Option<String> {
    Some(result.unwrap_or_else(|error| error.to_string()))
}

async fn rebuild(to: &Connection, ids: &[String]) -> Result<String, controllerbus_api::Error> {
    let mut client = to.connect().await?;
    let mut said = Vec::new();
    for id in ids {
        match client.reload_plugin(ReloadPluginRequest { id: id.clone() }).await {
            Ok(answer) if answer.get_ref().unchanged => said.push(format!("no changes in {id}")),
            Ok(answer) => said.push(format!("{id}: generation {} is serving", answer.get_ref().generation)),
            Err(status) => said.push(to.explain(&status).to_string()),
        }
    }
    said.dedup();
    Ok(said.join("; "))
}

async fn roll_back(to: &Connection, id: String) -> Result<String, controllerbus_api::Error> {
    let mut client = to.connect().await?;
    let asked = client.roll_back_plugin(RollBackPluginRequest { id: id.clone(), build: String::new() }).await;
    let back = asked.map_err(|status| to.explain(&status))?.into_inner();
    Ok(format!("{id}: generation {} is serving", back.generation))
}

/// Tells what a daemon shows, over as many connections as it takes.
async fn follow(to: Connection, news: Sender<News>, wants_directives: Arc<AtomicBool>) {
    let mut last = Last::default();
    while !news.is_closed() {
        let why = match to.connect().await {
            Ok(client) => match follow_once(client, &news, &wants_directives, &mut last).await {
                Ok(()) => format!("the daemon at {} went away", to.address()),
                Err(status) => to.explain(&status).to_string(),
            },
            Err(error) => error.to_string(),
        };
        let _ = news.send(News::Away(why)).await;
        sleep(AGAIN).await;
    }
}

/// What was told last, so that nothing is told again over the next connection.
#[derive(Default)]
struct Last {
    process: u32,
    line: u64,
    event: u64,
}

async fn follow_once(
    mut client: Client,
    news: &Sender<News>,
    wants_directives: &AtomicBool,
    last: &mut Last,
) -> Result<(), Status> {
    let state = within(read(&mut client, wants_directives)).await?;
    if state.info.process_id != last.process {
        // A new one counts from 1.
        *last = Last { process: state.info.process_id, ..Last::default() };
    }
    let _ = news.send(News::State(Box::new(state))).await;
    let logs = WatchLogsRequest { follow: true, tail: TAIL, ..WatchLogsRequest::default() };
    let mut lines = within(client.watch_logs(logs)).await?.into_inner();
    let mut events = within(client.watch_events(WatchEventsRequest { past: true, end: false })).await?.into_inner();
    let mut due = Instant::now() + OFTEN;
    loop {
        tokio::select! {
            line = lines.message() => {
                let Some(line) = line? else { return Ok(()) };
                if line.number > last.line {
                    last.line = line.number;
                    let _ = news.send(News::Line(line)).await;
                }
            }
            event = events.message() => {
                let Some(event) = event? else { return Ok(()) };
                if event.number > last.event {
                    last.event = event.number;
                    let _ = news.send(News::Event(event)).await;
                    // The state has changed, most likely; not read for each event of a flood.
                    due = due.min(Instant::now() + PAUSE);
                }
            }
            () = sleep_until(due) => {
                let state = within(read(&mut client, wants_directives)).await?;
                if news.send(News::State(Box::new(state))).await.is_err() {
                    return Ok(());
                }
                due = Instant::now() + OFTEN;
            }
        }
    }
}

/// An answer within its limit: a daemon that hangs is away.
async fn within<T>(asking: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let limit = || Status::deadline_exceeded(format!("it has not answered for {} s", LIMIT.as_secs()));
    tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(|_| Err(limit()))
}

async fn read(client: &mut Client, wants_directives: &AtomicBool) -> Result<State, Status> {
    let info = client.get_info(GetInfoRequest {}).await?.into_inner();
    let plugins = client.list_plugins(ListPluginsRequest {}).await?.into_inner().plugins;
    let configs = client.list_configs(ListConfigsRequest {}).await?.into_inner().configs;
    let controllers = client.list_controllers(ListControllersRequest {}).await?.into_inner().controllers;
    let directives = if wants_directives.load(Ordering::Relaxed) {
        client.list_directives(ListDirectivesRequest {}).await?.into_inner().directives
    } else {
        Vec::new()
    };
    Ok(State { info, plugins, configs, controllers, directives })
}

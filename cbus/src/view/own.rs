//! The host in this process as what the view shows.

use std::sync::Arc;
use std::time::Duration;

use controllerbus_api::__private::now_ms;
use controllerbus_api::logs::{Filter, FilterHandle};
use controllerbus_api::proto::{Event, LogLine};
use controllerbus_api::{Connection, Host};
use hot_runtime::HotRuntime;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::keys::Want;
use super::model::Shown;
use super::source::{Job, Source, open_page};
use super::ui::{LEVELS, Ui};
use crate::problems::Problems;

/// How often the time of a running build is drawn.
const TICK: Duration = Duration::from_millis(200);

/// The host of this process.
pub struct Own {
    host: Arc<Host>,
    problems: Arc<Problems>,
    filter: Filter,
    handle: FilterHandle,
    lines: Receiver<LogLine>,
    /// Those that were received and not shown yet.
    new_lines: Vec<LogLine>,
    /// Whether lines were lost, so that all of them are to be read again.
    has_lost: bool,
    events: Receiver<Event>,
    new_events: Vec<Event>,
    changes: watch::Receiver<u64>,
    directives: watch::Receiver<u64>,
    is_building: bool,
}

impl Own {
    /// A host whose log has this filter, which the handle changes.
    pub fn new(host: Arc<Host>, problems: Arc<Problems>, filter: Filter, handle: FilterHandle) -> Self {
        let (lines, events) = (host.journal.lines().1, host.journal.events().1);
        let (changes, directives) = (host.bus.changes(), host.bus.directive_changes());
        let (new_lines, new_events) = (Vec::new(), Vec::new());
        let (has_lost, is_building) = (true, false);
        Self {
            host,
            problems,
            filter,
            handle,
            lines,
            new_lines,
            has_lost,
            events,
            new_events,
            changes,
            directives,
            is_building,
        }
    }

    fn runtime(&self) -> Option<&HotRuntime> {
        self.host.runtime()
    }
}

impl Source for Own {
    async fn changed(&mut self) {
        let tick = async {
            // Only a running build's time changes by itself.
            if self.is_building {
                tokio::time::sleep(TICK).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            line = self.lines.recv() => match line {
                Ok(line) => self.new_lines.push(line),
                Err(RecvError::Lagged(_)) => self.has_lost = true,
                Err(RecvError::Closed) => std::future::pending().await,
            },
            event = self.events.recv() => match event {
                Ok(event) => self.new_events.push(event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            },
            _ = self.changes.changed() => {}
            _ = self.directives.changed() => {}
            () = self.problems.changed() => {}
            () = tick => {}
        }
    }

    fn fill(&mut self, shown: &mut Shown, ui: &Ui) {
        while let Ok(event) = self.events.try_recv() {
            self.new_events.push(event);
        }
        shown.news.append(&mut self.new_events);
        while let Ok(line) = self.lines.try_recv() {
            self.new_lines.push(line);
        }
        if std::mem::take(&mut self.has_lost) {
            shown.lines.clear();
            self.new_lines.clear();
            shown.add_lines(self.host.journal.lines().0);
        }
        let last = shown.lines.back().map_or(0, |line| line.number);
        shown.add_lines(self.new_lines.drain(..).filter(|line| line.number > last));
        let standing = self.host.bus.directives();
        shown.directive_count = standing.len();
        shown.value_count = standing.iter().map(|found| found.values.len()).sum();
        shown.directives = if ui.shows_directives { self.host.directives() } else { Vec::new() };
        shown.plugins = self.host.plugins();
        shown.configs = self.host.configs();
        shown.controllers = self.host.controllers();
        shown.compiler = self.problems.compiler();
        shown.tests = self.problems.tests();
        shown.is_paused = self.runtime().is_some_and(HotRuntime::is_paused);
        shown.now_ms = now_ms();
        self.is_building = shown.plugins.iter().any(|plugin| plugin.building_since_ms > 0);
    }

    fn ask(&mut self, want: &Want, shown: &Shown) -> Option<Job> {
        let Some(runtime) = self.runtime().cloned() else {
            return Some(Box::pin(async { Some("not yet: the crates are still being read".to_owned()) }));
        };
        match want {
            Want::Rebuild(plugin) => {
                let all = shown.plugins.iter().map(|plugin| plugin.id.clone());
                let ids: Vec<String> = plugin.clone().map_or_else(|| all.collect(), |plugin| vec![plugin]);
                Some(Box::pin(async move {
                    let mut same = Vec::new();
                    let builds = ids.into_iter().map(|id| {
                        let runtime = runtime.clone();
                        tokio::spawn(async move { (runtime.rebuild(&id).await, id) })
                    });
                    for build in builds.collect::<Vec<_>>() {
                        // Errors are events, which are shown.
                        if let Ok((Ok(None), id)) = build.await {
                            same.push(id);
                        }
                    }
                    (!same.is_empty()).then(|| format!("no changes in {}", same.join(", ")))
                }))
            }
            Want::RollBack(plugin) => {
                let plugin = plugin.clone();
                Some(Box::pin(async move {
                    let back = runtime.roll_back(&plugin, None).await;
                    back.err().map(|error| error.with_causes().to_string())
                }))
            }
            Want::Pause => {
                runtime.set_paused(!runtime.is_paused());
                None
            }
            Want::Level(level) => {
                self.handle.set(self.filter.with_level(LEVELS[*level]));
                None
            }
            Want::Page => {
                let address = shown.address.clone();
                Some(Box::pin(async move {
                    let Some(address) = address else {
                        return Some("the bus API is off, and the page with it".to_owned());
                    };
                    let to = address.parse().and_then(Connection::to);
                    match to {
                        Ok(to) => open_page(to).await,
                        Err(error) => Some(error.to_string()),
                    }
                }))
            }
            Want::Nothing | Want::End | Want::Edit => None,
        }
    }
}

//! One process-hosted generation: starts and monitors its process, and restarts it when it crashes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::error::ErrorKind;
use controllerbus::plugin::lease::Holder;
use controllerbus::plugin::{Leases, level};
use controllerbus::{BusHandle, Error, Result};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::current::{Current, State};
use super::deadline::{Deadline, Limited};
use super::find;
use super::heartbeat::{BEATS, Heartbeat};
use super::inbox::Inbox;
use super::link::Link;
use super::outbox::{ANSWERS, Outbox};
use super::output::{Output, ending};
use super::protocol::{Hello, Offered, ToChild, Versions, Welcome};
use super::proxy::{BusOfHost, FactoryProxy};
use super::socket::halves;
use super::spawn::{Launch, spawn};
use crate::artifact::PrivateCopy;
use crate::host::library::{LoadOptions, Unload};
use crate::host::options::ProcessOptions;
use crate::host::{ProcessEvent, Tell};

/// How long a process may take to start and report its factories.
const START: Duration = Duration::from_secs(20);

/// After running this long a process has recovered: its next crash counts as the first.
const SETTLED: Duration = Duration::from_secs(10);

/// The first delay before a restart; each further crash doubles it.
const DELAY: Duration = Duration::from_millis(20);

/// How often it is looked whether a process may be started whose deadline had passed.
const HELD: Duration = Duration::from_millis(100);

/// What a process-hosted generation is started with.
pub(crate) struct Start {
    pub(crate) load: LoadOptions,
    pub(crate) options: ProcessOptions,
    pub(crate) host: Option<PathBuf>,
    /// The private copy of the verified artifact.
    pub(crate) library: PrivateCopy,
    pub(crate) tell: Tell,
    /// When the plugin's processes end themselves.
    pub(crate) deadline: Arc<Deadline>,
}

/// A generation in a process of its own.
pub(crate) struct ProcessPlugin {
    host: Arc<Current>,
    offered: Vec<Offered>,
    /// What confines it.
    pub(crate) layers: Vec<String>,
    library: PrivateCopy,
    stop: CancellationToken,
    kill: CancellationToken,
    keeping: JoinHandle<()>,
}

impl ProcessPlugin {
    /// Starts the process and waits for its factories.
    ///
    /// # Errors
    /// Why it did not start, with the last lines that it printed.
    pub(crate) async fn open(start: Start) -> Result<Self, String> {
        let Start { load, options, host, library, tell, deadline } = start;
        let LoadOptions { bus, plugin, generation, workers } = load;
        let name = format!("{plugin}#{generation}");
        let launch = Launch {
            program: find::plugin_host(host.as_deref())?,
            title: format!("plugin-host {name}"),
            env: options.env.clone(),
            pass_env: options.pass_env.clone(),
            working_dir: options.working_dir.clone(),
        };
        let hello = Hello {
            versions: Versions::ours(),
            plugin: plugin.clone(),
            generation,
            workers,
            library: library.clone(),
            parent: std::process::id(),
            trace_level: level::listened(),
            limits: options.limits.clone(),
            sandbox: options.sandbox.clone(),
            deadline: None,
        };
        let leases = Leases::new();
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        #[cfg(target_os = "linux")]
        let cgroup = super::cgroup::Cgroup::make(&name, &options.limits)
            .map_err(|error| format!("cannot create its control group: {error}"))?;
        let starting = Error::new(ErrorKind::Closed, format!("{name} is being started"));
        let host = Arc::new(Current {
            name,
            leases,
            state: watch::Sender::new(State::Down { error: starting, until: Instant::now() }),
            controllers: AtomicU64::new(0),
        });
        let keeper = Keeper {
            launch,
            hello,
            bus,
            host: Arc::clone(&host),
            options,
            tell,
            deadline,
            stop: stop.clone(),
            kill: kill.clone(),
            #[cfg(target_os = "linux")]
            cgroup,
        };
        let (process, offered, layers) = keeper.start(1).await.map_err(Failed::into_text)?;
        keeper.deadline.tell(Arc::downgrade(&host) as Weak<dyn Limited>);
        keeper.is_up(&process.link);
        let keeping = tokio::spawn(keeper.keep(process));
        Ok(Self { host, offered, layers, library, stop, kill, keeping })
    }

    /// The factories; each holds a lease.
    pub(crate) fn factories(&self) -> Vec<Arc<dyn Factory>> {
        let made = self.offered.iter().enumerate().map(|(index, offered)| {
            Arc::new(FactoryProxy {
                offered: offered.clone(),
                number: index as u64,
                host: Arc::clone(&self.host),
                only_in: None,
                _lease: self.host.leases.take(Holder::Factory),
            }) as Arc<dyn Factory>
        });
        made.collect()
    }

    pub(crate) fn leases(&self) -> &Arc<Leases> {
        &self.host.leases
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.host.standing().map(|link| link.pid)
    }

    /// Kills the process at once; all its calls end with an error.
    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }

    /// Ends the guest and its process, provided that nothing uses it.
    pub(crate) async fn unload(&mut self) -> Unload {
        let held = self.host.leases.holders();
        if held.to_drain() > 0 {
            return Unload::Held;
        }
        self.stop.cancel();
        let _ = (&mut self.keeping).await;
        Unload::Closed { unmapped: Some(true), leaked_thread_locals: 0 }
    }
}

impl Drop for ProcessPlugin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Err(error) = std::fs::remove_file(self.library.path()) {
            tracing::debug!(path = %self.library.path().display(), %error, "cannot remove a plugin's private copy");
        }
    }
}

/// Keeps a process running.
struct Keeper {
    launch: Launch,
    hello: Hello,
    bus: BusHandle,
    host: Arc<Current>,
    options: ProcessOptions,
    tell: Tell,
    deadline: Arc<Deadline>,
    stop: CancellationToken,
    kill: CancellationToken,
    #[cfg(target_os = "linux")]
    cgroup: Option<super::cgroup::Cgroup>,
}

/// A process that did not start, or has ended.
struct Failed {
    reason: String,
    last_lines: Vec<String>,
}

impl Failed {
    fn into_text(self) -> String {
        let Self { reason, last_lines } = self;
        if last_lines.is_empty() { reason } else { format!("{reason}; it printed:\n{}", last_lines.join("\n")) }
    }
}

/// A running process.
struct Process {
    link: Arc<Link>,
    child: Child,
    output: Output,
    reading: JoinHandle<Result<(), String>>,
    writing: JoinHandle<()>,
    since: Instant,
}

/// Why monitoring a process has ended.
enum Ended {
    Crashed(String),
    Stopped,
}

impl Keeper {
    /// Has the proxies use a process, which knows its deadline before anything is constructed there.
    fn is_up(&self, link: &Arc<Link>) {
        self.deadline.while_it_is(|at| {
            let _ = link.outbox.push(&ToChild::Deadline { at });
            self.host.state.send_replace(State::Up(Arc::clone(link)));
        });
    }

    async fn start(&self, epoch: u64) -> Result<(Process, Vec<Offered>, Vec<String>), Failed> {
        let since = Instant::now();
        let plain = |reason: String| Failed { reason, last_lines: Vec::new() };
        let (mut child, socket) = spawn(self.launch.clone())
            .await
            .map_err(|error| plain(format!("cannot start {}: {error}", self.launch.program.display())))?;
        let pid = child.id().unwrap_or_default();
        let output = Output::of(&mut child);
        if let Err(error) = self.confine(pid) {
            self.kill_group(&mut child, pid).await;
            return Err(plain(format!("cannot move it into its control group: {error}")));
        }
        let welcomed = tokio::time::timeout(START, self.greet(socket))
            .await
            .unwrap_or_else(|_| Err(format!("the plugin host did not answer within {START:?}")));
        let (welcome, inbox, outbox) = match welcomed {
            Ok(welcomed) => welcomed,
            Err(reason) => {
                let status = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
                let ended = match status {
                    Ok(Ok(status)) => format!("{reason}; it was {}", ending(status)),
                    _ => reason,
                };
                self.kill_group(&mut child, pid).await;
                return Err(Failed { reason: ended, last_lines: output.last_lines().await });
            }
        };
        let offered = match welcome.factories {
            Ok(offered) => offered,
            Err(error) => {
                self.kill_group(&mut child, pid).await;
                return Err(plain(error.to_string()));
            }
        };
        let Hello { plugin, generation, .. } = &self.hello;
        let (limits, named) = (&self.options.limits, (plugin.as_str(), *generation));
        let (bus, host) = (self.bus.clone(), Arc::downgrade(&self.host));
        let offers = BusOfHost { bus, generation: *generation, epoch, host };
        let link = Link::new(epoch, pid, outbox, offers, limits, &self.host.leases, named);
        let reading = tokio::spawn({
            let link = Arc::clone(&link);
            async move { link.read(inbox).await }
        });
        let writing = tokio::spawn({
            let outbox = Arc::clone(&link.outbox);
            async move { outbox.run().await }
        });
        let layers = welcome.layers.into_iter().chain(self.group_layer()).collect();
        Ok((Process { link, child, output, reading, writing, since }, offered, layers))
    }

    /// Moves a new process, which does not know yet what to load, into the plugin's control group, if there is one.
    #[cfg(target_os = "linux")]
    fn confine(&self, pid: u32) -> std::io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), |group| group.add(pid))
    }

    #[cfg(not(target_os = "linux"))]
    fn confine(&self, _: u32) -> std::io::Result<()> {
        Ok(())
    }

    /// Describes its control group.
    #[cfg(target_os = "linux")]
    fn group_layer(&self) -> Option<String> {
        let group = self.cgroup.as_ref()?;
        let limits = if group.limits.is_empty() { String::new() } else { format!(" ({})", group.limits.join(", ")) };
        Some(format!("cgroup{limits}"))
    }

    #[cfg(not(target_os = "linux"))]
    fn group_layer(&self) -> Option<String> {
        None
    }

    /// Kills a process and those that it started, and waits for it to end.
    async fn kill_group(&self, child: &mut Child, pid: u32) {
        #[cfg(target_os = "linux")]
        if let Some(group) = &self.cgroup {
            group.kill();
        }
        let _ = crate::sys::process::kill_group(pid);
        let _ = child.wait().await;
    }

    /// Tells the process what to serve, and reads what it offers.
    async fn greet(&self, socket: std::os::unix::net::UnixStream) -> Result<(Welcome, Inbox, Outbox), String> {
        let failed = |error: std::io::Error| format!("talking to the plugin host: {error}");
        let (reading, writing) = halves(socket).map_err(failed)?;
        let hello = Hello { deadline: self.deadline.first(), ..self.hello.clone() };
        let hello = rmp_serde::to_vec_named(&hello).map_err(|error| error.to_string())?;
        writing.write_all(&(hello.len() as u32).to_le_bytes()).await.map_err(failed)?;
        writing.write_all(&hello).await.map_err(failed)?;
        let longest = usize::try_from(self.options.limits.message).unwrap_or(usize::MAX).min(u32::MAX as usize);
        let mut inbox = Inbox::new(reading, longest.saturating_add(4096));
        let frame = inbox.next().await.map_err(failed)?.ok_or("the plugin host ended before it answered")?;
        let unknown = |error: rmp_serde::decode::Error| format!("the plugin host's answer is not valid: {error}");
        let versions: Versions = rmp_serde::from_slice(&frame).map_err(unknown)?;
        if let Some(mismatch) = versions.mismatch("the plugin host") {
            return Err(mismatch);
        }
        let welcome = rmp_serde::from_slice(&frame).map_err(unknown)?;
        Ok((welcome, inbox, Outbox::new(writing, longest.saturating_add(4096), ANSWERS)))
    }

    /// Monitors a process and its successors until the generation ends.
    async fn keep(self, first: Process) {
        let host = Arc::clone(&self.host);
        let plugin = &self.hello.plugin;
        let mut process = first;
        let mut crashes = 0;
        let mut epoch = 1;
        loop {
            let (ended, lived) = (self.watch(&mut process).await, process.since.elapsed());
            let Ended::Crashed(reason) = ended else {
                host.state.send_replace(State::Ended);
                return process.link.die(host.ended());
            };
            if lived > SETTLED {
                crashes = 0;
            }
            let mut until = Instant::now() + self.delay(crashes);
            crashes += 1;
            let reason = if self.deadline.has_passed() { format!("{reason}, at its deadline") } else { reason };
            let what = format!(
                "plugin `{plugin}` crashed ({reason}) while it worked on this; it is restarted, and active directives are retried"
            );
            host.state.send_replace(State::Down { error: Error::new(ErrorKind::Crashed, reason.as_str()), until });
            process.link.die(Error::new(ErrorKind::Crashed, what));
            process.writing.abort();
            let last_lines = process.output.last_lines().await;
            (self.tell)(ProcessEvent::Crashed {
                reason,
                last_lines,
                restart_in: until.saturating_duration_since(Instant::now()),
            });
            process = loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.stop.cancelled() => return drop(host.state.send_replace(State::Ended)),
                    () = self.kill.cancelled() => return drop(host.state.send_replace(State::Ended)),
                }
                if self.deadline.has_passed() {
                    until = Instant::now() + HELD;
                    continue;
                }
                epoch += 1;
                let begun = Instant::now();
                let started = tokio::select! {
                    started = self.start(epoch) => started,
                    () = self.stop.cancelled() => return drop(host.state.send_replace(State::Ended)),
                    () = self.kill.cancelled() => return drop(host.state.send_replace(State::Ended)),
                };
                match started {
                    Ok((process, ..)) => {
                        let told = ProcessEvent::Restarted { pid: process.link.pid, took: begun.elapsed() };
                        self.is_up(&process.link);
                        (self.tell)(told);
                        break process;
                    }
                    Err(Failed { reason, last_lines }) => {
                        let delay = self.delay(crashes);
                        crashes += 1;
                        until = Instant::now() + delay;
                        let error = Error::new(ErrorKind::Crashed, reason.as_str());
                        host.state.send_replace(State::Down { error, until });
                        (self.tell)(ProcessEvent::Crashed { reason, last_lines, restart_in: delay });
                    }
                }
            };
        }
    }

    fn delay(&self, crashes: u32) -> Duration {
        let most = self.options.backoff;
        match crashes {
            0 => Duration::ZERO,
            _ => (DELAY * (1 << (crashes - 1).min(16))).min(most),
        }
    }

    /// Waits for a process to end, and kills it if it does not answer, exceeds its limits, or is no longer wanted.
    async fn watch(&self, process: &mut Process) -> Ended {
        let Process { link, child, reading, .. } = process;
        let watchdog = self.options.watchdog_time();
        let mut beat = tokio::time::interval(watchdog / BEATS);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = Heartbeat::new(Instant::now());
        let reason = loop {
            tokio::select! {
                status = child.wait() => match status {
                    Ok(status) => break ending(status),
                    Err(error) => break format!("lost: {error}"),
                },
                read = &mut *reading => {
                    // The connection is closed: either it has ended, or it can no longer be reached.
                    let ended = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
                    self.kill_group(child, link.pid).await;
                    return Ended::Crashed(match (ended, read) {
                        (Ok(Ok(status)), _) => ending(status),
                        (_, Ok(Err(reason))) => format!("killed: {reason}"),
                        _ => "killed: it closed its connection".to_owned(),
                    });
                }
                _ = beat.tick() => {
                    heartbeat.answered(link.answered.swap(0, Ordering::Relaxed), Instant::now());
                    heartbeat.reader_is_at(link.reading(), Instant::now());
                    if heartbeat.is_lost(Instant::now(), watchdog) {
                        break format!(
                            "killed: one of its threads did not answer for {watchdog:?}, because it is blocked or busy"
                        );
                    }
                    let number = heartbeat.next();
                    let _ = link.outbox.push(&ToChild::Ping { number, trace_level: level::listened() });
                }
                () = link.outbox.overfull() => break "killed: it does not read what it is sent".to_owned(),
                () = link.remote.flooded() => {
                    let most = self.options.limits.standing_values;
                    break format!("killed: its values would exceed the limit of {most} bytes");
                }
                () = self.kill.cancelled() => {
                    self.kill_group(child, link.pid).await;
                    return Ended::Stopped;
                }
                () = self.stop.cancelled() => {
                    self.end(link, child).await;
                    return Ended::Stopped;
                }
            }
        };
        self.kill_group(child, link.pid).await;
        // Messages that it sent before it ended count.
        let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
        Ended::Crashed(reason)
    }

    /// Lets a process end by itself, for a limited time.
    async fn end(&self, link: &Link, child: &mut Child) {
        const WITHIN: Duration = Duration::from_secs(2);
        let _ = link.outbox.push(&ToChild::Shutdown { timeout_ms: WITHIN.as_millis() as u64 });
        tokio::select! {
            _ = tokio::time::timeout(WITHIN * 2, child.wait()) => {}
            () = self.kill.cancelled() => {}
        }
        self.kill_group(child, link.pid).await;
    }
}

//! `cbus run`: the daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use controllerbus::{Config, ConfigSet};
use controllerbus_api::fleet::rollout;
use controllerbus_api::{Address, ApiConfig, CONFIG_ID, Host, Journal, sockets};
use hot_runtime::sign::PublicKey;
use hot_runtime::watch::Watcher;
use hot_runtime::{CrateConfig, FolderConfig, PluginSpec, Trust};
use miette::Result;

use crate::cli::{self, Api, Listen, Run};
use crate::daemon::{self, ConfigFile, Options, To, service, set_up_logs};
use crate::pipeline::{absolute, target_dir};
use crate::report::{explain, explain_api, io, report};
use crate::settings::crates;
use crate::timings;

pub async fn run(args: Run) -> Result<()> {
    let journal = Arc::new(Journal::new());
    set_up_logs(args.logging.log.clone(), &journal, Some(args.logging.log_format), To::Stderr);
    // Errors in the arguments are reported before anything starts.
    let mut args = args;
    if args.config.is_none() && (args.write_config || Path::new(DEFAULT_CONFIG).exists()) {
        args.config = Some(PathBuf::from(DEFAULT_CONFIG));
    }
    let watched = crates(&args.watch, &args.compiling, args.isolation).await?;
    let mut plugins: Vec<PluginSpec> = watched.into_iter().map(|found| found.spec).collect();
    if let Some(dir) = args.plugins.iter().find(|dir| !dir.is_dir()) {
        if dir.exists() {
            return Err(report(
                format!("{} is not a directory", dir.display()),
                "--plugins expects a directory of plugin files",
            ));
        }
        return Err(report(
            format!("there is no directory {}", dir.display()),
            format!("create it with `mkdir -p {}`; plugin files that are added later will be loaded", dir.display()),
        ));
    }
    if let Some(path) = args.config.as_ref().filter(|_| args.write_config) {
        write_config(path, &args, &plugins)?;
        // They are the file's now.
        plugins.clear();
        args.plugins.clear();
    }
    let mut config = args.config.as_deref().map(ConfigFile::new);
    let set = config.as_mut().map(ConfigFile::read).transpose()?;
    let has = |id: &str| set.as_ref().is_some_and(|set| set.iter().any(|(_, entry)| entry.id == id));
    let loads = [FolderConfig::ID, CrateConfig::ID, rollout::AGENT].into_iter().any(has);
    let no_plugins = plugins.is_empty() && args.plugins.is_empty() && !loads;
    let options = Options {
        plugins,
        plugins_dirs: args.plugins.clone(),
        work_dir: absolute(&args.folders.work_dir),
        target_dir: target_dir(&args.folders),
        trust: read_trust(&args.trust)?,
        largest: args.trust.max_size << 20,
        allow_world_writable: args.trust.allow_world_writable,
        isolation: args.isolation.unwrap_or_default(),
        probation: args.probation,
        watcher: watcher(&args.polling),
        listener: None,
        tests: None,
    };

    let timings = args.timings.then(|| absolute(&args.folders.work_dir));
    let ending = asked_to_end();
    let host = daemon::new(journal);
    if args.resume {
        let name = args.api.name.as_deref().unwrap_or(sockets::DEFAULT_NAME);
        let folder = absolute(&args.folders.work_dir).join("applied").join(name);
        let kept = host.keep_applied(&folder);
        kept.map_err(|error| report(error.to_string(), "choose another --work-dir, or omit --resume"))?;
    }
    if !has(CONFIG_ID) {
        serve_api(&host, &args.api, sockets::DEFAULT_NAME, OwnMay::WhatIsAllowed).await?;
    }
    if no_plugins {
        tracing::warn!(target: "cbus", "no plugins: pass --plugins DIR or --watch CRATE, or put a {} or {} into the config", FolderConfig::ID, CrateConfig::ID);
    }
    let served = serve(&host, config.zip(set), options, "ready");
    let result = tokio::select! {
        result = served => result,
        () = service::keep_telling(&host) => Ok(()),
        signal = ending => {
            tracing::info!(target: "cbus", "{signal}: shutting down");
            Ok(())
        }
    };
    service::stopping();
    let left = daemon::end(&host).await;
    if !left.is_empty() {
        tracing::warn!(target: "cbus", "did not shut down in time and will end with the process: {}", left.join("; "));
    }
    if let Some(work_dir) = &timings {
        timings::tell_of(&host, work_dir);
    }
    result
}

/// The config file that is used if none is named.
const DEFAULT_CONFIG: &str = "cbus.yaml";

/// Writes a config file with the plugins that the arguments name; it is not there yet.
fn write_config(path: &Path, args: &Run, plugins: &[PluginSpec]) -> Result<()> {
    use std::io::Write;
    if args.plugins.is_empty() && plugins.is_empty() {
        return Err(report(
            "there is nothing to write into the config file",
            "pass --plugins DIR or --watch CRATE too",
        ));
    }
    let mut text =
        "# Where plugins come from, as `cbus run --write-config` found it; `cbus run` reads it.\n".to_owned();
    let mut add = |key: &str, id: &str, config: serde_json::Value| {
        // JSON is YAML, whatever is in a path.
        text.push_str(&format!("{}:\n  id: {id}\n  config: {config}\n", serde_json::json!(key)));
    };
    for (at, dir) in args.plugins.iter().enumerate() {
        let key = if at == 0 { "plugins".to_owned() } else { format!("plugins-{}", at + 1) };
        add(&key, FolderConfig::ID, serde_json::json!({ "dir": dir }));
    }
    for spec in plugins {
        let mut config = serde_json::json!({ "crates": spec.crates });
        if spec.release {
            config["release"] = true.into();
        }
        if !spec.features.is_empty() {
            config["features"] = spec.features.clone().into();
        }
        if !spec.default_features {
            config["default_features"] = false.into();
        }
        add(&format!("crate-{}", spec.id), CrateConfig::ID, config);
    }
    let written = std::fs::File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let what = format!("{} already exists and was not overwritten", path.display());
            Err(report(what, "omit --write-config to use it, or name another file"))
        }
        written => written.map_err(io("writing the config", path)),
    }
}

/// Runs the configs and plugins of a host and follows their changes, until it is dropped.
pub async fn serve(
    host: &Arc<Host>,
    config: Option<(ConfigFile, ConfigSet)>,
    options: Options,
    ready: &str,
) -> Result<()> {
    let mut following = None;
    let mut reread = None;
    if let Some((mut file, set)) = config {
        file.apply(&host.bus, set).await?;
        reread = Some(file.clone());
        // Followed from the start: the first build may take a while.
        let (bus, watcher, followed) = (host.bus.clone(), options.watcher.clone(), file.clone());
        following = Some((file, tokio::spawn(async move { followed.follow(bus, &watcher).await })));
    }
    // After the file, as it was when they were applied.
    let resumed = host.resume().await.map_err(|error| report(error.to_string(), ""))?;
    if resumed > 0 {
        tracing::info!(target: "cbus", "configs that clients had applied before, and that are applied again: {resumed}");
    }
    daemon::start(host, options).await?;
    tracing::info!(target: "cbus", "{ready}");
    service::ready(host);
    tokio::spawn(reload_when_asked(Arc::clone(host), reread));
    if let Some((file, following)) = following {
        file.tell_problems(&host.bus);
        let _ = following.await;
    }
    std::future::pending().await
}

/// Reloads the config on each SIGHUP, as service managers expect. If the daemon was started in a terminal, SIGHUP means
/// that the terminal is gone, and ends the daemon.
async fn reload_when_asked(host: Arc<Host>, mut file: Option<ConfigFile>) {
    while hung_up().await {
        service::reloading();
        if let Some(file) = &mut file {
            let applied = match file.read() {
                Ok(set) => file.apply(&host.bus, set).await,
                Err(error) => Err(error),
            };
            match applied {
                Ok(()) => tracing::info!(target: "cbus", "SIGHUP: the config was reloaded"),
                Err(error) => {
                    tracing::error!(target: "cbus", "SIGHUP: the config has errors; the running configuration is unchanged:\n{error:?}");
                }
            }
        }
        service::ready(&host);
    }
}

/// Waits for a SIGHUP; false if the signal is left alone.
#[cfg(unix)]
async fn hung_up() -> bool {
    use std::io::IsTerminal;
    use tokio::signal::unix::{Signal, SignalKind, signal};
    static SIGNAL: std::sync::OnceLock<tokio::sync::Mutex<Option<Signal>>> = std::sync::OnceLock::new();
    if std::io::stderr().is_terminal() {
        return false;
    }
    let signal = SIGNAL.get_or_init(|| tokio::sync::Mutex::new(signal(SignalKind::hangup()).ok()));
    match &mut *signal.lock().await {
        Some(signal) => signal.recv().await.is_some(),
        None => false,
    }
}

#[cfg(not(unix))]
async fn hung_up() -> bool {
    false
}

/// What this user's own clients may do, over the socket that only they can reach.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OwnMay {
    /// What the options allow.
    WhatIsAllowed,
    /// Also execute config sets and ask directives: they are whoever edits the code.
    Execute,
}

/// Adds the controllers that serve the API, one for this user's socket and, if requested, one for TCP. Returns the
/// address; fails if one of them cannot listen.
pub async fn serve_api(host: &Arc<Host>, api: &Api, name: &str, own: OwnMay) -> Result<Option<String>> {
    let (socket, tcp) = match &api.listen {
        Some(Listen::Off) => return Ok(None),
        None => (None, None),
        Some(Listen::At(Address::Unix(path))) => (Some(Address::Unix(absolute(path))), None),
        Some(Listen::At(Address::Named(name))) => (Some(sockets::of(name).map_err(explain_api)?), None),
        Some(Listen::At(tcp)) => (None, Some(tcp.clone())),
    };
    if tcp.is_none() && (api.token_file.is_some() || api.tls_cert.is_some()) {
        return Err(report("tokens and certificates are for clients over TCP", "pass --listen HOST:PORT too"));
    }
    let socket = match socket {
        // Without Unix sockets, TCP is all there is.
        None if cfg!(not(unix)) && tcp.is_some() => None,
        None => Some(sockets::of(api.name.as_deref().unwrap_or(name)).map_err(explain_api)?),
        given => given,
    };
    let text = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let mut shown = None;
    for (key, address) in [(CONFIG_ID.to_owned(), socket), (format!("{CONFIG_ID}/tcp"), tcp)] {
        let Some(address) = address else { continue };
        let tcp = matches!(address, Address::Tcp { .. });
        let allow_exec = api.allow_exec || (own == OwnMay::Execute && !tcp);
        let mut config = ApiConfig::at(address.to_string()).allow_exec(allow_exec).allow_control(api.allow_control);
        if tcp {
            config.token_file = text(&api.token_file);
            config.tls_cert = text(&api.tls_cert);
            config.tls_key = text(&api.tls_key);
            config.tls_client_ca = text(&api.tls_client_ca);
        }
        let served = host.serve_as(&key, config).await;
        let address = served.map_err(|error| report(format!("the bus API: {error}"), ""))?;
        shown = Some(address);
    }
    Ok(shown)
}

/// How changes of files are noticed.
pub fn watcher(polling: &cli::Polling) -> Watcher {
    polling.poll.map_or_else(Watcher::new, |seconds| Watcher::polling(seconds.into()))
}

/// What the command line trusts: files signed by the given keys and, unless a signature is required, unsigned ones.
/// Either way, nobody but their owner may be able to write them.
fn read_trust(trust: &cli::Trust) -> Result<Trust> {
    let keys = trust.trust_key.iter().map(|file| PublicKey::read(file).map_err(explain)).collect::<Result<Vec<_>>>()?;
    let trusted = Trust::keys(keys);
    Ok(if trust.require_signature { trusted } else { trusted.or_unsigned() })
}

/// Listens for SIGTERM and Ctrl-C from now on, and returns the name of the first. A second one ends the process at once.
pub fn asked_to_end() -> impl Future<Output = &'static str> {
    let first = one_signal();
    async {
        let signal = first.await;
        let second = one_signal();
        tokio::spawn(async {
            second.await;
            std::process::exit(1);
        });
        signal
    }
}

#[cfg(unix)]
fn one_signal() -> impl Future<Output = &'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let both = signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    async {
        let Ok((mut terminate, mut interrupt)) = both else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl-C",
        }
    }
}

#[cfg(not(unix))]
async fn one_signal() -> &'static str {
    let _ = tokio::signal::ctrl_c().await;
    "Ctrl-C"
}

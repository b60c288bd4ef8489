//! `cbus dev`: build, watch and run in one terminal.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use controllerbus_api::{CONFIG_ID, Journal};
use hot_runtime::Trust;
use miette::Result;

use crate::cli::Dev;
use crate::command::run::{OwnMay, asked_to_end, serve, serve_api, specs, watcher};
use crate::daemon::{self, ConfigFile, Options, set_up_logs};
use crate::pipeline::{absolute, target_dir};
use crate::report::report;
use crate::text::tell;
use crate::view;

pub async fn run(args: Dev) -> Result<()> {
    let live = !args.plain && std::io::stdout().is_terminal();
    #[cfg(unix)]
    match &args.last_words {
        None if live => match view::keeper::run().await? {},
        None => {}
        Some(_) => view::keeper::end_with_it(),
    }
    let journal = Arc::new(Journal::new());
    let (crates, config) = sort(&args.paths)?;
    let mut file = config.as_deref().map(ConfigFile::new);
    let set = file.as_mut().map(ConfigFile::read).transpose()?;
    let plugins = specs(&crates, args.release).await?;
    let names: Vec<String> = plugins.iter().map(|spec| spec.id.clone()).collect();
    // From here on, only the view is visible; earlier errors were printed as usual.
    set_up_logs(args.logging.log.clone(), &journal, (!live).then_some(args.logging.log_format));
    let host = daemon::new(Arc::clone(&journal));
    let configured = set.as_ref().is_some_and(|set| set.iter().any(|(_, entry)| entry.id == CONFIG_ID));
    let name: String = names[0].chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(32).collect();
    let api = if configured { None } else { serve_api(&host, &args.api, &name, OwnMay::Execute).await? };
    match &config {
        Some(config) => tracing::info!(target: "cbus", "running the config set in {}", config.display()),
        None => tracing::warn!(target: "cbus", "no config, so nothing will run; pass one, such as config.yaml"),
    }
    let options = Options {
        plugins,
        plugins_dirs: Vec::new(),
        work_dir: absolute(&args.folders.work_dir),
        target_dir: target_dir(&args.folders),
        trust: Trust::anyone(),
        largest: hot_runtime::artifact::LARGEST,
        allow_world_writable: false,
        isolation: args.isolation,
        probation: args.probation,
        watcher: watcher(&args.polling),
    };
    let serving = serve(&host, file.zip(set), options, "ready: saved changes are swapped in");
    let title = view::Title { plugins: names, api, last_words: args.last_words };
    let watching = async { if live { view::run(&host, &title).await } else { std::future::pending().await } };
    let (mut asked_by, ending) = (None, asked_to_end());
    let result = tokio::select! {
        result = serving => result,
        result = watching => result,
        signal = ending => { asked_by = Some(signal); Ok(()) }
        () = hang_up(live) => { asked_by = Some("the terminal is gone"); Ok(()) }
    };
    match asked_by {
        Some(signal) => tell(&format!("Shutting down: {signal}")),
        None => tell("Shutting down"),
    }
    let left = daemon::end(&host).await;
    if !left.is_empty() {
        tell(&format!("Did not shut down in time and will end with the process: {}", left.join("; ")));
    }
    result
}

/// Waits until the terminal that shows the view is gone. Without a view, the system's default applies.
#[cfg(unix)]
async fn hang_up(live: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let hung_up = if live { signal(SignalKind::hangup()).ok() } else { None };
    match hung_up {
        Some(mut hung_up) => drop(hung_up.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn hang_up(_: bool) {
    std::future::pending().await
}

/// Which arguments are crates, and which is the config. The default is a crate's own config.yaml.
fn sort(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
    let config = |path: &Path| {
        path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
    };
    let (configs, crates): (Vec<PathBuf>, Vec<PathBuf>) = paths.iter().cloned().partition(|path| config(path));
    if configs.len() > 1 {
        return Err(report("more than one config file", "merge them into one"));
    }
    if crates.is_empty() {
        return Err(report("no crate", "pass the directory of a controller crate; `cbus new NAME` creates one"));
    }
    let own = || crates.iter().map(|path| path.join("config.yaml")).find(|path| path.is_file());
    let config = configs.into_iter().next().or_else(own);
    Ok((crates, config))
}

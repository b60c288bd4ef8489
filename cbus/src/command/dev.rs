//! `cbus dev`: build, watch and run in one terminal.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use controllerbus_api::{CONFIG_ID, Journal};
use hot_runtime::Trust;
use miette::Result;

use crate::cli::Dev;
use crate::command::run::{OwnMay, asked_to_end, serve, serve_api, watcher};
use crate::daemon::{self, ConfigFile, Options, To, set_up_logs};
use crate::pipeline::{absolute, target_dir};
use crate::problems::{Locations, Problems};
use crate::report::report;
use crate::settings::{Crate, crates};
use crate::tested::Tests;
use crate::text::{has_colours, tell};
use crate::timings;
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
    let (paths, given) = sort(&args.paths)?;
    let crates = crates(&paths, &args.compiling, args.isolation).await?;
    let configs = configs(&crates, given)?;
    let mut file = (!configs.is_empty()).then(|| ConfigFile::of(configs.clone()));
    let set = file.as_mut().map(ConfigFile::read).transpose()?;
    let names: Vec<String> = crates.iter().map(|found| found.spec.id.clone()).collect();
    // From here on, only the view is visible; earlier errors were printed as usual.
    let filter = args.logging.log.clone();
    let handle = set_up_logs(filter.clone(), &journal, (!live).then_some(args.logging.log_format), To::Stdout);
    let host = daemon::new(Arc::clone(&journal));
    let configured = set.as_ref().is_some_and(|set| set.iter().any(|(_, entry)| entry.id == CONFIG_ID));
    let name: String = names[0].chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(32).collect();
    let api = if configured { None } else { serve_api(&host, &args.api, &name, OwnMay::Execute).await? };
    match configs.as_slice() {
        [] => tracing::warn!(target: "cbus", "no config, so nothing will run; pass one, such as config.yaml"),
        configs => {
            let named = configs.iter().map(|config| config.display().to_string()).collect::<Vec<_>>().join(", ");
            tracing::info!(target: "cbus", "running the config set in {named}");
        }
    }
    let problems = Arc::new(Problems::new(locations(&crates, args.locations.as_deref())));
    let tests = Tests::of(&crates, args.test, &problems, has_colours(&std::io::stdout()));
    let heard = Arc::clone(&problems);
    let options = Options {
        plugins: crates.into_iter().map(|found| found.spec).collect(),
        plugins_dirs: Vec::new(),
        work_dir: absolute(&args.folders.work_dir),
        target_dir: target_dir(&args.folders),
        trust: Trust::anyone(),
        largest: hot_runtime::artifact::LARGEST,
        allow_world_writable: false,
        isolation: args.isolation.unwrap_or_default(),
        probation: args.probation,
        watcher: watcher(&args.polling),
        listener: Some(Box::new(move |event| heard.hear(event))),
        tests: tests.clone(),
    };
    let own = options.watcher.clone();
    let all_tests = tests.clone();
    let testing = async {
        match tests {
            Some(tests) => tests.follow(&host, &own).await,
            None => std::future::pending().await,
        }
    };
    let serving = serve(&host, file.zip(set), options, "ready: saved changes are swapped in");
    let mut shown = view::Shown::new("cbus dev", names.join(", "));
    (shown.awaited, shown.address) = (names, api);
    let setup = view::Setup { level: filter.level(), last_words: args.last_words, journal: Some(Arc::clone(&journal)) };
    let watching = async {
        if !live {
            return std::future::pending().await;
        }
        let source = view::Own::new(Arc::clone(&host), Arc::clone(&problems), filter, handle);
        view::run(source, shown, setup).await
    };
    let (mut asked_by, ending) = (None, asked_to_end());
    let result = tokio::select! {
        result = serving => result,
        result = watching => result,
        () = testing => Ok(()),
        signal = ending => { asked_by = Some(signal); Ok(()) }
        () = hang_up(live) => { asked_by = Some("the terminal is gone"); Ok(()) }
        () = daemon::UNREAD.notified() => { asked_by = Some("nobody reads the output any more"); Ok(()) }
    };
    if let Some(tests) = all_tests {
        tests.end().await;
    }
    match asked_by {
        Some(signal) => tell(&format!("Shutting down: {signal}")),
        None => tell("Shutting down"),
    }
    let left = daemon::end(&host).await;
    if !left.is_empty() {
        tell(&format!("Did not shut down in time and will end with the process: {}", left.join("; ")));
    }
    if args.timings {
        timings::tell_of(&host, &absolute(&args.folders.work_dir));
    }
    result
}

/// Waits until the terminal that shows the view is gone. Without a view, the system's default applies.
#[cfg(unix)]
pub async fn hang_up(live: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let hung_up = if live { signal(SignalKind::hangup()).ok() } else { None };
    match hung_up {
        Some(mut hung_up) => drop(hung_up.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(not(unix))]
pub async fn hang_up(_: bool) {
    std::future::pending().await
}

/// Which arguments are crates, and which is the config.
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
    Ok((crates, configs.into_iter().next()))
}

/// The config files: the one that was given, or else those that the crates bring.
fn configs(crates: &[Crate], given: Option<PathBuf>) -> Result<Vec<PathBuf>> {
    if let Some(given) = given {
        return Ok(vec![given]);
    }
    let here = std::env::current_dir().unwrap_or_default();
    let mut found = Vec::new();
    for Crate { dir, settings, .. } in crates {
        let path = dir.join(settings.config.as_deref().unwrap_or(Path::new("config.yaml")));
        // As short as it would have been typed.
        let path = path.strip_prefix(&here).map_or(path.clone(), Path::to_owned);
        if path.is_file() {
            found.push(path);
        } else if settings.config.is_some() {
            return Err(report(
                format!("there is no {}", path.display()),
                format!("{} names it as `config` in [package.metadata.cbus]", dir.join("Cargo.toml").display()),
            ));
        }
    }
    // Two crates may share one, by different paths.
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    Ok(found)
}

/// Where the places of errors are written: by the command line for all crates, by a crate for itself.
fn locations(crates: &[Crate], given: Option<&Path>) -> Vec<Locations> {
    let own = |found: &Crate| {
        let file = found.settings.locations.as_ref()?;
        Some(Locations { file: found.dir.join(file), of: Some(found.spec.id.clone()) })
    };
    let all = given.map(|file| Locations { file: file.to_owned(), of: None });
    all.into_iter().chain(crates.iter().filter_map(own)).collect()
}

//! `cbus watch`: builds, and rebuilds on every change.

use std::path::Path;
use std::time::Duration;

use hot_runtime::Error;
use hot_runtime::artifact::inspect;
use hot_runtime::compile::{BUILD_HASH, Inputs};
use hot_runtime::watch::Following;
use miette::Result;
use tokio_util::sync::CancellationToken;

use crate::cli::Watch;
use crate::command::build::line;
use crate::command::run::watcher;
use crate::pipeline::{Job, Output};
use crate::report::{explain, tell};
use crate::text;

/// A save causes several file events in a row: how long there must be no further one.
const QUIET: Duration = Duration::from_millis(5);

/// How long to wait for quiet at most.
const SETTLED: Duration = Duration::from_millis(100);

/// How many builds in a row are cancelled because an input has changed.
const OVERTAKEN: usize = 5;

pub async fn run(args: Watch) -> Result<()> {
    let mut job = Job::new(&args.source, Some(&args.output), false).await?;
    // Reading the crates finds out what to watch.
    job.builder.generate().await.map_err(explain)?;
    let inputs = job.builder.inputs();
    let mut following = watcher(&args.polling).follow();
    following.set(inputs.watched());
    text::tell(&format!("Watching {}; press Ctrl-C to stop", job.crates.join(", ")));
    let mut last: Option<Output> = None;
    let mut told = false;
    let mut overtaken = 0;
    loop {
        let cancel = CancellationToken::new();
        let result = {
            let building = job.builder.build(&|_| {}, &cancel);
            tokio::pin!(building);
            tokio::select! {
                result = &mut building => Some(result),
                // Inputs that never stop changing must not prevent builds for ever.
                () = changed(&inputs, &mut following), if overtaken < OVERTAKEN => {
                    cancel.cancel();
                    let _ = building.await;
                    None
                }
                _ = tokio::signal::ctrl_c() => {
                    cancel.cancel();
                    let _ = building.await;
                    return Ok(());
                }
            }
        };
        let Some(result) = result else {
            overtaken += 1;
            continue;
        };
        overtaken = 0;
        match result {
            Ok(built) => {
                for message in &built.messages {
                    text::tell_compiler(&message.rendered);
                }
                if let Some(why) = built.why_full_link.as_ref().filter(|_| !told) {
                    eprintln!("The whole plugin is relinked after each edit, which takes longer: {why}");
                    told = true;
                }
                let output = Output::of(&job, built);
                let same = last.as_ref().is_some_and(|last| last.hash == output.hash);
                if let Some(last) = last.take().filter(|last| has_own_names(&args.output) && last.path != output.path) {
                    let _ = std::fs::remove_file(last.path);
                }
                remove_older(&args.output, &output.id, &output.path);
                match (args.json, same) {
                    (true, _) => text::print_json(&output, true),
                    (false, true) => text::print_line(&format!("{}  unchanged", output.path.display())),
                    (false, false) => text::print_line(&line(&output)),
                }
                last = Some(output);
            }
            Err(Error::Build { rendered, .. }) => {
                text::tell_compiler(&rendered);
                text::tell(&format!("{} does not build; the previous build is kept", job.id));
            }
            Err(error) => tell(&explain(error)),
        }
        // The edit may have added or removed a dependency.
        following.set(inputs.watched());
        tokio::select! {
            () = changed(&inputs, &mut following) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Waits until the content of an input differs from what the last build has read.
async fn changed(inputs: &Inputs, following: &mut Following) {
    loop {
        following.changed().await;
        following.settle(QUIET, SETTLED).await;
        let inputs = inputs.clone();
        if tokio::task::spawn_blocking(move || inputs.changed()).await.unwrap_or(true) {
            return;
        }
    }
}

/// Whether each build has a name of its own.
fn has_own_names(pattern: &Path) -> bool {
    pattern.to_string_lossy().contains(BUILD_HASH)
}

/// Removes the files of other builds of a plugin, with their signatures: those that have a name of the pattern, and in which
/// there is this plugin. An earlier session may have left them, and a daemon would load one of them instead of the new one.
fn remove_older(pattern: &Path, id: &str, new: &Path) {
    let Some((start, end)) = pattern.file_name().and_then(|name| name.to_str()?.split_once(BUILD_HASH)) else { return };
    let folder = new.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let hash = name.to_str().and_then(|name| name.strip_prefix(start)?.strip_suffix(end));
        let is_hash = hash.is_some_and(|hash| !hash.is_empty() && hash.chars().all(|c| c.is_ascii_hexdigit()));
        if !is_hash || Some(name.as_os_str()) == new.file_name() {
            continue;
        }
        let path = entry.path();
        if inspect(&path).is_ok_and(|found| found.bundle.id == id) {
            let mut signature = path.clone().into_os_string();
            signature.push(".minisig");
            let _ = std::fs::remove_file(signature);
            if let Err(error) = std::fs::remove_file(&path) {
                text::tell(&format!("{} cannot be removed: {error}", path.display()));
            }
        }
    }
}

//! `cbus watch`: builds, and rebuilds on every change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hot_runtime::Error;
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
    let mut job = Job::new(&args.source, Some(&args.output)).await?;
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
                if let Some(last) = last.take() {
                    remove_older(&args.output, &last.path, &output.path);
                }
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

/// Removes the last build's file if every build has its own name.
fn remove_older(pattern: &Path, old: &PathBuf, new: &PathBuf) {
    if pattern.to_string_lossy().contains(BUILD_HASH) && old != new {
        let _ = std::fs::remove_file(old);
    }
}

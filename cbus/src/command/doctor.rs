//! `cbus doctor`: what builds and reloads depend on, and where the time of the last reloads went.

use std::time::Duration;

use controllerbus::error::Code;
use controllerbus_api::proto::{GetInfoRequest, ListReloadsRequest, Reload};
use hot_runtime::doctor::{Finding, Level, examine};
use miette::Result;

use crate::cli::{Connect, Doctor};
use crate::client::{connect, daemon, refused};
use crate::pipeline::{absolute, target_dir};
use crate::report::{explain, io, report};
use crate::text::{print_json, print_line};
use crate::timings;

/// How long everything but the daemon may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub async fn run(args: Doctor) -> Result<()> {
    if args.timings {
        return show_timings(&args).await;
    }
    let (work_dir, target_dir, crates) =
        (args.folders.work_dir.clone(), target_dir(&args.folders), args.crates.clone());
    let examining = tokio::task::spawn_blocking(move || examine(&work_dir, &target_dir, &crates));
    let mut found = match tokio::time::timeout(LIMIT, examining).await {
        Ok(examined) => examined.map_err(|error| report(error.to_string(), ""))?,
        Err(_) => vec![Finding::fail(
            "toolchain",
            format!("cargo, rustc, the linker or a wrapper of theirs has not ended within {} s", LIMIT.as_secs()),
            "`cargo build -v` of any crate shows which one hangs: often RUSTC_WRAPPER, as of sccache without its server",
        )],
    };
    found.push(of_daemon(&args.to).await);
    conclude(&found, args.json, "plugins from being built or loaded")
}

/// Prints what was found. An error if any of it keeps something from working.
pub fn conclude(found: &[Finding], json: bool, keeps: &str) -> Result<()> {
    if json {
        print_json(&found, false);
    } else {
        tell(found);
    }
    match found.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        1 => Err(report(format!("one thing keeps {keeps}"), "the line with `fail` says what to do")),
        many => Err(report(format!("{many} things keep {keeps}"), "the lines with `fail` say what to do")),
    }
}

fn tell(found: &[Finding]) {
    let widest = found.iter().map(|finding| finding.what.chars().count()).max().unwrap_or_default();
    for Finding { what, found, level, remedy, .. } in found {
        let mut lines = found.lines().map(str::trim_end).filter(|line| !line.is_empty());
        print_line(&format!("{:<4}  {what:<widest$}  {}", level.to_string(), lines.next().unwrap_or_default()));
        for line in lines {
            print_line(&format!("{:<6}{:<widest$}  {line}", "", ""));
        }
        if !remedy.is_empty() {
            print_line(&format!("{:<6}{:<widest$}  -> {remedy}", "", ""));
        }
    }
}

/// Whether the daemon that is asked for answers, or this user's own, and of which version it is.
async fn of_daemon(args: &Connect) -> Finding {
    const WHAT: &str = "daemon";
    let Ok(asked) = tokio::time::timeout(ANSWER, daemon_or_error(args)).await else {
        let found = format!("it does not answer within {} s", ANSWER.as_secs());
        let remedy = "`cbus bus` shows whether it does now; otherwise end it, and start it again";
        return match args.connect {
            Some(_) => Finding::fail(WHAT, found, remedy),
            None => Finding::warn(WHAT, found, remedy),
        };
    };
    let to = match asked {
        Ok(to) => to,
        // It is no fault that none is running, unless it was named.
        Err(error) if args.connect.is_none() && error.code() == Some(Code::NO_DAEMON) => {
            return Finding::ok(WHAT, "none of yours is running");
        }
        Err(error) if args.connect.is_none() && error.code() == Some(Code::SEVERAL_DAEMONS) => {
            return Finding::ok(WHAT, error.to_string());
        }
        Err(error) => {
            let help = match (error.help(), error.code()) {
                ("", Some(code)) => format!("`cbus explain {code}` says what to do"),
                (help, _) => help.to_owned(),
            };
            return match args.connect {
                Some(_) => Finding::fail(WHAT, error.to_string(), help),
                // It may just be ending, and builds do not need it.
                None => Finding::warn(WHAT, error.to_string(), help),
            };
        }
    };
    let (info, at) = to;
    let found = format!("cbus {}, process {}, at {at}", info.version, info.process_id);
    if info.version == env!("CARGO_PKG_VERSION") {
        return Finding::ok(WHAT, found);
    }
    let remedy = format!(
        "this is cbus {}: use one version, so that what each has is known to the other",
        env!("CARGO_PKG_VERSION")
    );
    Finding::warn(WHAT, found, remedy)
}

async fn daemon_or_error(args: &Connect) -> controllerbus_api::Result<(controllerbus_api::proto::Info, String)> {
    let to = crate::client::connection(args)?;
    let mut client = to.connect().await?;
    let info = client.get_info(GetInfoRequest {}).await.map_err(|status| to.explain(&status))?;
    Ok((info.into_inner(), to.address().to_string()))
}

async fn show_timings(args: &Doctor) -> Result<()> {
    let (reloads, place) = if args.to.connect.is_some() {
        let to = daemon(&args.to)?;
        let mut client = connect(&to).await?;
        let found = client.list_reloads(ListReloadsRequest {}).await.map_err(refused(&to))?;
        (found.into_inner().reloads, format!("the daemon at {}", to.address()))
    } else {
        let work_dir = absolute(&args.folders.work_dir);
        let found = hot_runtime::timings::read(&work_dir).map_err(explain)?;
        (found.iter().map(Reload::from).collect(), work_dir.display().to_string())
    };
    if let Some(file) = &args.svg {
        std::fs::write(file, timings::picture(&reloads)).map_err(io("writing the picture", file))?;
    }
    if args.json {
        print_json(&reloads, false);
        return Ok(());
    }
    if reloads.is_empty() {
        print_line(&format!("no reloads yet: {place}"));
        return Ok(());
    }
    timings::print(&reloads);
    if let Some(file) = &args.svg {
        print_line("");
        print_line(&format!("{}: the same as a picture", file.display()));
    }
    Ok(())
}

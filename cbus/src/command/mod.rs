//! One file for each command; those about signatures share one.

mod ask;
mod build;
mod bus;
mod completions;
mod config;
mod controllers;
mod dev;
mod directives;
mod doctor;
mod events;
mod exec;
mod explain;
mod export;
mod fleet;
mod inspect;
mod logs;
mod man;
pub(crate) mod new;
pub(crate) mod page;
mod plugins;
mod publish;
mod reference;
mod reload;
mod rollback;
mod rollout;
mod run;
mod schemas;
mod sign;
mod top;
mod unload;
mod watch;

use controllerbus::error::Code;
use controllerbus_api::Connection;
use miette::{Report, Result};

use crate::cli::{Command, Config};

/// Runs a command to completion.
pub async fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::New(args) => new::run(&args).await,
        Command::Build(args) => build::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Inspect(args) => inspect::run(&args).await,
        Command::Verify(args) => sign::verify(args).await,
        Command::Sign(args) => sign::sign(args).await,
        Command::Keygen(args) => sign::keygen(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Run(args) => run::run(args).await,
        Command::Bus(args) => bus::run(&args).await,
        Command::Plugins(args) => plugins::run(&args).await,
        Command::Controllers(args) => controllers::run(&args).await,
        Command::Directives(args) => directives::run(&args).await,
        Command::Exec(args) => exec::run(&args).await,
        Command::Ask(args) => ask::run(args).await,
        Command::Reload(args) => reload::run(&args).await,
        Command::Rollback(args) => rollback::run(&args).await,
        Command::Unload(args) => unload::run(&args).await,
        Command::Logs(args) => logs::run(args).await,
        Command::Events(args) => events::run(&args).await,
        Command::Page(args) => page::run(&args).await,
        Command::Top(args) => top::run(args).await,
        Command::Fleet(args) => fleet::run(args).await,
        Command::Publish(args) => publish::publish(args).await,
        Command::Rollout(args) => rollout::run(args).await,
        Command::Sets(args) => publish::sets(args).await,
        Command::Config(Config::Schema(args)) => config::schema(&args).await,
        Command::Config(Config::Check(args)) => config::check(&args).await,
        Command::Config(Config::Export(args)) => export::run(&args).await,
        Command::Completions(args) => completions::run(&args),
        Command::Doctor(args) => doctor::run(args).await,
        Command::Explain(args) => explain::run(&args),
        Command::Schema(args) => schemas::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Reference(args) => reference::run(&args),
    }
}

/// The commands that print JSON.
pub fn printing() -> impl Iterator<Item = &'static str> {
    schemas::PRINTED.iter().map(|printed| printed.command)
}

/// A stream that should have continued has ended.
fn went_away(to: &Connection) -> Report {
    crate::report::refusal(Code::WENT_AWAY, format!("the daemon at {} went away", to.address()), "")
}

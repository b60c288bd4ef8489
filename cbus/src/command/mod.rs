//! One file for each command.

mod build;
mod client;
mod completions;
mod config;
mod dev;
mod exec;
mod inspect;
mod new;
mod page;
mod run;
mod sign;
mod watch;

use miette::Result;

use crate::cli::{Command, Config};

/// Runs a command to its end.
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
        Command::Bus(args) => client::bus(&args).await,
        Command::Plugins(args) => client::plugins(&args).await,
        Command::Controllers(args) => client::controllers(&args).await,
        Command::Directives(args) => client::directives(&args).await,
        Command::Exec(args) => exec::run(&args).await,
        Command::Reload(args) => client::reload(&args).await,
        Command::Rollback(args) => client::roll_back(&args).await,
        Command::Unload(args) => client::unload(&args).await,
        Command::Logs(args) => client::logs(args).await,
        Command::Events(args) => client::events(&args).await,
        Command::Page(args) => page::run(&args).await,
        Command::Config(Config::Schema(args)) => config::schema(&args).await,
        Command::Config(Config::Check(args)) => config::check(&args).await,
        Command::Completions(args) => completions::run(&args),
    }
}

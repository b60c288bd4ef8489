//! `cbus rollout`: starts rollouts, shows and steers them.
//!
//! What a daemon shows, every build can ask it. What reads and writes a store needs the feature `fleet`.

#[cfg(feature = "fleet")]
mod change;
pub mod printed;
mod show;
#[cfg(feature = "fleet")]
mod start;
mod status;
#[cfg(feature = "fleet")]
pub mod store;

use miette::Result;

use crate::cli::Rollout;

pub async fn run(command: Rollout) -> Result<()> {
    match command {
        Rollout::Status(args) => status::run(&args).await,
        #[cfg(feature = "fleet")]
        Rollout::Start(args) => start::run(&args).await,
        #[cfg(feature = "fleet")]
        Rollout::Pause(args) => change::run(&args, change::Change::Pause).await,
        #[cfg(feature = "fleet")]
        Rollout::Resume(args) => change::run(&args, change::Change::Resume).await,
        #[cfg(feature = "fleet")]
        Rollout::Promote(args) => change::run(&args, change::Change::Promote).await,
        #[cfg(feature = "fleet")]
        Rollout::Abort(args) => change::run(&args, change::Change::Abort).await,
        #[cfg(feature = "fleet")]
        Rollout::Back(args) => change::run(&args, change::Change::Back).await,
        #[cfg(feature = "fleet")]
        Rollout::History(args) => change::history(&args).await,
        #[cfg(not(feature = "fleet"))]
        _ => Err(super::fleet::missing("this command")),
    }
}

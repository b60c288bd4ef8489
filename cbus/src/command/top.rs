//! `cbus top`: a daemon in the live view.

use std::io::IsTerminal;

use miette::Result;

use crate::cli::Top;
use crate::client::{connect, daemon};
use crate::command::run::asked_to_end;
use crate::report::report;
use crate::view::{self, Daemon, Shown};

pub async fn run(args: Top) -> Result<()> {
    if !std::io::stdout().is_terminal() {
        return Err(report(
            "cbus top needs a terminal",
            "`cbus plugins`, `cbus controllers` and `cbus logs` print what it shows",
        ));
    }
    let to = daemon(&args.to)?;
    // A daemon that is not there at the start is an error; later it may go and come back.
    drop(connect(&to).await?);
    let shown = Shown::new("cbus top", to.address().to_string());
    let source = Daemon::follow(to);
    tokio::select! {
        result = view::run(source, shown, view::Setup::default()) => result,
        _ = asked_to_end() => Ok(()),
        () = super::dev::hang_up(true) => Ok(()),
    }
}

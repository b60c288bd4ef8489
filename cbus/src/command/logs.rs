//! `cbus logs`: the log of a daemon and its plugins.

use controllerbus_api::proto::WatchLogsRequest;
use miette::Result;

use super::went_away;
use crate::cli::Logs;
use crate::client::{connect, daemon, refused};
use crate::text::{self, print_json};

pub async fn run(args: Logs) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let request = WatchLogsRequest {
        follow: args.follow,
        tail: args.tail,
        plugin: args.plugin.unwrap_or_default(),
        level: args.level.unwrap_or_default(),
    };
    let mut lines = client.watch_logs(request).await.map_err(refused(&to))?.into_inner();
    let colour = text::has_colours(&std::io::stdout());
    while let Some(line) = lines.message().await.map_err(refused(&to))? {
        if args.json {
            print_json(&line, true);
        } else {
            text::print_as_it_is(&crate::daemon::render_line(&line, colour));
        }
    }
    if args.follow { Err(went_away(&to)) } else { Ok(()) }
}

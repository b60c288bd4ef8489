//! `cbus events`: what happens to a daemon's plugins.

use controllerbus_api::proto::WatchEventsRequest;
use hot_runtime::text::{coloured_lines, escaped};
use miette::Result;

use super::went_away;
use crate::cli::Events;
use crate::client::{connect, daemon, refused};
use crate::text::{self, print_json, time};

pub async fn run(args: &Events) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let end = args.past && !args.follow;
    let request = WatchEventsRequest { past: args.past, end };
    let mut events = client.watch_events(request).await.map_err(refused(&to))?.into_inner();
    let colour = text::has_colours(&std::io::stdout());
    while let Some(event) = events.message().await.map_err(refused(&to))? {
        if args.json {
            print_json(&event, true);
        } else {
            let said = coloured_lines(&event.text, colour);
            text::print_as_it_is(&format!("{} {}: {said}", time(event.at_ms), escaped(&event.plugin)));
        }
    }
    if end { Ok(()) } else { Err(went_away(&to)) }
}

//! `cbus reload`: rebuilds a plugin of a daemon and swaps it in.

use controllerbus_api::proto::ReloadPluginRequest;
use miette::Result;

use crate::cli::OnePlugin;
use crate::client::{connect, daemon, refused};
use crate::text::{print_json, print_line};

pub async fn run(args: &OnePlugin) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let asked = client.reload_plugin(ReloadPluginRequest { id: args.id.clone() }).await;
    let reloaded = asked.map_err(refused(&to))?.into_inner();
    if args.json {
        print_json(&reloaded, false);
    } else if reloaded.unchanged {
        print_line(&format!("{}: no changes; generation {} is still serving", args.id, reloaded.generation));
    } else {
        let timeline = reloaded.timeline.map(|timeline| timeline.to_string()).unwrap_or_default();
        print_line(&format!("{}: generation {} is serving: {timeline}", args.id, reloaded.generation));
    }
    Ok(())
}

//! `cbus rollback`: rolls a plugin back to an earlier generation.

use controllerbus_api::proto::RollBackPluginRequest;
use miette::Result;

use crate::cli::Rollback;
use crate::client::{connect, daemon, refused};
use crate::text::{print_json, print_line};

pub async fn run(args: &Rollback) -> Result<()> {
    let (plugin, build) = (&args.plugin, args.build.clone().unwrap_or_default());
    let to = daemon(&plugin.to)?;
    let mut client = connect(&to).await?;
    let asked = client.roll_back_plugin(RollBackPluginRequest { id: plugin.id.clone(), build }).await;
    let back = asked.map_err(refused(&to))?.into_inner();
    if plugin.json {
        print_json(&back, false);
    } else {
        let timeline = back.timeline.map(|timeline| timeline.to_string()).unwrap_or_default();
        print_line(&format!("{}: generation {} is serving: {timeline}", plugin.id, back.generation));
    }
    Ok(())
}

//! `cbus unload`: takes a plugin off a daemon's bus and unloads it.

use controllerbus_api::proto::UnloadPluginRequest;
use miette::Result;

use crate::cli::OnePlugin;
use crate::client::{connect, daemon, refused};
use crate::text::{duration, print_json, print_line};

pub async fn run(args: &OnePlugin) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let asked = client.unload_plugin(UnloadPluginRequest { id: args.id.clone() }).await;
    let unloaded = asked.map_err(refused(&to))?.into_inner();
    if args.json {
        print_json(&unloaded, false);
    } else {
        let seen = if unloaded.unmapped == Some(true) { "; the library is unmapped" } else { "" };
        let took = duration(unloaded.unload_ms);
        let number = unloaded.generation;
        print_line(&match unloaded.left.as_str() {
            "" => format!("{}: generation {number} unloaded in {took}{seen}", args.id),
            left => format!("{}: generation {number} is off the bus but still loaded after {took}: {left}", args.id),
        });
    }
    Ok(())
}

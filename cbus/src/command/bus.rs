//! `cbus bus`: an overview of a daemon's bus.

use controllerbus_api::proto::GetInfoRequest;
use miette::Result;

use crate::cli::Show;
use crate::client::{connect, daemon, refused};
use crate::text::{duration, print_json, print_line, size};

pub async fn run(args: &Show) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let info = client.get_info(GetInfoRequest {}).await.map_err(refused(&to))?.into_inner();
    if args.json {
        print_json(&info, false);
        return Ok(());
    }
    let allowed = |yes: bool| if yes { "allowed" } else { "off" };
    let rows = [
        ("daemon", format!("cbus {}, process {}, at {}", info.version, info.process_id, to.address())),
        ("up", duration(info.uptime_ms as f64)),
        ("memory", size(info.memory_bytes)),
        ("plugins", info.plugins.to_string()),
        ("controllers", info.controllers.to_string()),
        ("directives", format!("{} active, {} values", info.directives, info.values)),
        ("configs", info.configs.to_string()),
        ("config ids", info.config_ids.join(", ")),
        ("exec", allowed(info.allow_exec).to_owned()),
        ("control", allowed(info.allow_control).to_owned()),
    ];
    for (name, value) in rows {
        print_line(&format!("{name:<12} {value}"));
    }
    Ok(())
}

//! `cbus directives`: the active directives on a daemon's bus.

use controllerbus_api::proto::{Directive, ListDirectivesRequest};
use miette::Result;

use crate::cli::Show;
use crate::client::{connect, daemon, refused};
use crate::text::{self, print_json, print_line, table};

pub async fn run(args: &Show) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let directives = client.list_directives(ListDirectivesRequest {}).await.map_err(refused(&to))?;
    let directives = directives.into_inner().directives;
    if args.json {
        print_json(&directives, false);
        return Ok(());
    }
    if directives.is_empty() {
        print_line("no active directives");
        return Ok(());
    }
    let row = |found: &Directive| {
        let value = found.values.first().map(|value| text::cut(&value.json, 60)).unwrap_or_default();
        vec![
            text::cut(&format!("{} {}", found.name, found.about), 60),
            found.references.to_string(),
            found.resolvers.len().to_string(),
            if found.idle { "idle" } else { "busy" }.to_owned(),
            found.values.len().to_string(),
            value,
        ]
    };
    let rows: Vec<_> = directives.iter().map(row).collect();
    table(&["DIRECTIVE", "REFERENCES", "RESOLVERS", "STATE", "VALUES", "FIRST VALUE"], &rows);
    for found in &directives {
        for resolver in found.resolvers.iter().filter(|resolver| !resolver.error.is_empty()) {
            print_line("");
            print_line(&format!("{}: controller {} failed: {}", found.name, resolver.controller, resolver.error));
        }
    }
    Ok(())
}

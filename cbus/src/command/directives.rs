//! `cbus directives`: the active directives on a daemon's bus.

use controllerbus::Schema;
use controllerbus_api::proto::{Directive, HostAsks, ListDirectivesRequest, Resolver};
use miette::Result;
use serde::Serialize;

use crate::cli::Directives;
use crate::client::{connect, daemon, refused};
use crate::text::{self, print_json, print_line, table};

pub async fn run(args: &Directives) -> Result<()> {
    let (fleet, args) = (args.fleet, &args.show);
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let directives = client.list_directives(ListDirectivesRequest {}).await.map_err(refused(&to))?;
    let directives = directives.into_inner().directives;
    if fleet {
        show_crossing(&directives.iter().filter_map(crossing).collect::<Vec<_>>(), args.json);
        return Ok(());
    }
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

/// A directive that is asked of other hosts, or by them.
#[derive(Serialize, Schema)]
pub struct Crossing {
    /// Its id.
    id: String,
    /// Its name and fields, for people.
    about: String,
    /// How many references there are to it on this host.
    references: u32,
    /// Of whom it is asked.
    of: Vec<AskedHost>,
    /// Who asks it of this host.
    by: Vec<HostAsks>,
}

/// A host of which a directive is asked.
#[derive(Serialize, Schema)]
struct AskedHost {
    /// Its name.
    host: String,
    /// `working`, `idle` or `failed`.
    state: String,
    /// How many values stand that it has given.
    values: u64,
    /// Why it failed.
    error: String,
}

/// A directive, if other hosts have to do with it.
fn crossing(found: &Directive) -> Option<Crossing> {
    let asked = |resolver: &Resolver| AskedHost {
        host: resolver.host.clone(),
        state: resolver.state.clone(),
        values: found.values.iter().filter(|value| value.controller == resolver.controller).count() as u64,
        error: resolver.error.clone(),
    };
    let of: Vec<AskedHost> = found.resolvers.iter().filter(|resolver| !resolver.host.is_empty()).map(asked).collect();
    let about = format!("{} {}", found.name, found.about).trim().to_owned();
    let by = found.asked_by.clone();
    (!of.is_empty() || !by.is_empty()).then(|| Crossing {
        id: found.id.clone(),
        about,
        references: found.references,
        of,
        by,
    })
}

fn show_crossing(found: &[Crossing], json: bool) {
    if json {
        print_json(&found, false);
        return;
    }
    if found.is_empty() {
        print_line("nothing is asked of other hosts, or by them");
        return;
    }
    let rows = found.iter().flat_map(|crossing| {
        let about = text::cut(&crossing.about, 60);
        let of = crossing.of.iter().map({
            let about = about.clone();
            move |of| {
                let cells = [&about, "of", &of.host, &of.state, &of.values.to_string(), &text::cut(&of.error, 60)];
                cells.map(str::to_owned).to_vec()
            }
        });
        let by = crossing.by.iter().map(move |by| [&about, "by", &by.host, "", "", ""].map(str::to_owned).to_vec());
        of.chain(by)
    });
    table(&["DIRECTIVE", "ASKED", "HOST", "STATE", "VALUES", "ERROR"], &rows.collect::<Vec<_>>());
}

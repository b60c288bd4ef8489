//! `cbus fleet offers`: which hosts offer which directives.

use controllerbus_api::fleet::{OFFERS, Offer};
use miette::Result;

use super::status::of_fleet;
use crate::cli::FleetOffers;
use crate::client::{connect, daemon};
use crate::text::{print_json, print_line, table};

pub async fn run(args: &FleetOffers) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let json = args.id.as_ref().map(|id| serde_json::json!({ "id": id }).to_string()).unwrap_or_default();
    let (_, offers) = of_fleet(&mut client, &to, OFFERS, json).await?;
    let mut offers: Vec<Offer> = offers.into_iter().map(|(_, offer)| offer).collect();
    offers.sort_by(|one, other| (&one.id, &one.host).cmp(&(&other.id, &other.host)));
    if args.json {
        print_json(&offers, false);
        return Ok(());
    }
    if offers.is_empty() {
        print_line(&match &args.id {
            Some(id) => {
                format!("no host offers {id}: a host does if its `offers` name it and a controller of it resolves it")
            }
            None => {
                "no host offers anything: a host does if its `offers` name what a controller of it resolves".to_owned()
            }
        });
        return Ok(());
    }
    let rows: Vec<_> =
        offers.iter().map(|offer| vec![offer.id.clone(), offer.host.clone(), offer.asks.to_string()]).collect();
    table(&["DIRECTIVE", "HOST", "ASKED BY THIS HOST"], &rows);
    Ok(())
}

//! Shows the rollouts that an agent follows, as long as somebody looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::directive::{Request, Slot, Values};
use controllerbus::{BusHandle, Result};

use super::Inner;
use crate::health::{HostHealth, PluginHealth};
use crate::link::Link;
use crate::orchestrator::drain;
use crate::shown::ShownRollout;

/// How often it is looked at what has changed.
const TICK: Duration = Duration::from_millis(250);

/// For how long hosts are waited for before what is known counts as all.
const SETTLED: Duration = Duration::from_secs(2);

/// A plugin whose rollout is shown.
struct Showing {
    health: Request<PluginHealth>,
    shown: Option<ShownRollout>,
    slot: Slot<ShownRollout>,
}

pub(super) async fn show(agent: Arc<Inner>, bus: BusHandle, values: Values<ShownRollout>) -> Result<()> {
    let mut showing: BTreeMap<String, Showing> = BTreeMap::new();
    let (mut links, begun) = (agent.links.subscribe(), tokio::time::Instant::now());
    while !agent.stop.is_cancelled() {
        let newest = links.borrow_and_update().clone();
        for (plugin, link) in &newest {
            if !showing.contains_key(plugin) {
                let health = bus.request(PluginHealth::of(plugin.clone()))?;
                showing.insert(plugin.clone(), Showing { health, shown: None, slot: values.slot() });
            }
            let Some(found) = showing.get_mut(plugin) else { continue };
            if !drain(&mut found.health).await {
                return Ok(());
            }
            let hosts: Vec<_> = found.health.standing().map(|host| HostHealth::clone(host)).collect();
            let Some(now) = shown(plugin, link.as_ref(), &hosts, agent.problem(plugin)) else { continue };
            if found.shown.as_ref() != Some(&now) {
                found.slot.set(now.clone());
                found.shown = Some(now);
            }
        }
        let is_settled = begun.elapsed() >= SETTLED || showing.values().all(|one| one.health.is_idle());
        if is_settled && agent.is_all(&newest) {
            values.idle();
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = agent.stop.cancelled() => {}
        }
    }
    Ok(())
}

/// What is shown of a plugin; nothing if it has no rollout, as far as is known.
fn shown(plugin: &str, link: Option<&Link>, hosts: &[HostHealth], problem: Option<String>) -> Option<ShownRollout> {
    match link {
        Some(link) => Some(ShownRollout { problem, ..ShownRollout::of(link, hosts) }),
        None => problem.map(|problem| ShownRollout::unknown(plugin, hosts, problem)),
    }
}

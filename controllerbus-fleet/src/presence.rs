//! What this host says of itself: that it is there, and what it offers now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use controllerbus::directive::ANY_DIRECTIVE;
use tokio::time::Instant;

use crate::carrier::Presence;
use crate::controllers::is_of_the_fleet;
use crate::shared::Shared;

/// How long an id is offered after its last controller has gone: another one may be on its way, as in a swap that stops first.
const LINGER: Duration = Duration::from_millis(500);

/// When what could not be announced is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the controllers of the bus, and announces what they resolve and the options name, until it is dropped.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut changes = shared.bus.changes();
    let mut goes: BTreeMap<Arc<str>, Instant> = BTreeMap::new();
    let mut said: BTreeSet<Arc<str>> = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        let now = Instant::now();
        let resolved = resolved(&shared);
        goes.retain(|id, _| !resolved.contains(id));
        for id in said.difference(&resolved) {
            goes.entry(Arc::clone(id)).or_insert(now + LINGER);
        }
        for (id, _) in goes.extract_if(.., |_, at| *at <= now) {
            said.remove(&id);
            withdraw(&shared, id);
        }
        for id in &resolved {
            // One that comes back may still be announced, and its withdrawal be on its way.
            let is_back = said.insert(Arc::clone(id));
            if is_back || !shared.is_announced(id) {
                announce(&shared, id);
            }
        }
        show(&shared, &said);
        let missing = resolved.iter().any(|id| !shared.is_announced(id));
        let due = goes.values().min().copied().into_iter().chain(missing.then(|| now + AGAIN)).min();
        let later = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = later => {}
        }
    }
}

/// The ids that controllers of this host resolve, as far as they are offered.
fn resolved(shared: &Shared) -> BTreeSet<Arc<str>> {
    let own = shared.bus.controllers();
    let own = own.iter().filter(|controller| !controller.staged && !is_of_the_fleet(&controller.info));
    let offers = &shared.options.offers;
    let mut all = BTreeSet::new();
    for id in own.flat_map(|controller| &controller.resolves) {
        if id == ANY_DIRECTIVE {
            // What that resolves is not known; what is named may be meant.
            all.extend(offers.literal().map(Arc::from));
        } else if offers.contain(id) {
            all.insert(Arc::from(id.as_str()));
        }
    }
    all
}

fn show(shared: &Shared, said: &BTreeSet<Arc<str>>) {
    let mut offers = shared.own_offers.write().unwrap_or_else(PoisonError::into_inner);
    if *offers != *said {
        offers.clone_from(said);
        drop(offers);
        shared.notify_changed();
    }
}

fn announce(shared: &Arc<Shared>, id: &Arc<str>) {
    let presence = Presence::Offer(shared.own.clone(), Arc::clone(id));
    let (announcing, id) = (Arc::clone(shared), Arc::clone(id));
    shared.outbox.run_with_carrier(move |carrier| {
        if announcing.is_announced(&id) {
            return;
        }
        match carrier.announce(presence) {
            Ok(guard) => announcing.keep_offer(id, Some(guard)),
            Err(error) => tracing::warn!(%id, %error, "the fleet cannot be told that this host offers it"),
        }
    });
}

fn withdraw(shared: &Arc<Shared>, id: Arc<str>) {
    let withdrawing = Arc::clone(shared);
    shared.outbox.run_with_carrier(move |_| withdrawing.keep_offer(id, None));
}

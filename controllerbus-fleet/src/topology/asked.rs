//! The controllers that hosts in reach have on the bus: they come and go with what these offer.

use std::sync::Arc;
use std::task::{Context, Waker};

use controllerbus::Error;
use controllerbus::bus::ControllerId;

use super::Topology;
use crate::controllers::one::OneController;
use crate::controllers::{FLEET, info};
use crate::link::Link;

impl Topology {
    /// Takes a host's controllers off the bus. With an error, those that wait for it are told.
    pub(super) fn withdraw(&mut self, link: &Arc<Link>, why: Option<&Error>) {
        let ids: Vec<_> = self.one.iter().filter(|(_, one)| one.is_some()).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.asks_no_more(&id, link, why);
        }
        let Some(host) = self.host_of(link) else { return };
        let controllers = std::mem::take(&mut host.controllers);
        for (controller, id) in controllers.into_values() {
            if let Some(why) = why {
                controller.is_lost(why);
            }
            self.remove(id);
        }
    }

    /// A host in reach offers an id of which one host is asked. The controller is there only as long as there is one: a call has one
    /// resolver, and another one here may be able to answer it.
    pub(super) fn asks_of_one(&mut self, id: &Arc<str>, link: &Arc<Link>) {
        let Some(one) = self.one.get_mut(&**id) else { return };
        match one {
            Some((one, _)) => one.offers(link),
            None => {
                let controller = Arc::new(OneController::new(Arc::clone(id), link));
                let info = info(&format!("{FLEET}/one"), &format!("{FLEET}/one"), "Asks one host of the fleet");
                let added = self.shared.add_controller(&self.shared.own.host, Arc::clone(&controller) as _, info);
                *one = Some((controller, added));
            }
        }
    }

    /// A host is out of reach, or does not offer an id any more. With an error, those are told for which there is no other one.
    pub(super) fn asks_no_more(&mut self, id: &str, link: &Arc<Link>, why: Option<&Error>) {
        let Some(one) = self.one.get_mut(id) else { return };
        if let Some((_, id)) = one.take_if(|(one, _)| one.is_last(link, why)) {
            self.remove(id);
        }
    }

    pub(super) fn remove(&self, id: ControllerId) {
        let bus = self.shared.bus.clone();
        let mut removing = Box::pin(async move { bus.remove_controller(id).await });
        // What it answers goes at once: the next one of that host must not answer beside it. The rest takes its time.
        if removing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            drop(tokio::spawn(removing));
        }
    }
}

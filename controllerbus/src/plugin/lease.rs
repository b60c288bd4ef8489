//! What keeps a generation loaded: every object of it that the host holds counts here.

use std::sync::Arc;

#[cfg(all(test, cbus_loom))]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(all(test, cbus_loom)))]
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A factory that the bus knows.
    Factory = 0,
    /// A controller on the bus.
    Controller = 1,
    /// A call of a controller: construct, execute, close, restore or a resolver.
    Call = 2,
    /// A waker of a guest's task that waits for the bus.
    Waker = 3,
    /// An interface value that somebody holds.
    Interface = 4,
    /// A connection that it has accepted and that is open.
    Connection = 5,
}

/// The leases of one generation, counted by their holders' kind.
#[derive(Default)]
pub struct Leases {
    counts: [AtomicUsize; 6],
    changed: Notify,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("holders", &self.holders()).finish_non_exhaustive()
    }
}

/// How many of each kind hold a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Holders {
    /// Factories that the bus knows.
    pub factories: usize,
    /// Controllers on the bus.
    pub controllers: usize,
    /// Calls in flight.
    pub calls: usize,
    /// Wakers of the guest's tasks that wait for the host's bus.
    pub wakers: usize,
    /// Interface values of it that somebody holds.
    pub interfaces: usize,
    /// Connections that it has accepted and that are open.
    pub connections: usize,
}

impl Holders {
    /// How many there are that unloading waits for: all but wakers, which end with the guest's own tasks.
    pub fn to_drain(&self) -> usize {
        self.factories + self.controllers + self.calls + self.interfaces + self.connections
    }
}

impl std::fmt::Display for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = [
            (self.factories, "factory", "factories"),
            (self.controllers, "controller", "controllers"),
            (self.calls, "call", "calls"),
            (self.interfaces, "interface value", "interface values"),
            (self.connections, "connection", "connections"),
            (self.wakers, "waker", "wakers"),
        ];
        let held: Vec<String> = named
            .iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many }))
            .collect();
        f.write_str(if held.is_empty() { "nobody" } else { "" })?;
        f.write_str(&held.join(", "))
    }
}

impl Leases {
    /// No lease yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a lease.
    pub fn take(self: &Arc<Self>, holder: Holder) -> Lease {
        self.counts[holder as usize].fetch_add(1, Ordering::Relaxed);
        Lease { leases: Arc::clone(self), holder }
    }

    /// What holds leases now.
    pub fn holders(&self) -> Holders {
        let count = |holder: Holder| self.counts[holder as usize].load(Ordering::Acquire);
        Holders {
            factories: count(Holder::Factory),
            controllers: count(Holder::Controller),
            calls: count(Holder::Call),
            wakers: count(Holder::Waker),
            interfaces: count(Holder::Interface),
            connections: count(Holder::Connection),
        }
    }

    /// Waits until no factory, controller, call, interface value or connection holds a lease.
    ///
    /// Wakers are not waited for: they belong to the guest's own tasks, which end when it shuts down.
    pub async fn drained(&self) {
        self.wait(|held| held.to_drain() == 0).await;
    }

    /// Waits until nothing but connections holds a lease: these last as long as their clients like.
    pub async fn done_but_connections(&self) {
        self.wait(|held| held.to_drain() == held.connections).await;
    }

    /// Waits until no lease is held.
    pub async fn released(&self) {
        self.wait(|held| held == Holders::default()).await;
    }

    async fn wait(&self, done: impl Fn(Holders) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(self.holders()) {
                return;
            }
            changed.await;
        }
    }
}

/// Keeps a generation loaded until it is dropped.
#[must_use = "dropping it lets the generation go"]
pub struct Lease {
    leases: Arc<Leases>,
    holder: Holder,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Release: what the holder did with the library happens before the unload that sees zero.
        if self.leases.counts[self.holder as usize].fetch_sub(1, Ordering::Release) == 1 {
            self.leases.changed.notify_waiters();
        }
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use loom::cell::UnsafeCell;

    use super::*;

    /// The code of a library, which is used by holders of a lease, and changed when it is unmapped.
    struct Library(UnsafeCell<bool>);

    // SAFETY: loom checks that nothing uses it while it is changed.
    unsafe impl Sync for Library {}
    // SAFETY: as above.
    unsafe impl Send for Library {}

    impl Library {
        fn used(&self) {
            // SAFETY: loom checks that nothing changes it meanwhile.
            self.0.with(|mapped| assert!(unsafe { *mapped }));
        }
    }

    /// Unmaps a library once no lease is held, while these use it, each holding a lease of its own from before.
    fn unmapped_after(holders: &'static [(Holder, fn(&Arc<Leases>, &Library, Lease))]) {
        loom::model(move || {
            let (leases, library) = (Leases::new(), loom::sync::Arc::new(Library(UnsafeCell::new(true))));
            let using: Vec<_> = holders
                .iter()
                .map(|(holder, use_it)| {
                    let (lease, leases) = (leases.take(*holder), Arc::clone(&leases));
                    let library = loom::sync::Arc::clone(&library);
                    loom::thread::spawn(move || use_it(&leases, &library, lease))
                })
                .collect();
            while leases.holders() != Holders::default() {
                loom::thread::yield_now();
            }
            // SAFETY: loom checks that nothing uses it meanwhile.
            library.0.with_mut(|mapped| unsafe { *mapped = false });
            using.into_iter().for_each(|thread| thread.join().expect("it ends"));
        });
    }

    #[test]
    fn loom_all_use_of_a_library_is_before_its_end() {
        unmapped_after(&[
            (Holder::Call, |_, library, _lease| library.used()),
            (Holder::Waker, |_, library, _lease| library.used()),
        ]);
    }

    #[test]
    fn loom_a_lease_that_is_handed_on_is_seen_however_the_kinds_are_counted() {
        // A call gives an interface value and ends; a factory's construction gives a controller.
        unmapped_after(&[(Holder::Call, |leases, library, call| {
            let interface = leases.take(Holder::Interface);
            drop(call);
            library.used();
            drop(interface);
        })]);
        unmapped_after(&[(Holder::Factory, |leases, library, factory| {
            let controller = leases.take(Holder::Controller);
            drop(factory);
            library.used();
            drop(controller);
        })]);
    }
}

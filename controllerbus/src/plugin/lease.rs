//! What keeps a generation loaded: every object of it that the host holds counts here.

use std::sync::Arc;

use crate::sync::Notify;
use crate::sync::atomic::{AtomicU64, Ordering};

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
    /// By kind: how many there are, in the lower half, and how many were ever taken, in the upper half. So a count at which it
    /// has arrived again differs from what it was before.
    counts: [AtomicU64; 6],
    changed: Notify,
}

/// What a new lease adds to the count of its kind.
const TAKEN: u64 = (1 << 32) + 1;

/// How many there are of a kind, by its count.
fn held(count: u64) -> u32 {
    count as u32
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("holders", &self.holders()).finish_non_exhaustive()
    }
}

/// How many of each kind hold a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
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
        f.write_str(if held.is_empty() { "nothing" } else { "" })?;
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
        self.counts[holder as usize].fetch_add(TAKEN, Ordering::Relaxed);
        Lease { leases: Arc::clone(self), holder }
    }

    /// What holds leases now: at one moment, so that one that is handed on from a kind to another is not overlooked.
    pub fn holders(&self) -> Holders {
        let read = || self.counts.each_ref().map(|count| count.load(Ordering::Acquire));
        let mut counts = read();
        loop {
            let again = read();
            if again == counts {
                break;
            }
            counts = again;
        }
        let count = |holder: Holder| held(counts[holder as usize]) as usize;
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
        if held(self.leases.counts[self.holder as usize].fetch_sub(1, Ordering::Release)) == 1 {
            self.leases.changed.notify_waiters();
        }
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use loom::cell::UnsafeCell;

    use super::*;
    use crate::sync::block_on;

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

    type Use = Arc<dyn Fn(&Arc<Leases>, &Library, Lease) + Send + Sync>;

    /// Unmaps a library once no lease is held, while these use it, each holding a lease of its own from before.
    fn unmapped_after(holders: Vec<(Holder, Use)>) {
        loom::model(move || {
            let (leases, library) = (Leases::new(), loom::sync::Arc::new(Library(UnsafeCell::new(true))));
            let using: Vec<_> = holders
                .iter()
                .map(|(holder, use_it)| {
                    let (lease, leases, use_it) = (leases.take(*holder), Arc::clone(&leases), Arc::clone(use_it));
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
        let uses: Use = Arc::new(|_, library, _lease| library.used());
        unmapped_after(vec![(Holder::Call, Arc::clone(&uses)), (Holder::Waker, uses)]);
    }

    const KINDS: [Holder; 6] =
        [Holder::Factory, Holder::Controller, Holder::Call, Holder::Waker, Holder::Interface, Holder::Connection];

    #[test]
    fn loom_a_lease_that_is_handed_on_is_seen_whatever_the_two_kinds_are() {
        for from in KINDS {
            for to in KINDS {
                let hands_on = move |leases: &Arc<Leases>, library: &Library, first| {
                    let next = leases.take(to);
                    drop(first);
                    library.used();
                    drop(next);
                };
                unmapped_after(vec![(from, Arc::new(hands_on))]);
            }
        }
    }

    #[test]
    fn loom_a_lease_that_is_handed_to_and_fro_is_seen() {
        let to_and_fro = |leases: &Arc<Leases>, library: &Library, first| {
            let second = leases.take(Holder::Controller);
            drop(first);
            let third = leases.take(Holder::Call);
            drop(second);
            library.used();
            drop(third);
        };
        unmapped_after(vec![(Holder::Call, Arc::new(to_and_fro))]);
    }

    /// Waits in this way while these leases go, with three preemptions at most.
    fn told_of(
        waits: impl AsyncFn(&Leases) + Send + Sync + Copy + 'static,
        holders: &'static [Holder],
        stays: &'static [Holder],
    ) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let leases = Leases::new();
            let stay: Vec<_> = stays.iter().map(|holder| leases.take(*holder)).collect();
            let going: Vec<_> = holders
                .iter()
                .map(|holder| {
                    let lease = leases.take(*holder);
                    loom::thread::spawn(move || drop(lease))
                })
                .collect();
            block_on(waits(&leases));
            going.into_iter().for_each(|thread| thread.join().expect("it ends"));
            drop(stay);
        });
    }

    #[test]
    fn loom_whoever_waits_for_the_last_lease_is_told() {
        told_of(async |leases| leases.released().await, &[Holder::Call, Holder::Call], &[]);
        told_of(async |leases| leases.released().await, &[Holder::Factory, Holder::Interface], &[]);
        told_of(async |leases| leases.drained().await, &[Holder::Interface, Holder::Controller], &[Holder::Waker]);
        told_of(async |leases| leases.done_but_connections().await, &[Holder::Call], &[Holder::Connection]);
    }
}

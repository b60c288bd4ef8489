//! What threads share: std's and tokio's types, or loom's where models are checked (`scripts/sanitize loom`).
//!
//! Only what a model is about uses these. The models are built with a `cfg` of their own, because `cfg(loom)` would change
//! tokio as well, which then has no sockets.

#[cfg(not(all(test, cbus_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock, atomic};
#[cfg(not(all(test, cbus_loom)))]
pub(crate) use tokio::sync::Notify;

#[cfg(all(test, cbus_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
#[cfg(all(test, cbus_loom))]
pub(crate) use modelled::{Notify, OnceLock, block_on};

/// What loom has no model of, with the guarantees that the real one documents, and no others.
#[cfg(all(test, cbus_loom))]
mod modelled {
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};

    use loom::sync::Mutex;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// Set once. Who sees that it is set sees what was done before.
    pub(crate) struct OnceLock<T> {
        state: AtomicUsize,
        value: std::sync::OnceLock<T>,
    }

    const EMPTY: usize = 0;
    const BEING_SET: usize = 1;
    const SET: usize = 2;

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { state: AtomicUsize::new(EMPTY), value: std::sync::OnceLock::new() }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            if self.state.load(Ordering::Acquire) == SET { self.value.get() } else { None }
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            let begun = self.state.compare_exchange(EMPTY, BEING_SET, Ordering::Acquire, Ordering::Acquire);
            if begun.is_err() {
                while self.get().is_none() {
                    loom::thread::yield_now();
                }
                return Err(value);
            }
            let set = self.value.set(value);
            self.state.store(SET, Ordering::Release);
            set
        }
    }

    /// As tokio's.
    #[derive(Default)]
    pub(crate) struct Notify(Mutex<Waiting>);

    #[derive(Default)]
    struct Waiting {
        /// How often all were notified.
        rounds: usize,
        /// The next one who waits need not.
        permit: bool,
        wakers: Vec<Waker>,
    }

    impl Notify {
        pub(crate) fn notified(&self) -> Notified<'_> {
            Notified { notify: self, round: self.0.lock().unwrap().rounds }
        }

        pub(crate) fn notify_waiters(&self) {
            let wakers = {
                let mut waiting = self.0.lock().unwrap();
                waiting.rounds += 1;
                std::mem::take(&mut waiting.wakers)
            };
            wakers.into_iter().for_each(Waker::wake);
        }

        pub(crate) fn notify_one(&self) {
            let waker = {
                let mut waiting = self.0.lock().unwrap();
                waiting.permit = true;
                waiting.wakers.pop()
            };
            waker.into_iter().for_each(Waker::wake);
        }
    }

    pub(crate) struct Notified<'a> {
        notify: &'a Notify,
        round: usize,
    }

    impl Notified<'_> {
        /// It takes part from its beginning; one that is not polled is only not woken.
        pub(crate) fn enable(self: Pin<&mut Self>) -> bool {
            self.notify.0.lock().unwrap().rounds != self.round
        }
    }

    impl Future for Notified<'_> {
        type Output = ();
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let mut waiting = self.notify.0.lock().unwrap();
            if waiting.rounds != self.round || std::mem::take(&mut waiting.permit) {
                return Poll::Ready(());
            }
            waiting.wakers.push(cx.waker().clone());
            Poll::Pending
        }
    }

    struct Thread(loom::sync::Notify);

    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.notify();
        }
    }

    /// Polls a future whenever it is woken. The model fails if nobody wakes it.
    pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
        let thread = Arc::new(Thread(loom::sync::Notify::new()));
        let waker = Waker::from(Arc::clone(&thread));
        let mut work = pin!(work);
        loop {
            match work.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => return done,
                Poll::Pending => thread.0.wait(),
            }
        }
    }
}

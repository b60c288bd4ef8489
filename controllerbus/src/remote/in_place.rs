//! Work that is gone on with wherever it is woken, without another thread: for what only waits for others and passes their answer on.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Wake, Waker};

use crate::sync::{Mutex, MutexGuard};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Some work, which whoever wakes it polls. Nothing is locked meanwhile.
pub(super) struct InPlace(Mutex<State>);

struct State {
    /// The work, unless it is being polled or has ended.
    work: Option<Work>,
    /// It was woken while it was being polled.
    woken: bool,
    aborted: bool,
}

impl InPlace {
    /// Work that begins when it is first [gone on](InPlace::go_on) with.
    pub(super) fn new(work: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { work: Some(Box::pin(work)), woken: false, aborted: false })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls it, unless another thread does or it has ended.
    pub(super) fn go_on(self: &Arc<Self>) {
        let mut work = {
            let mut state = self.state();
            match state.work.take() {
                Some(work) => work,
                None => return state.woken = true,
            }
        };
        let waker = Waker::from(Arc::clone(self));
        loop {
            if work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return;
            }
            let mut state = self.state();
            if state.aborted {
                // It is dropped when nothing is locked.
                break;
            }
            if !std::mem::take(&mut state.woken) {
                state.work = Some(work);
                return;
            }
        }
    }

    /// Drops it, or has the thread that polls it do so.
    pub(super) fn abort(&self) {
        let work = {
            let mut state = self.state();
            state.aborted = true;
            state.work.take()
        };
        drop(work);
    }
}

impl Wake for InPlace {
    fn wake(self: Arc<Self>) {
        self.go_on();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.go_on();
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use loom::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What has become of some work.
    #[derive(Default)]
    struct Seen {
        polls: AtomicUsize,
        ended: AtomicUsize,
        dropped: AtomicUsize,
    }

    struct Held(Arc<Seen>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Work that ends once both of two threads have said that it may, and woken it; and who else does what meanwhile.
    fn woken_by_two(meanwhile: fn(&InPlace), look: fn(&Seen)) {
        loom::model(move || {
            let (seen, said) = (Arc::new(Seen::default()), Arc::new(AtomicUsize::new(0)));
            let (held, heard) = (Held(Arc::clone(&seen)), Arc::clone(&said));
            let work = InPlace::new(poll_fn(move |_| {
                assert_eq!(held.0.polls.fetch_add(1, Ordering::AcqRel), 0, "polled by two threads");
                let may_end = heard.load(Ordering::Acquire) == 2;
                held.0.polls.fetch_sub(1, Ordering::AcqRel);
                if may_end {
                    held.0.ended.fetch_add(1, Ordering::AcqRel);
                    return Poll::Ready(());
                }
                Poll::Pending
            }));
            let waking: Vec<_> = (0..2)
                .map(|_| {
                    let (work, said) = (Arc::clone(&work), Arc::clone(&said));
                    loom::thread::spawn(move || {
                        said.fetch_add(1, Ordering::AcqRel);
                        work.go_on();
                    })
                })
                .collect();
            meanwhile(&work);
            waking.into_iter().for_each(|thread| thread.join().expect("it ends"));
            look(&seen);
        });
    }

    #[test]
    fn no_wake_is_lost_and_work_is_polled_by_one_thread_at_a_time() {
        woken_by_two(
            |_| (),
            |seen| assert_eq!([&seen.ended, &seen.dropped].map(|count| count.load(Ordering::Acquire)), [1, 1]),
        );
    }

    #[test]
    fn what_is_aborted_is_dropped_once_whoever_polls_it_then() {
        woken_by_two(InPlace::abort, |seen| assert_eq!(seen.dropped.load(Ordering::Acquire), 1));
    }
}

#[cfg(all(test, not(cbus_loom)))]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::task::Poll;
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn work_ends_on_the_thread_that_wakes_it() {
        let (told, heard) = channel();
        let (answer, answered) = oneshot::channel();
        let work = InPlace::new(async move {
            let answer: u32 = answered.await.expect("an answer");
            told.send((answer, thread::current().id())).expect("who hears it");
        });
        work.go_on();
        assert!(heard.try_recv().is_err());
        let waking = thread::spawn(move || answer.send(7).map(|()| thread::current().id()).expect("who waits"));
        let by = waking.join().expect("it ends");
        assert_eq!(heard.try_recv(), Ok((7, by)));
    }

    #[test]
    fn work_that_is_woken_while_it_is_polled_is_polled_again_by_the_same_thread() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let work = InPlace::new(poll_fn(move |cx| {
            // By this thread and by another one, before it says that it waits.
            cx.waker().wake_by_ref();
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake()).join().expect("it ends");
            if counted.fetch_add(1, Ordering::Relaxed) == 4 { Poll::Ready(()) } else { Poll::Pending }
        }));
        work.go_on();
        assert_eq!(polls.load(Ordering::Relaxed), 5);
        work.go_on();
        assert_eq!(polls.load(Ordering::Relaxed), 5, "it has ended");
    }

    /// Counts how often it was dropped.
    struct Dropped(Arc<AtomicUsize>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_aborted_is_dropped_at_once_or_by_the_thread_that_polls_it() {
        let drops = Arc::new(AtomicUsize::new(0));
        let held = Dropped(Arc::clone(&drops));
        let work = InPlace::new(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        work.go_on();
        work.abort();
        assert_eq!(drops.load(Ordering::Relaxed), 1);

        let held = Dropped(Arc::clone(&drops));
        let (polled, is_polled) = channel();
        let (go, goes) = channel();
        let work = InPlace::new(poll_fn(move |_| {
            let _held = &held;
            polled.send(()).expect("who waits");
            let () = goes.recv().expect("it goes on");
            Poll::Pending
        }));
        let polling = thread::spawn({
            let work = Arc::clone(&work);
            move || work.go_on()
        });
        is_polled.recv().expect("it is polled");
        work.abort();
        // Also where it is woken after that.
        work.go_on();
        assert_eq!(drops.load(Ordering::Relaxed), 1, "not while it is polled");
        go.send(()).expect("who polls");
        polling.join().expect("it ends");
        assert_eq!(drops.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn whoever_wakes_and_aborts_at_the_same_time_no_wake_is_lost_and_nothing_is_polled_twice() {
        const ROUNDS: usize = 2_000;
        const WAKES: usize = 3;
        for round in 0..ROUNDS {
            let (drops, polled, tokens) =
                (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (held, counted, taken) = (Dropped(Arc::clone(&drops)), Arc::clone(&polled), Arc::clone(&tokens));
            let work = InPlace::new(poll_fn(move |_| {
                let _held = &held;
                assert_eq!(counted.fetch_add(1, Ordering::AcqRel), 0, "polled by two threads");
                let all = taken.load(Ordering::Acquire) == WAKES;
                counted.fetch_sub(1, Ordering::AcqRel);
                if all { Poll::Ready(()) } else { Poll::Pending }
            }));
            work.go_on();
            let aborts = round % 2 == 0;
            thread::scope(|scope| {
                for _ in 0..WAKES {
                    scope.spawn(|| {
                        tokens.fetch_add(1, Ordering::AcqRel);
                        work.go_on();
                    });
                }
                if aborts {
                    scope.spawn(|| work.abort());
                }
            });
            assert_eq!(drops.load(Ordering::Relaxed), 1, "it has ended, or was dropped");
        }
    }
}

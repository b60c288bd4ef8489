//! Polls a future on the thread that wakes it.
//!
//! A resolver ends on a thread of the guest's. To have another thread woken, only to say so to the runtime, takes longer
//! than to say it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// A thread polls it.
const POLLED: u8 = 1;
/// It was woken since that poll began.
const WOKEN: u8 = 2;
/// It is to be dropped.
const ABORTED: u8 = 4;

/// A future that runs wherever it is woken. It must be short and never block.
pub(super) struct Inline {
    /// Touched by the one who has set `POLLED`; gone once it has ended.
    work: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    state: AtomicU8,
}

impl Inline {
    /// It does nothing until it is woken for the first time.
    pub(super) fn new(work: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        Arc::new(Self { work: Mutex::new(Some(Box::pin(work))), state: AtomicU8::new(0) })
    }

    /// Drops the future: here and now, or, where another thread polls it, right after that.
    pub(super) fn abort(self: &Arc<Self>) {
        self.state.fetch_or(ABORTED, Ordering::AcqRel);
        self.wake_by_ref();
    }

    fn poll(self: &Arc<Self>) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = match &mut *work {
            Some(_) if self.state.load(Ordering::Acquire) & ABORTED != 0 => true,
            Some(work) => work.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(self)))).is_ready(),
            None => false,
        };
        let ended = ended.then(|| work.take());
        drop(work);
        drop(ended);
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Who polls it already, or is woken by what it polls, is told to poll again.
        if self.state.fetch_or(POLLED | WOKEN, Ordering::AcqRel) & POLLED != 0 {
            return;
        }
        loop {
            self.state.fetch_and(!WOKEN, Ordering::AcqRel);
            self.poll();
            let rest = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & WOKEN == 0).then_some(state & !POLLED)
            });
            if rest.is_ok() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::oneshot;

    use super::*;

    struct Dropped(Arc<AtomicUsize>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_ends_on_the_thread_that_wakes_it_or_is_dropped_once_whoever_is_first() {
        for round in 0..2000 {
            let (sender, receiver) = oneshot::channel::<()>();
            let (ended, dropped) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
            let (place, held) = (Arc::clone(&ended), Dropped(Arc::clone(&dropped)));
            let inline = Inline::new(async move {
                let _held = held;
                if receiver.await.is_ok() {
                    *place.lock().expect("the place") = Some(std::thread::current().id());
                }
            });
            inline.wake_by_ref();
            assert_eq!(dropped.load(Ordering::Relaxed), 0);
            let waking = std::thread::spawn(move || sender.send(()));
            let by = waking.thread().id();
            let abort = round % 2 == 1;
            if abort {
                inline.abort();
            }
            let _ = waking.join().expect("the thread ends");
            let ended = *ended.lock().expect("the place");
            assert!(ended == Some(by) || abort, "{ended:?}");
            assert_eq!(dropped.load(Ordering::Relaxed), 1);
            assert!(inline.work.lock().expect("the work").is_none());
        }
    }

    #[test]
    fn one_that_wakes_itself_is_polled_again() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let inline = Inline::new(std::future::poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            if counted.fetch_add(1, Ordering::Relaxed) < 9 {
                std::task::Poll::Pending
            } else {
                std::task::Poll::Ready(())
            }
        }));
        inline.wake_by_ref();
        assert_eq!(polls.load(Ordering::Relaxed), 10);
    }
}

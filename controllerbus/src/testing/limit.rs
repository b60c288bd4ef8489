//! A limit that a paused clock cannot hold up.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long a wait may take in real time while the clock is paused. All that it waits for then is work.
pub(super) const STUCK: Duration = Duration::from_secs(30);

/// Waits for at most [`STUCK`] of real time, where the clock is paused; `None` after that. Else the work limits itself.
pub(super) async fn in_real_limit<T>(is_paused: bool, work: impl Future<Output = T>) -> Option<T> {
    in_limit(is_paused.then_some(STUCK), work).await
}

async fn in_limit<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut alarm: Option<Alarm> = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let Some(limit) = limit else { return Poll::Pending };
        // Only for what has to wait at all: it takes a thread.
        if alarm.get_or_insert_with(|| Alarm::after(limit)).has_rung(cx.waker()) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Wakes a task after a real time.
struct Alarm {
    state: Arc<Mutex<State>>,
    /// Its end ends the thread.
    _wanted: Sender<()>,
}

#[derive(Default)]
struct State {
    has_rung: bool,
    waker: Option<Waker>,
}

impl Alarm {
    fn after(limit: Duration) -> Self {
        let (wanted, end): (_, Receiver<()>) = channel();
        let state = Arc::new(Mutex::new(State::default()));
        let rings = Arc::clone(&state);
        std::thread::spawn(move || {
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let waker = {
                    let mut state = rings.lock().unwrap_or_else(PoisonError::into_inner);
                    state.has_rung = true;
                    state.waker.take()
                };
                waker.into_iter().for_each(Waker::wake);
            }
        });
        Self { state, _wanted: wanted }
    }

    fn has_rung(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waker = Some(waker.clone());
        state.has_rung
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::in_limit;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_although_a_task_that_never_rests_holds_the_clock() {
        let busy = tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        let waited = in_limit(Some(Duration::from_millis(20)), tokio::time::sleep(Duration::from_secs(1))).await;
        assert!(waited.is_none());
        busy.abort();
        let rests = in_limit(Some(Duration::from_secs(600)), tokio::time::sleep(Duration::from_secs(1))).await;
        assert!(rests.is_some());
    }
}

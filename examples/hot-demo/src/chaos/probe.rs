//! A request to a healthy controller every five milliseconds, and for comparison a bare timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use controllerbus::{Bus, Result};
use tokio::task::JoinHandle;

use crate::api::Greet;

const EVERY: Duration = Duration::from_millis(5);

/// A request that takes longer than this counts as failed.
const LIMIT: Duration = Duration::from_secs(10);

/// The results of the probe.
#[derive(Default)]
pub struct Probed {
    /// The number of requests.
    pub requests: u64,
    /// Requests that got no answer, or a wrong one.
    pub failed: u64,
    /// Why the first of these failed.
    pub why: Option<String>,
    /// The longest time that a request took.
    pub longest: Duration,
    /// The timer's longest delay.
    pub timer_longest: Duration,
}

/// The running probe and timer.
pub struct Probe {
    stop: Arc<AtomicBool>,
    asks: JoinHandle<Probed>,
    timer: JoinHandle<Duration>,
}

impl Probe {
    /// Waits for a first answer, then starts both.
    pub async fn start(bus: &Bus) -> Result<Self> {
        bus.resolve(Greet { name: "you".to_owned() }).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let asks = tokio::spawn(ask(bus.clone(), Arc::clone(&stop)));
        let timer = tokio::spawn(time(Arc::clone(&stop)));
        Ok(Self { stop, asks, timer })
    }

    /// Stops both.
    pub async fn stop(self) -> Probed {
        self.stop.store(true, Ordering::Relaxed);
        let timer_longest = self.timer.await.unwrap_or_default();
        Probed { timer_longest, ..self.asks.await.unwrap_or_default() }
    }
}

async fn ask(bus: Bus, stop: Arc<AtomicBool>) -> Probed {
    let mut probed = Probed::default();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(EVERY).await;
        let (begun, name) = (Instant::now(), format!("guest {}", probed.requests));
        let expected = format!("Hello, {name}!");
        let answer = bus.resolve(Greet { name }).within(LIMIT).await;
        probed.longest = probed.longest.max(begun.elapsed());
        probed.requests += 1;
        let why = match answer {
            Ok(greeting) if greeting.0 == expected => continue,
            Ok(greeting) => format!("the answer was `{}`", greeting.0),
            Err(error) => error.to_string(),
        };
        probed.failed += 1;
        probed.why.get_or_insert(why);
    }
    probed
}

async fn time(stop: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        tokio::time::sleep(EVERY).await;
        longest = longest.max(begun.elapsed().saturating_sub(EVERY));
    }
    longest
}

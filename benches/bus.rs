//! The bus by itself: a directive is added, its value taken, and it is released; alone, among others, merged, and on
//! two threads; and controllers that come and go while much stands.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use benches::session::Session;
use benches::{Measured, timed};
use controllerbus::bus::ControllerId;
use controllerbus::controller::Info;
use controllerbus::controller::factory::erase;
use controllerbus::prelude::*;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: benches::alloc::Counting = benches::alloc::Counting;

const SAMPLES: usize = 41;
const EACH: Duration = Duration::from_millis(20);

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "bench/square", value = u64)]
struct Square(u64);

/// What nobody asks for.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "bench/other", value = u64)]
struct Other(u64);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "bench/none")]
struct NoConfig {}

struct Squares;

#[hot_plugin(id = "bench/squares", version = "1.0.0")]
impl Controller for Squares {
    type Config = NoConfig;

    async fn construct(_: NoConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn square(&self, request: Square, values: Values<u64>) -> Result<()> {
        values.add(request.0.wrapping_mul(request.0));
        Ok(())
    }
}

struct Others;

#[hot_plugin(id = "bench/others", version = "1.0.0")]
impl Controller for Others {
    type Config = NoConfig;

    async fn construct(_: NoConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn other(&self, request: Other, values: Values<u64>) -> Result<()> {
        values.add(request.0);
        Ok(())
    }
}

fn add<C: Controller>(bus: &Bus, controller: C) -> ControllerId {
    let info = Info::new("bench", "1.0.0".parse().expect("a version"), "bench/none");
    bus.add_controller(erase(controller), info)
}

fn bus() -> Bus {
    let bus = Bus::new();
    add(&bus, Squares);
    bus
}

async fn resolve(bus: &Bus, number: u64) {
    let value = bus.resolve(Square(number)).await.expect("a value");
    black_box(*value);
}

fn resolves(name: &str, runtime: &Runtime, bus: &Bus) -> Measured {
    let mut next = 1 << 40;
    Measured::ns(name, SAMPLES, EACH, |count| {
        let first = next;
        next += count;
        timed(|| {
            runtime.block_on(async {
                for number in first..next {
                    resolve(bus, number).await;
                }
            });
        })
    })
}

fn standing(runtime: &Runtime, bus: &Bus, count: u64) -> Vec<Request<Square>> {
    runtime.block_on(async {
        let mut standing = Vec::new();
        for number in 0..count {
            let mut request = bus.request(Square(number)).expect("a request");
            request.value().await.expect("a value");
            standing.push(request);
        }
        standing
    })
}

/// Keeps the calling thread on one of the cores, each number on another: left alone, two threads that compute share one of two
/// cores for many milliseconds, whatever they do.
fn stay_on(number: usize) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let allowed = sched_getaffinity(None).expect("the cores of this process");
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let mut one = CpuSet::new();
        one.set(all[number % all.len()]);
        sched_setaffinity(None, &one).expect("a core");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = number;
}

/// Wall time of all operations of some tasks, each on a thread of its own and with its own share of the keys, as requesters have.
fn on_threads(runtime: &Runtime, bus: &Bus, threads: u64, first: u64, count: u64) -> Duration {
    let share = count.div_ceil(threads);
    let barrier = Arc::new(Barrier::new(threads as usize));
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (bus, barrier) = (bus.clone(), Arc::clone(&barrier));
            let first = first + thread * share;
            runtime.spawn(async move {
                // It blocks its thread, so that the other task gets another one.
                barrier.wait();
                let begun = Instant::now();
                for number in first..first + share {
                    resolve(&bus, number).await;
                }
                (begun, Instant::now())
            })
        })
        .collect();
    let times: Vec<_> = workers.into_iter().map(|worker| runtime.block_on(worker).expect("the task ends")).collect();
    let begun = times.iter().map(|time| time.0).min().expect("a thread");
    let ended = times.iter().map(|time| time.1).max().expect("a thread");
    ended - begun
}

fn main() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let started = AtomicUsize::new(0);
    builder.on_thread_start(move || stay_on(started.fetch_add(1, Ordering::Relaxed)));
    let runtime = builder.worker_threads(2).enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    let mut all = Session::begin("bus");

    let quiet = bus();
    all.push(resolves("resolve", &runtime, &quiet));
    for (name, count) in
        [("resolve_standing_100", 100), ("resolve_standing_10k", 10_000), ("resolve_standing_100k", 100_000)]
    {
        let bus = bus();
        let held = standing(&runtime, &bus, count);
        all.push(resolves(name, &runtime, &bus));
        drop(held);
    }
    {
        let bus = bus();
        for _ in 0..100 {
            add(&bus, Others);
        }
        all.push(resolves("resolve_uninterested_100", &runtime, &bus));
    }
    {
        let bus = bus();
        let _held = standing(&runtime, &bus, 1);
        all.push(Measured::ns("resolve_merged", SAMPLES, EACH, |count| {
            timed(|| {
                runtime.block_on(async {
                    for _ in 0..count {
                        resolve(&bus, 0).await;
                    }
                });
            })
        }));
    }
    let mut next = 1 << 41;
    let mut threads = |threads: u64, count: u64| {
        next += count + threads;
        on_threads(&runtime, &quiet, threads, next, count)
    };
    let threads = std::cell::RefCell::new(&mut threads);
    all.extend(Measured::pair(
        ["resolve_one_thread", "resolve_two_threads"],
        SAMPLES,
        EACH,
        [&mut |count| threads.borrow_mut()(1, count), &mut |count| threads.borrow_mut()(2, count)],
    ));
    {
        let bus = bus();
        let _held = standing(&runtime, &bus, 10_000);
        all.push(Measured::ns("controller_uninterested_10k", SAMPLES, EACH, |count| {
            timed(|| {
                for _ in 0..count {
                    let id = add(&bus, Others);
                    runtime.block_on(bus.remove_controller(id));
                }
            })
        }));
        // Once as many as stand: that is what it answers.
        all.push(Measured::ns("controller_answers_each_of_10k", 11, EACH, |count| {
            let rounds = count.div_ceil(10_000);
            let took = timed(|| {
                for _ in 0..rounds {
                    let id = add(&bus, Squares);
                    runtime.block_on(bus.remove_controller(id));
                }
            });
            took.mul_f64(count as f64 / (rounds * 10_000) as f64)
        }));
    }
    let of = |name: &str| all.median(name).unwrap_or(f64::NAN);
    println!("flatness to 100,000 standing: {:.2} x", of("resolve_standing_100k") / of("resolve"));
    println!("with 100 uninterested controllers: {:.2} x", of("resolve_uninterested_100") / of("resolve"));
    println!("two threads: {:.2} x one", of("resolve_one_thread") / of("resolve_two_threads"));
    all.end();
}

//! Nothing that was asked for or answered is lost: at caps, by failures at once, by a caller's runtime that goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, Source};
use controllerbus::prelude::*;
use tokio::sync::watch;

use crate::kit::{factory, resolver_of, soon};

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Debug)]
#[directive(id = "lost/one", value = u64, max_values = 1, hard_cap)]
struct One(u64);

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Debug)]
#[directive(id = "lost/many", value = u64)]
struct Many(u64);

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_value_is_let_go_of_without_a_lock() {
    let bus = Bus::new();
    let refused = Arc::<AtomicBool>::default();
    let told = Arc::clone(&refused);
    resolver_of::<One, _>(&bus, move |_, values| {
        let first = values.hold(1).expect("there is room");
        let second = values.add_watched(2, move || drop(first));
        told.store(second.is_none(), Ordering::SeqCst);
        std::future::ready(Ok(()))
    });
    let asking = bus.clone();
    let asked = tokio::task::spawn_blocking(move || asking.request(One(1)).map(drop));
    soon(asked).await.expect("it ends").expect("a request");
    assert!(refused.load(Ordering::SeqCst));
    assert!(bus.directives().is_empty());
}

/// The values that a reference has read, as the last one stands.
async fn reads(request: &mut Request<One>, last: u64) -> Vec<String> {
    let mut seen = Vec::new();
    soon(async {
        loop {
            match request.next().await.expect("it stands") {
                Event::Added(_, value) => {
                    seen.push(format!("+{value}"));
                    if *value == last {
                        return;
                    }
                }
                Event::Removed(_) => seen.push("-".to_owned()),
                Event::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
    })
    .await;
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_with_room_for_one_value_shows_each_in_place_of_the_one_before() {
    let bus = Bus::new();
    let runs = Arc::<AtomicUsize>::default();
    let (count, (step, steps)) = (Arc::clone(&runs), watch::channel(0));
    resolver_of::<One, _>(&bus, move |_, values| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut steps = steps.clone();
        async move {
            let mut slot = values.slot();
            for number in 1..=6 {
                slot.set(number);
                let _ = steps.wait_for(|step| *step >= number).await;
            }
            slot.leave();
            Ok(())
        }
    });
    let mut request = bus.request(One(1)).unwrap();
    for number in 1..=6u64 {
        let seen = reads(&mut request, number).await;
        assert!(seen.iter().all(|event| event == "-" || *event == format!("+{number}")), "{seen:?}");
        step.send_replace(number);
    }
    assert_eq!(soon(request.values()).await.unwrap().iter().map(|value| **value).collect::<Vec<_>>(), [6]);
    assert_eq!(runs.load(Ordering::SeqCst), 1, "it is not run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_or_keyed_or_mapped_with_room_for_one_value_is_always_the_newest() {
    let bus = Bus::new();
    let (source, followed) = watch::channel(0u64);
    resolver_of::<One, _>(&bus, move |request, values| {
        let mut followed = followed.clone();
        async move {
            if request.0 == 1 {
                return values.follow(followed).await;
            }
            let mut keyed = values.keyed();
            loop {
                let value = *followed.borrow_and_update();
                keyed.set("k", value);
                if followed.changed().await.is_err() {
                    return Ok(());
                }
            }
        }
    });
    let inner = bus.handle();
    resolver_of::<Many, _>(&bus, move |request, values| {
        let inner = inner.clone();
        async move { values.map(inner.request(One(request.0))?, |value| Some(*value)).await }
    });
    let mut follows = [bus.request(One(1)).unwrap(), bus.request(One(2)).unwrap()];
    let mut mapped = bus.request(Many(1)).unwrap();
    for number in 0..=6 {
        source.send_replace(number);
        for request in &mut follows {
            reads(request, number).await;
        }
        soon(async {
            while mapped.standing().map(|value| **value).collect::<Vec<_>>() != [number] {
                mapped.next().await.expect("it stands");
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_there_are_values_enough_the_directive_is_idle_and_whoever_waits_answers_when_there_is_room() {
    for hard in [false, true] {
        #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Debug)]
        #[directive(id = "lost/soft", value = u64, max_values = 1)]
        struct Soft(u64);
        async fn check<D: Directive<Value = u64>>(wanted: impl Fn() -> D) {
            let bus = Bus::new();
            let (drop_first, dropped) = watch::channel(false);
            let first = Arc::new(AtomicBool::new(true));
            resolver_of::<D, _>(&bus, move |_, values| {
                let (mut dropped, first) = (dropped.clone(), first.swap(false, Ordering::SeqCst));
                async move {
                    if first {
                        let _held = values.hold(1);
                        let _ = dropped.wait_for(|dropped| *dropped).await;
                    }
                    Ok(())
                }
            });
            let started = Arc::<AtomicUsize>::default();
            let count = Arc::clone(&started);
            resolver_of::<D, _>(&bus, move |_, values| {
                count.fetch_add(1, Ordering::SeqCst);
                async move {
                    // It takes its time, and so comes too late the first time.
                    for _ in 0..10 {
                        tokio::task::yield_now().await;
                    }
                    if values.is_cancelled() {
                        return Ok(());
                    }
                    values.add(2);
                    Ok(())
                }
            });
            let mut request = bus.request(wanted()).unwrap();
            let now = soon(request.values()).await.unwrap();
            assert_eq!(now.iter().map(|value| **value).collect::<Vec<_>>(), [1]);
            drop_first.send_replace(true);
            soon(async {
                while request.standing().map(|value| **value).collect::<Vec<_>>() != [2] {
                    request.next().await.expect("it stands");
                }
            })
            .await;
        }
        if hard { check(|| One(9)).await } else { check(|| Soft(9)).await }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_resolver_that_fails_at_once_is_always_tried_again() {
    let bus = Bus::new();
    let tries: Arc<Mutex<HashMap<u64, usize>>> = Arc::default();
    resolver_of::<Many, _>(&bus, move |request, values| {
        let mut tries = tries.lock().unwrap();
        let tries = tries.entry(request.0).or_default();
        *tries += 1;
        if *tries > 1 {
            values.add(request.0);
        }
        std::future::ready(if *tries == 1 { Err(Error::msg("the first time fails")) } else { Ok(()) })
    });
    let stop = Arc::<AtomicBool>::default();
    let looking: Vec<_> = (0..2)
        .map(|_| {
            let (bus, stop) = (bus.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    drop(bus.directives());
                }
            })
        })
        .collect();
    let runtime = tokio::runtime::Handle::current();
    let asking: Vec<_> = (0..4u64)
        .map(|thread| {
            let (bus, runtime) = (bus.clone(), runtime.clone());
            std::thread::spawn(move || {
                let _inside = runtime.enter();
                (0..250).map(|n| bus.request(Many(thread * 1_000 + n)).unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut requests = Vec::new();
    for asker in asking {
        requests.extend(tokio::task::block_in_place(|| asker.join()).expect("an asker"));
    }
    stop.store(true, Ordering::Relaxed);
    for request in &mut requests {
        soon(async { while request.value().await.is_err() {} }).await;
    }
    looking.into_iter().for_each(|thread| thread.join().expect("a reader of snapshots"));
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "lost/ticks")]
struct TicksConfig {
    #[serde(default)]
    number: u64,
}

/// Executes until it is cancelled, and says so.
struct Ticks;

static ENDED: AtomicUsize = AtomicUsize::new(0);

impl Controller for Ticks {
    type Config = TicksConfig;
    async fn construct(_: TicksConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }
    async fn execute(&self, context: &Context) -> Result<()> {
        context.cancelled().await;
        ENDED.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn a_callers_runtime_that_goes_takes_nothing_of_the_bus_with_it() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let own = runtime();
    let bus = own.block_on(async { Bus::new() });
    bus.add_factories(Source(1), vec![factory::<Ticks>("ticks", "1.0.0")]);
    resolver_of::<Many, _>(&bus, |_, values| async move {
        let mut slot = values.slot();
        // The first time is measured where the caller is.
        tokio::time::sleep(Duration::from_millis(1)).await;
        for number in 0.. {
            slot.set(number);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    });

    let short = runtime();
    let theirs = short.block_on(async { bus.request(Many(1)) }).unwrap();
    let mut ours = own.block_on(async { bus.request(Many(1)) }).unwrap();
    short.block_on(async { bus.apply(ConfigSet::from_yaml("t: { id: lost/ticks }").unwrap()).await }).unwrap();
    drop(short);
    let two_more = async {
        let mut seen = 0;
        while seen < 2 {
            match ours.next().await.expect("it stands") {
                Event::Added(..) => seen += 1,
                Event::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
    };
    own.block_on(async { soon(two_more).await });
    drop(theirs);
    let changed = ConfigSet::from_yaml("t: { id: lost/ticks, config: { number: 1 } }").unwrap();
    own.block_on(async { soon(bus.apply(changed)).await }).unwrap();
    assert_eq!(ENDED.load(Ordering::SeqCst), 1, "its execution went on, and was told to end");

    // From a thread that is in no runtime at all.
    let plain = bus.clone();
    let mut request = std::thread::spawn(move || plain.request(Many(2))).join().expect("no panic").unwrap();
    own.block_on(async { soon(request.value()).await }).expect("a value at the first try");
}

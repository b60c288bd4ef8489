//! Pinned directives: what stands stays with the generation that has begun it, beside the next one, up to its limit.

mod kit;
mod model;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, Execution, LastStates, Source};
use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Info, SwapMode};
use controllerbus::directive::{OpaqueDirective, Options, RawEvent, RawRequest};
use controllerbus::prelude::*;

use self::kit::{
    CappedJob, Job, LIMIT, PATIENCE, PlainJob, Reader, Told, Work, Workers, config, serving, swap, until, workers,
};
use crate::kit::{AskedBy, info, next_of, resolver_of, soon};

/// Waits until the old generations are gone; they were told to go within a moment.
async fn until_gone(bus: &Bus) {
    let waiting = async {
        while !bus.leaving().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_millis(100), waiting).await;
    assert!(gone.is_ok(), "{:?} stay", bus.leaving());
}

/// Lets time pass, but a moment of it is left.
async fn almost(limit: Duration) {
    tokio::time::sleep(limit - Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_directive_stays_with_its_values_beside_the_new_generation_until_it_is_released() {
    let (bus, work) = serving().await;
    let mut pinned = Reader::of(&bus, Job(1), 1).await;
    let mut plain = Reader::of(&bus, PlainJob(2), 1).await;
    swap(&bus, 2, &work).await;
    // All else is swapped as ever, and what comes is the new generation's.
    plain.until(&[2]).await;
    let mut later = Reader::of(&bus, Job(3), 2).await;
    almost(LIMIT).await;
    assert_eq!((pinned.now(), later.now()), (vec![1], vec![2]));
    assert_eq!((work.begun_by(1), work.begun_by(3)), (vec![1], vec![2]), "no work is done twice");
    // Who asks for the same joins.
    let joined = Reader::of(&bus, Job(1), 1).await;
    // Tools see it.
    let leaving = bus.leaving();
    let finishing = Execution::Finishing { calls: Vec::new(), pins: vec!["test/job".to_owned()] };
    assert_eq!((leaving.len(), &leaving[0].execution, leaving[0].source), (1, &finishing, Source(1)));
    let jobs = bus.directives().into_iter().filter(|found| found.id == "test/job");
    let is_pinned: Vec<_> = jobs.map(|found| (found.debug[0].1.clone(), found.resolvers[0].pinned)).collect();
    assert_eq!(is_pinned, [("1".to_owned(), true), ("3".to_owned(), false)]);
    drop(pinned);
    assert_eq!(bus.leaving().len(), 1, "somebody still asks");
    drop(joined);
    until_gone(&bus).await;
    assert_eq!(work.begun(), [(1, 1), (1, 2), (2, 2), (2, 3)]);
}

#[tokio::test(start_paused = true)]
async fn at_its_limit_which_is_counted_from_the_switch_the_new_generation_answers_without_a_gap() {
    let (bus, work) = serving().await;
    let mut pinned = Reader::of(&bus, Job(1), 1).await;
    let mut capped = Reader::of(&bus, CappedJob(2), 1).await;
    tokio::time::sleep(LIMIT).await;
    swap(&bus, 2, &work).await;
    almost(LIMIT).await;
    assert_eq!((pinned.now(), capped.now(), work.begun().len()), (vec![1], vec![1], 2));
    tokio::time::sleep(Duration::from_secs(1)).await;
    pinned.until(&[2]).await;
    capped.until(&[2]).await;
    assert!(!pinned.had_gap && !capped.had_gap);
    until_gone(&bus).await;
    assert_eq!(work.at_work(), BTreeMap::from([(1, 1), (2, 1)]));
}

#[tokio::test(start_paused = true)]
async fn at_its_limit_the_old_values_stay_until_the_new_generation_has_answered_but_not_for_long() {
    let (bus, work) = serving().await;
    work.slow.lock().unwrap().push(2);
    let mut first = Reader::of(&bus, Job(1), 1).await;
    let mut second = Reader::of(&bus, Job(2), 1).await;
    swap(&bus, 2, &work).await;
    tokio::time::sleep(LIMIT + Duration::from_secs(2)).await;
    assert_eq!(work.begun(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
    assert_eq!((first.now(), second.now()), (vec![1], vec![1]));
    work.tell(2, 1, Told::Show);
    first.until(&[2]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    second.until(&[]).await;
    assert!(!first.had_gap);
    until_gone(&bus).await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_outlasts_further_swaps_and_the_newest_generation_answers_after_it() {
    let (bus, work) = serving().await;
    let mut first = Reader::of(&bus, CappedJob(1), 1).await;
    swap(&bus, 2, &work).await;
    let mut second = Reader::of(&bus, Job(2), 2).await;
    tokio::time::sleep(LIMIT / 2).await;
    swap(&bus, 3, &work).await;
    let sources: Vec<_> = bus.leaving().iter().map(|found| found.source).collect();
    assert_eq!(sources, [Source(1), Source(2)]);
    almost(LIMIT / 2).await;
    assert_eq!((first.now(), second.now()), (vec![1], vec![2]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.until(&[3]).await;
    assert_eq!(second.now(), [2], "its time began with the second swap");
    tokio::time::sleep(LIMIT / 2).await;
    second.until(&[3]).await;
    until_gone(&bus).await;
    assert_eq!(work.begun(), [(1, 1), (2, 2), (3, 1), (3, 2)]);
    assert!(!first.had_gap && !second.had_gap);
}

#[tokio::test(start_paused = true)]
async fn going_back_ends_the_pins_of_what_is_taken_back_and_no_others() {
    let (bus, work) = serving().await;
    let mut first = Reader::of(&bus, Job(1), 1).await;
    swap(&bus, 2, &work).await;
    let mut second = Reader::of(&bus, CappedJob(2), 2).await;
    let staged = bus.stage_back(Source(2), Source(3), workers(3, &work), PATIENCE, LastStates::default()).await;
    drop(soon(staged.unwrap().commit(PATIENCE)).await.expect("it goes back"));
    second.until(&[3]).await;
    assert_eq!((second.had_gap, first.now()), (false, vec![1]));
    until("what was taken back is gone", || bus.leaving().len() == 1).await;
    tokio::time::sleep(LIMIT).await;
    first.until(&[3]).await;
    until_gone(&bus).await;
    assert_eq!(work.begun(), [(1, 1), (2, 2), (3, 2), (3, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_pin_that_ends_while_another_generation_is_prepared_is_the_running_ones_and_then_that_ones() {
    for goes_back in [false, true] {
        let (bus, work) = serving().await;
        let mut pinned = Reader::of(&bus, CappedJob(1), 1).await;
        swap(&bus, 2, &work).await;
        let (from, to, new) = (Source(2), Source(3), workers(3, &work));
        let staged = match goes_back {
            true => bus.stage_back(from, to, new, PATIENCE, LastStates::default()).await,
            false => bus.stage(from, to, new, PATIENCE).await,
        };
        tokio::time::sleep(LIMIT).await;
        pinned.until(&[2]).await;
        drop(soon(staged.unwrap().commit(PATIENCE)).await.expect("it is swapped"));
        if !goes_back {
            assert_eq!(pinned.now(), [2]);
            tokio::time::sleep(LIMIT).await;
        }
        pinned.until(&[3]).await;
        until_gone(&bus).await;
        assert_eq!((work.begun_by(1), pinned.had_gap), (vec![1, 2, 3], false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_stops_the_one_before_first_leaves_alone_what_an_earlier_one_does() {
    let (bus, work) = serving().await;
    let mut pinned = Reader::of(&bus, Job(1), 1).await;
    swap(&bus, 2, &work).await;
    let mut own = Reader::of(&bus, Job(2), 2).await;
    let stops: Vec<Arc<dyn Factory>> =
        vec![Arc::new(Workers { generation: 3, work: Arc::clone(&work), swap: SwapMode::StopFirst, has_state: true })];
    let staged = bus.stage(Source(2), Source(3), stops, Duration::from_secs(20)).await.unwrap();
    drop(staged.commit(PATIENCE).await.expect("a swap"));
    own.until(&[3]).await;
    almost(LIMIT).await;
    assert_eq!(pinned.now(), [1]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    pinned.until(&[3]).await;
    until_gone(&bus).await;
    assert!(!pinned.had_gap && !own.had_gap);
    assert_eq!(work.begun(), [(1, 1), (2, 2), (3, 2), (3, 1)]);
}

#[tokio::test(start_paused = true)]
async fn pinned_work_that_fails_is_the_new_generations_at_once_and_is_not_tried_again_by_the_old_one() {
    for (told, job) in [(Told::Fail, 1), (Told::FailForGood, 2)] {
        let (bus, work) = serving().await;
        let mut pinned = Reader::of(&bus, Job(job), 1).await;
        swap(&bus, 2, &work).await;
        assert_eq!(pinned.now(), [1]);
        work.tell(1, job, told);
        pinned.until(&[2]).await;
        until_gone(&bus).await;
        tokio::time::sleep(LIMIT).await;
        assert_eq!(work.begun(), [(1, job), (2, job)]);
        assert_eq!(pinned.now(), [2]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_failed_does_not_keep_its_generation_even_if_the_new_one_does_not_answer() {
    let (bus, work) = serving().await;
    work.slow.lock().unwrap().push(2);
    let mut pinned = Reader::of(&bus, Job(1), 1).await;
    swap(&bus, 2, &work).await;
    work.tell(1, 1, Told::Fail);
    pinned.until(&[]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    until_gone(&bus).await;
    work.tell(2, 1, Told::Show);
    pinned.until(&[2]).await;
    assert_eq!(work.begun(), [(1, 1), (2, 1)]);
}

#[tokio::test(start_paused = true)]
async fn work_that_has_failed_before_the_swap_or_has_no_room_is_the_new_generations() {
    let (bus, work) = serving().await;
    let mut failed = Reader::of(&bus, Job(1), 1).await;
    work.tell(1, 1, Told::FailForGood);
    failed.until(&[]).await;
    // Somebody else's answer leaves no room.
    let other = resolver_of::<CappedJob, _>(&bus, |_, values| async move {
        values.add(100);
        std::future::pending().await
    });
    let mut full = Reader::of(&bus, CappedJob(2), 1).await;
    work.tell(1, 2, Told::FailForGood);
    full.until(&[100]).await;
    swap(&bus, 2, &work).await;
    failed.until(&[2]).await;
    until_gone(&bus).await;
    assert_eq!(full.now(), [100]);
    bus.remove_controller(other).await;
    full.until(&[2]).await;
    assert_eq!(work.begun(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn work_that_makes_room_while_it_is_pinned_is_the_new_generations_once_there_is_room_again() {
    let (bus, work) = serving().await;
    work.slow.lock().unwrap().push(1);
    let mut full = Reader::new(&bus, CappedJob(1));
    swap(&bus, 2, &work).await;
    let other = resolver_of::<CappedJob, _>(&bus, |_, values| async move {
        values.add(100);
        std::future::pending().await
    });
    full.until(&[100]).await;
    until("what has no value is stopped", || work.at_work().is_empty()).await;
    bus.remove_controller(other).await;
    full.until(&[2]).await;
    until_gone(&bus).await;
    assert_eq!(work.begun(), [(1, 1), (2, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_ends_before_its_successor_is_made_keeps_nothing_but_its_values_until_that_has_some() {
    let (bus, work) = (Bus::new(), Arc::new(Work::default()));
    let stop_first = |generation| -> Vec<Arc<dyn Factory>> {
        let (work, swap) = (Arc::clone(&work), SwapMode::StopFirst);
        vec![Arc::new(Workers { generation, work, swap, has_state: true })]
    };
    bus.add_factories(Source(1), stop_first(1));
    bus.apply(config(0)).await.unwrap();
    let mut pinned = Reader::of(&bus, Job(1), 1).await;
    let staged = bus.stage(Source(1), Source(2), stop_first(2), Duration::from_secs(20)).await.unwrap();
    drop(staged.commit(PATIENCE).await.expect("a swap"));
    pinned.until(&[2]).await;
    assert!(!pinned.had_gap);
    until_gone(&bus).await;
    assert_eq!((work.begun_by(1), work.at_work()), (vec![1, 2], BTreeMap::from([(1, 1)])));
}

#[tokio::test(start_paused = true)]
async fn an_unloaded_plugin_and_a_config_that_is_removed_or_changed_end_what_is_pinned() {
    let ends = |how: &'static str| async move {
        let (bus, work) = serving().await;
        let mut pinned = Reader::of(&bus, Job(1), 1).await;
        swap(&bus, 2, &work).await;
        assert_eq!(pinned.now(), [1]);
        match how {
            "unloaded" => drop(bus.remove_source(Source(2)).await),
            "removed" => assert!(bus.remove_config("worker").await),
            "changed" => drop(bus.apply(config(7)).await.unwrap()),
            _ => drop(bus.close().await),
        }
        match how {
            "changed" => pinned.until(&[2]).await,
            "closed" => {}
            _ => pinned.until(&[]).await,
        }
        until_gone(&bus).await;
        assert_eq!(work.begun_by(1), if how == "changed" { vec![1, 2] } else { vec![1] }, "{how}");
    };
    for how in ["unloaded", "removed", "changed", "closed"] {
        ends(how).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_does_not_know_the_directive_any_more_takes_nothing_from_the_one_that_does_it() {
    let (bus, work) = serving().await;
    let mut pinned = Reader::of(&bus, Job(1), 1).await;
    /// Resolves nothing.
    struct Idles;
    impl Factory for Idles {
        fn info(&self) -> Info {
            info("test/worker")
        }
        fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
            let none = controllerbus::controller::Closures::new();
            Box::pin(std::future::ready(Ok(Arc::new(none) as Arc<dyn AnyController>)))
        }
    }
    let staged = bus.stage(Source(1), Source(2), vec![Arc::new(Idles)], PATIENCE).await.unwrap();
    drop(staged.commit(PATIENCE).await.unwrap());
    almost(LIMIT).await;
    assert_eq!(pinned.now(), [1]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    pinned.until(&[]).await;
    until_gone(&bus).await;
    assert_eq!(work.begun(), [(1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn of_two_plugins_that_answer_only_the_one_that_is_swapped_goes_on_beside_its_successor() {
    let (bus, work) = serving().await;
    let other = resolver_of::<Job, _>(&bus, |_, values| async move {
        values.add(100);
        std::future::pending().await
    });
    let mut pinned = Reader::new(&bus, Job(1));
    pinned.until(&[1, 100]).await;
    swap(&bus, 2, &work).await;
    almost(LIMIT).await;
    assert_eq!(pinned.now(), [1, 100]);
    bus.remove_controller(other).await;
    pinned.until(&[1]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    pinned.until(&[2]).await;
    until_gone(&bus).await;
    assert_eq!(work.begun(), [(1, 1), (2, 1)]);
}

#[tokio::test(start_paused = true)]
async fn pinned_work_that_has_not_begun_because_the_state_is_handed_over_is_the_new_generations() {
    let (bus, work) = (Bus::new(), Arc::new(Work::default()));
    let with_state = |generation| -> Vec<Arc<dyn Factory>> {
        vec![Arc::new(Workers { generation, work: Arc::clone(&work), swap: SwapMode::Beside, has_state: true })]
    };
    bus.add_factories(Source(1), with_state(1));
    bus.apply(config(0)).await.unwrap();
    // At work without a value: the hand-over does not wait for it.
    work.slow.lock().unwrap().push(1);
    let mut at_work = Reader::new(&bus, Job(1));
    until("it begins", || work.begun().len() == 1).await;
    let asked: Arc<Mutex<Option<Request<Job>>>> = Arc::default();
    let (place, own) = (Arc::clone(&asked), bus.clone());
    let asks = move || *place.lock().unwrap() = Some(own.request(Job(2)).unwrap());
    *work.in_second_save.lock().unwrap() = Some(Box::new(asks));
    let begun = tokio::time::Instant::now();
    let staged = bus.stage(Source(1), Source(2), with_state(2), Duration::from_secs(20)).await.unwrap();
    drop(staged.commit(Duration::from_millis(900)).await.expect("a swap"));
    assert!(begun.elapsed() < Duration::from_millis(900), "nobody waits for what is pinned");
    let mut waited = asked.lock().unwrap().take().expect("it was asked meanwhile");
    assert_eq!(*soon(waited.value()).await.unwrap(), 2);
    work.tell(1, 1, Told::Show);
    at_work.until(&[1]).await;
    assert_eq!(work.begun(), [(1, 1), (2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_is_taken_back_before_its_switch_has_begun_nothing_that_is_pinned() {
    let (bus, work) = serving().await;
    let mut pinned = Reader::of(&bus, Job(1), 1).await;
    drop(bus.stage(Source(1), Source(2), workers(2, &work), PATIENCE).await.unwrap());
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!((pinned.now(), work.begun()), (vec![1], vec![(1, 1)]));
    swap(&bus, 2, &work).await;
    assert_eq!(pinned.now(), [1]);
}

/// A job with options of its own.
fn job_with(bus: &Bus, options: Options) -> Box<dyn RawRequest> {
    let bytes = controllerbus::directive::wire::encode(&PlainJob(9)).unwrap();
    bus.handle().raw(Arc::new(OpaqueDirective::new(PlainJob::ID, bytes).with_options(options))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_who_asks_says_how_long_equal_directives_are_pinned() {
    let (bus, work) = serving().await;
    let asked = [Options::default().with_pin(LIMIT / 2), Options::default(), Options::default().with_pin(LIMIT)];
    let _asked = asked.map(|options| job_with(&bus, options));
    until("it begins", || !work.begun().is_empty()).await;
    swap(&bus, 2, &work).await;
    almost(LIMIT / 2).await;
    assert_eq!(work.begun(), [(1, 9)]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    until("it is the new one's", || work.begun() == [(1, 9), (2, 9)]).await;
    until_gone(&bus).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_no_notice_of_a_pin_and_nothing_is_pinned_for_no_time() {
    let (bus, work) = serving().await;
    let _plain = job_with(&bus, Options::default().with_pin(Duration::ZERO));
    until("it begins", || work.begun().len() == 1).await;
    let call = job_with(&bus, Options::default().with_pin(LIMIT).with_once());
    until("it begins", || work.begun().len() == 2).await;
    swap(&bus, 2, &work).await;
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!(work.begun(), [(1, 9), (1, 9), (2, 9)]);
    assert_eq!(bus.leaving().len(), 1, "the call goes on");
    drop(call);
    until_gone(&bus).await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_without_an_end_lasts_as_long_as_the_directive() {
    let (bus, work) = serving().await;
    let pinned = job_with(&bus, Options::default().with_pin(Duration::MAX));
    until("it begins", || work.begun().len() == 1).await;
    swap(&bus, 2, &work).await;
    tokio::time::sleep(LIMIT * 100).await;
    assert_eq!(work.begun(), [(1, 9)]);
    drop(pinned);
    until_gone(&bus).await;
}

#[tokio::test(start_paused = true)]
async fn work_that_has_returned_keeps_its_values_for_as_long_as_it_is_pinned() {
    let (bus, work) = serving().await;
    let (mut first, mut second) = (Reader::of(&bus, Job(1), 1).await, Reader::of(&bus, Job(2), 1).await);
    work.tell(1, 1, Told::Return);
    swap(&bus, 2, &work).await;
    work.tell(1, 2, Told::Return);
    almost(LIMIT).await;
    assert_eq!((first.now(), second.now(), work.begun().len()), (vec![1], vec![1], 2));
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.until(&[2]).await;
    second.until(&[2]).await;
    until_gone(&bus).await;
}

/// Work whose values stay in its library.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/own-work", value = u64, local, pin = "10m")]
struct OwnWork;

#[tokio::test(start_paused = true)]
async fn what_is_pinned_and_local_stays_and_is_nobody_elses_afterwards() {
    struct Own(u64);
    impl Factory for Own {
        fn info(&self) -> Info {
            info("test/worker")
        }
        fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
            let number = self.0;
            let one = controllerbus::controller::Closures::new().resolves(move |_: OwnWork, values| async move {
                values.add(number);
                std::future::pending().await
            });
            Box::pin(std::future::ready(Ok(Arc::new(one) as Arc<dyn AnyController>)))
        }
    }
    let bus = Bus::new();
    bus.add_factories(Source(1), vec![Arc::new(Own(1))]);
    bus.apply(config(0)).await.unwrap();
    let mut asked = bus.handle().raw(Arc::new(AskedBy { library: Source(1), directive: OwnWork })).unwrap();
    assert!(matches!(next_of(&mut asked).await, RawEvent::Added(..)));
    let staged = bus.stage(Source(1), Source(2), vec![Arc::new(Own(2))], PATIENCE).await.unwrap();
    drop(staged.commit(PATIENCE).await.unwrap());
    let begun = tokio::time::Instant::now();
    while !matches!(soon_or_late(&mut asked).await, RawEvent::Removed(_)) {}
    assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());
    until_gone(&bus).await;
}

/// What happens next, however long that takes.
async fn soon_or_late(request: &mut Box<dyn RawRequest>) -> RawEvent {
    std::future::poll_fn(|cx| request.poll_event(cx)).await.expect("it stands")
}

#[test]
fn a_version_that_does_not_know_pins_reads_what_is_pinned_and_what_it_says_is_not() {
    use controllerbus::directive::wire;
    /// The options as they were before.
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Before {
        max_values: Option<usize>,
        hard_cap: bool,
        keep_for: Duration,
        drop_if_empty: bool,
        supersede: controllerbus::directive::Supersede,
        unmerged: bool,
        once: bool,
    }
    let plain = Options::default().with_max_values(3);
    let before: Before = wire::decode(&wire::encode(&plain.clone().with_pin(LIMIT)).unwrap()).unwrap();
    assert_eq!(wire::encode(&before).unwrap(), wire::encode(&plain).unwrap(), "without a pin nothing is different");
    let read: Options = wire::decode(&wire::encode(&before).unwrap()).unwrap();
    assert_eq!((&read, read.pin), (&plain, None));
    let pinned = plain.with_pin(LIMIT);
    assert_eq!(wire::decode::<Options>(&wire::encode(&pinned).unwrap()).unwrap(), pinned);
}

//! Two ends in one process, over a carrier that encodes each message and has a record of it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::*;
use crate::bus::{Across, Crossing};
use crate::controller::{BoxFuture, Context, Info};
use crate::directive::{
    AnyDirective, AnyValue, Callback, Directive, Event, Options, Request, Slot, ValueId, ValueSink,
};
use crate::{Bus, Values};

const LAMP: &str = "remote/lamp";

/// A lamp of this room is a call.
pub(super) const A_CALL: &str = "a call";

/// Lamps of this room are not merged.
pub(super) const UNMERGED: &str = "unmerged";

#[derive(Debug, Hash, PartialEq, Eq, serde::Serialize, Deserialize)]
pub(super) struct Lamp {
    pub(super) room: String,
    pub(super) most: Option<usize>,
}

pub(super) fn lamp(room: &str) -> Lamp {
    Lamp { room: room.to_owned(), most: None }
}

impl Directive for Lamp {
    type Value = String;
    const ID: &'static str = LAMP;

    fn pack(value: Self::Value) -> AnyValue {
        AnyValue::native(value)
    }
    fn unpack(value: &AnyValue) -> Result<Arc<Self::Value>> {
        Ok(value.get()?)
    }
    fn duplicate(&self) -> Self {
        Self { room: self.room.clone(), most: self.most }
    }

    fn options(&self) -> Options {
        match self.most {
            Some(most) => Options::default().with_max_values(most).with_hard_cap(),
            None if self.room == A_CALL => Options::default().with_once(),
            None if self.room == UNMERGED => Options::default().with_unmerged(),
            None => Options::default(),
        }
    }
}

/// A controller whose values the test decides on.
#[derive(Default)]
pub(super) struct Lamps(Mutex<Vec<Values<String>>>);

impl Lamps {
    pub(super) fn begun(&self) -> usize {
        lock(&self.0).len()
    }

    pub(super) fn last(&self) -> Values<String> {
        lock(&self.0).last().expect("a resolver has begun").clone()
    }
}

impl AnyController for Lamps {
    fn resolves(&self) -> Vec<String> {
        vec![LAMP.to_owned()]
    }

    fn resolve(
        self: Arc<Self>,
        _: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        lock(&self.0).push(Values::of::<Lamp>(sink));
        Some(Box::pin(std::future::pending()))
    }
}

struct OfController(Arc<dyn AnyController>);

impl Offers for OfController {
    fn controller(&self, number: u64) -> Option<Arc<dyn AnyController>> {
        (number == 7).then(|| Arc::clone(&self.0))
    }
}

pub(super) struct Nothing;

impl Offers for Nothing {}

/// The posting half of a wire.
struct Wire {
    to: UnboundedSender<Vec<u8>>,
    sent: Arc<Mutex<Vec<String>>>,
    may_block: bool,
}

impl Post for Wire {
    fn push(&self, message: &Message<'_>) -> Result<()> {
        let text = format!("{message:?}");
        lock(&self.sent).push(text.split(' ').next().unwrap_or_default().to_owned());
        let bytes = rmp_serde::to_vec(message).expect("it is encoded");
        self.to.send(bytes).map_err(|_| Error::new(ErrorKind::Closed, "the wire is cut"))
    }

    async fn send(&self, message: &Message<'_>) -> Result<()> {
        self.push(message)
    }

    fn may_block(&self) -> bool {
        self.may_block
    }
}

type End = Arc<Endpoint<Wire>>;

fn end(offers: impl Offers, limits: EndpointLimits, may_block: bool) -> (End, UnboundedReceiver<Vec<u8>>) {
    let (to, from) = unbounded_channel();
    (Endpoint::new(Wire { to, sent: Arc::default(), may_block }, offers, limits), from)
}

/// Two ends, and what moves messages between them.
struct Joined {
    asks: End,
    answers: End,
    moving: [JoinHandle<()>; 2],
}

impl Joined {
    fn new(asks: impl Offers, answers: impl Offers) -> Self {
        let limits = || EndpointLimits::none("the other end");
        let ((asks, from_asks), (answers, from_answers)) = (end(asks, limits(), true), end(answers, limits(), true));
        let carry = |mut from: UnboundedReceiver<Vec<u8>>, to: &End| {
            let to = Arc::clone(to);
            tokio::spawn(async move {
                while let Some(bytes) = from.recv().await {
                    to.handle(rmp_serde::from_slice(&bytes).expect("it is a message"));
                }
            })
        };
        let moving = [carry(from_asks, &answers), carry(from_answers, &asks)];
        Self { asks, answers, moving }
    }

    fn cut(&self) {
        self.moving.iter().for_each(JoinHandle::abort);
        let why = || Error::new(ErrorKind::Crashed, "the cable is out");
        self.asks.cut(why());
        self.answers.cut(why());
    }

    async fn is_empty(&self) {
        until("nothing is left at the ends", || {
            [&self.asks, &self.answers].iter().all(|end| lock(&end.asks).is_empty() && lock(&end.answers).is_empty())
        })
        .await;
        assert_eq!(self.asks.limits.standing_bytes(), 0);
    }

    /// How many messages of a kind the answering end has sent.
    fn told(&self, kind: &str) -> usize {
        lock(&self.answers.post.sent).iter().filter(|sent| *sent == kind).count()
    }
}

pub(super) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let reached = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The next event, as text.
async fn next(request: &mut Request<Lamp>) -> String {
    let event = tokio::time::timeout(Duration::from_secs(20), request.next()).await.expect("an event");
    match event {
        Some(Event::Added(_, value)) => format!("added {value}"),
        Some(Event::Removed(_)) => "removed".to_owned(),
        Some(Event::Idle) => "idle".to_owned(),
        Some(Event::Busy) => "busy".to_owned(),
        Some(Event::Failed(error)) => format!("failed: {error}"),
        None => "end".to_owned(),
    }
}

/// The next event that is not about who is at work.
pub(super) async fn news(request: &mut Request<Lamp>) -> String {
    loop {
        let event = next(request).await;
        if event != "idle" && event != "busy" {
            return event;
        }
    }
}

pub(super) fn info(id: &str) -> Info {
    Info::new(id, semver::Version::new(1, 0, 0), id)
}

/// Lets a bus ask the bus at the other end.
fn cross(bus: &Bus, joined: &Joined) -> crate::bus::ControllerId {
    let crossing = Crossing::new(joined.asks.bus(), Arc::new(Across::types([LAMP])));
    bus.add_controller(Arc::new(crossing), info("test/crossing"))
}

#[tokio::test]
async fn what_is_asked_of_one_bus_is_answered_by_another_until_it_is_released() {
    let (here, there, lamps) = (Bus::new(), Bus::new(), Arc::<Lamps>::default());
    there.add_controller(lamps.clone(), info("test/lamps"));
    let joined = Joined::new(Nothing, there.handle());
    cross(&here, &joined);
    let mut first = here.request(lamp("hall")).expect("a request");
    let mut second = here.request(lamp("hall")).expect("a request");
    until("it is asked there", || lamps.begun() == 1).await;
    let on = lamps.last().add("on".to_owned()).expect("it is wanted");
    assert_eq!((news(&mut first).await, news(&mut second).await), ("added on".into(), "added on".into()));
    lamps.last().remove(on);
    lamps.last().add("off".to_owned());
    assert_eq!((news(&mut first).await, news(&mut first).await), ("removed".into(), "added off".into()));
    lamps.last().idle();
    let values = first.values().await.expect("its values");
    assert_eq!(values.iter().map(|value| value.as_str()).collect::<Vec<_>>(), ["off"]);

    drop(first);
    assert_eq!((news(&mut second).await, news(&mut second).await), ("removed".into(), "added off".into()));
    assert_eq!(there.directives().len(), 1, "the other reference keeps it");
    drop(second);
    until("it is released there", || there.directives().is_empty()).await;
    joined.is_empty().await;
    assert!(lamps.last().is_cancelled());
    assert_eq!(lamps.begun(), 1, "equal directives are one ask");
    assert_eq!((joined.told("Added"), joined.told("Removed")), (2, 1), "nothing is told twice, or after a release");
}

#[tokio::test]
async fn a_cut_withdraws_what_came_from_there_with_the_reason_and_releases_what_was_asked() {
    let (here, there, lamps) = (Bus::new(), Bus::new(), Arc::<Lamps>::default());
    there.add_controller(lamps.clone(), info("test/lamps"));
    let joined = Joined::new(Nothing, there.handle());
    let crossing = cross(&here, &joined);
    let mut request = here.request(lamp("hall")).expect("a request");
    let mut direct = joined.asks.bus().request(lamp("hall")).expect("a request");
    until("it is asked there", || lamps.begun() == 1).await;
    lamps.last().add("on".to_owned());
    assert_eq!((news(&mut request).await, news(&mut direct).await), ("added on".into(), "added on".into()));

    joined.cut();
    let mut told = [news(&mut request).await, news(&mut request).await];
    told.sort();
    assert_eq!(told, ["failed: the cable is out", "removed"]);
    assert_eq!(news(&mut direct).await, "failed: the cable is out");
    assert_eq!(news(&mut direct).await, "end");
    until("it is released there", || there.directives().is_empty()).await;
    // What was under way when it was cut, and what the other end's code still says, is not heard.
    joined.asks.handle(Message::Added { ask: 1, value: 9, replaces: None, bytes: &[0xc0] });
    joined.asks.handle(Message::Failed { ask: 2, error: Error::msg("late") });
    assert_eq!(lamps.last().add("late".to_owned()), None);
    assert_eq!(next(&mut direct).await, "end");
    // What is asked now fails with the reason, at once.
    let error = joined.asks.bus().resolve(lamp("attic")).await.expect_err("it is cut");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Crashed, "the cable is out"));
    drop(direct);
    here.remove_controller(crossing).await;
    joined.is_empty().await;

    let again = Joined::new(Nothing, there.handle());
    cross(&here, &again);
    until("it is asked there again", || lamps.begun() == 2).await;
    lamps.last().add("on again".to_owned());
    assert_eq!(news(&mut request).await, "added on again");
    assert_eq!(request.standing().count(), 1);
    assert_eq!(again.told("Added"), 1);
}

#[tokio::test]
async fn what_is_not_read_stays_at_the_bus_that_answers_and_crosses_only_if_it_still_stands() {
    let (there, lamps) = (Bus::new(), Arc::<Lamps>::default());
    there.add_controller(lamps.clone(), info("test/lamps"));
    let joined = Joined::new(Nothing, there.handle());
    let mut request = joined.asks.bus().request(lamp("hall")).expect("a request");
    until("it is asked there", || lamps.begun() == 1).await;
    let values: Vec<_> = (0..100).map(|value| lamps.last().add(value.to_string()).expect("it is wanted")).collect();
    until("the credit is used up", || joined.told("Added") == 32).await;
    for value in &values[40..] {
        assert!(lamps.last().remove(*value));
    }
    lamps.last().idle();
    let stands = request.values().await.expect("its values");
    assert_eq!(stands.len(), 40);
    assert_eq!(joined.told("Added"), 40, "what came and went unread did not cross");
    drop(request);
    joined.is_empty().await;
}

#[tokio::test]
async fn a_reference_outlives_the_ask_that_it_was_made_of() {
    let (there, lamps) = (Bus::new(), Arc::<Lamps>::default());
    there.add_controller(lamps.clone(), info("test/lamps"));
    let joined = Joined::new(Nothing, there.handle());
    let first = joined.asks.bus().request(lamp("hall")).expect("a request");
    let mut weak = first.weak().expect("a reference");
    let mut strong = first.strong().expect("a reference");
    drop(first);
    until("it is asked there", || lamps.begun() == 1).await;
    lamps.last().add("on".to_owned());
    assert_eq!((news(&mut weak).await, news(&mut strong).await), ("added on".into(), "added on".into()));
    drop(strong);
    assert_eq!(news(&mut weak).await, "end");
    let error = weak.strong().expect("it is asked").value().await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::Closed);
    drop(weak);
    joined.is_empty().await;
}

/// Asks one controller at the other end.
struct Proxy(End);

impl AnyController for Proxy {
    fn resolves(&self) -> Vec<String> {
        vec![LAMP.to_owned()]
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        Some(Box::pin(async move {
            match self.0.resolve(7, directive, sink).await? {
                Some(asked) => Err(asked.cut().await),
                None => Ok(()),
            }
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_controller_at_the_other_end_hears_what_became_of_its_values() {
    let (here, lamps) = (Bus::new(), Arc::<Lamps>::default());
    let joined = Joined::new(Nothing, OfController(lamps.clone()));
    here.add_controller(Arc::new(Proxy(Arc::clone(&joined.asks))), info("test/proxy"));
    let mut request = here.request(Lamp { room: "hall".to_owned(), most: Some(1) }).expect("a request");
    until("it is asked there", || lamps.begun() == 1).await;
    let (gone, is_gone) = std::sync::mpsc::channel();
    let (all, are_gone) = std::sync::mpsc::channel();
    let values = lamps.last();
    values.on_gone(move || all.send(()).expect("it is heard"));
    let tell = move || gone.send(()).expect("it is heard");
    let on = values.add_watched("on".to_owned(), tell).expect("there is room");
    assert_eq!(values.add("too many".to_owned()), None);
    assert_eq!(news(&mut request).await, "added on");
    let mut slot = values.slot();
    assert!(values.remove(on));
    assert!(is_gone.try_recv().is_ok(), "it is told before the call returns");
    assert!(!values.remove(on));
    assert_eq!(news(&mut request).await, "removed");
    slot.set("low".to_owned());
    assert_eq!(news(&mut request).await, "added low");
    slot.set("high".to_owned());
    let mut told = [news(&mut request).await, news(&mut request).await];
    told.sort();
    assert_eq!(told, ["added high", "removed"]);
    assert!(are_gone.try_recv().is_err());
    drop(request);
    until("it is told", || are_gone.try_recv().is_ok()).await;
    assert!(values.is_cancelled());
    assert_eq!(values.add("late".to_owned()), None);
    joined.is_empty().await;
}

#[tokio::test]
async fn an_ask_of_what_is_not_there_fails_and_leaves_nothing() {
    let joined = Joined::new(Nothing, Nothing);
    let error = joined.asks.bus().resolve(lamp("hall")).await.expect_err("there is no bus");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let sink = Arc::new(Place::default());
    let error = joined.asks.resolve(3, Arc::new(lamp("hall")), sink).await.expect_err("there is no controller");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    joined.is_empty().await;
}

#[tokio::test]
async fn an_end_has_no_more_asks_open_than_it_allows() {
    let (there, lamps) = (Bus::new(), Arc::<Lamps>::default());
    there.add_controller(lamps, info("test/lamps"));
    let (answers, mut told) = end(there.handle(), EndpointLimits::none("the plugin").with_asks(2), false);
    let bytes = lamp("hall").encode().expect("it is encoded");
    for ask in 1..=3 {
        answers.handle(Message::Ask { ask, directive: LAMP, bytes: &bytes, facts: &[] });
    }
    let refused = told.recv().await.expect("an answer");
    match rmp_serde::from_slice(&refused).expect("a message") {
        Message::Failed { ask: 3, error } => {
            assert_eq!(error.to_string(), "the plugin has 2 requests open, which is its limit");
        }
        other => panic!("{other:?}"),
    }
    answers.handle(Message::Release { ask: 1 });
    answers.handle(Message::Ask { ask: 4, directive: LAMP, bytes: &bytes, facts: &[] });
    assert!(lock(&answers.answers).contains_key(&4));
}

#[tokio::test]
async fn an_end_that_uses_a_number_again_has_released_what_had_it() {
    let (there, lamps) = (Bus::new(), Arc::<Lamps>::default());
    there.add_controller(lamps.clone(), info("test/lamps"));
    let (answers, _told) = end(there.handle(), EndpointLimits::none("the plugin"), false);
    for room in ["hall", "attic"] {
        let bytes = lamp(room).encode().expect("it is encoded");
        answers.handle(Message::Ask { ask: 1, directive: LAMP, bytes: &bytes, facts: &[] });
        until("it is asked", || {
            there.directives().iter().any(|found| found.debug.iter().any(|(_, value)| value == room))
        })
        .await;
    }
    until("the first one is gone", || there.directives().len() == 1).await;
    answers.cut(Error::msg("it is over"));
    until("both are gone", || there.directives().is_empty()).await;
}

/// A bus's sink that has room for one value at a time.
#[derive(Default)]
struct Place(Mutex<(u64, Option<(ValueId, String)>)>);

impl Place {
    fn put(&self, value: &AnyValue) -> Option<ValueId> {
        let mut place = lock(&self.0);
        place.0 += 1;
        place.1 = Some((ValueId(place.0), value.to_json().to_string()));
        Some(ValueId(place.0))
    }

    fn holds(&self) -> Option<String> {
        lock(&self.0).1.clone().map(|(_, value)| value)
    }
}

impl ValueSink for Place {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        if self.holds().is_some() { None } else { self.put(&value) }
    }
    fn add_watched(&self, _: AnyValue, _: Callback) -> Option<ValueId> {
        None
    }
    fn on_gone(&self, _: Callback) {}
    fn remove(&self, _: ValueId) -> bool {
        lock(&self.0).1.take().is_some()
    }
    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let there = lock(&self.0).1.as_ref().is_some_and(|(id, _)| *id == old);
        if there { self.put(&value) } else { None }
    }
    fn set_idle(&self, _: bool) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_value_of_the_other_end_takes_the_place_of_another_where_there_is_room_for_one() {
    let (asks, _told) = end(Nothing, EndpointLimits::none("the plugin").with_standing(200), false);
    let place = Arc::<Place>::default();
    let asked = tokio::spawn({
        let (asks, place) = (Arc::clone(&asks), Arc::clone(&place));
        async move { asks.resolve(7, Arc::new(lamp("hall")), place).await }
    });
    until("it is asked", || !lock(&asks.asks).is_empty()).await;
    let add = |value, replaces, text: &str| {
        let bytes = AnyValue::native(text.to_owned()).encode().expect("it is encoded").into_owned();
        asks.handle(Message::Added { ask: 1, value, replaces, bytes: &bytes });
    };
    add(0, None, "first");
    add(1, None, "refused");
    assert_eq!(place.holds().as_deref(), Some("\"first\""));
    // More often than would stand beside each other.
    for value in 2..20 {
        add(value, Some(if value == 2 { 0 } else { value - 1 }), "next");
        assert_eq!(place.holds().as_deref(), Some("\"next\""));
    }
    asks.handle(Message::Done { ask: 1 });
    let asked = asked.await.expect("it ends").expect("it is done").expect("it stands");
    asks.handle(Message::Removed { ask: 1, value: 19 });
    assert!(!asked.stands() && place.holds().is_none());
    assert_eq!(asks.limits.standing_bytes(), 0);
    // More than may stand is not taken, and is the carrier's affair.
    add(20, None, &"long".repeat(100));
    asks.flooded().await;
    assert!(place.holds().is_none());
    drop(asked);
    assert_eq!(asks.limits.standing_bytes(), 0);
}

/// Its encoding panics, or fails.
struct Cursed {
    panics: bool,
}

impl serde::Serialize for Cursed {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        assert!(!self.panics, "it has a curse");
        Err(serde::ser::Error::custom("it has no encoding"))
    }
}

/// Calls a function with each sink, and what it returns is the resolver's result.
struct With<F>(F);

impl<F: Fn(Arc<dyn ValueSink>) -> Result<()> + Send + Sync + 'static> AnyController for With<F> {
    fn resolves(&self) -> Vec<String> {
        vec![LAMP.to_owned()]
    }

    fn resolve(
        self: Arc<Self>,
        _: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        Some(Box::pin(async move { (self.0)(sink) }))
    }
}

#[tokio::test]
async fn a_value_that_panics_when_it_is_written_is_an_error_of_who_asked_and_leaves_nothing() {
    let there = Bus::new();
    let adds = With(|sink: Arc<dyn ValueSink>| {
        sink.add(AnyValue::native("on".to_owned()));
        sink.add(AnyValue::native(Cursed { panics: true }));
        sink.add(AnyValue::native("off".to_owned()));
        Ok(())
    });
    there.add_controller(Arc::new(adds), info("test/cursed"));
    let joined = Joined::new(Nothing, there.handle());
    let mut request = joined.asks.bus().request(lamp("hall")).expect("a request");
    let mut told = [news(&mut request).await, news(&mut request).await, news(&mut request).await];
    told.sort();
    assert_eq!(told, ["added off", "added on", "failed: panicked: it has a curse"]);
    drop(request);
    until("it is released there", || there.directives().is_empty()).await;
    joined.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_value_that_cannot_cross_still_takes_the_one_that_it_replaces_away() {
    for (panics, why) in [(false, "it has no encoding"), (true, "it has a curse")] {
        let place = Arc::<Place>::default();
        let goes_on = Arc::<AtomicBool>::default();
        let went_on = Arc::clone(&goes_on);
        let replaces = With(move |sink: Arc<dyn ValueSink>| {
            let on = sink.add(AnyValue::native("on".to_owned())).expect("there is room");
            assert_eq!(sink.replace(on, AnyValue::native(Cursed { panics })), None);
            went_on.store(true, Ordering::Relaxed);
            Ok(())
        });
        let joined = Joined::new(Nothing, OfController(Arc::new(replaces)));
        let target = Arc::clone(&place);
        let error = joined.asks.resolve(7, Arc::new(lamp("hall")), target).await.expect_err("it cannot be encoded");
        assert!(error.to_string().contains(why), "{error}");
        until("nothing stands", || place.holds().is_none()).await;
        until("the resolver goes on", || goes_on.load(Ordering::Relaxed)).await;
        joined.is_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_resolver_that_fails_after_its_number_was_used_again_takes_nothing_with_it() {
    struct Both(BusHandle, Arc<dyn AnyController>);
    impl Offers for Both {
        fn bus(&self) -> Option<BusHandle> {
            Some(self.0.clone())
        }
        fn controller(&self, _: u64) -> Option<Arc<dyn AnyController>> {
            Some(Arc::clone(&self.1))
        }
    }
    let (began, has_begun) = std::sync::mpsc::sync_channel(0);
    let (go, may_go) = std::sync::mpsc::sync_channel::<()>(0);
    let may_go = Mutex::new(may_go);
    let fails = With(move |_| {
        began.send(()).expect("the test waits");
        lock(&may_go).recv().expect("the test goes on");
        Err(Error::msg("too late"))
    });
    let (there, lamps) = (Bus::new(), Arc::<Lamps>::default());
    there.add_controller(lamps.clone(), info("test/lamps"));
    let offers = Both(there.handle(), Arc::new(fails));
    let (answers, mut told) = end(offers, EndpointLimits::none("the plugin"), false);
    let bytes = lamp("hall").encode().expect("it is encoded");
    answers.handle(Message::Resolve {
        ask: 1,
        controller: 7,
        directive: LAMP,
        bytes: &bytes,
        answered: false,
        local: false,
    });
    has_begun.recv().expect("it begins");
    answers.handle(Message::Ask { ask: 1, directive: LAMP, bytes: &bytes, facts: &[] });
    until("it is asked", || lamps.begun() == 1).await;
    go.send(()).expect("it waits");
    loop {
        let bytes = told.recv().await.expect("a message");
        if let Message::Failed { ask: 1, error } = rmp_serde::from_slice(&bytes).expect("a message") {
            assert_eq!(error.to_string(), "too late");
            break;
        }
    }
    assert!(lock(&answers.answers).contains_key(&1), "the ask that has the number now");
    answers.cut(Error::msg("it is over"));
    until("it is released", || there.directives().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_resolver_refers_to_the_directive_of_the_other_end_that_it_answers_counts_its_values_and_ends_it() {
    let (here, lamps) = (Bus::new(), Arc::<Lamps>::default());
    let joined = Joined::new(Nothing, OfController(lamps.clone()));
    let proxy = here.add_controller(Arc::new(Proxy(Arc::clone(&joined.asks))), info("test/proxy"));
    let mut request = here.request(lamp("hall")).expect("a request");
    until("it is asked there", || lamps.begun() == 1).await;
    let values = lamps.last();
    assert_eq!(values.count().expect("it is counted"), 0);
    values.add("on".to_owned());
    assert_eq!(news(&mut request).await, "added on");
    assert_eq!(values.count().expect("it is counted"), 1);
    let resolvers = values.directive::<Lamp>().expect("a reference").resolvers().expect("they are known");
    assert_eq!((resolvers.len(), resolvers[0].controller, resolvers[0].values), (1, proxy, 1));
    // A strong reference keeps it, and it reads what happens.
    let mut kept = values.directive::<Lamp>().expect("a reference").strong().expect("it stands");
    assert_eq!(news(&mut kept).await, "added on");
    drop(request);
    assert!(!values.close_unless_referred().expect("it is asked"), "it is referred to");
    assert!(values.close().expect("it is asked"));
    assert_eq!(news(&mut kept).await, "end");
    until("it is gone", || here.directives().is_empty()).await;
    assert!(!values.close().expect("it is asked"), "it has ended already");
    until("it hears of its end", || values.is_cancelled()).await;
    drop(kept);
    joined.is_empty().await;
}

trait Live: Send + Sync {}
impl Live for () {}

/// Asks for a live object, within a library.
#[derive(Hash, PartialEq, Eq, serde::Serialize, Deserialize)]
struct OpenLive {}

impl Directive for OpenLive {
    type Value = Arc<dyn Live>;
    const ID: &'static str = "remote/live";
    const LOCAL: bool = true;

    fn pack(value: Self::Value) -> AnyValue {
        AnyValue::local(value)
    }
    fn unpack(value: &AnyValue) -> Result<Arc<Self::Value>> {
        Ok(value.get_local()?)
    }
    fn duplicate(&self) -> Self {
        Self {}
    }
}

type Shown = (Values<Arc<dyn Live>>, Slot<Arc<dyn Live>>);

/// Shows one live object.
struct Lives {
    object: Arc<dyn Live>,
    kept: Mutex<Option<Shown>>,
}

impl AnyController for Lives {
    fn resolves(&self) -> Vec<String> {
        vec![OpenLive::ID.to_owned()]
    }

    fn resolve(
        self: Arc<Self>,
        _: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        let values = Values::of::<OpenLive>(sink);
        let mut slot = values.slot();
        slot.set(Arc::clone(&self.object));
        *lock(&self.kept) = Some((values, slot));
        Some(Box::pin(std::future::pending()))
    }
}

/// The bus, and the controllers of the other end as those of a library.
struct ForLibrary(BusHandle, Mutex<std::sync::Weak<Endpoint<Wire>>>);

impl Offers for Arc<ForLibrary> {
    fn bus(&self) -> Option<BusHandle> {
        Some(self.0.clone())
    }
    fn library(&self) -> Source {
        Source(7)
    }
    fn controller_proxy(&self, there: &RemoteController) -> Result<Arc<dyn AnyController>> {
        let end = lock(&self.1).upgrade().expect("it is there");
        Ok(Arc::new(ProxyOf { end, number: there.number, resolves: there.resolves.clone() }))
    }
}

/// A controller that the other end has added.
struct ProxyOf {
    end: End,
    number: u64,
    resolves: Vec<String>,
}

impl AnyController for ProxyOf {
    fn resolves(&self) -> Vec<String> {
        self.resolves.clone()
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        Some(Box::pin(async move {
            match self.end.resolve(self.number, directive, sink).await? {
                Some(asked) => Err(asked.cut().await),
                None => Ok(()),
            }
        }))
    }
}

/// The controllers that an end has added to the other's bus.
#[derive(Default)]
struct Registered(Mutex<Vec<Arc<dyn AnyController>>>);

impl Offers for Arc<Registered> {
    fn controller(&self, number: u64) -> Option<Arc<dyn AnyController>> {
        lock(&self.0).get(usize::try_from(number).ok()?).cloned()
    }
    fn register_controller(&self, controller: Arc<dyn AnyController>, _: &Info) -> Result<u64> {
        let mut all = lock(&self.0);
        all.push(controller);
        Ok(all.len() as u64 - 1)
    }
    fn forget_controller(&self, _: u64) {
        lock(&self.0).clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_controller_of_one_end_is_on_the_bus_of_the_other_until_it_is_let_go_and_live_values_stay_where_they_are() {
    let (here, registered) = (Bus::new(), Arc::<Registered>::default());
    let library = Arc::new(ForLibrary(here.handle(), Mutex::default()));
    let joined = Joined::new(Arc::clone(&library), Arc::clone(&registered));
    *lock(&library.1) = Arc::downgrade(&joined.asks);
    let there = joined.answers.bus();
    let object: Arc<dyn Live> = Arc::new(());
    let lives = Arc::new(Lives { object: Arc::clone(&object), kept: Mutex::default() });
    let running = there.add_controller(lives.clone(), info("test/lives")).expect("it is added");
    let listed = here.controllers();
    assert_eq!((listed.len(), listed[0].id, listed[0].source), (1, running.id(), Source(7)));

    let mut request = there.request(OpenLive {}).expect("a request");
    let live =
        tokio::time::timeout(Duration::from_secs(20), request.value()).await.expect("a value").expect("it stands");
    assert!(Arc::ptr_eq(&*live, &object));
    drop(live);
    // The other end's own library is another one.
    let error = here.resolve(OpenLive {}).await.err().expect("it is local").to_string();
    assert!(error.contains("remote/live is local"), "{error}");
    // One that is gone when its event is read was never there.
    let mut late = there.request(OpenLive {}).expect("a request");
    until("the value is on its way", || {
        lock(&joined.asks.post.sent).iter().filter(|sent| *sent == "Added").count() == 2
    })
    .await;
    let (values, slot) = lock(&lives.kept).take().expect("it was asked");
    drop(slot);
    let second: Arc<dyn Live> = Arc::new(());
    values.add(Arc::clone(&second));
    let next = async {
        loop {
            match late.next().await {
                Some(Event::Idle | Event::Busy) => {}
                other => break other,
            }
        }
    };
    let next = tokio::time::timeout(Duration::from_secs(20), next).await.expect("an event");
    assert!(matches!(next, Some(Event::Added(_, found)) if Arc::ptr_eq(&*found, &second)));

    running.close().await;
    assert!(here.controllers().is_empty());
    let gone = async {
        while request.standing().next().is_some() {
            request.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it goes");
    drop((request, late, values, lives));
    lock(&registered.0).clear();
    joined.is_empty().await;
    until("the object is nobody else's", || Arc::strong_count(&object) == 1).await;

    // How it ends is told, and what is refused is an error.
    let ends = crate::controller::Closures::new().executes(|_| async { Ok(()) });
    let running = there.add_controller(Arc::new(ends), info("test/ends")).expect("it is added");
    let exited = running.exited();
    here.close().await;
    // By itself, because it was cancelled, or because it was removed: that is a race.
    let _ = tokio::time::timeout(Duration::from_secs(20), exited).await.expect("it ends");
    let error = there.add_controller(Arc::<Lamps>::default(), info("test/late")).expect_err("the bus is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(lock(&registered.0).is_empty());
    joined.cut();
    let error = there.add_controller(Arc::<Lamps>::default(), info("test/late")).expect_err("it is cut");
    assert_eq!(error.to_string(), "the cable is out");
    drop(running);
    joined.is_empty().await;
}

struct Plain;

impl Factory for Plain {
    fn info(&self) -> Info {
        info("test/plain")
    }
    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async { Ok(Arc::<Lamps>::default() as Arc<dyn AnyController>) })
    }
}

/// Gives its factories numbers, and has proxies of the other end's.
struct Counted(BusHandle);

impl Offers for Counted {
    fn bus(&self) -> Option<BusHandle> {
        Some(self.0.clone())
    }
    fn register_factory(&self, _: Arc<dyn Factory>) -> Result<u64> {
        Ok(1)
    }
    fn factory_proxy(&self, _: &RemoteFactory) -> Result<Arc<dyn Factory>> {
        Ok(Arc::new(Plain))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_that_adds_too_many_factories_is_refused_with_the_limit() {
    let bus = Bus::new();
    let before = bus.factories().len();
    let joined = Joined::new(Counted(bus.handle()), Counted(bus.handle()));
    let factories = |number| (0..number).map(|_| Arc::new(Plain) as Arc<dyn Factory>).collect::<Vec<_>>();
    let there = joined.answers.bus();
    let error = there.add_factories(factories(1001)).expect_err("these are too many").to_string();
    assert!(error.contains("1001 factories are added at once; 1000 can be"), "{error}");
    assert_eq!(bus.factories().len(), before);
    let added = there.add_factories(factories(1000)).expect("it is added");
    assert_eq!(bus.factories().len(), before + 1000);
    drop(added);
    until("they are gone", || bus.factories().len() == before).await;
    joined.is_empty().await;
}

#[test]
fn messages_are_read_as_they_were_written() {
    for message in [
        Message::Ask { ask: 1, directive: LAMP, bytes: b"directive", facts: b"" },
        Message::Resolve { ask: 2, controller: 7, directive: LAMP, bytes: b"directive", answered: true, local: false },
        Message::Added { ask: 2, value: 3, replaces: Some(2), bytes: b"value" },
        Message::Failed { ask: 2, error: Error::msg("no") },
        Message::Failed { ask: 2, error: Error::msg("no").permanent() },
        Message::End { ask: 2 },
    ] {
        let bytes = rmp_serde::to_vec(&message).expect("encoding");
        let read: Message<'_> = rmp_serde::from_slice(&bytes).expect("decoding");
        assert_eq!(format!("{message:?}"), format!("{read:?}"));
        assert!(bytes.len() < 64, "bytes are written as bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_a_thread_waits_for_the_other_end_is_known() {
    // Nobody carries what it says.
    let (there, _carried) = end(Arc::<Registered>::default(), EndpointLimits::none("the other end"), true);
    assert!(!there.has_waited());
    let adding = std::thread::spawn({
        let bus = there.bus();
        move || bus.add_controller(Arc::<Lamps>::default(), info("test/lamps")).map(drop)
    });
    until("it waits", || there.has_waited()).await;
    assert!(there.has_waited(), "it waits still");
    there.cut(Error::new(ErrorKind::Crashed, "the cable is out"));
    assert_eq!(adding.join().expect("it ends").expect_err("it is cut").to_string(), "the cable is out");
    assert!(!there.has_waited());
}

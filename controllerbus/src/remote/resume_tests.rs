//! Two ends whose carrier loses messages, and tells them again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::tests::{A_CALL, Lamp, Lamps, Nothing, UNMERGED, info, lamp, news, until};
use super::*;
use crate::Bus;
use crate::directive::{AnyDirective, Facts, Request};

/// Whether messages are lost, and how many were.
#[derive(Default)]
struct Fault {
    loses: AtomicBool,
    lost: AtomicUsize,
    /// How often the other end had too much.
    exceeded: AtomicUsize,
}

/// The posting half of a wire that can be cut for a while.
struct Lossy {
    to: UnboundedSender<Vec<u8>>,
    fault: Arc<Fault>,
}

impl Post for Lossy {
    const RESUMES: bool = true;

    fn push(&self, message: &Message<'_>) -> Result<()> {
        if self.fault.loses.load(Ordering::SeqCst) {
            self.fault.lost.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let bytes = rmp_serde::to_vec(message).expect("it is encoded");
        self.to.send(bytes).map_err(|_| Error::new(ErrorKind::Closed, "the wire is cut"))
    }

    async fn send(&self, message: &Message<'_>) -> Result<()> {
        self.push(message)
    }

    fn exceeded(&self, _: Error) {
        self.fault.exceeded.fetch_add(1, Ordering::SeqCst);
    }
}

/// An end that asks a bus at the other one.
struct Joined {
    asks: Arc<Endpoint<Lossy>>,
    answers: Arc<Endpoint<Lossy>>,
    /// Of what the one says, and of what the other one says.
    faults: [Arc<Fault>; 2],
    there: Bus,
    lamps: Arc<Lamps>,
}

fn carry(mut from: UnboundedReceiver<Vec<u8>>, to: &Arc<Endpoint<Lossy>>) {
    let to = Arc::clone(to);
    drop(tokio::spawn(async move {
        while let Some(bytes) = from.recv().await {
            to.handle(rmp_serde::from_slice(&bytes).expect("it is a message"));
        }
    }));
}

impl Joined {
    fn new() -> Self {
        Self::with(EndpointLimits::none("the other end"))
    }

    /// With what the end that answers may have standing, and the other one ask.
    fn with(limits: EndpointLimits) -> Self {
        let (there, lamps) = (Bus::new(), Arc::<Lamps>::default());
        there.add_controller(lamps.clone(), info("test/lamps"));
        let faults: [Arc<Fault>; 2] = Default::default();
        let ((to, from_asks), (back, from_answers)) = (unbounded_channel(), unbounded_channel());
        let limits = || EndpointLimits { used: Arc::default(), ..limits.clone() };
        let asks = Endpoint::new(Lossy { to, fault: Arc::clone(&faults[0]) }, Nothing, limits());
        let answers = Endpoint::new(Lossy { to: back, fault: Arc::clone(&faults[1]) }, there.handle(), limits());
        carry(from_asks, &answers);
        carry(from_answers, &asks);
        Self { asks, answers, faults, there, lamps }
    }

    fn lose(&self, lost: [bool; 2]) {
        self.faults.iter().zip(lost).for_each(|(fault, lost)| fault.loses.store(lost, Ordering::SeqCst));
    }

    async fn ask(&self, room: &str) -> Request<Lamp> {
        let begun = self.lamps.begun();
        let request = self.asks.bus().request(lamp(room)).expect("a request");
        until("it is asked there", || self.lamps.begun() > begun).await;
        request
    }

    async fn is_empty(&self) {
        until("nothing is left", || {
            self.asks.open_asks() + self.answers.open_answers() == 0 && self.there.directives().is_empty()
        })
        .await;
        let limits = &self.asks.limits;
        assert_eq!((limits.standing_bytes(), limits.missing(), self.answers.limits.open_asks()), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_lost_is_told_again_and_what_stands_on_both_sides_is_left_alone() {
    let joined = Joined::new();
    let mut request = joined.ask("hall").await;
    let values = joined.lamps.last();
    values.add("stays".to_owned());
    let goes = values.hold("goes".to_owned()).expect("it is wanted");
    assert_eq!([news(&mut request).await, news(&mut request).await], ["added stays", "added goes"]);
    joined.lose([false, true]);
    drop(goes);
    values.add("comes".to_owned());
    until("both are lost", || joined.faults[1].lost.load(Ordering::SeqCst) == 2).await;
    joined.lose([false, false]);
    joined.answers.tell_again().await.expect("it is told");
    assert_eq!([news(&mut request).await, news(&mut request).await], ["added comes", "removed"]);
    values.add("last".to_owned());
    assert_eq!(news(&mut request).await, "added last");
    assert_eq!(joined.lamps.begun(), 1);
    drop(request);
    joined.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ask_that_was_lost_is_asked_again_and_one_whose_release_was_lost_is_released() {
    let joined = Joined::new();
    let released = joined.ask("hall").await;
    let mut stays = joined.ask("attic").await;
    joined.lamps.last().add("on".to_owned());
    assert_eq!(news(&mut stays).await, "added on");
    joined.lose([true, false]);
    drop(released);
    let mut lost = joined.asks.bus().request(lamp("cellar")).expect("a request");
    joined.lose([false, false]);
    joined.asks.tell_again().await.expect("it is told");
    until("it is asked there", || joined.lamps.begun() == 3).await;
    joined.lamps.last().add("off".to_owned());
    assert_eq!(news(&mut lost).await, "added off");
    until("the other one is released", || joined.there.directives().len() == 2).await;
    drop((stays, lost));
    joined.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn references_that_are_held_are_gone_on_with_by_who_asks_the_same_again_and_the_others_are_let_go() {
    let joined = Joined::new();
    let first = joined.ask("hall").await;
    let other = joined.ask("attic").await;
    joined.lose([true, true]);
    joined.answers.hold();
    drop((first, other));
    joined.lamps.last().add("came meanwhile".to_owned());
    joined.lose([false, false]);
    // Another number, the same directive.
    let mut again = joined.asks.bus().request(lamp("attic")).expect("a request");
    assert_eq!(news(&mut again).await, "added came meanwhile");
    assert_eq!((joined.lamps.begun(), joined.there.directives().len()), (2, 2));
    joined.answers.let_go();
    until("the other one goes", || joined.there.directives().len() == 1).await;
    drop(again);
    joined.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_stands_near_the_limit_is_told_again_without_exceeding_it() {
    let joined = Joined::with(EndpointLimits::none("the other end").with_standing(100_000));
    let mut request = joined.ask("hall").await;
    let values = joined.lamps.last();
    values.add("x".repeat(40_000));
    let goes = values.hold("y".repeat(40_000)).expect("it is wanted");
    assert!(news(&mut request).await.starts_with("added x") && news(&mut request).await.starts_with("added y"));
    joined.answers.tell_again().await.expect("it is told");
    values.add("same".to_owned());
    assert_eq!(news(&mut request).await, "added same");
    // What takes the place of one that is missing may come before that is known to be gone.
    joined.lose([false, true]);
    drop(goes);
    values.add("z".repeat(40_000));
    until("both are lost", || joined.faults[1].lost.load(Ordering::SeqCst) == 2).await;
    joined.lose([false, false]);
    joined.answers.tell_again().await.expect("it is told");
    assert!(news(&mut request).await.starts_with("added z"));
    assert_eq!(news(&mut request).await, "removed");
    assert_eq!(joined.faults[0].exceeded.load(Ordering::SeqCst), 0);
    values.add("too much".repeat(3000));
    until("it is too much", || joined.faults[0].exceeded.load(Ordering::SeqCst) == 1).await;
    drop(request);
    joined.is_empty().await;
}

#[tokio::test]
async fn an_ask_that_is_told_again_counts_once() {
    let joined = Joined::with(EndpointLimits::none("the other end").with_asks(3));
    let _open = (joined.ask("hall").await, joined.ask("attic").await);
    // No task runs meanwhile.
    joined.answers.tell_again().await.expect("it is told");
    assert_eq!(joined.answers.limits.open_asks(), 2);
    let _one_more = joined.ask("cellar").await;
    assert_eq!(joined.faults[1].exceeded.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_is_asked_and_told_again_at_the_same_time_is_one_call() {
    let joined = Joined::new();
    let directive: Arc<dyn AnyDirective> = Arc::new(lamp(A_CALL));
    let (bytes, facts) = (directive.encode().expect("encoding"), Facts::encode(&*directive).expect("encoding"));
    let (bytes, facts, directive) = (&bytes[..], &facts[..], directive.id());
    let ask = || Message::Ask { ask: 700, directive, bytes, facts };
    let again = || Message::AskAgain { ask: 700, directive, bytes, facts };
    for message in [Message::AsksAnew, ask(), again(), ask(), Message::AsksTold] {
        joined.answers.handle(message);
    }
    until("it is asked there", || joined.lamps.begun() > 0).await;
    // Another one is asked after it, and so all that comes of it has begun.
    for number in 0..10 {
        drop(joined.ask(&format!("room {number}")).await);
    }
    until("the others are released", || joined.answers.open_answers() == 1).await;
    assert_eq!(joined.lamps.begun(), 11);
    joined.answers.handle(Message::Release { ask: 700 });
    joined.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn equal_directives_that_are_not_merged_keep_their_own_values_when_they_are_asked_again() {
    let joined = Joined::new();
    let mut all = Vec::new();
    for number in 0..8 {
        let mut request = joined.ask(UNMERGED).await;
        let values = joined.lamps.last();
        values.add(number.to_string());
        assert_eq!(news(&mut request).await, format!("added {number}"));
        all.push((request, values));
    }
    joined.asks.tell_again().await.expect("it is told");
    for (request, values) in &mut all {
        values.add("last".to_owned());
        assert_eq!(news(request).await, "added last");
    }
    assert_eq!(joined.lamps.begun(), 8);
    all.clear();
    joined.is_empty().await;
}

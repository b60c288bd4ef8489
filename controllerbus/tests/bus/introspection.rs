//! What tools see of a bus.

use controllerbus::bus::{Execution, ResolverState, Source};
use controllerbus::prelude::*;

use crate::kit::{Words, answers, resolver, soon};

#[tokio::test]
async fn a_snapshot_shows_controllers_directives_values_and_resolvers() {
    let bus = Bus::new();
    let one = answers(&bus, "number");
    let two = resolver(&bus, |_, _| std::future::pending());
    let three = resolver(&bus, |_, _| std::future::ready(Err(Error::msg("I never know"))));
    let mut request = bus.request(Words { number: 7 }).expect("a request");
    soon(request.value()).await.expect("a value");
    soon(async { while !matches!(request.next().await, Some(Event::Failed(_))) {} }).await;

    let snapshot = bus.snapshot();
    let ids: Vec<_> = snapshot.controllers.iter().map(|controller| controller.id).collect();
    assert_eq!(ids, [one, two, three]);
    assert_eq!(snapshot.controllers[0].answers, 1);
    assert_eq!(snapshot.controllers[0].resolves, ["test/words"]);
    assert_eq!(snapshot.controllers[0].execution, Execution::Running);

    let directive = &snapshot.directives[0];
    assert_eq!((directive.id.as_str(), directive.references, directive.idle), ("test/words", 1, false));
    assert_eq!(directive.debug, [("number".to_owned(), "7".to_owned())]);
    assert_eq!(directive.values.len(), 1);
    assert_eq!(directive.values[0].controller, one);
    assert_eq!(directive.values[0].value, "number 7");
    let states: Vec<_> = directive.resolvers.iter().map(|resolver| &resolver.state).collect();
    assert_eq!(states[0], &ResolverState::Idle);
    assert_eq!(states[1], &ResolverState::Working);
    assert!(matches!(states[2], ResolverState::Failed { error } if error.to_string().contains("never know")));

    drop(request);
    assert!(bus.directives().is_empty());
}

#[tokio::test]
async fn a_directive_says_whose_code_asks_for_it_and_how_often() {
    let bus = Bus::new();
    let asked = |bus: &Bus| {
        let asked = bus.directives()[0].asked_by.clone();
        asked.iter().map(|asker| (asker.source, asker.references)).collect::<Vec<_>>()
    };
    let own = bus.request(Words { number: 7 }).expect("a request");
    assert_eq!(asked(&bus), [(Source::STATIC, 1)]);
    // As the code of a plugin's ninth generation asks.
    let backend = bus.handle();
    let theirs = || backend.backend().add_for(std::sync::Arc::new(Words { number: 7 }), Source(9)).expect("a request");
    let (one, two) = (theirs(), theirs());
    // A copy is of whoever makes it, and one that only reads does not ask.
    let (copy, reader) = (one.reference(true).expect("a copy"), one.reference(false).expect("a reader"));
    assert_eq!(asked(&bus), [(Source::STATIC, 1), (Source(9), 3)]);
    assert_eq!(bus.directives()[0].weak_references, 1);
    drop((own, two));
    assert_eq!(asked(&bus), [(Source(9), 2)]);
    drop((one, copy));
    assert!(bus.directives().is_empty());
    drop(reader);
}

#[tokio::test]
async fn a_snapshot_is_json_for_tools() {
    let bus = Bus::new();
    answers(&bus, "number");
    let _request = bus.request(Words { number: 7 }).expect("a request");
    let json = serde_json::to_value(bus.snapshot()).expect("JSON");
    assert_eq!(json["directives"][0]["values"][0]["value"], "number 7");
    assert_eq!(json["directives"][0]["resolvers"][0]["state"]["is"], "idle");
    assert_eq!(json["controllers"][0]["execution"]["is"], "running");
}

#[tokio::test]
async fn whoever_listens_hears_of_changes_of_directives_and_of_controllers() {
    let bus = Bus::new();
    let (mut controllers, mut directives) = (bus.changes(), bus.directive_changes());
    controllers.borrow_and_update();
    let id = answers(&bus, "number");
    soon(controllers.changed()).await.expect("the bus is there");
    directives.borrow_and_update();
    let request = bus.request(Words { number: 1 }).expect("a request");
    soon(directives.changed()).await.expect("the bus is there");
    directives.borrow_and_update();
    controllers.borrow_and_update();
    bus.remove_controller(id).await;
    soon(controllers.changed()).await.expect("the bus is there");
    soon(directives.changed()).await.expect("the bus is there");
    directives.borrow_and_update();
    drop(request);
    soon(directives.changed()).await.expect("the bus is there");
}

#[tokio::test]
async fn what_each_controller_did_is_counted_by_directive_id() {
    let bus = Bus::new();
    let id = resolver(&bus, |request, values| async move {
        match request.number {
            0 => return Err(Error::msg("it fails")),
            1 => panic!("it panics"),
            2 => tokio::task::yield_now().await,
            _ => {}
        }
        values.add(String::new());
        Ok(())
    });
    let requests: Vec<_> = (0..5).map(|number| bus.request(Words { number }).unwrap()).collect();
    let counted = |bus: &Bus| {
        let all = bus.counts();
        let of = all.iter().filter(|of| of.controller == id && of.directive == "test/words");
        of.fold(Default::default(), |sum: controllerbus::bus::ResolverCounts, of| sum.plus(of.counts))
    };
    soon(async {
        while counted(&bus).waited < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let counts = counted(&bus);
    assert!(counts.runs >= 5 && counts.failures >= 2 && counts.panics >= 1, "{counts:?}");
    assert_eq!(counts.waited, 1);
    assert_eq!(counts.waits.iter().sum::<u64>(), 1);
    let slowest = counts.waits.iter().position(|waits| *waits > 0).expect("one of them");
    let bounds = controllerbus::bus::ResolverCounts::WAITS;
    assert!(bounds.get(slowest).is_none_or(|bound| counts.waited_for <= *bound), "{counts:?}");
    assert!(slowest == 0 || counts.waited_for > bounds[slowest - 1], "{counts:?}");
    let all = bus.counts();
    assert_eq!(all.len(), 1);
    let last = all[0].failure.as_ref().expect("what a run failed with").to_string();
    assert!(last.contains("it fails") || last.contains("it panics"), "{last}");
    let [words] = &bus.directive_counts()[..] else { panic!("{:?}", bus.directive_counts()) };
    assert_eq!((&*words.directive, words.active, words.references), ("test/words", 5, 5));
    assert_eq!(words.values, 3);
    assert!(words.unanswered <= 2, "{words:?}");
    drop(requests);
    assert!(bus.directive_counts().is_empty());
    bus.remove_controller(id).await;
    assert!(bus.counts().is_empty());
}

//! The store over S3: conditional writes that are answered as S3 answers them at its worst, and whole rollouts.

mod fleet;

use std::time::Duration;

use controllerbus_rollout::store::Created;
use controllerbus_rollout::{Error, Rollouts, Stage, Store};
use fleet::{Fleet, PLUGIN, version};
use rollout_s3_tests::{Answer, Server};

fn store(server: &Server) -> Store {
    Store::open_with("s3://shop/cbus", server.variables()).expect("a store")
}

fn statuses(server: &Server) -> Vec<(String, u16)> {
    server.log().into_iter().map(|(method, _, status)| (method.to_string(), status)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_created_once_read_listed_and_deleted() {
    let server = Server::start().await;
    let store = store(&server);
    assert_eq!(store.read("a/none", 10).await.expect("reading"), None);
    assert_eq!(store.create("a/b%2Fc/1.json", "one".into()).await.expect("writing"), Created::New);
    assert_eq!(store.create("a/b%2Fc/1.json", "two".into()).await.expect("writing"), Created::Existed("one".into()));
    assert_eq!(store.create("a/b%2Fc/2.json", "two".into()).await.expect("writing"), Created::New);
    assert_eq!(store.folders("a").await.expect("folders"), ["b%2Fc"]);
    assert_eq!(store.list("a/b%2Fc", None).await.expect("a list"), ["1.json", "2.json"]);
    assert_eq!(store.list("a/b%2Fc", Some("1.json")).await.expect("a list"), ["2.json"]);
    assert_eq!(store.list("nothing", None).await.expect("a list"), [""; 0]);
    let part = store.read_part("a/b%2Fc/1.json", 1..3).await.expect("reading").expect("it is there");
    assert_eq!((part.bytes.as_ref(), part.size), (b"ne".as_ref(), 3));
    let error = store.read("a/b%2Fc/1.json", 2).await.expect_err("too large").to_string();
    assert!(error.contains("it has 3 bytes, and at most 2"), "{error}");
    store.delete("a/b%2Fc/1.json").await.expect("deleting");
    store.delete("a/b%2Fc/1.json").await.expect("it is gone already");
    assert_eq!(store.list("a/b%2Fc", None).await.expect("a list"), ["2.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_more_than_one_page_is_whole() {
    let server = Server::start().await;
    let folder = server.bucket().join("cbus/many");
    std::fs::create_dir_all(&folder).expect("a folder");
    for number in 1..=1_100 {
        std::fs::write(folder.join(format!("{number:010}.json")), "x").expect("an object");
    }
    let names = store(&server).list("many", None).await.expect("a list");
    assert_eq!((names.len(), names.last().map(String::as_str)), (1_100, Some("0000001100.json")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_wrote_nothing_is_tried_again() {
    let server = Server::start().await;
    let store = store(&server);
    server.answer([Answer::Instead(409)]);
    assert_eq!(store.create("a/1", "one".into()).await.expect("writing"), Created::New);
    let asked: Vec<_> = statuses(&server);
    let expected = [("PUT", 409), ("GET", 404), ("PUT", 200)];
    assert_eq!(asked, expected.map(|(method, status)| (method.to_owned(), status)));
    server.answer([Answer::Instead(409); 3]);
    let error = store.create("a/2", "one".into()).await.expect_err("never").to_string();
    assert!(error.contains("it says that the object exists, but there is none"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_written_although_the_answer_says_otherwise_is_its_writers_own() {
    for answer in [Answer::DoneAnd(409), Answer::DoneAnd(412), Answer::DoneAnd(500)] {
        let server = Server::start().await;
        let store = store(&server);
        let fleet = Fleet::new(&store);
        fleet.publish(1, "good").await;
        let rollouts = Rollouts::new(&store, "Ada");
        server.answer([answer]);
        let begun = rollouts.start(fleet.rollout(1)).await.expect("it is hers");
        let error = Rollouts::new(&store, "Bob").start(fleet.rollout(1)).await.expect_err("one at a time").to_string();
        assert!(error.contains("wait for its end"), "{answer:?}: {error}");
        server.answer([answer]);
        let paused = rollouts.pause(PLUGIN, "lunch").await.expect("it is hers");
        assert_eq!(rollouts.history(PLUGIN).await.expect("the chain"), [begun, paused], "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_race_make_one_chain_however_their_writes_are_answered() {
    let server = Server::start().await;
    let store = store(&server);
    let fleet = Fleet::new(&store);
    fleet.publish(1, "good").await;
    Rollouts::new(&store, "nobody").start(fleet.rollout(1)).await.expect("a rollout");
    server.answer_badly(30);
    let racer = |by: &'static str| {
        let rollouts = Rollouts::new(&store, by);
        tokio::spawn(async move {
            let mut own = Vec::new();
            for _ in 0..60 {
                for change in [rollouts.pause(PLUGIN, by).await, rollouts.resume(PLUGIN).await] {
                    match change {
                        Ok(link) => own.push(link),
                        // The other one was first; or it may have been written, and cannot be known.
                        Err(error) => assert!(error.is_transient() || matches!(error, Error::NotNow(_)), "{error}"),
                    }
                }
            }
            own
        })
    };
    let (a, b) = tokio::join!(racer("a"), racer("b"));
    let chain = Rollouts::new(&store, "nobody").history(PLUGIN).await.expect("the chain");
    assert!(chain.iter().map(|link| link.number).eq(1..=chain.len() as u64), "one chain without a gap");
    for (by, own) in [("a", a.expect("a racer")), ("b", b.expect("a racer"))] {
        assert!(own.len() >= 20, "{by} wrote only {}", own.len());
        for link in own {
            assert_eq!(chain[link.number as usize - 1], link, "{by} believes that this step is its own");
        }
    }
    let bad = server.log().iter().filter(|(method, _, status)| method == "PUT" && *status >= 400).count();
    assert!(bad > 20, "only {bad} writes were answered badly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_comes_to_all_hosts_over_s3_and_a_bad_one_goes_back() {
    let server = Server::start().await;
    let store = store(&server);
    let mut fleet = Fleet::new(&store);
    (0..5).for_each(|at| fleet.add(&format!("edge-{at}"), &store));
    fleet.publish(1, "good").await;
    server.answer_badly(20);
    assert_eq!(fleet.roll(1).await.stage, Stage::Done);
    fleet.publish(2, "better").await;
    assert_eq!(fleet.roll(2).await.stage, Stage::Done);
    fleet.until_all_serve("better").await;
    fleet.publish(3, "fails").await;
    let link = fleet.roll(3).await;
    assert_eq!(link.stage, Stage::RolledBack, "{link:?}");
    fleet.until_all_serve("better").await;
    let chain = Rollouts::new(&store, "nobody").history(PLUGIN).await.expect("the chain");
    assert!(chain.iter().map(|link| link.number).eq(1..=chain.len() as u64), "one chain without a gap");
    let error = Rollouts::new(&store, "Ada").start(fleet.rollout(3)).await.expect_err("it is marked").to_string();
    assert!(error.contains("failed a rollout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_goes_on_in_a_bucket_that_its_folder_was_copied_into() {
    let share = tempfile::tempdir().expect("a folder");
    let folder = Store::open(&format!("file://{}", share.path().display())).expect("a store");
    let mut fleet = Fleet::new(&folder);
    (0..3).for_each(|at| fleet.add(&format!("edge-{at}"), &folder));
    fleet.publish(1, "good").await;
    assert_eq!(fleet.roll(1).await.stage, Stage::Done);
    fleet.until_all_serve("good").await;

    // As `aws s3 cp --recursive` does it.
    let server = Server::start().await;
    let bucket = store(&server);
    let mut folders = vec![share.path().to_owned()];
    let mut copied = 0;
    while let Some(next) = folders.pop() {
        for file in std::fs::read_dir(&next).expect("a folder").map(|file| file.expect("a file").path()) {
            if file.is_dir() {
                folders.push(file);
                continue;
            }
            let name = file.strip_prefix(share.path()).expect("below it").to_str().expect("text").to_owned();
            bucket.write(&name, std::fs::read(&file).expect("an object").into()).await.expect("copying");
            copied += 1;
        }
    }
    assert!(copied > 5, "only {copied} objects");
    // The hosts get the other URL, one after the other.
    for at in 0..3 {
        fleet.restart(at, &bucket).await;
    }
    fleet.moves_to(&bucket).await;
    fleet.until_all_serve("good").await;
    let newest = Rollouts::new(&bucket, "Ada").newest(PLUGIN).await.expect("the newest").expect("one");
    assert_eq!((newest.stage, &newest.release.version), (Stage::Done, &version(1)));
    fleet.publish(2, "better").await;
    assert_eq!(fleet.roll(2).await.stage, Stage::Done);
    fleet.until_all_serve("better").await;
    for host in &fleet.hosts {
        assert_eq!(host.plugins.ran(), ["good", "good", "better"], "what ran before is loaded again, and nothing else");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_wrong_are_said_to_be() {
    let server = Server::start().await;
    for (key, secret) in [("an-access-key", "another-secret"), ("another-key", "a-secret-key")] {
        let store = Store::open_with("s3://shop/cbus", server.variables_of(key, secret)).expect("a store");
        for error in [
            store.read("a/1", 10).await.expect_err("it is not allowed"),
            store.create("a/1", "one".into()).await.expect_err("it is not allowed"),
            store.list("a", None).await.expect_err("it is not allowed"),
        ] {
            assert!(matches!(error, Error::Denied { .. }), "{error:?}");
            assert!(error.to_string().contains("check this host's credentials"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn that_there_are_no_credentials_is_said_where_nobody_answers() {
    let server = Server::start().await;
    let is_key = |name: &str| ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].contains(&name);
    // A machine of no cloud, where nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let metadata = format!("http://{}", silent.local_addr().expect("its address"));
    let without = server.variables().into_iter().filter(|(name, _)| !is_key(name));
    let without = without.chain([("AWS_METADATA_ENDPOINT".to_owned(), metadata)]);
    let store = Store::open_with("s3://shop/cbus", without).expect("a store").with_limit(Duration::from_millis(300));
    let error = store.read("a/1", 10).await.expect_err("nobody gives credentials").to_string();
    assert!(error.contains("there is no AWS_ACCESS_KEY_ID among the variables"), "{error}");
}

//! The store and the cache: what is away, damaged, too large or cut off in the middle.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::{Faulty, View};
use crate::cache::Cache;
use crate::error::Error;
use crate::release::{Artifact, artifact_path, artifact_signature_path};
use crate::store::{Created, Objects, Store};

fn artifact(bytes: &[u8]) -> Artifact {
    Artifact {
        target: "x".to_owned(),
        boundary: 1,
        fingerprint: "x".to_owned(),
        blake3: blake3::hash(bytes).to_hex().to_string(),
        size: bytes.len() as u64,
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_a_store_that_is_away_until_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("share with spaces");
    let url = format!("file://{}", path.display()).replace(' ', "%20");
    let store = Store::open(&url).expect("a store").with_limit(Duration::from_secs(5));
    let error = store.read("a/1.json", 100).await.expect_err("it is away");
    assert!(error.is_transient() && error.to_string().contains("mount the share"), "{error}");
    std::fs::create_dir(&path).expect("mounting it");
    assert_eq!(store.read("a/1.json", 100).await.expect("it is there"), None);
    assert_eq!(store.list("a", None).await.expect("it is there"), [""; 0]);
    assert_eq!(store.create("a/b%2Fc/1.json", "one".into()).await.expect("writing"), Created::New);
    assert_eq!(store.create("a/b%2Fc/1.json", "two".into()).await.expect("writing"), Created::Existed("one".into()));
    assert_eq!(store.folders("a").await.expect("folders"), ["b%2Fc"]);
    assert_eq!(store.list("a/b%2Fc", None).await.expect("a list"), ["1.json"]);
    assert_eq!(store.list("a/b%2Fc", Some("1.json")).await.expect("a list"), [""; 0]);
    let error = store.read("a/b%2Fc/1.json", 2).await.expect_err("too large").to_string();
    assert!(error.contains("it has 3 bytes, and at most 2"), "{error}");
    store.delete("a/b%2Fc/1.json").await.expect("deleting");
    store.delete("a/b%2Fc/1.json").await.expect("it is gone already");
}

#[test]
fn a_url_that_is_no_store_is_refused_with_those_that_are() {
    for (url, expected) in [
        ("nonsense", "is not a store"),
        ("ftp://x/y", "`ftp` is unknown"),
        ("file://share/cbus", "three slashes"),
        #[cfg(not(feature = "s3"))]
        ("s3://bucket/x", "without S3; build it with the feature `s3`"),
        #[cfg(not(feature = "gcs"))]
        ("gs://bucket/x", "without GCS; build it with the feature `gcs`"),
        #[cfg(not(feature = "azure"))]
        ("az://container/x", "without Azure; build it with the feature `azure`"),
    ] {
        let error = Store::open(url).expect_err(expected).to_string();
        assert!(error.contains(expected) && error.contains("file:///FOLDER"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_an_object_is_tried_again_and_a_lost_answer_is_known_again() {
    let objects = Arc::new(Faulty::default());
    objects.conflicts.store(100, Ordering::Relaxed);
    let store = Store::over("memory://x", Arc::clone(&objects) as Arc<dyn Objects>);
    let error = store.create("a/1", "one".into()).await.expect_err("never").to_string();
    assert!(error.contains("says that the object exists, but there is none"), "{error}");
    objects.conflicts.store(0, Ordering::Relaxed);
    objects.lost_answers.store(100, Ordering::Relaxed);
    assert_eq!(store.create("a/1", "one".into()).await.expect("it is there"), Created::Existed("one".into()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_away_after_a_while() {
    let objects = Arc::new(Faulty::default());
    objects.latency_ms.store(3_600_000, Ordering::Relaxed);
    let store = Store::over("memory://x", objects as Arc<dyn Objects>);
    let begun = tokio::time::Instant::now();
    let error = store.read("a", 1).await.expect_err("it is away");
    assert!(error.to_string().contains("no answer within 10s") && begun.elapsed() < Duration::from_secs(40), "{error}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut_off_and_is_whole_or_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = Arc::new(Faulty::default());
    let view = View::new(&objects);
    let store = Store::over("memory://x", Arc::clone(&view) as Arc<dyn Objects>);
    let whole: Vec<u8> = (0..10_000_000_u32).map(|at| (at % 251) as u8).collect();
    let wanted = artifact(&whole);
    store.write(&artifact_path(&wanted.blake3), Bytes::from(whole.clone())).await.expect("writing");
    store.write(&artifact_signature_path(&wanted.blake3), "a signature".into()).await.expect("writing");
    let cache = Cache::open(folder.path().join("cache"), u64::MAX).expect("a cache");
    // A part was read before; the rest is asked for only.
    let partial = folder.path().join("cache").join(format!("{}.cbus.part", wanted.blake3));
    std::fs::write(&partial, &whole[..9_000_000]).expect("a part");
    let gets = objects.gets.load(Ordering::Relaxed);
    let path = cache.fetch(&store, &wanted, &[], ready(())).await.expect("fetching");
    assert_eq!(objects.gets.load(Ordering::Relaxed) - gets, 2, "the signature, and one piece");
    assert_eq!(std::fs::read(&path).expect("the file"), whole);
    // What is here is not fetched again; what was damaged is.
    cache.fetch(&store, &wanted, &[], ready(())).await.expect("fetching");
    assert_eq!(objects.gets.load(Ordering::Relaxed) - gets, 3);
    std::fs::write(&path, b"damaged").expect("damaging it");
    assert_eq!(cache.get(&wanted.blake3), None);
    cache.fetch(&store, &wanted, &[], ready(())).await.expect("fetching");
    assert_eq!(cache.get(&wanted.blake3), Some(path.clone()));
    // A part that is wrong does not stay, and so the next try succeeds.
    std::fs::remove_file(&path).expect("removing");
    std::fs::write(&partial, vec![7; 5_000_000]).expect("a wrong part");
    let error = cache.fetch(&store, &wanted, &[], ready(())).await.expect_err("it is wrong").to_string();
    assert!(error.contains("other bytes than its hash"), "{error}");
    cache.fetch(&store, &wanted, &[], ready(())).await.expect("fetching");
    view.cut.store(true, Ordering::Relaxed);
    let error = cache.fetch(&store, &artifact(b"other"), &[], ready(())).await.expect_err("cut");
    assert!(matches!(error, Error::Away { .. }), "{error}");
}

#[tokio::test]
async fn the_cache_makes_room_and_keeps_what_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = Arc::new(Faulty::default());
    let store = Store::over("memory://x", objects as Arc<dyn Objects>);
    let cache = Cache::open(folder.path().join("cache"), 250).expect("a cache");
    let mut all = Vec::new();
    for byte in 0..6_u8 {
        let bytes = Bytes::from(vec![byte; 100]);
        let wanted = artifact(&bytes);
        store.write(&artifact_path(&wanted.blake3), bytes).await.expect("writing");
        store.write(&artifact_signature_path(&wanted.blake3), "s".into()).await.expect("writing");
        let runs = all.first().map(|first: &Artifact| first.blake3.clone());
        cache.fetch(&store, &wanted, runs.as_slice(), ready(())).await.expect("fetching");
        all.push(wanted);
        // Times of files are compared.
        std::thread::sleep(Duration::from_millis(10));
    }
    let there: Vec<bool> = all.iter().map(|artifact| cache.get(&artifact.blake3).is_some()).collect();
    assert_eq!(there, [true, false, false, false, false, true]);
}

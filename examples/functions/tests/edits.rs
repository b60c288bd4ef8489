//! The greeter is edited while it is called: no call fails, and the next one runs the new code.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use controllerbus::Bus;
use controllerbus::hot::Hot;
use greeter_api::{Greeter, Guest};
use hot_runtime::HotRuntime;
use tests::{events, swapped, target_dir, wait_for, with_tokio, work_dir};

/// A copy of the crates, to be edited.
fn copy(to: &Path) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let controllerbus = own.join("../../controllerbus").canonicalize().expect("the framework");
    for name in ["api", "greeter"] {
        fs::create_dir_all(to.join(name).join("src")).expect("a folder");
        fs::copy(own.join(name).join("src/lib.rs"), to.join(name).join("src/lib.rs")).expect("the source");
        let manifest = fs::read_to_string(own.join(name).join("Cargo.toml")).expect("the manifest");
        let manifest = manifest.replace("../../../controllerbus", &controllerbus.to_string_lossy());
        fs::write(to.join(name).join("Cargo.toml"), with_tokio(&manifest)).expect("the manifest");
    }
    fs::write(to.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"api\", \"greeter\"]\n").expect("it");
    fs::copy(own.join("../../Cargo.lock"), to.join("Cargo.lock")).expect("the lock file");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_the_plugin_is_edited_and_the_next_one_runs_the_new_code() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(folder.path());
    let (listener, mut told) = events();
    let builder = HotRuntime::builder(&Bus::new()).watch(folder.path().join("greeter"));
    let builder = builder.work_dir(work_dir().join("functions-example")).target_dir(target_dir());
    // However busy the machine is, what is at work when the state is handed over has time to end.
    let builder = builder.hand_over(Duration::from_secs(10));
    let runtime = builder.on_event(listener).start().await.expect("starting");
    wait_for(&mut told, swapped).await;
    let greeter: Hot<dyn Greeter> = runtime.hot().await.expect("it serves");
    assert_eq!(greeter.greet("Ada").await.expect("an answer"), "Good day, Ada");
    assert_eq!(greeter.look_up("Bob").await.expect("an answer"), Err("Bob was never here".to_owned()));

    let stop = Arc::new(AtomicBool::new(false));
    let (calling, stopped) = (greeter.clone(), Arc::clone(&stop));
    let caller = tokio::spawn(async move {
        let mut greetings = 0;
        while !stopped.load(Ordering::Relaxed) {
            let said = calling.greet("Bob").await.expect("no call fails");
            assert!(said == "Good day, Bob" || said == "Hello, Bob", "{said}");
            greetings += 1;
        }
        greetings
    });
    let source = folder.path().join("greeter/src/lib.rs");
    let text = fs::read_to_string(&source).expect("the source");
    fs::write(&source, text.replace("Good day, {name}", "Hello, {name}")).expect("the edit");
    wait_for(&mut told, swapped).await;
    assert_eq!(greeter.greet("Ada").await.expect("an answer"), "Hello, Ada");
    stop.store(true, Ordering::Relaxed);
    let greetings = caller.await.expect("the caller");
    // The new code has the old one's state.
    let bob = greeter.look_up("Bob").await.expect("an answer");
    assert_eq!(bob, Ok(Guest { name: "Bob".to_owned(), greetings }));
    assert_eq!(greeter.look_up("Ada").await.expect("an answer").map(|ada| ada.greetings), Ok(2));
    runtime.shutdown().await;
}

//! The whole way, for real: sources built by cargo, loaded, swapped, rolled back and unmapped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::watch::{Watched, Watcher};
use hot_runtime::{GenerationState, HotRuntime, PluginSpec, RuntimeEvent};
use tests::{
    Ask, Scratch, Second, ask, events, exported_symbols, host, mapped_below, nonce, swapped, target_dir, wait_for,
    work_dir,
};

const CONFIG: &str = "probe:\n  id: probe\n  config: { mode: ok }\n";

fn unloaded(event: &RuntimeEvent) -> Option<bool> {
    match event {
        RuntimeEvent::Unloaded { unmapped, .. } => Some(*unmapped == Some(true)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_swapped_in_a_broken_one_is_not_and_unload_really_unmaps() {
    let scratch = Scratch::new(&["probe"]);
    let bus = host(CONFIG).await;
    let (listener, mut told) = events();
    let work = work_dir().join("edit");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("probe"))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "first");

    // A standing request sees the new value before the old one goes.
    let mut standing = bus.request(Ask { what: "sentence".to_owned(), nonce: nonce() }).expect("a request");
    let Some(Event::Added(first, _)) = standing.next().await else { panic!("a value comes first") };

    scratch.edit("probe", "\"first\"", "\"second\"");
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "second");
    let mut added = None;
    loop {
        match standing.next().await.expect("the directive stands") {
            Event::Added(id, value) => added = Some((id, value.0.clone())),
            Event::Removed(id) => {
                assert_eq!(id, first);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(added.expect("added before removed").1, "second");
    drop(standing);
    assert!(wait_for(&mut told, unloaded).await, "the first generation is unmapped");

    scratch.edit("probe", "\"second\"", "\"third\" oops");
    let rendered = wait_for(&mut told, |event| match event {
        RuntimeEvent::BuildFailed { rendered, .. } => Some(rendered.clone()),
        _ => None,
    })
    .await;
    assert!(rendered.contains("oops"), "{rendered}");
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "second");

    scratch.edit("probe", "\"third\" oops", "\"third\"");
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "third");

    let report = runtime.unload("probe").await.expect("unloading");
    assert_eq!(report.unmapped, Some(true));
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_in_a_pause_is_built_at_its_end_and_what_is_not_allowed_is_not_swapped_in() {
    let scratch = Scratch::new(&["probe"]);
    let bus = host(CONFIG).await;
    let (listener, mut told) = events();
    let watcher = Watcher::new();
    let (allowed, given) = (Arc::new(AtomicBool::new(true)), Arc::new(OnceLock::new()));
    let (asked, kept) = (Arc::clone(&allowed), Arc::clone(&given));
    let runtime = HotRuntime::builder(&bus)
        .watch(scratch.path("probe"))
        .work_dir(work_dir().join("pause"))
        .target_dir(target_dir())
        .watcher(watcher.clone())
        .on_event(listener)
        .on_runtime(move |runtime| kept.set(runtime.generations().len()).expect("once"))
        .before_swap(move |plugin| {
            let answer = match (plugin, asked.load(Ordering::SeqCst)) {
                ("probe", true) => Ok(()),
                _ => Err("not today".to_owned()),
            };
            async move { answer }
        })
        .start()
        .await
        .expect("starting");
    assert_eq!(given.get(), Some(&0), "it was given before anything was loaded");
    wait_for(&mut told, swapped).await;

    runtime.set_paused(true);
    let mut following = watcher.follow();
    following.set([Watched::File(scratch.path("probe").join("src/lib.rs"))]);
    scratch.edit("probe", "\"first\"", "\"second\"");
    // The plugin's task has been told by then, too.
    following.changed().await;
    following.settle(Duration::from_millis(20), Duration::from_millis(100)).await;
    while let Ok(event) = told.try_recv() {
        assert!(!matches!(event, RuntimeEvent::BuildStarted { .. }), "{event:?}");
    }
    assert!(runtime.is_paused());
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "first");
    runtime.set_paused(false);
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "second");

    allowed.store(false, Ordering::SeqCst);
    scratch.edit("probe", "\"second\"", "\"third\"");
    let reason = wait_for(&mut told, |event| match event {
        RuntimeEvent::RolledBack { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason.await, "not today");
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "second");
    let refused = runtime.rebuild("probe").await.expect_err("it is still not allowed");
    assert!(matches!(refused, hot_runtime::Error::NotAllowed { .. }), "{refused:?}");
    allowed.store(true, Ordering::SeqCst);
    assert!(runtime.rebuild("probe").await.expect("a build").is_some());
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "third");
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_used_sockets_threads_locals_and_stdout_is_unmapped() {
    let scratch = Scratch::new(&["probe"]);
    let bus = host(CONFIG).await;
    let work = work_dir().join("hard");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("probe"))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(events().0)
        .start()
        .await
        .expect("starting");
    bus.handle().resolve(Ask { what: "sentence".to_owned(), nonce: nonce() }).await.expect("an answer");
    assert_eq!(ask(&bus, "socket").await.expect("an answer"), "over the wire");
    assert_eq!(ask(&bus, "own-thread").await.expect("an answer"), "1");
    assert_eq!(ask(&bus, "print").await.expect("an answer"), "printed");
    ask(&bus, "thread-local").await.expect("an answer");
    assert_eq!(ask(&bus, "bus").await.expect("an answer"), "all of it");
    assert_eq!(ask(&bus, "references").await.expect("an answer"), "all of it");
    assert_eq!(ask(&bus, "factories").await.expect("an answer"), "all of it");

    // `save` runs on a thread of the host's, where a thread-local with a destructor must not pin the library.
    let file = work.join("artifacts").join(format!("probe.cbus{}", std::env::consts::DLL_SUFFIX));
    let swap = runtime.load_file(&file).await.expect("a swap with the same artifact");
    assert!(swap.from.is_some());
    // Live values are the next generation's own.
    assert_eq!(ask(&bus, "references").await.expect("an answer"), "all of it");
    // And the host is told why it gets none.
    let error = bus.resolve(OpenLive {}).await.expect_err("they stay in the plugin").to_string();
    assert!(error.contains("probe/live is local") && error.contains("`probe`"), "{error}");
    let report = runtime.unload("probe").await.expect("unloading");
    assert_eq!(report.unmapped, Some(true));
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

/// What the probe answers within its library.
#[derive(controllerbus::Directive, serde::Serialize, serde::Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "probe/live", value = std::sync::Arc<String>, local)]
struct OpenLive {}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_construct_execute_or_resolve_is_contained() {
    let scratch = Scratch::new(&["probe"]);
    let bus = Bus::new();
    let work = work_dir().join("panic");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("probe"))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(events().0)
        .start()
        .await
        .expect("starting");

    let construct = ConfigSet::from_yaml("bad:\n  id: probe\n  config: { mode: panic-construct }\n").expect("a set");
    bus.apply(construct).await.expect("applying");
    let state = format!("{:?}", bus.configs().remove(0).state);
    assert!(state.contains("construct was told to panic"), "{state}");
    assert!(bus.remove_config("bad").await);

    let execute = ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: panic-execute }\n").expect("a set");
    bus.apply(execute).await.expect("applying");
    assert_eq!(ask(&bus, "sentence").await.expect("it resolves all the same"), "first");

    let error = ask(&bus, "panic").await.expect_err("an error");
    assert!(error.to_string().contains("resolve was told to panic"), "{error}");
    assert_eq!(ask(&bus, "sentence").await.expect("it goes on"), "first");
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_crates_make_one_plugin_and_two_plugins_ask_each_other() {
    let scratch = Scratch::new(&["probe", "second"]);
    let config = format!("{CONFIG}second:\n  id: second\n");
    let work = work_dir().join("two");

    let bus = host(&config).await;
    let spec = PluginSpec::new("both").crate_path(scratch.path("probe")).crate_path(scratch.path("second"));
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .plugin(spec)
        .work_dir(&work)
        .target_dir(target_dir())
        .start()
        .await
        .expect("starting");
    assert_eq!(ask(&bus, "ask-second").await.expect("an answer"), "from the second");
    let serving: Vec<_> =
        runtime.generations().into_iter().filter(|found| found.state == GenerationState::Serving).collect();
    assert_eq!(serving.len(), 1);
    runtime.shutdown().await;

    let bus = host(&config).await;
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("probe"))
        .watch(scratch.path("second"))
        .work_dir(&work)
        .target_dir(target_dir())
        .start()
        .await
        .expect("starting");
    assert_eq!(ask(&bus, "ask-second").await.expect("an answer"), "from the second");
    assert_eq!(bus.resolve(Second { nonce: nonce() }).await.expect("an answer").0, "from the second");
    let serving: Vec<_> =
        runtime.generations().into_iter().filter(|found| found.state == GenerationState::Serving).collect();
    assert_eq!(serving.len(), 2);
    runtime.shutdown().await;
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_a_path_dependency_or_of_a_patched_crate_is_swapped_in() {
    let scratch = Scratch::new(&["probe"]);
    scratch.add("helper", "", "pub fn word() -> &'static str { \"helped\" }\n");
    scratch.add("ferris-says", "", "pub fn word() -> &'static str { \"patched\" }\n");
    scratch.amend(
        "probe",
        "[dependencies]\n",
        "[dependencies]\nhelper = { path = \"../helper\" }\nferris-says = \"2\"\n",
    );
    scratch.amend(
        "probe",
        "[workspace]",
        "[workspace]\n\n[patch.crates-io]\nferris-says = { path = \"../ferris-says\" }\n",
    );
    scratch.edit("probe", "SENTENCE.to_owned()", "format!(\"{} {}\", helper::word(), ferris_says::word())");
    let bus = host(CONFIG).await;
    let (listener, mut told) = events();
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("probe"))
        .work_dir(work_dir().join("sources"))
        .target_dir(target_dir())
        .on_event(listener)
        .start()
        .await
        .expect("starting");
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "helped patched");
    scratch.edit("helper", "helped", "mended");
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "mended patched");
    scratch.edit("ferris-says", "patched", "replaced");
    wait_for(&mut told, swapped).await;
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "mended replaced");
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_and_its_plugins_see_only_their_own_factories() {
    // This host exports its symbols (-rdynamic) and links the same slices, with directive types of its own and without factories.
    let own = controllerbus::__private::DIRECTIVE_TYPES.len();
    let scratch = Scratch::new(&["probe"]);
    let bus = host(CONFIG).await;
    let work = work_dir().join("slices");
    let runtime = HotRuntime::builder(&bus)
        .trust(hot_runtime::Trust::anyone())
        .watch(scratch.path("probe"))
        .work_dir(&work)
        .target_dir(target_dir())
        .on_event(events().0)
        .start()
        .await
        .expect("starting");
    assert_eq!(own, controllerbus::__private::DIRECTIVE_TYPES.len());
    assert!(controllerbus::__private::FACTORIES.is_empty());
    let own = ["hot-runtime/crate", "hot-runtime/folder", "hot-runtime/plugin"];
    assert_eq!(bus.config_ids(), [&own[..], &["probe", "probe/door", "probe/vault"]].concat());
    let artifact = std::fs::read(work.join(format!("artifacts/probe.cbus{}", std::env::consts::DLL_SUFFIX)));
    let exported = exported_symbols(&artifact.expect("the artifact"));
    assert!(exported.iter().any(|name| name.starts_with("controllerbus_plugin_")), "{exported:?}");
    let slices: Vec<_> = exported.iter().filter(|name| name.contains("linkme")).collect();
    assert!(slices.is_empty(), "{slices:?}");
    let error = runtime.unload("prbe").await.expect_err("no such plugin");
    assert!(error.to_string().contains("did you mean `probe`"), "{error}");
    runtime.shutdown().await;
}

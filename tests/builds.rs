//! What a build makes of its inputs: names, versions, features, profiles, messages.

use hot_runtime::artifact::Artifact;
use hot_runtime::build::{BuildEvent, BuildOptions, BuildPhase, MessageLevel, PluginBuilder};
use hot_runtime::{Error, PluginSpec};
use std::path::Path;
use std::sync::Mutex;
use tests::{Scratch, work_dir};
use tokio_util::sync::CancellationToken;

fn options(name: &str) -> BuildOptions {
    BuildOptions::new(work_dir().join(name)).target_dir(work_dir().join("target"))
}

fn add_to_manifest(scratch: &Scratch, fixture: &str, text: &str) {
    let path = scratch.path(fixture).join("Cargo.toml");
    let manifest = std::fs::read_to_string(&path).expect("the manifest");
    std::fs::write(&path, manifest + text).expect("writing the manifest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_built_to_a_path_with_its_build_hash_features_and_profile() {
    let scratch = Scratch::new(&["probe"]);
    add_to_manifest(&scratch, "probe", "\n[features]\nloud = []\n");
    scratch.edit("probe", "\"first\"", "if cfg!(feature = \"loud\") { \"LOUD\" } else { \"quiet\" }");
    let spec = PluginSpec::new("probe")
        .crate_path(scratch.path("probe"))
        .feature("probe/loud")
        .profile("opt-level", "1")
        .watch(false)
        .version_text("1.2.3+{buildHash}")
        .expect("a version");
    let options = options("builds").output(scratch.folder().join("out/probe-{buildHash}.cbus.so"));
    let mut builder = PluginBuilder::new(spec, options);

    let overlay = builder.generate().await.expect("the overlay");
    let manifest = std::fs::read_to_string(overlay.dir.join("Cargo.toml")).expect("its manifest");
    assert!(manifest.contains("opt-level = 1"), "{manifest}");
    assert!(manifest.contains("features = [\"loud\"]"), "{manifest}");
    assert!(!scratch.folder().join("out").exists(), "nothing is built yet");

    let phases = Mutex::new(Vec::new());
    let observer = |event| {
        if let BuildEvent::Phase { phase, .. } = event {
            phases.lock().expect("no panic").push(phase);
        }
    };
    let built = builder.build(&observer, &CancellationToken::new()).await.expect("the artifact");
    assert_eq!(built.build_hash, overlay.build_hash);
    assert_eq!(built.artifact, scratch.folder().join(format!("out/probe-{}.cbus.so", built.build_hash)));
    let phases: Vec<_> =
        phases.into_inner().expect("no panic").into_iter().filter(|p| *p != BuildPhase::Waiting).collect();
    assert_eq!(phases.first(), Some(&BuildPhase::Reading));
    assert_eq!(phases.last(), Some(&BuildPhase::Sealing));
    assert!(built.phases.iter().map(|phase| phase.ms).sum::<f64>() <= built.build_ms);
    let artifact = Artifact::read(&built.artifact).expect("it is verified");
    assert_eq!(artifact.hash, built.hash);
    assert_eq!(artifact.bundle.version.to_string(), format!("1.2.3+{}", built.build_hash));
    assert!(std::fs::read(&built.artifact).expect("reading").windows(4).any(|part| part == b"LOUD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_told_as_cargo_renders_it_and_as_data_at_once() {
    let scratch = Scratch::new(&["probe"]);
    scratch.edit("probe", "const SENTENCE: &str = \"first\";", "const SENTENCE: &str = 7;");
    let spec = PluginSpec::new("mistake").crate_path(scratch.path("probe"));
    let told = Mutex::new(Vec::new());
    let observer = |event| {
        if let BuildEvent::Message { message } = event {
            told.lock().expect("no panic").push(message);
        }
    };
    let mut builder = PluginBuilder::new(spec, options("builds"));
    let error = builder.build(&observer, &CancellationToken::new()).await.expect_err("it does not compile");
    let Error::Build { rendered, messages, .. } = error else { panic!("{error}") };
    assert_eq!(told.into_inner().expect("no panic"), messages);
    let message = messages.iter().find(|message| message.level == MessageLevel::Error).expect("an error");
    assert_eq!(message.code.as_deref(), Some("E0308"));
    assert_eq!(message.text, "mismatched types");
    let span = message.spans.iter().find(|span| span.primary).expect("a place");
    assert!(span.file.ends_with(Path::new("probe/src/lib.rs")) || span.file.ends_with("src/lib.rs"), "{span:?}");
    assert_eq!((span.line, span.column, span.end_column), (10, 24, 25));
    assert!(rendered.contains("\u{1b}["), "with colours: {rendered}");
    assert!(message.plain().contains("expected `&str`, found integer"), "{}", message.plain());
    assert!(!message.plain().contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_or_profile_setting_that_is_not_there_is_named_with_those_that_are() {
    let scratch = Scratch::new(&["probe"]);
    add_to_manifest(&scratch, "probe", "\n[features]\nloud = []\n");
    let spec = PluginSpec::new("wrong").crate_path(scratch.path("probe"));
    let failed = async |spec: PluginSpec| match PluginBuilder::new(spec, options("builds")).generate().await {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    };
    let said = failed(spec.clone().feature("lowd")).await;
    assert!(said.contains("`lowd`") && said.contains("probe/loud"), "{said}");
    let said = failed(spec.profile("opt-level", "fast")).await;
    assert!(said.contains("`opt-level`"), "{said}");
}

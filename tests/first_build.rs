//! A plugin's first build, where its workspace was built before. By itself, because no other cargo may build there meanwhile.

use std::sync::Mutex;

use hot_runtime::PluginSpec;
use hot_runtime::compile::{BuildEvent, BuildOptions, BuiltBy, PluginBuilder};
use tests::{Scratch, target_dir, verify, work_dir};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_build_does_not_compile_again_what_cargo_has_compiled_for_the_workspace() {
    let scratch = Scratch::new(&["probe"]);
    // Where cargo builds the workspace, its dependencies are there, compiled as they would be for a host.
    let spec = || PluginSpec::new("probe").crate_path(scratch.path("probe"));
    let build = async |builder: &mut PluginBuilder| {
        let compiled = Mutex::new(Vec::new());
        let observer = |event| {
            if let BuildEvent::Compiled { package, .. } = event {
                compiled.lock().expect("no panic").push(package);
            }
        };
        let built = builder.build(&observer, &CancellationToken::new()).await.expect("it builds");
        verify(&built.artifact).expect("it is verified");
        (built, compiled.into_inner().expect("no panic"))
    };
    let options = BuildOptions::new(work_dir().join("builds")).target_dir(target_dir());
    build(&mut PluginBuilder::new(spec(), options)).await;
    // Which cargo has then, with the crate in it.
    let mut locking = std::process::Command::new("cargo");
    locking.args(["metadata", "--format-version=1"]).current_dir(scratch.path("probe"));
    assert!(locking.output().expect("running cargo").status.success(), "a lock file is written");
    let folder = scratch.path("probe").join(".cargo");
    std::fs::create_dir(&folder).expect("a folder");
    let settings = format!("[build]\ntarget-dir = {:?}\n", target_dir());
    std::fs::write(folder.join("config.toml"), settings).expect("writing the settings");
    let work = work_dir().join("reused");
    let _ = std::fs::remove_dir_all(&work);
    let mut builder = PluginBuilder::new(spec(), BuildOptions::new(&work));
    let (built, compiled) = build(&mut builder).await;
    assert_eq!(built.by, BuiltBy::Cargo);
    let is_there = |name: &str| compiled.iter().any(|package| package == name);
    assert!(is_there("probe") && is_there("controllerbus"), "local packages are compiled: {compiled:?}");
    assert!(!is_there("stabby-abi") && !is_there("tokio") && !is_there("syn"), "{compiled:?}");

    scratch.edit("probe", "\"first\"", "\"second\"");
    let (edited, _) = build(&mut builder).await;
    assert_eq!(edited.by, BuiltBy::Rustc, "{:?}", edited.why_cargo);
    assert_ne!(edited.build_hash, built.build_hash);
    std::fs::remove_dir_all(&work).expect("removing what was built");
}

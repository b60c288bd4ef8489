//! `cbus doctor`, and where the time of reloads went.

use std::path::Path;

use tests::Scratch;

use crate::process::Daemon;
use crate::{cbus, fails, fine, json, said};

#[test]
fn the_doctor_finds_what_there_is_and_fails_where_nothing_can_be_built() {
    let scratch = Scratch::new(&["second"]);
    let at = scratch.folder();
    let found = json(at, &["doctor", "second", "--json"]);
    let of = |found: &serde_json::Value, what: &str| {
        let all = found.as_array().expect("a list").clone();
        all.into_iter().find(|one| one["what"] == what).unwrap_or_else(|| panic!("no {what} in {found:#}"))
    };
    assert_eq!(of(&found, "rustc")["level"], "ok");
    assert_eq!(of(&found, "building a library")["level"], "ok");
    let bus = of(&found, "controllerbus");
    assert!(bus["found"].as_str().is_some_and(|text| text.starts_with("second: ")), "{bus}");
    let watches = of(&found, "file watches");
    assert!(cfg!(not(target_os = "linux")) || watches["found"].to_string().contains("these crates need"), "{watches}");
    let table = fine(at, &["doctor"]);
    assert!(table.contains("ok    rustc"), "{table}");

    // A wrapper is named; one that is not there stops everything.
    let mut wrapped = cbus(at);
    wrapped.args(["doctor", "--json"]).env("RUSTC_WRAPPER", "/no/such/wrapper");
    let wrapped = said(wrapped.output().expect("running cbus"));
    assert_eq!(wrapped.code, Some(1), "{}{}", wrapped.out, wrapped.err);
    let found: serde_json::Value = serde_json::from_str(&wrapped.out).expect("JSON");
    assert!(of(&found, "compiler wrapper")["found"].to_string().contains("/no/such/wrapper"), "{found:#}");
    assert_eq!(of(&found, "building a library")["level"], "fail");

    let mut without = cbus(at);
    without.arg("doctor").env("PATH", at);
    let told = said(without.output().expect("running cbus"));
    assert_eq!(told.code, Some(1), "{}{}", told.out, told.err);
    assert!(told.out.contains("fail  cargo") && told.out.contains("-> install Rust"), "{}", told.out);
    let missing = fails(at, &["doctor", "no-crate"], 1, "keeps plugins from being built");
    assert!(missing.contains("`fail`"), "{missing}");
    let named = ["doctor", "--connect", "127.0.0.1:1"];
    fails(at, &named, 1, "keeps plugins from being built");
}

/// The reloads of a plugin that took over.
fn swapped(reloads: &serde_json::Value) -> Vec<serde_json::Value> {
    let all = reloads.as_array().expect("a list").iter();
    all.filter(|reload| reload["outcome"] == "swapped" && reload["plugin"] == "second").cloned().collect()
}

#[test]
fn where_the_time_of_reloads_went_is_kept_and_told_as_a_table_as_json_and_as_a_picture() {
    let scratch = Scratch::new(&["second"]);
    let at = scratch.folder();
    std::fs::write(at.join("config.yaml"), "one:\n  id: second\n").expect("writing");
    assert!(fine(at, &["doctor", "--timings", "--work-dir", "none"]).contains("no reloads yet"));
    let mut daemon = Daemon::start(at, &["config.yaml", "--watch", "second", "--timings"]);
    scratch.edit("second", "\"from the second\"", "\"from the other\"");
    daemon.wait("generation 2 serves");
    let told = daemon.json(&["doctor", "--timings"]);
    let [first, second] = &swapped(&told)[..] else { panic!("{told:#}") };
    assert_eq!(
        (&first["by"], &first["generation"], &second["generation"]),
        (&"cargo".into(), &1.into(), &2.into()),
        "{told:#}"
    );
    assert!(first["why_cargo"].as_str().is_some_and(|why| !why.is_empty()), "{first}");
    for reload in [first, second] {
        let sum: f64 = reload["steps"].as_array().expect("steps").iter().filter_map(|step| step["ms"].as_f64()).sum();
        let total = reload["total_ms"].as_f64().expect("a time");
        assert!(total > 0.0 && (sum - total).abs() < 1.0, "{reload}");
    }
    let names: Vec<&str> =
        second["steps"].as_array().expect("steps").iter().filter_map(|step| step["name"].as_str()).collect();
    assert!(names.contains(&"compile") && names.contains(&"load") && names.contains(&"queue"), "{names:?}");
    let table = daemon.fine(&["doctor", "--timings", "--svg", at.join("picture.svg").to_str().expect("a path")]);
    assert!(table.contains("#2") && table.contains("cargo built it"), "{table}");
    let is_picture = |path: &Path| {
        std::fs::read_to_string(path).is_ok_and(|svg| svg.starts_with("<svg") && svg.contains("second #2"))
    };
    assert!(is_picture(&at.join("picture.svg")));
    daemon.end();
    assert!(is_picture(&at.join("work/timings.svg")), "a daemon with --timings leaves a picture");
    // And afterwards, from the work folder.
    let kept = json(at, &["doctor", "--timings", "--json", "--work-dir", "work"]);
    // Each has its own clock.
    let without_clock = |mut all: Vec<serde_json::Value>| {
        all.iter_mut().for_each(|one| drop(one.as_object_mut().expect("a reload").remove("at_ms")));
        all
    };
    assert_eq!(without_clock(swapped(&kept)), without_clock(swapped(&told)));
}

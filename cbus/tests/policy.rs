//! Which crates may come into the build, from where, and under which licences: `deny.toml` says it, and this holds the
//! build to it, of all systems and features, in a second. `cargo deny` reads the same file where it is installed. And how often what
//! tests build is compiled.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn policy() -> toml::Table {
    let text = std::fs::read_to_string(Path::new(ROOT).join("deny.toml")).expect("reading deny.toml");
    text.parse().expect("TOML")
}

/// Every crate that any member, feature or system needs.
fn crates() -> Vec<Value> {
    let Value::Array(packages) = metadata()["packages"].take() else { panic!("no packages") };
    assert!(packages.len() > 100, "{}", packages.len());
    packages
}

/// What cargo says of the whole build.
fn metadata() -> Value {
    let told = Command::new(env!("CARGO"))
        .current_dir(ROOT)
        .args(["metadata", "--format-version", "1", "--all-features", "--locked"])
        .output()
        .expect("running cargo");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    serde_json::from_slice(&told.stdout).expect("JSON")
}

/// The crates that depend on one directly.
fn parents(metadata: &Value, id: &Value) -> Vec<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let needs = |node: &&Value| node["deps"].as_array().is_some_and(|deps| deps.iter().any(|dep| dep["pkg"] == *id));
    let name = |node: &Value| {
        let packages = metadata["packages"].as_array().expect("packages");
        packages
            .iter()
            .find(|found| found["id"] == node["id"])
            .and_then(|found| found["name"].as_str())
            .map(str::to_owned)
    };
    nodes.iter().filter(needs).filter_map(name).collect()
}

fn texts(list: Option<&toml::Value>) -> Vec<String> {
    let all = list.and_then(toml::Value::as_array).into_iter().flatten();
    all.map(|text| text.as_str().expect("a text").to_owned()).collect()
}

#[test]
fn every_crate_has_a_licence_that_the_policy_allows() {
    let policy = policy();
    let licences = policy["licenses"].as_table().expect("licences");
    let everywhere = texts(licences.get("allow"));
    let mut exceptions = licences["exceptions"].as_array().expect("exceptions").clone();
    for found in crates() {
        let name = found["name"].as_str().expect("a name");
        let licence = found["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        let used = exceptions.iter().position(|exception| exception["crate"].as_str() == Some(name));
        let own = used.map(|at| texts(exceptions.remove(at).get("allow"))).unwrap_or_default();
        let allowed = |one: &str| everywhere.iter().chain(&own).any(|allowed| allowed == one);
        assert!(is_met(licence, &allowed), "{name} is under {licence}, which deny.toml does not allow");
    }
    assert!(exceptions.is_empty(), "nothing needs these exceptions any more: {exceptions:?}");
}

#[test]
fn no_banned_crate_is_in_the_build_and_all_come_from_the_registry() {
    let policy = policy();
    let banned = policy["bans"]["deny"].as_array().expect("bans");
    let registries = texts(policy["sources"].get("allow-registry"));
    let metadata = metadata();
    for found in metadata["packages"].as_array().expect("packages") {
        let name = found["name"].as_str().expect("a name");
        if let Some(ban) = banned.iter().find(|ban| ban["crate"].as_str() == Some(name)) {
            // Those through which it may come.
            let wrappers = texts(ban.get("wrappers"));
            let other = parents(&metadata, &found["id"]).into_iter().find(|parent| !wrappers.contains(parent));
            assert!(!wrappers.is_empty() && other.is_none(), "{name} is in the build, through {other:?}: {ban:?}");
        }
        if let Some(source) = found["source"].as_str() {
            let known = source.strip_prefix("registry+").is_some_and(|at| registries.iter().any(|known| known == at));
            assert!(known, "{name} comes from {source}");
        }
    }
}

/// Whether some licences are enough for an SPDX expression.
fn is_met(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    // An older way to write OR, and parentheses as words of their own.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "{expression} is not understood");
    met
}

fn any(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> bool {
    let word = *words.get(*at).expect("a licence");
    *at += 1;
    if word == "(" {
        let met = any(words, at, allowed);
        assert_eq!(words.get(*at), Some(&")"), "{words:?}");
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
        return allowed(&format!("{word} WITH {}", words.get(*at - 1).expect("an exception")));
    }
    allowed(word)
}

#[test]
fn expressions_of_licences_are_read_as_spdx_means_them() {
    let allowed = |one: &str| matches!(one, "MIT" | "ISC" | "Apache-2.0 WITH LLVM-exception");
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("(MIT OR GPL-3.0) AND CC0-1.0", false),
        // AND binds before OR.
        ("MIT OR GPL-3.0 AND CC0-1.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}

#[test]
fn every_fixture_has_tokio_with_the_same_features() {
    let fixtures = Path::new(ROOT).join("tests/fixtures");
    let names = std::fs::read_dir(&fixtures).expect("the fixtures").map(|found| found.expect("a fixture").file_name());
    // What plugins share is built as a part of one.
    let plugins = names.filter(|name| !name.to_string_lossy().ends_with("-api"));
    for name in plugins {
        let manifest = std::fs::read_to_string(fixtures.join(&name).join("Cargo.toml")).expect("its manifest");
        if name == "brittle" {
            assert!(manifest.contains("\"signal\""), "it is the one that listens for signals");
            continue;
        }
        assert!(
            manifest.contains(tests::TOKIO),
            "{}: the framework would be compiled once more for it",
            name.display()
        );
    }
}

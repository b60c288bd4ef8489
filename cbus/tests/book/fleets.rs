//! What docs/fleet.md promises is a test: of the workspace that has the engine, or of the protocol.

use std::path::Path;

use crate::page::{Page, ROOT};

#[test]
fn every_promise_of_fleets_names_a_test_that_is_there() {
    let page = Page::read("docs/fleet.md");
    let mut seen = 0;
    for (number, line) in page.prose() {
        let Some((_, named)) = line.split_once(" | `").filter(|(_, named)| named.contains(".rs`: `")) else { continue };
        let (file, name) = named.trim_end_matches("` |").split_once("`: `").expect("a file and a test");
        let folders = ["controllerbus-zenoh/tests", "controllerbus-fleet/tests/fleet"];
        let paths = folders.map(|folder| Path::new(ROOT).join(folder).join(file));
        let path = paths.iter().find(|path| path.is_file()).unwrap_or(&paths[0]);
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("line {number}: {file}: {error}"));
        assert!(text.contains(&format!("fn {name}(")), "line {number}: {file} has no test `{name}`");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

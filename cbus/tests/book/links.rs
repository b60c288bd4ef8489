//! Every page is in the book, and every link leads somewhere.

use std::collections::BTreeSet;
use std::path::Path;

use crate::page::{Page, ROOT, pages};

/// What a link leads to, without its text.
fn targets(line: &str) -> Vec<String> {
    // What is in backticks is no link.
    let text: String = line.split('`').step_by(2).collect();
    let ends = text.split("](").skip(1);
    ends.filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(page: &Page) -> BTreeSet<String> {
    let headings = page.prose().into_iter().filter_map(|(_, line)| line.strip_prefix('#'));
    let titles = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let anchor = |title: String| -> String {
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    titles.map(anchor).collect()
}

#[test]
fn every_page_is_in_the_summary_and_everything_in_the_summary_is_a_page() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: Vec<String> = summary.prose().iter().flat_map(|(_, line)| targets(line)).collect();
    let once: BTreeSet<String> = listed.iter().map(|name| format!("docs/{name}")).collect();
    assert_eq!(listed.len(), once.len(), "a page is listed twice");
    let there = pages().into_iter().map(|page| page.name);
    let there: BTreeSet<String> = there.filter(|name| *name != "README.md" && *name != "docs/SUMMARY.md").collect();
    assert_eq!(once, there);
    let settings = std::fs::read_to_string(Path::new(ROOT).join("docs/book.toml")).expect("the book's settings");
    let settings: toml::Table = settings.parse().expect("TOML");
    assert_eq!(settings["book"]["src"].as_str(), Some("."), "the pages stay where links from elsewhere lead");
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let others = ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benches/README.md"].map(Page::read);
    let mut seen = 0;
    for page in pages().into_iter().chain(others) {
        for (number, line) in page.prose() {
            for target in targets(line).iter().filter(|target| !target.contains("://")) {
                let at = format!("{}:{number}: {target}", page.name);
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = if path.is_empty() { Path::new(ROOT).join(&page.name) } else { page.folder().join(path) };
                assert!(file.exists(), "{at} is not there");
                if !anchor.is_empty() {
                    let text = std::fs::read_to_string(&file).expect("a page");
                    let found = anchors(&Page { name: path.to_owned(), text });
                    assert!(found.contains(anchor), "{at} is none of {found:?}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn links_and_anchors_are_found() {
    assert_eq!(targets("see [a](b.md#c), `[not](this)` and ![d](e.svg)"), ["b.md#c", "e.svg"]);
    let page =
        Page { name: String::new(), text: "# One `two`: three\n```sh\n# no heading\n```\n## Who can't?\n".to_owned() };
    assert_eq!(anchors(&page).into_iter().collect::<Vec<_>>(), ["one-two-three", "who-cant"]);
}

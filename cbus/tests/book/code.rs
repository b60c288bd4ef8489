//! All code in the pages is compiled somewhere, and all other text in a language is of that language.

use std::path::Path;

use crate::literals;
use crate::page::{Block, Page, ROOT, pages};
use crate::run;

/// The pages whose files are written and built by `built.rs`.
const BUILT: [&str; 3] = ["README.md", "docs/how-to/call-c.md", "docs/tutorial.md"];

fn blocks_of(language: &str) -> Vec<(String, Block)> {
    let of_page = |page: Page| {
        let name = page.name.clone();
        page.blocks().into_iter().map(move |block| (name.clone(), block)).collect::<Vec<_>>()
    };
    let all = pages().into_iter().flat_map(of_page);
    all.filter(|(_, block)| block.info.split(',').next() == Some(language)).collect()
}

#[test]
fn every_block_of_rust_is_a_doctest_or_an_excerpt_or_a_file_that_a_test_builds() {
    let doctests = std::fs::read_to_string(Path::new(ROOT).join("tests/src/book.rs")).expect("the list of doctests");
    // Pages are read where they are too, and there nothing is included.
    assert!(pages().iter().all(|page| !page.text.contains("{{#")));
    let blocks = blocks_of("rust");
    assert!(blocks.len() > 30, "{}", blocks.len());
    for (page, block) in blocks {
        let at = format!("{page}:{}", block.line);
        if block.info.contains("ignore") {
            let is_built = block.file.is_some() && BUILT.contains(&&*page);
            assert!(
                is_built || !block.excerpt_of.is_empty(),
                "{at} is compiled nowhere: name the file that it is from"
            );
        } else {
            assert!(doctests.contains(&format!("\"../../{page}\"")), "{page} is not in tests/src/book.rs");
        }
    }
    // What a macro says of itself is compiled there too.
    let of_macros = std::fs::read_dir(Path::new(ROOT).join("controllerbus-macros/docs")).expect("the macros' pages");
    for page in of_macros {
        let page = format!("controllerbus-macros/docs/{}", page.expect("a page").file_name().to_string_lossy());
        assert!(doctests.contains(&format!("\"../../{page}\"")), "{page} is not in tests/src/book.rs");
    }
}

#[test]
fn every_excerpt_stands_in_the_file_that_it_is_from() {
    for (page, block) in blocks_of("rust").iter().filter(|(_, block)| !block.excerpt_of.is_empty()) {
        let read = |file: &String| std::fs::read_to_string(Path::new(ROOT).join(file));
        let sources: Vec<String> =
            block.excerpt_of.iter().map(|file| read(file).unwrap_or_else(|_| panic!("{page} names {file}"))).collect();
        // Of one file, in its order; a remark of the page's own may follow a line.
        let mut rest = sources[0].as_str();
        for line in block.text.lines().map(|line| line.split(" // ").next().unwrap_or_default().trim()) {
            match rest.split_once(line) {
                Some((_, after)) if sources.len() == 1 => rest = after,
                _ if sources.len() > 1 && sources.iter().any(|source| source.contains(line)) => {}
                _ => {
                    panic!("{page}:{} shows `{line}`, which is not in {:?}, or not there", block.line, block.excerpt_of)
                }
            }
        }
    }
}

#[test]
fn every_config_set_in_the_pages_is_one_and_fits_its_schema() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocks = blocks_of("yaml");
    assert!(blocks.len() > 6, "{}", blocks.len());
    for (page, block) in blocks {
        std::fs::write(folder.path().join("shown.yaml"), &block.text).expect("writing");
        let said = run(folder.path(), &["config", "check", "shown.yaml"]);
        assert_eq!(said.code, Some(0), "{page}:{}: {}", block.line, said.err);
    }
    for (page, block) in blocks_of("json") {
        let read = serde_json::from_str::<serde_json::Value>(&block.text);
        assert!(read.is_ok(), "{page}:{}: {read:?}", block.line);
    }
    for (page, block) in blocks_of("toml") {
        let read = block.text.parse::<toml::Table>();
        assert!(read.is_ok(), "{page}:{}: {read:?}", block.line);
    }
}

#[test]
fn every_message_that_is_explained_is_still_said() {
    let mut texts = Vec::new();
    for part in ["cbus", "controllerbus", "controllerbus-api", "controllerbus-macros", "hot-runtime"] {
        literals::of_sources(&Path::new(ROOT).join(part).join("src"), &mut texts);
    }
    let page = Page::read("docs/troubleshooting.md");
    let rows = page.prose().into_iter().filter_map(|(number, line)| Some((number, line.strip_prefix("| `")?)));
    let mut seen = 0;
    for (number, row) in rows {
        // With two backticks around it where it has some of its own.
        let (message, _) = match row.strip_prefix('`') {
            Some(row) => row.split_once("``").expect("the message's end"),
            None => row.split_once('`').expect("the message's end"),
        };
        let message = message.trim();
        assert!(message.replace('…', "").trim().len() > 10, "line {number}: `{message}` is too short to find");
        assert!(texts.iter().any(|text| literals::has(text, message)), "line {number}: nothing says `{message}`");
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
}

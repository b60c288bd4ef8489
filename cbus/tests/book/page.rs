//! A page, and the blocks of code in it.

use std::path::{Path, PathBuf};

/// The repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A page of Markdown.
pub struct Page {
    /// Its path from the root of the repository.
    pub name: String,
    pub text: String,
}

/// A fenced block.
#[derive(Default)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// What stands behind the fence, such as `rust,no_run`.
    pub info: String,
    pub text: String,
    /// The files of which it is an excerpt, by the comment above it.
    pub excerpt_of: Vec<String>,
    /// The file that it is, or changes, by the sentence above it.
    pub file: Option<String>,
}

/// The book's pages and the README.
pub fn pages() -> Vec<Page> {
    let mut found = vec![Page::read("README.md")];
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(Path::new(ROOT).join(&folder)).expect("a folder").flatten() {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(Page::read(path.to_str().expect("a name")));
            }
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Page {
    pub fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(Path::new(ROOT).join(name)).expect("a page");
        Self { name: name.to_owned(), text }
    }

    /// Where links in it begin.
    pub fn folder(&self) -> PathBuf {
        Path::new(ROOT).join(&self.name).parent().expect("a folder").to_owned()
    }

    /// The lines that are outside of blocks, with their numbers from 1.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let lines = self.text.lines().enumerate().filter(|(_, line)| {
            let is_fence = line.starts_with("```");
            inside ^= is_fence;
            !inside && !is_fence
        });
        lines.map(|(number, line)| (number + 1, line)).collect()
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let (mut open, mut paragraph): (Option<Block>, Vec<&str>) = (None, Vec::new());
        for (number, line) in self.text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text += &format!("{line}\n"),
                (None, Some(info)) => {
                    let excerpt_of = paragraph.last().and_then(|line| line.strip_prefix("<!-- ")?.strip_suffix(" -->"));
                    open = Some(Block {
                        line: number + 1,
                        info: info.to_owned(),
                        excerpt_of: excerpt_of.into_iter().flat_map(|of| of.split(", ")).map(str::to_owned).collect(),
                        file: paragraph.iter().rev().find_map(|line| file_in(line)),
                        text: String::new(),
                    });
                    paragraph.clear();
                }
                (None, None) => {
                    // A sentence may be followed by an empty line.
                    let is_new = paragraph.last().is_some_and(|last| last.is_empty());
                    if is_new && !line.is_empty() {
                        paragraph.clear();
                    }
                    paragraph.push(line);
                }
            }
        }
        assert!(open.is_none(), "{} ends inside of a block", self.name);
        blocks
    }
}

/// The last path in backticks.
fn file_in(line: &str) -> Option<String> {
    let spans = line.split('`').skip(1).step_by(2);
    let is_file =
        |span: &&str| span.contains('/') && ["rs", "c", "yaml"].iter().any(|end| span.ends_with(&format!(".{end}")));
    spans.filter(is_file).last().map(str::to_owned)
}

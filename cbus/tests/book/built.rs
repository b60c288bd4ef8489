//! The crates in the pages are built, and what the pages do with them is done: commands are run, files edited, and what is
//! shown of what they say is compared.

use std::path::Path;

use tests::TOKIO;

use crate::literals::has;
use crate::page::{Block, Page, ROOT};
use crate::process::Daemon;
use crate::steps::{apply, words};
use crate::{built, fine};

/// A crate as `cargo new` and `cargo add` make it, but with this repository's versions, which are here already.
fn new_crate(folder: &Path, name: &str, more: &str) {
    let at = folder.join(name);
    std::fs::create_dir_all(at.join("src")).expect("a folder");
    let bus = Path::new(ROOT).join("controllerbus").canonicalize().expect("the framework");
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         controllerbus = {{ path = {bus:?}, default-features = false }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n{TOKIO}{more}"
    );
    std::fs::write(at.join("Cargo.toml"), manifest).expect("the manifest");
    std::fs::copy(Path::new(ROOT).join("Cargo.lock"), at.join("Cargo.lock")).expect("the lock file");
}

/// Somebody who does what a page says.
struct Reader<'a> {
    folder: &'a Path,
    daemon: Option<Daemon>,
    /// How many of the daemon's lines were read.
    read: usize,
    /// What the last commands have printed.
    printed: String,
}

impl<'a> Reader<'a> {
    fn of(folder: &'a Path) -> Self {
        Self { folder, daemon: None, read: 0, printed: String::new() }
    }

    fn take(&mut self, block: &Block) {
        let file = |block: &Block| self.folder.join(block.file.as_ref().expect("the sentence above names the file"));
        match block.info.as_str() {
            "sh" => {
                self.printed.clear();
                block.text.lines().for_each(|line| self.run(&words(line)));
            }
            "text" if self.printed.is_empty() => block.text.lines().for_each(|line| self.wait(line)),
            "text" => {
                let mut printed = self.printed.lines();
                for line in block.text.lines() {
                    assert!(printed.any(|said| has(said, line)), "`{line}` was not printed, but:\n{}", self.printed);
                }
            }
            "diff" => {
                self.printed.clear();
                apply(&file(block), &block.text);
            }
            // What is compiled elsewhere is not written, and neither is what only shows something.
            _ if !block.excerpt_of.is_empty() || block.file.is_none() || block.info.contains("no_run") => {}
            _ => std::fs::write(file(block), &block.text).expect("writing"),
        }
    }

    fn run(&mut self, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["cbus", name @ ("dev" | "run"), arguments @ ..] => {
                self.stop();
                self.daemon = Some(Daemon::start_as(self.folder, name, arguments));
                self.read = 0;
            }
            ["cbus", "ask" | "plugins" | "rollback", ..] => {
                self.printed += &self.daemon.as_ref().expect("a daemon").fine(&words[1..]);
            }
            ["cbus", "config", "export", ..] => {
                let to = ["--connect", &self.daemon.as_ref().expect("a daemon").address];
                self.printed += &fine(self.folder, &[&words[1..], &to].concat());
            }
            ["cbus", arguments @ ..] => {
                // An optimised build takes longer, and nothing else in it is different.
                let arguments: Vec<&str> = arguments.iter().copied().filter(|word| *word != "--release").collect();
                self.printed += &fine(self.folder, &arguments);
            }
            ["mkdir", name] => std::fs::create_dir(self.folder.join(name)).expect("a folder"),
            // What makes crates was done before.
            _ => {}
        }
    }

    /// Waits until the daemon has said something.
    fn wait(&mut self, line: &str) {
        let daemon = self.daemon.as_mut().expect("a daemon");
        let longest = line.split('…').max_by_key(|part| part.len()).unwrap_or_default().trim();
        loop {
            while let Some(said) = daemon.said.get(self.read) {
                self.read += 1;
                if has(said, line) {
                    return;
                }
            }
            daemon.wait(longest);
        }
    }

    /// As Ctrl-C does.
    fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.end();
        }
    }
}

#[test]
fn whoever_follows_the_tutorial_sees_what_it_shows() {
    // Its dependencies, which take longer than a daemon is waited for.
    built();
    let folder = tempfile::tempdir().expect("a folder");
    new_crate(folder.path(), "door", "");
    let mut reader = Reader::of(folder.path());
    let blocks = Page::read("docs/tutorial.md").blocks();
    assert!(blocks.iter().filter(|block| block.info == "text").count() > 10);
    blocks.iter().for_each(|block| reader.take(block));
    reader.stop();
}

#[test]
fn c_code_is_built_into_a_plugin_and_an_edit_of_it_is_swapped_in() {
    built();
    let folder = tempfile::tempdir().expect("a folder");
    new_crate(folder.path(), "shout", "\n[build-dependencies]\ncc = \"1\"\n");
    let mut reader = Reader::of(folder.path());
    Page::read("docs/how-to/call-c.md").blocks().iter().for_each(|block| reader.take(block));
    std::fs::write(folder.path().join("config.yaml"), "shout: { id: shout }\n").expect("writing");
    let ask = |daemon: &Daemon| daemon.fine(&["ask", "shout/loudly", r#"{"text":"hello"}"#]);
    let mut daemon = Daemon::start_as(folder.path(), "dev", &["shout", "config.yaml", "--plain"]);
    daemon.wait("generation 1 serves");
    assert_eq!(ask(&daemon), "\"HELLO\"\n");
    apply(&folder.path().join("shout/src/shout.c"), &edited_loop(folder.path()));
    daemon.wait("generation 2 serves");
    assert_eq!(ask(&daemon), "\"HeLlO\"\n");
    daemon.end();
}

/// A diff of the line with the loop, so that it takes every second letter.
fn edited_loop(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("shout/src/shout.c")).expect("the source");
    let line = text.lines().find(|line| line.contains("i++")).expect("the loop");
    format!("-{line}\n+{}\n", line.replace("i++", "i += 2"))
}

#[test]
fn the_functions_in_the_readme_build() {
    built();
    let folder = tempfile::tempdir().expect("a folder");
    new_crate(folder.path(), "greeter-api", "");
    new_crate(folder.path(), "greeter", "greeter-api = { path = \"../greeter-api\" }\n");
    let mut reader = Reader::of(folder.path());
    let readme = Page::read("README.md").blocks();
    let files = readme.iter().filter(|block| block.info == "rust,ignore" && block.excerpt_of.is_empty());
    assert_eq!(files.map(|block| reader.take(block)).count(), 2);
    fine(folder.path(), &["build", "greeter", "-o", "greeter.cbus.so"]);
    let told = fine(folder.path(), &["inspect", "greeter.cbus.so"]);
    assert!(told.contains("functions/greeter"), "{told}");
}

#[test]
fn whoever_follows_the_pages_about_operations_has_a_signed_plugin_a_backup_and_a_daemon_that_runs_it() {
    built();
    let folder = tempfile::tempdir().expect("a folder");
    new_crate(folder.path(), "door", "");
    let source =
        std::fs::read_to_string(Path::new(ROOT).join("tests/fixtures/second/src/lib.rs")).expect("a controller");
    let source = source.replace("id = \"second\"", "id = \"door\"");
    std::fs::create_dir_all(folder.path().join("door/src")).expect("a folder");
    std::fs::write(folder.path().join("door/src/lib.rs"), source).expect("writing");
    std::fs::write(folder.path().join("config.yaml"), "door: { id: door }\n").expect("writing");
    let mut reader = Reader::of(folder.path());
    for page in ["sign", "back-up", "upgrade", "isolate"] {
        let blocks = Page::read(&format!("docs/operations/{page}.md")).blocks();
        blocks.iter().filter(|block| block.info == "sh").for_each(|block| reader.take(block));
        let daemon = reader.daemon.as_ref().expect("each of them runs one");
        let controllers = daemon.json(&["controllers"]);
        assert_eq!(controllers["configs"][0]["key"], "controllerbus/bus/api", "{controllers}");
        assert_eq!(controllers["configs"][1]["state"], "running", "{page}: {controllers}");
    }
    // Whoever has no signature is refused by a daemon that wants one.
    let plugin = folder.path().join("plugins/door.cbus.so.minisig");
    std::fs::rename(plugin, folder.path().join("elsewhere")).expect("renaming");
    let signed = ["config.yaml", "--plugins", "plugins", "--trust-key", "cbus.pub", "--require-signature"];
    reader.stop();
    let refused = Daemon::start(folder.path(), &signed);
    assert_eq!(refused.json(&["controllers"])["configs"][1]["state"], "queued");
    refused.end();
}

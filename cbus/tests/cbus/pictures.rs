//! The pictures of the page in README, taken of this commit by `scripts/pictures`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tests::{Scratch, root, target_dir};

use crate::process::Daemon;
use crate::webdriver::Browser;

/// Writes what the browser shows to a file.
fn picture(browser: &Browser, file: &Path) {
    let shown = browser.call("GET", "/screenshot", &json!({}));
    let mut decoder = Command::new("base64")
        .args(["--decode", "--ignore-garbage"])
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(file).expect("a file for the picture"))
        .spawn()
        .expect("base64, of the core utilities");
    let mut input = decoder.stdin.take().expect("its input");
    input.write_all(shown.as_str().expect("a picture").as_bytes()).expect("decoding");
    drop(input);
    assert!(decoder.wait().expect("its end").success());
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("a source");
    assert!(text.contains(from), "{} has no `{from}`", file.display());
    std::fs::write(file, text.replace(from, to)).expect("writing");
}

#[test]
#[ignore = "writes docs/page-light.png and docs/page-dark.png: run scripts/pictures"]
fn of_the_page() {
    let Some(browser) = Browser::open() else { return };
    let scratch = Scratch::new(&[]).example("greeter").example("counter");
    let config = "hello: { id: example/greeter, config: { greeting: Hello } }\n\
                  lost: { id: example/greter }\n\
                  steps: { id: example/counter, config: { every_ms: 60000 } }\n";
    std::fs::write(scratch.folder().join("config.yaml"), config).expect("writing");
    let target = target_dir().display().to_string();
    let arguments = ["config.yaml", "--watch", "greeter", "--watch", "counter", "--target-dir", &target];
    let mut daemon = Daemon::start(scratch.folder(), &[&arguments[..], &["--allow-control", "--allow-exec"]].concat());
    let link = daemon.fine(&["page", "--print"]).trim().to_owned();
    browser.call("POST", "/url", &json!({ "url": link }));
    browser.wait("document.querySelector('#link').innerText === 'live'");
    browser.wait("[...document.querySelector('#directive').options].some(option => option.value === 'example/greet')");
    browser.script(
        "(() => { const kind = document.querySelector('#directive'); kind.value = 'example/greet'; \
         kind.dispatchEvent(new Event('change')); \
         document.querySelector('#fields input').value = 'Ada'; \
         document.querySelector('#ask button[type=submit]').click(); })()",
    );
    browser.wait("document.querySelector('#answers').innerText.includes('Hello, Ada!')");

    let source = scratch.path("greeter").join("src/lib.rs");
    edit(&source, "{}, {}!", "{} to you, {}!");
    daemon.wait("serves, after");
    browser.wait("document.querySelector('#answers').innerText.includes('Hello to you, Ada!')");
    edit(&source, "{} to you, {}!", "{}, dear {}!");
    daemon.wait("serves, after");
    browser.wait("document.querySelector('#graph svg').textContent.includes('Hello, dear Ada!')");
    browser.wait("document.querySelector('#events').innerText.includes('generation 3 unloaded')");
    let docs = root().join("docs");
    picture(&browser, &docs.join("page-light.png"));

    edit(&source, "request.name", "request.nam");
    browser.wait("document.querySelector('[data-plugin] .error') !== null");
    let dark = json!({ "cmd": "Emulation.setEmulatedMedia", "params": {
        "features": [{ "name": "prefers-color-scheme", "value": "dark" }],
    } });
    browser.call("POST", "/goog/cdp/execute", &dark);
    browser.wait("matchMedia('(prefers-color-scheme: dark)').matches");
    picture(&browser, &docs.join("page-dark.png"));
    daemon.end();
}

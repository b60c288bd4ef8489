//! The pictures in README, taken of this commit by `scripts/pictures`.

use std::fmt::Write as _;
use std::io::Write;
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::{Scratch, root, target_dir};

use crate::process::Daemon;
use crate::view::Terminal;
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
    browser.script("document.querySelector('[data-plugin=greeter] .swap-row').click()");
    browser.wait("document.querySelector('.swaps .detail') !== null");
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

const ROWS: u16 = 26;
const COLUMNS: u16 = 100;
/// A letter's width and a line's height in the picture.
const LETTER: (f64, f64) = (8.4, 18.0);

/// What a terminal shows, as a moving picture.
#[derive(Default)]
struct Recording {
    /// The drawings, each with the time for which it is shown.
    frames: Vec<(String, Duration)>,
    caption: String,
}

impl Recording {
    /// Waits for a text. Drawings are taken at this interval, and each is shown for so long.
    fn until(&mut self, terminal: &mut Terminal, text: &str, (every, shown): (Duration, Duration)) {
        let mut last = Instant::now();
        let mut newest = String::new();
        terminal.watch(text, |screen| {
            newest = lines(screen);
            if last.elapsed() >= every && self.frames.last().is_none_or(|(before, _)| *before != newest) {
                let drawing = newest.clone() + &self.caption;
                self.frames.push((drawing, shown));
                last = Instant::now();
            }
        });
        // The last one is there to be read.
        self.frames.push((newest + &self.caption, Duration::from_secs(3)));
    }

    fn say(&mut self, what: &str) {
        let y = f64::from(ROWS + 1) * LETTER.1;
        self.caption = format!("<text y=\"{y}\" class=\"say\">{}</text>", escaped(what));
    }

    /// The pictures stand below each other, and are moved past a window.
    fn svg(&self) -> String {
        let (width, height) = (f64::from(COLUMNS) * LETTER.0, f64::from(ROWS + 2) * LETTER.1);
        let all: Duration = self.frames.iter().map(|(_, shown)| *shown).sum();
        let (mut steps, mut drawings, mut at) = (String::new(), String::new(), Duration::ZERO);
        for (number, (drawing, shown)) in self.frames.iter().enumerate() {
            let y = number as f64 * height;
            let percent = at.as_secs_f64() / all.as_secs_f64() * 100.0;
            let _ = write!(steps, "{percent:.3}%{{transform:translateY({}px)}}", -y);
            let _ = write!(drawings, "<g transform=\"translate(0 {y})\">{drawing}</g>");
            at += *shown;
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" role=\"img\">\
             <title>cbus dev: a save is built and swapped in, a compile error is shown while the last version keeps serving</title>\
             <style>text{{font:14px ui-monospace,Menlo,Consolas,'Liberation Mono',monospace;fill:#dde3ea;white-space:pre}}\
             .say{{fill:#fff;font-weight:700}}.b{{font-weight:700}}.c1{{fill:#ff7b6e}}.c2{{fill:#4cc38a}}.c3{{fill:#e6a23c}}\
             .c4{{fill:#7c9cf0}}.c5{{fill:#e878ad}}.c6{{fill:#45c4b4}}.c8{{fill:#8593a3}}\
             .roll{{animation:roll {s:.1}s steps(1,end) infinite}}@keyframes roll{{{steps}}}\
             @media(prefers-reduced-motion:reduce){{.roll{{animation:none;transform:translateY({last}px)}}}}</style>\
             <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#11151b\"/>\
             <svg x=\"12\" y=\"8\" width=\"{width}\" height=\"{height}\"><g class=\"roll\">{drawings}</g></svg></svg>\n",
            w = width + 24.0,
            h = height + 16.0,
            s = all.as_secs_f64(),
            last = -((self.frames.len() - 1) as f64 * height),
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The lines of a screen, in runs of one look.
fn lines(screen: &vt100::Screen) -> String {
    let mut drawing = String::new();
    for row in 0..ROWS {
        let mut runs: Vec<(u16, String, String)> = Vec::new();
        for column in 0..COLUMNS {
            let Some(cell) = screen.cell(row, column) else { continue };
            let colour = match cell.fgcolor() {
                vt100::Color::Idx(index @ 0..=7) => format!("c{index}"),
                vt100::Color::Idx(8) => "c8".to_owned(),
                vt100::Color::Idx(index @ 9..=15) => format!("c{}", index - 8),
                _ if cell.dim() => "c8".to_owned(),
                _ => String::new(),
            };
            let look = if cell.bold() { format!("b {colour}") } else { colour };
            let text = if cell.has_contents() { cell.contents() } else { " " };
            match runs.last_mut() {
                Some((_, last, run)) if *last == look => run.push_str(text),
                _ => runs.push((column, look, text.to_owned())),
            }
        }
        let y = f64::from(row + 1) * LETTER.1 - 4.0;
        for (column, look, run) in runs.iter().filter(|(.., run)| !run.trim().is_empty()) {
            let x = f64::from(*column) * LETTER.0;
            let text = escaped(run.trim_end());
            let _ = write!(drawing, "<text x=\"{x:.1}\" y=\"{y}\" class=\"{}\">{text}</text>", look.trim_end());
        }
    }
    drawing
}

#[cfg(unix)]
#[test]
#[ignore = "writes docs/dev.svg: run scripts/pictures"]
fn of_a_session_of_cbus_dev() {
    let scratch = Scratch::new(&[]).example("counter");
    let config = "steps: { id: example/counter, config: { every_ms: 1000 } }\n";
    std::fs::write(scratch.path("counter").join("config.yaml"), config).expect("writing");
    let source = scratch.path("counter").join("src/lib.rs");
    let size = |lines| NonZero::new(lines).expect("a size");
    let mut dev = Terminal::with_size(scratch.folder(), &["dev", "counter"], size(ROWS), size(COLUMNS));
    let mut recording = Recording::default();
    let (faster, as_it_was) =
        ((Duration::from_secs(4), Duration::from_millis(300)), (Duration::from_millis(40), Duration::from_millis(80)));
    recording.say("$ cbus dev counter                  the first build compiles everything (shown faster)");
    recording.until(&mut dev, "generation 1 serves", faster);
    let edits = [
        (
            "ticks += 1",
            "ticks += 10",
            "generation 2 serves",
            "saved: ticks += 10     the next tick runs the new code, and counts on",
        ),
        (
            "ticks += 10",
            "ticks += ten",
            "Compiler",
            "saved: ticks += ten    a compile error: the last version keeps serving",
        ),
        ("ticks += ten", "ticks += 100", "generation 3 serves", "saved: ticks += 100    and fixed"),
    ];
    for (from, to, shown, caption) in edits {
        recording.say(caption);
        edit(&source, from, to);
        recording.until(&mut dev, shown, as_it_was);
    }
    dev.press(b"q");
    std::fs::write(root().join("docs/dev.svg"), recording.svg()).expect("writing");
}

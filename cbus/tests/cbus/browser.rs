//! The page in headless Chromium, driven over WebDriver. Without Chromium and its driver it is skipped, and says so.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::built;
use crate::daemon::{Daemon, daemon_folder, http_with};

/// A browser without a window.
struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// None where there is no Chromium with a driver.
    fn open() -> Option<Self> {
        let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        let binary = chromium.into_iter().find(|path| std::path::Path::new(path).is_file())?;
        let mut driver =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut lines = BufReader::new(driver.stdout.take()?).lines().map_while(Result::ok);
        let started = lines.find(|line| line.contains("successfully on port"))?;
        let port = started.rsplit(' ').next()?.trim_end_matches('.').to_owned();
        // What it says further is read, so that it does not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().expect("a folder");
        let mut browser =
            Self { driver, address: format!("127.0.0.1:{port}"), session: String::new(), _profile: profile };
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1400,1200",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().display()));
        let made = browser.call(
            "POST",
            "/session",
            &json!({ "capabilities": { "alwaysMatch": {
                "goog:chromeOptions": { "binary": binary, "args": arguments },
                "goog:loggingPrefs": { "browser": "ALL" },
                "unhandledPromptBehavior": "ignore",
            } } }),
        );
        browser.session = format!("/session/{}", made["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let path = format!("{}{path}", self.session);
        let (status, answer) = http_with(&self.address, method, &path, "Content-Type: application/json\r\n", &body);
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer["value"].clone()
    }

    fn script(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": format!("return {script}"), "args": [] }))
    }

    /// Waits until a script gives true.
    fn wait(&self, what: &str) {
        let begun = Instant::now();
        while self.script(what) != Value::Bool(true) {
            assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}\n{}", self.text("body"));
            // The driver tells nothing of its own accord: it has to be asked again.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn text(&self, selector: &str) -> String {
        self.script(&format!("document.querySelector({selector:?})?.innerText ?? ''")).as_str().unwrap_or("").to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = http_with(&self.address, "DELETE", &self.session, "", "");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[test]
fn the_page_shows_what_happens_and_its_buttons_work() {
    let Some(browser) = Browser::open() else {
        println!("SKIPPED: there is no Chromium with chromedriver here (Debian: apt-get install chromium-driver)");
        return;
    };
    let folder = daemon_folder();
    let mut daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins", "--allow-control"]);
    let link = daemon.fine(&["page", "--print"]).trim().to_owned();
    let address = link.trim_start_matches("http://").split('/').next().expect("an address").to_owned();
    browser.call("POST", "/url", &json!({ "url": link }));
    browser.wait("document.querySelector('#link').innerText === 'live'");
    browser.wait("document.querySelector('#configs').innerText.includes('queued')");
    browser.wait("document.querySelector('#graph svg')?.textContent.includes('controllerbus/bus/api') ?? false");

    // A plugin that comes while the page is open.
    std::fs::copy(&built().1, folder.path().join("plugins/.part")).expect("copying");
    std::fs::rename(folder.path().join("plugins/.part"), folder.path().join("plugins/second.cbus.so"))
        .expect("renaming");
    daemon.wait("generation 1 serves");
    browser.wait("document.querySelector('[data-plugin=second]')?.innerText.includes('serving') ?? false");
    browser.wait("!document.querySelector('#configs').innerText.includes('queued')");
    browser.wait("document.querySelectorAll('[data-plugin=second] .bar span').length >= 3");
    browser.wait("document.querySelector('#graph svg').textContent.includes('second #1')");
    browser.wait("document.querySelector('#events').innerText.includes('generation 1 serves')");
    browser.wait("document.querySelector('#logs').innerText.includes('generation 1 serves')");

    // A plugin that came from a file cannot be built again, and the page says so.
    browser.script(
        "[...document.querySelectorAll('[data-plugin=second] button')].find(b => b.innerText === 'Reload').click()",
    );
    let begun = Instant::now();
    let told = loop {
        let (status, answer) = http_with(&browser.address, "GET", &format!("{}/alert/text", browser.session), "", "");
        if status == 200 {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(told.contains("loaded from a file"), "{told}");
    browser.call("POST", "/alert/accept", &json!({}));

    // Unloading asks first.
    browser.call("POST", "/execute/async", &json!({
        "script": "const done = arguments[arguments.length - 1]; window.confirm = () => true; \
                   [...document.querySelectorAll('[data-plugin=second] button')].find(b => b.innerText === 'Unload').click(); done();",
        "args": [],
    }));
    daemon.wait("generation 1 unloaded");
    browser.wait("document.querySelector('[data-plugin=second]').innerText.includes('unloaded')");

    // Nothing was fetched from elsewhere, and no script failed.
    let foreign = browser.script(&format!(
        "performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('http://{address}/'))"
    ));
    assert_eq!(foreign, json!([]));
    // The code that opened it is not in its address, and opens nothing more.
    assert_eq!(browser.script("location.href"), json!(format!("http://{address}/")));
    let path = link.trim_start_matches(&format!("http://{address}")).to_owned();
    assert_eq!(http_with(&address, "GET", &path, "", "").0, 401);
    let severe: Vec<Value> = browser
        .call("POST", "/se/log", &json!({ "type": "browser" }))
        .as_array()
        .cloned()
        .unwrap_or_default()
        .into_iter()
        // The refused reload is a failed request, and was meant to be.
        .filter(|line| line["level"] == "SEVERE" && !line.to_string().contains("/api/plugins/reload"))
        .collect();
    assert!(severe.is_empty(), "{severe:?}");
    daemon.end();
    browser.wait("document.querySelector('#link').innerText === 'the daemon is away'");
}

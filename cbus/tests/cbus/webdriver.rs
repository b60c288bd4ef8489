//! Headless Chromium, driven over WebDriver.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::http_with;

/// A browser without a window.
pub struct Browser {
    driver: Child,
    pub address: String,
    pub session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// None where there is no Chromium with a driver. Where the variable `CBUS_TEST_BROWSER` is set, as in CI, there must be.
    pub fn open() -> Option<Self> {
        let browser = Self::start();
        if browser.is_none() {
            let missing =
                "there is no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)";
            assert!(std::env::var_os("CBUS_TEST_BROWSER").is_none(), "{missing}");
            println!("SKIPPED: {missing}");
        }
        browser
    }

    fn start() -> Option<Self> {
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

    /// The driver's process, whose children are the browser's.
    pub fn process(&self) -> u32 {
        self.driver.id()
    }

    pub fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let path = format!("{}{path}", self.session);
        let (status, answer) = http_with(&self.address, method, &path, "Content-Type: application/json\r\n", &body);
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer["value"].clone()
    }

    pub fn script(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": format!("return {script}"), "args": [] }))
    }

    /// Waits until a script gives true.
    pub fn wait(&self, what: &str) {
        let begun = Instant::now();
        while self.script(what) != Value::Bool(true) {
            assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}\n{}", self.text("body"));
            // The driver tells nothing of its own accord: it has to be asked again.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn text(&self, selector: &str) -> String {
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

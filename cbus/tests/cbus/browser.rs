//! The page in a browser, as a person uses it.

use serde_json::{Value, json};

use crate::built;
use crate::process::{Daemon, daemon_folder, http_with};
use crate::webdriver::Browser;

#[test]
fn the_page_shows_what_happens_and_its_buttons_work() {
    let Some(browser) = Browser::open() else { return };
    let folder = daemon_folder();
    let mut daemon =
        Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins", "--allow-control", "--allow-exec"]);
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

    // Its directive can be asked: the form is made of its fields.
    browser.wait("[...document.querySelector('#directive').options].some(option => option.value === 'second/ask')");
    browser.script(
        "(() => { const kind = document.querySelector('#directive'); kind.value = 'second/ask'; \
         kind.dispatchEvent(new Event('change')); })()",
    );
    let ask = |nonce: &str| {
        browser.script(&format!(
            "(() => {{ document.querySelector('#fields input[aria-label=nonce]').value = '{nonce}'; \
             document.querySelector('#ask button[type=submit]').click(); }})()"
        ));
    };
    ask("one");
    browser.wait("document.querySelector('#answers').innerText.includes('nonce: a number is needed')");
    ask("-1");
    browser.wait("document.querySelector('#answers').innerText.includes('expected u64')");
    // More than a script's numbers can tell apart.
    ask("9007199254740993");
    browser.wait("document.querySelector('#answers').innerText.includes('from the second')");
    browser.wait("document.querySelector('#graph svg').textContent.includes('9007199254740993')");
    // Who asks, who answers, and the values.
    browser.script("document.querySelector('#directives .row').click()");
    for part in ["the daemon", "second, second #1", "#1 \"from the second\""] {
        browser.wait(&format!(
            "document.querySelector('#directives .detail')?.innerText.includes({}) ?? false",
            json!(part)
        ));
    }
    browser.script("document.querySelector('#release').click()");
    browser.wait("document.querySelector('#answers').innerText.includes('released')");
    browser.wait("!document.querySelector('#graph svg').textContent.includes('9007199254740993')");

    // A plugin that came from a file cannot be built again, and the page says so.
    let reload = "document.querySelector('[data-plugin=second] [data-act=reload]')";
    assert_eq!(browser.script(&format!("{reload}.disabled")), json!(true));
    let told = browser.script(&format!("{reload}.title")).to_string();
    assert!(told.contains("loaded from a file"), "{told}");

    // Unloading asks first.
    browser.script("document.querySelector('[data-plugin=second] [data-act=unload]').click()");
    browser.wait(
        "document.querySelector('#sure').open && document.querySelector('#sure').innerText.includes('Unload second?')",
    );
    browser.script("document.querySelector('#sure-no').click()");
    browser.wait("!document.querySelector('#sure').open");
    browser.script("document.querySelector('[data-plugin=second] [data-act=unload]').click()");
    browser.script("document.querySelector('#sure-yes').click()");
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
        // The question with a negative number is a failed request, and was meant to be.
        .filter(|line| line["level"] == "SEVERE" && !line.to_string().contains("/api/ask"))
        .collect();
    assert!(severe.is_empty(), "{severe:?}");
    daemon.end();
    browser.wait("document.querySelector('#link').innerText.startsWith('away since')");
}

//! What the page shows of a day's work, on screens of each size, by keys alone, and over restarts of the daemon.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::Scratch;

use crate::built;
use crate::process::{Daemon, Session, daemon_folder};
use crate::webdriver::Browser;

/// Opens the page of a daemon.
fn open(browser: &Browser, daemon: &Daemon) {
    let link = daemon.fine(&["page", "--print"]).trim().to_owned();
    browser.call("POST", "/url", &json!({ "url": link }));
    browser.wait("document.querySelector('#link')?.innerText === 'live'");
}

/// Presses keys, one after the other.
fn press(browser: &Browser, keys: &str) {
    let keys: Vec<Value> = keys
        .chars()
        .flat_map(|key| {
            let of = |what: &str| json!({ "type": what, "value": key.to_string() });
            [of("keyDown"), of("keyUp")]
        })
        .collect();
    browser.call("POST", "/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": keys }] }));
}

const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

/// What a screen cuts off, or shows only by scrolling sideways, beside what has a scroll bar for that.
const CUT: &str = "(() => {
  const cut = [];
  if (document.documentElement.scrollWidth > innerWidth) cut.push(`the page is ${document.documentElement.scrollWidth} wide`);
  for (const element of document.querySelectorAll('body *')) {
    const box = element.getBoundingClientRect();
    if (!box.width || element.closest('pre, .scroll, svg, select, dialog:not([open])')) continue;
    const name = `${element.tagName} ${element.id} ${element.className}: ${element.textContent.slice(0, 40)}`;
    if (box.right > innerWidth + 0.5 || box.left < -0.5) cut.push(name);
    const style = getComputedStyle(element);
    const holds = style.display !== 'inline' && style.overflowX !== 'auto' && element.clientWidth > 0 && element.tagName !== 'INPUT';
    if (holds && element.scrollWidth > element.clientWidth + 1) cut.push(`${name} (${element.scrollWidth} in ${element.clientWidth})`);
  }
  return cut;
})()";

fn screen(browser: &Browser, width: u32, scheme: &str) {
    let cdp = |cmd: &str, params: Value| {
        browser.call("POST", "/goog/cdp/execute", &json!({ "cmd": cmd, "params": params }));
    };
    let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
    cdp("Emulation.setDeviceMetricsOverride", size);
    cdp("Emulation.setEmulatedMedia", json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }));
    browser.wait(&format!("matchMedia('(prefers-color-scheme: {scheme})').matches && innerWidth === {width}"));
}

#[test]
fn what_a_save_did_is_on_the_page_with_its_errors_their_places_and_a_way_back() {
    let Some(browser) = Browser::open() else { return };
    let scratch = Scratch::new(&["second"]);
    let config =
        "one: { id: second }\na-key-that-is-longer-than-a-phone-is-wide-and-has-no-place-to-break_it: { id: secnd }\n";
    std::fs::write(scratch.folder().join("config.yaml"), config).expect("writing");
    let arguments = ["config.yaml", "--watch", "second", "--allow-control", "--allow-exec"];
    let mut daemon = Daemon::start(scratch.folder(), &arguments);
    open(&browser, &daemon);
    browser.wait("document.title === 'cbus'");
    let other = "[data-row^=\"controller  controllerbus\"]";
    browser.wait(&format!("document.querySelector('{other}') !== null"));

    // A save. What it does not concern is not touched: what is selected there stays so.
    browser.script(&format!(
        "(() => {{ window.row = document.querySelector('{other}'); window.touched = 0; \
         getSelection().selectAllChildren(window.row.querySelector('.name')); \
         new MutationObserver(all => window.touched += all.length) \
           .observe(window.row, {{ subtree: true, childList: true, attributes: true, characterData: true }}); }})()"
    ));
    scratch.edit("second", "\"from the second\"", "\"from the other\"");
    daemon.wait("generation 2 serves, after 1");
    browser.wait("document.querySelector('[data-plugin=second] .swap-row').innerText.includes('live in')");
    let untouched = browser.script(&format!(
        "[window.row === document.querySelector('{other}'), window.touched, getSelection().toString()]"
    ));
    assert_eq!(untouched, json!([true, 0, "controllerbus/bus/api"]));

    // By keys: search, move, open, close, ask what there are.
    press(&browser, "/second");
    browser.wait("document.activeElement.id === 'search' && document.activeElement.value === 'second'");
    browser.wait(&format!("document.querySelector('{other}') === null"));
    browser.wait("document.querySelector('#controllers-count').innerText === '1 of 2 found'");
    press(&browser, ESCAPE);
    browser.wait(&format!("document.querySelector('{other}') !== null"));
    press(&browser, ESCAPE);
    press(&browser, "jj");
    browser.wait("document.activeElement.matches('[data-plugin=second] .swap-row[aria-expanded=false]')");
    press(&browser, ENTER);
    browser.wait("document.activeElement.matches('[data-plugin=second] .swap-row[aria-expanded=true]')");
    browser.wait("document.querySelector('.swaps .detail').innerText.includes('from the save to live') || document.querySelector('[data-act=rollback]') !== null");
    press(&browser, "?");
    browser.wait("document.querySelector('#help').open");
    press(&browser, ESCAPE);
    browser.wait("!document.querySelector('#help').open");

    // Back to the generation before: it asks, and the answer may be no.
    if browser.script("document.querySelector('[data-act=rollback]') === null") == json!(true) {
        press(&browser, &format!("j{ENTER}"));
    }
    browser.wait("document.querySelector('[data-act=rollback]').innerText === 'Roll back to #1'");
    let asked = "document.querySelector('#sure').open && document.querySelector('#sure').innerText.includes('Roll second back to #1?')";
    browser.script("document.querySelector('[data-act=rollback]').click()");
    browser.wait(asked);
    press(&browser, ESCAPE);
    browser.wait("!document.querySelector('#sure').open");
    assert_eq!(daemon.json(&["plugins"])[0]["generations"].as_array().map(Vec::len), Some(2));
    browser.script("document.querySelector('[data-act=rollback]').click()");
    browser.wait(asked);
    browser.script("document.querySelector('#sure-yes').click()");
    browser.wait("document.querySelector('#told').innerText.includes('rolled back: generation 3 serves')");
    browser.wait("document.querySelector('[data-plugin=second] .swap-row').innerText.includes('#3')");
    assert!(daemon.fine(&["ask", "second/ask", "{\"nonce\":1}", "--once"]).contains("from the second"));

    // An error: the tab says so, and its place leads to the editor of choice.
    scratch.edit("second", "\"from the other\"", "\"from the third\" oops");
    browser.wait("document.querySelector('[data-plugin=second] .errors a') !== null");
    browser.wait("document.title === '(1 failed) cbus'");
    let link = || {
        browser
            .script("document.querySelector('[data-plugin=second] .errors a')?.href ?? ''")
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let source = scratch.path("second").join("src/lib.rs").canonicalize().expect("the source");
    let line = std::fs::read_to_string(&source)
        .expect("the source")
        .lines()
        .position(|line| line.contains("oops"))
        .expect("the line")
        + 1;
    let place = format!("vscode://file{}:{line}:", source.display());
    assert!(link().starts_with(&place), "{} is not {place}", link());
    let choose = |editor: &str, template: &str| {
        browser.script(&format!(
            "(() => {{ for (const [id, value] of [['editor', '{editor}'], ['template', '{template}']]) {{ \
             const field = document.querySelector('#' + id); field.value = value; field.dispatchEvent(new Event('input')); }} }})()"
        ));
    };
    choose("other", "mine://open?f={file}&l={line}");
    browser
        .wait(&format!("document.querySelector('.errors a')?.href === 'mine://open?f={}&l={line}'", source.display()));
    // What a browser would run itself is no editor.
    choose("other", "javascript:alert(\"{file}\")");
    browser.wait("document.querySelector('.errors a') === null && !document.querySelector('#template-wrong').hidden");
    choose("none", "");
    browser.wait("document.querySelector('.errors .place') !== null");
    assert_eq!(link(), "");
    choose("zed", "");
    browser.wait("document.querySelector('.errors a')?.href.startsWith('zed://file/') ?? false");

    // Nothing is cut off anywhere, with everything open.
    for width in [390, 1280] {
        for scheme in ["light", "dark"] {
            screen(&browser, width, scheme);
            browser.script(
                "(() => { for (let row; (row = document.querySelector('.row[aria-expanded=false]'));) { \
                 row.click(); row.setAttribute('aria-expanded', 'true'); } })()",
            );
            browser.wait(
                "document.querySelectorAll('.row').length === document.querySelectorAll('.row + .detail').length",
            );
            assert_eq!(browser.script(CUT), json!([]), "at {width}, {scheme}");
        }
    }
    daemon.end();
}

#[test]
fn what_is_away_looks_away_and_the_open_page_comes_back_to_the_next_daemon_as_it_was() {
    let Some(browser) = Browser::open() else { return };
    let folder = daemon_folder();
    std::fs::copy(&built().1, folder.path().join("plugins/second.cbus.so")).expect("copying");
    let start = || {
        let arguments = ["config.yaml", "--plugins", "plugins", "--allow-control"];
        Daemon::start_with(folder.path(), "run", &arguments, |command| {
            command.env("CBUS_NAME", "comes-back");
        })
    };
    let daemon = start();
    open(&browser, &daemon);
    browser.wait("document.querySelector('[data-plugin=second] .pill')?.innerText === 'serving'");
    browser.wait("document.querySelector('#logs').innerText.length > 100");
    browser.script(
        "(() => { const set = (id, value) => { const field = document.querySelector(id); field.value = value; \
         field.dispatchEvent(new Event('input')); }; set('#search', 'second'); set('#who', 'second'); set('#level', '4'); \
         window.same = true; })()",
    );
    browser.wait("document.querySelector('#configs-count').innerText === '1 of 2 found'");
    browser.script("document.querySelector('#configs .row').click()");
    browser.wait("document.querySelector('#configs .detail')?.innerText.includes('revision') ?? false");
    let colour = "getComputedStyle(document.querySelector('[data-plugin=second] .pill')).color";
    let (green, off) =
        (browser.script(colour), "[...document.querySelectorAll('[data-act]')].every(button => button.disabled)");
    assert_eq!(browser.script(off), json!(false));

    // Nor does loading it anew lose what was open.
    browser.call("POST", "/refresh", &json!({}));
    browser.wait("document.querySelector('#link')?.innerText === 'live'");
    browser.wait("document.querySelector('#configs .row')?.ariaExpanded === 'true'");
    assert_eq!(browser.script("document.querySelector('#search').value"), json!("second"));
    browser.script("window.same = true");
    // Another tab has the same cookie. The first answer that lets this one in is lost, and the daemon is busy before.
    let first = browser.call("GET", "/window", &Value::Null);
    let other = browser.call("POST", "/window/new", &json!({ "type": "tab" }))["handle"].clone();
    browser.call("POST", "/window", &json!({ "handle": other }));
    open(&browser, &daemon);
    browser.call("POST", "/window", &json!({ "handle": first }));
    browser.script(
        "(() => { const real = window.fetch; window.busy = window.lost = 0; window.fetch = async (path, init) => { \
         const is = (text) => String(path).includes(text); \
         if (is('/resume') && !is('proof=') && window.busy++ === 0) return new Response('', { status: 429 }); \
         const answer = await real(path, init); \
         if (is('proof=') && answer.ok && window.lost++ === 0) throw new TypeError('lost'); \
         return answer; }; })()",
    );

    let before = std::time::SystemTime::now();
    daemon.end();
    browser
        .wait("document.querySelector('#link').innerText.startsWith('away since') && document.title === '(away) cbus'");
    browser.wait(off);
    assert_ne!(browser.script(colour), green, "a state of which nobody knows whether it still holds is grey");
    assert!(browser.text("[data-plugin=second]").contains("serving"), "what was known last is still there");

    // The next one, soon after. The page needs no help to find it.
    let mut next = start();
    browser.wait("document.querySelector('#link').innerText === 'live' && document.title === 'cbus'");
    next.wait("came back to the page");
    println!("{} ms from one daemon's end to the page of the next", before.elapsed().unwrap_or_default().as_millis());
    browser.wait("document.querySelector('#events').innerText.includes('the daemon was restarted')");
    browser.wait(&format!("{colour} === {green}"));
    let kept = "[window.same, document.querySelector('#search').value, document.querySelector('#who').value, \
                document.querySelector('#level').value, document.querySelector('#configs .row').ariaExpanded]";
    assert_eq!(browser.script(kept), json!([true, "second", "second", "4", "true"]));
    assert_eq!(browser.script("window.busy > 1 && window.lost > 1"), json!(true));
    browser.call("POST", "/window", &json!({ "handle": other }));
    browser.wait("document.querySelector('#link').innerText === 'live'");
    browser.call("POST", "/window", &json!({ "handle": first }));
    // It may do what it could before.
    browser.script("document.querySelector('[data-act=unload]').click()");
    browser.script("document.querySelector('#sure-yes').click()");
    next.wait("generation 1 unloaded");
    // Nothing is loaded from a port that others may have had meanwhile.
    browser.call("POST", "/refresh", &json!({}));
    browser.wait("document.body?.innerText.includes('cbus page') ?? false");
    next.end();
}

#[test]
fn a_daemon_that_is_killed_leaves_its_page_s_port_free_for_the_next_one() {
    let folder = daemon_folder();
    let mut daemon = Daemon::start(folder.path(), &["config.yaml", "--plugins", "plugins"]);
    let link = daemon.fine(&["page", "--print"]);
    let own = link.trim_start_matches("http://").split('/').next().expect("an address").to_owned();
    // A browser keeps its connections open.
    let mut kept = TcpStream::connect(&own).expect("connecting");
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("asking");
    let read = kept.read(&mut [0; 1024]).expect("the answer");
    assert!(read > 0, "it was answered");
    daemon.process.kill().expect("killing");
    daemon.process.wait().expect("its end");
    TcpListener::bind(&own).expect("the port is free");
}

#[test]
fn what_the_page_was_told_bit_by_bit_is_what_a_new_page_is_told() {
    let Some(browser) = Browser::open() else { return };
    let folder = daemon_folder();
    std::fs::copy(&built().1, folder.path().join("plugins/second.cbus.so")).expect("copying");
    let arguments = ["config.yaml", "--plugins", "plugins", "--allow-control", "--allow-exec"];
    let daemon = Daemon::start(folder.path(), &arguments);
    open(&browser, &daemon);
    let page = Session::open(&daemon);
    let (mut asks, mut dice) = (Vec::new(), 7_u64);
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 33) % sides
    };
    for round in 0..80 {
        match roll(4) {
            0 if !asks.is_empty() => drop(asks.swap_remove(roll(asks.len() as u64) as usize)),
            1 => {
                let configs: String =
                    (0..roll(4)).map(|key| format!("k{key}: {{ id: second, revision: {round} }}\n")).collect();
                std::fs::write(folder.path().join("config.yaml"), format!("one: {{ id: second }}\n{configs}"))
                    .expect("writing");
            }
            // Some ask the same.
            _ => asks.push(page.hold_ask("second/ask", &json!({ "nonce": roll(20) }).to_string())),
        }
        if round % 10 == 0 {
            std::thread::sleep(Duration::from_millis(roll(300)));
        }
    }
    // What changes all the time aside, both have the same once nothing changes any more.
    let same = "const done = arguments[arguments.length - 1]; (async () => {
        const { whole } = await import('/state.js');
        const key = sessionStorage.getItem('cbus-key');
        const fresh = await (await fetch('/api/state', { headers: { 'x-cbus-key': key } })).json();
        const plain = (state) => { delete state.info.memory_mib; for (const part of ['plugins', 'controllers', 'directives', 'configs']) \
          state[part] = state[part].map((item) => JSON.stringify(item)).sort(); return JSON.stringify(state, Object.keys(state).concat(Object.keys(state.info)).sort()); };
        done([plain(structuredClone(whole())), plain(fresh)]);
    })()";
    let begun = Instant::now();
    loop {
        let both = browser.call("POST", "/execute/async", &json!({ "script": same, "args": [] }));
        if both[0] == both[1] {
            assert!(both[0].to_string().contains("second/ask"), "{both}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{both}");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(asks);
    browser.wait("document.querySelector('#directives-none').hidden === false");
    daemon.end();
}

/// The time that processes and their children have had, in seconds.
#[cfg(target_os = "linux")]
fn used(of: impl Fn(u32) -> bool) -> f64 {
    let stat = |process: u32| {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let fields: Vec<u64> = text
            .rsplit(')')
            .next()?
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        // Its parent, and what it has had in its own code and in the kernel's, in hundredths of a second.
        Some((fields[0] as u32, (fields[10] + fields[11]) as f64 / 100.0))
    };
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mine = |process: u32| {
        let mut at = process;
        while at > 1 {
            if of(at) {
                return true;
            }
            at = stat(at).map_or(0, |(parent, _)| parent);
        }
        false
    };
    ids.filter(|process| mine(*process)).filter_map(stat).map(|(_, seconds)| seconds).sum()
}

/// Fifty plugins of one: where it is named, they have another name of the same length.
#[cfg(target_os = "linux")]
fn fifty_plugins(folder: &std::path::Path) {
    let plugin = std::fs::read(&built().1).expect("a plugin");
    // Without what the build adds: a hash, and two numbers.
    let library = &plugin[..plugin.len() - 48];
    std::fs::create_dir(folder).expect("a folder");
    for number in 0..50 {
        let name = if number == 0 { "second".to_owned() } else { format!("plug{number:02}") };
        let mut library = library.to_vec();
        let places: Vec<usize> =
            library.windows(6).enumerate().filter(|(_, part)| part == b"second").map(|(at, _)| at).collect();
        for at in places {
            library[at..at + 6].copy_from_slice(name.as_bytes());
        }
        let file = folder.join(format!("{name}.cbus.so"));
        std::fs::write(file, hot_runtime::artifact::with_trailer(library)).expect("writing");
    }
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "measures for a minute: cargo test -p cbus --test cbus -- --ignored --nocapture an_open_page_costs"]
fn an_open_page_costs_next_to_nothing_with_fifty_plugins_and_five_thousand_directives() {
    use controllerbus::{Bus, ConfigSet};
    use controllerbus_api::{ApiConfig, Host};
    use hot_runtime::{HotRuntime, Trust};

    const SPAN: Duration = Duration::from_secs(30);
    let Some(browser) = Browser::open() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    fifty_plugins(&folder.path().join("plugins"));
    let threads = tokio::runtime::Runtime::new().expect("threads");
    let socket = format!("unix:{}/bus.sock", folder.path().display());
    let (host, asks) = threads.block_on(async {
        let host = Host::new(Bus::new());
        let builder = HotRuntime::builder(&host.bus).plugins_dir(folder.path().join("plugins")).trust(Trust::anyone());
        let runtime = builder.work_dir(folder.path().join("work")).on_event(host.observer()).start().await;
        host.set_runtime(runtime.expect("a runtime"));
        let names = (1..50).map(|number| format!("plug{number:02}")).chain(["second".to_owned()]);
        let configs: String = names.map(|name| format!("{name}: {{ id: {name} }}\n")).collect();
        host.bus.apply(ConfigSet::from_yaml(&configs).expect("configs")).await.expect("applied");
        host.serve(ApiConfig::at(&socket)).await.expect("serving");
        let mut asks = Vec::new();
        for nonce in 0..5000 {
            let mut ask = host.bus.request(tests::Second { nonce }).expect("a request");
            ask.value().await.expect("a value");
            asks.push(ask);
        }
        (host, asks)
    });
    let own = std::process::id();
    let driver = browser.process();
    let own_time = || used(|process| process == own && process != driver) - used(|process| process == driver);
    let measure = |what: &str| {
        let (daemon, page, begun) = (own_time(), used(|process| process == driver), Instant::now());
        std::thread::sleep(SPAN);
        let seconds = begun.elapsed().as_secs_f64();
        let share = |before: f64, after: f64| (after - before) / seconds * 100.0;
        let (daemon, page) = (share(daemon, own_time()), share(page, used(|process| process == driver)));
        println!("{what}: the daemon {daemon:.2} %, the browser {page:.2} % of a core");
        (daemon, page)
    };
    let link = crate::fine(folder.path(), &["page", "--print", "--connect", &socket]).trim().to_owned();
    measure("without a page");
    browser.call("POST", "/url", &json!({ "url": link }));
    browser.wait("document.querySelector('#link')?.innerText === 'live'");
    browser.wait("document.querySelector('#directives-count').innerText === '40 of 5,000 shown'");
    browser.wait("document.querySelector('#plugins-count').innerText === '24 of 50 shown'");
    std::thread::sleep(Duration::from_secs(3));
    let (daemon, page) = measure("with an open page");
    // An unoptimised daemon may take more.
    let most = if cfg!(debug_assertions) { 4.0 } else { 1.0 };
    assert!(daemon < most && page < 1.0, "the daemon {daemon} %, the browser {page} %");
    // The rest can be reached.
    browser.script("[...document.querySelectorAll('#directives-more button')].at(-1).click()");
    browser.wait("document.querySelectorAll('#directives > li').length === 5000");
    browser.script("(() => { const field = document.querySelector('#search'); field.value = 'nonce=4321'; field.dispatchEvent(new Event('input')); })()");
    browser.wait("document.querySelector('#directives-count').innerText === '1 of 5,000 found'");
    drop(asks);
    threads.block_on(host.bus.close());
}

//! What comes and goes leaves nothing behind: a million short-lived ids, and directives that are kept for a day.

use std::sync::Arc;

use controllerbus::bus::Bus;
use controllerbus::directive::{AnyDirective, DirectiveType, Facts, OpaqueDirective, Options};
use controllerbus::prelude::*;

/// Resident memory of this process in KiB; 0 where it is not known.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "bounded/kept", value = u64, keep_for_ms = 86_400_000)]
struct Kept(u64);

/// One test, so that nothing else in the process grows meanwhile.
#[test]
fn memory_stays_flat_over_short_lived_ids_and_directives_that_are_kept() {
    flat_over(200_000);
}

#[test]
#[ignore = "the same for a million, which takes half a minute"]
fn memory_stays_flat_over_a_million_short_lived_ids() {
    flat_over(1_000_000);
}

fn flat_over(ids: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    let bus = Bus::new();
    let short_lived = |from: u64, to: u64| {
        for number in from..to {
            let directive = OpaqueDirective::new(format!("bounded/{number}"), Vec::new());
            drop(bus.handle().raw(Arc::new(directive)).expect("a request"));
        }
    };
    short_lived(0, 50_000);
    let before = resident();
    short_lived(50_000, ids);
    let grown = resident().saturating_sub(before);
    assert!(grown < 1024, "{ids} ids have left {grown} KiB");
    assert!(bus.directives().is_empty());

    // As a plugin asks whose types the host does not know, and which it tells to keep them for a day.
    let of_plugin = |number: u64| -> Arc<dyn AnyDirective> {
        let mut facts = Facts::default();
        facts.options = Options::default().with_keep_for(std::time::Duration::from_secs(86_400));
        facts.key = Some(number.to_le_bytes().to_vec());
        let facts = controllerbus::directive::wire::encode(&facts).expect("facts");
        DirectiveType::decode_with("bounded/opaque", &number.to_le_bytes(), &facts).expect("a directive")
    };
    for number in 0..30_000 {
        drop(bus.handle().raw(of_plugin(number)).expect("a request"));
        drop(bus.request(Kept(number)).expect("a request"));
    }
    let kept = bus.directives().len();
    assert!(kept <= 10_000, "{kept} are kept");
    // The latest ones are.
    let names: Vec<_> = bus.directives().into_iter().filter(|found| found.id == "bounded/kept").collect();
    assert!(
        names.iter().any(|found| found.debug.iter().any(|(_, value)| value.contains("29999"))),
        "{:?}",
        names.last()
    );

    // One that is asked for and let go of again and again has one timer.
    drop(bus.request(Kept(0)).expect("a request"));
    let before = resident();
    for _ in 0..50_000 {
        drop(bus.request(Kept(0)).expect("a request"));
        runtime.block_on(tokio::task::yield_now());
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 2048, "one that is kept again and again has left {grown} KiB");
}

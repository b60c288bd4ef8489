//! Nothing that a plugin does stops, ends or confuses the host, whatever is done with twenty of them at a time.

use std::process::Command;

#[ignore = "ten minutes, or CHAOS_SECONDS: cargo test -p hot-demo --test chaos -- --ignored; CI has half a minute of it"]
#[test]
fn plugins_that_misbehave_in_every_way_harm_nobody() {
    let seconds = std::env::var("CHAOS_SECONDS").unwrap_or_else(|_| "600".to_owned());
    let ended =
        Command::new(env!("CARGO_BIN_EXE_hot-demo")).args(["--chaos", &seconds, "--json"]).output().expect("it runs");
    let (told, why) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    println!("{told}");
    assert!(ended.status.success(), "{why}");
    let report: serde_json::Value = serde_json::from_str(&told).expect("one object");
    for none in ["probe_failed", "api_over_limit"] {
        assert_eq!(report[none], 0, "{told}");
    }
    for some in ["probe_requests", "api_calls"] {
        assert!(report[some].as_u64().is_some_and(|count| count > 0), "{told}");
    }
    assert!(report["hazards"].as_object().is_some_and(|hazards| hazards.len() > 40), "{told}");
}

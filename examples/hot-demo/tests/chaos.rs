//! Nothing that a plugin does stops, ends or confuses the host, even with twenty of them at once.

use std::process::Command;

#[ignore = "takes ten minutes, or CHAOS_SECONDS: cargo test -p hot-demo --test chaos -- --ignored; CI runs half a minute"]
#[test]
fn plugins_that_misbehave_in_every_way_harm_nobody() {
    let seconds = std::env::var("CHAOS_SECONDS").unwrap_or_else(|_| "600".to_owned());
    let ended =
        Command::new(env!("CARGO_BIN_EXE_hot-demo")).args(["--chaos", &seconds, "--json"]).output().expect("it runs");
    let (report, why) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    println!("{report}");
    assert!(ended.status.success(), "{why}");
    let found: serde_json::Value = serde_json::from_str(&report).expect("one object");
    for none in ["probe_failed", "api_over_limit"] {
        assert_eq!(found[none], 0, "{report}");
    }
    for some in ["probe_requests", "api_calls"] {
        assert!(found[some].as_u64().is_some_and(|count| count > 0), "{report}");
    }
    assert!(found["hazards"].as_object().is_some_and(|hazards| hazards.len() > 40), "{report}");
}

//! What a person would get wrong, and what is said about it. `TRYBUILD=overwrite` renews the texts.

use std::process::Command;

/// The compiler whose words stand in `ui/rustc`.
const WORDED_BY: &str = "rustc 1.95.";

#[test]
fn mistakes_get_an_error_that_says_what_to_write() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/*.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("-V").output().expect("the compiler's version").stdout;
    if version.starts_with(WORDED_BY.as_bytes()) {
        cases.compile_fail("ui/rustc/*.rs");
    } else {
        println!("not compared, because another compiler may word them differently: ui/rustc");
    }
}

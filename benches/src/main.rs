//! `cargo run --release -p benches -- report [BENCH]...` runs the benches, all unless some are named, and writes their tables.

use std::process::ExitCode;

use benches::report::{BENCHES, report};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (command, mut wanted) = (arguments.next(), arguments.collect::<Vec<_>>());
    let unknown = wanted.iter().find(|bench| !BENCHES.contains(&bench.as_str()));
    if command.as_deref() != Some("report") || unknown.is_some() {
        eprintln!("usage: cargo run --release -p benches -- report [{}]...", BENCHES.join("|"));
        return ExitCode::from(2);
    }
    if wanted.is_empty() {
        wanted = BENCHES.map(str::to_owned).to_vec();
    }
    match report(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

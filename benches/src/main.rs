//! `cargo run --release -p benches -- report [BENCH]...` runs the benches, all unless some are named, and writes their tables;
//! `-- instructions` counts instructions, and fails if there are more than recorded.

use std::process::ExitCode;

use benches::instructions;
use benches::report::{BENCHES, report};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (command, wanted) = (arguments.next(), arguments.collect::<Vec<_>>());
    let known = |bench: &String| BENCHES.contains(&bench.as_str());
    let result = match (command.as_deref(), &wanted[..]) {
        (Some("report"), []) => report(&BENCHES.map(str::to_owned)),
        (Some("report"), some) if some.iter().all(known) => report(some),
        (Some("instructions"), []) => instructions::check(false),
        (Some("instructions"), [option]) if option == "--record" => instructions::check(true),
        _ => {
            eprintln!("usage: cargo run --release -p benches -- report [{}]...", BENCHES.join("|"));
            eprintln!("       cargo run --release -p benches -- instructions [--record]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

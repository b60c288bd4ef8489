//! How many instructions operations take, by valgrind's callgrind: with one compiler, the same on every machine that
//! has AVX2.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::{root, said};

/// One operation of `benches/instructions.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// How often it is done to count it.
    count: u64,
    /// What is a part of it and counted by itself.
    without: Option<&'static str>,
}

impl Operation {
    const fn new(name: &'static str, count: u64) -> Self {
        Self { name, count, without: None }
    }

    /// Whether it needs the plugin that `artifact` builds.
    fn needs_artifact(self) -> bool {
        matches!(self.name, "verify" | "load")
    }
}

/// What is counted.
pub const OPERATIONS: [Operation; 6] = [
    Operation::new("resolve", 2000),
    Operation::new("merged", 2000),
    Operation::new("encode", 2000),
    Operation::new("expand", 20),
    Operation::new("verify", 4),
    // Without the hash, which would hide all else.
    Operation { without: Some("verify"), ..Operation::new("load", 8) },
];

/// Instructions of each operation, as often as it is done once.
pub type Counts = BTreeMap<String, f64>;

/// Counts all operations of a bench's binary, which leaves its work in `target` or wherever `CARGO_TARGET_DIR` says.
///
/// # Errors
/// There is no valgrind, or what it ran failed.
pub fn counts(binary: &Path, prepare: &dyn Fn(&mut Command)) -> Result<Counts, String> {
    let mut valgrind = Command::new("valgrind");
    said(valgrind.arg("--version")).map_err(|error| format!("instructions are counted by valgrind: {error}"))?;
    let artifact = {
        let mut build = Command::new(binary);
        prepare(build.args(["artifact", "1"]));
        said(&mut build)?.lines().last().unwrap_or_default().to_owned()
    };
    let mut counts = Counts::new();
    for operation in OPERATIONS {
        let of = |times: u64| {
            let mut valgrind = Command::new("valgrind");
            valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(binary);
            valgrind.args([operation.name, &times.to_string()]);
            valgrind.args(operation.needs_artifact().then_some(&artifact));
            // Loading copies more where backtraces are asked for.
            valgrind.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
            prepare(&mut valgrind);
            collected(valgrind)
        };
        let each = (of(2 * operation.count)? - of(operation.count)?) / operation.count as f64;
        let part = operation.without.and_then(|part| counts.get(part).copied()).unwrap_or_default();
        counts.insert(operation.name.to_owned(), (each - part).round());
    }
    Ok(counts)
}

/// All instructions of a run.
fn collected(mut valgrind: Command) -> Result<f64, String> {
    let output = valgrind.stdin(Stdio::null()).output().map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find_map(|line| line.split_once("Collected : "));
    let number = line.and_then(|(_, number)| number.trim().parse().ok());
    number.filter(|_| output.status.success()).ok_or_else(|| format!("valgrind counted nothing:\n{said}"))
}

/// More than this many times what is recorded is a failure.
const LIMIT: f64 = 1.03;

/// `benches/instructions.json`: what operations took when that was last looked at.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// The compiler, which is a part of the reason.
    rustc: String,
    counts: Counts,
}

/// Builds the bench, counts, and compares with what is recorded, or records it.
///
/// # Errors
/// What takes more than it may, for a person; or why it could not be counted.
pub fn check(record: bool) -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["bench", "-q", "-p", "benches", "--no-run", "--message-format=json", "--bench", "instructions"]);
    let binary = crate::built(cargo.current_dir(root()), "instructions")?;
    let counts = counts(&binary, &|_| {})?;
    let rustc = said(Command::new("rustc").arg("--version"))?.trim().to_owned();
    let file = root().join("benches/instructions.json");
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    if record {
        let mut text = serde_json::to_string_pretty(&Recorded { rustc, counts }).map_err(|error| failed(&error))?;
        text.push('\n');
        std::fs::write(&file, text).map_err(|error| failed(&error))?;
        println!("recorded: {}", file.display());
        return Ok(());
    }
    let text = std::fs::read_to_string(&file).map_err(|error| failed(&error))?;
    let recorded: Recorded = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    let (table, more) = compared(&recorded.counts, &counts);
    print!("{table}");
    if more.is_empty() {
        return Ok(());
    }
    let mut what = format!("more instructions than recorded: {}", more.join(", "));
    if recorded.rustc != rustc {
        what += &format!("; recorded with {}, counted with {rustc}", recorded.rustc);
    }
    Err(what + ". If that is meant: cargo run --release -p benches -- instructions --record")
}

/// A table for a person, and what takes more than it may.
fn compared(recorded: &Counts, counts: &Counts) -> (String, Vec<String>) {
    let (mut table, mut more) = (String::new(), Vec::new());
    for (name, count) in counts {
        let Some(before) = recorded.get(name) else {
            table += &format!("{name:<10} {count:>12} not recorded\n");
            more.push(name.clone());
            continue;
        };
        let ratio = count / before;
        table += &format!("{name:<10} {count:>12} {before:>12} recorded {ratio:.3}\n");
        if ratio > LIMIT {
            more.push(name.clone());
        }
    }
    (table, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_more_than_three_per_cent_more_fails_and_so_does_what_is_not_recorded() {
        let counts = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let recorded: Counts = counts(&[("encode", 1000.0), ("load", 1000.0), ("resolve", 1000.0)]);
        let now: Counts = counts(&[("encode", 1029.0), ("expand", 1.0), ("load", 500.0), ("resolve", 1031.0)]);
        let (table, more) = compared(&recorded, &now);
        assert_eq!(more, ["expand", "resolve"], "{table}");
        assert_eq!(table.lines().count(), 4);
    }

    #[test]
    fn what_is_counted_is_what_is_recorded() {
        let text = std::fs::read_to_string(root().join("benches/instructions.json")).expect("what is recorded");
        let recorded: Recorded = serde_json::from_str(&text).expect("its form");
        let mut counted = OPERATIONS.map(|operation| operation.name);
        counted.sort_unstable();
        assert!(recorded.counts.keys().eq(&counted), "{recorded:?}");
    }
}

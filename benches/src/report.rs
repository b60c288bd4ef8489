//! Runs the benches and writes what they measured into `benches/README.md`, between the marks of each.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Measured, root, said, target};

/// The benches, in the order of the document.
pub const BENCHES: [&str; 4] = ["bus", "reload", "swap", "process"];

/// Runs these benches, and writes their tables.
///
/// # Errors
/// What is wrong, for a person: changes that are not committed, because figures name their commit; a bench that fails; a document
/// without the marks of one.
pub fn report(benches: &[String]) -> Result<(), String> {
    let document = root().join("benches/README.md");
    let mut text = std::fs::read_to_string(&document).map_err(|error| format!("{}: {error}", document.display()))?;
    for bench in benches {
        // Before anything is measured.
        replaced(&text, bench, "")?;
    }
    let changed =
        said(Command::new("git").current_dir(root()).args(["status", "--porcelain", "--untracked-files=no"]))?;
    let strange = |line: &&str| !line.ends_with("benches/README.md") && !line.ends_with("benches/reload.svg");
    if let Some(line) = changed.lines().find(strange) {
        return Err(format!("figures name their commit, and this is not committed:{}", line.get(2..).unwrap_or(line)));
    }
    let commit = said(Command::new("git").current_dir(root()).args(["rev-parse", "--short=9", "HEAD"]))?;
    let rustc = said(Command::new("rustc").arg("--version"))?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    for bench in benches {
        println!("{bench}");
        let mut cargo = Command::new("cargo");
        cargo.args(["bench", "-q", "-p", "benches", "--bench", bench]).current_dir(root());
        // Loading copies more where backtraces are asked for.
        cargo.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
        let status = cargo.stdin(Stdio::null()).status().map_err(|error| format!("cargo: {error}"))?;
        if !status.success() {
            return Err(format!("the bench {bench} failed: {status}"));
        }
        let measured = read(&target().join("bench").join(format!("{bench}.json")))?;
        let head = format!("Commit {}, {}, {cores} cores{}.", commit.trim(), rustc.trim(), machine(&measured));
        text = replaced(&text, bench, &format!("{head}\n\n{}", tables(&measured)))?;
        std::fs::write(&document, &text).map_err(|error| format!("{}: {error}", document.display()))?;
    }
    println!("written: {}", document.display());
    Ok(())
}

fn read(file: &Path) -> Result<Vec<Measured>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

/// What the machine did beside.
fn machine(measured: &[Measured]) -> String {
    let mut said = String::new();
    for one in measured {
        if let Some(what) = one.name.strip_prefix("machine/") {
            let unit = if one.unit == "%" { " %" } else { "" };
            let _ = write!(said, "; {what} {:.1}{unit}", one.median);
        }
    }
    said
}

/// One table of what was measured, and one of the ratios of what was measured in turn.
fn tables(measured: &[Measured]) -> String {
    let mut text = String::new();
    let (pairs, each): (Vec<_>, Vec<_>) =
        measured.iter().filter(|one| !one.name.starts_with("machine/")).partition(|one| one.name.starts_with("pairs/"));
    let counts = each.iter().any(|one| one.allocations.is_some());
    let (head, line) = if counts { (" allocations |", "---|") } else { ("", "") };
    let _ = writeln!(text, "| | median | quartiles | all |{head}\n|---|---|---|---|{line}");
    for one in each {
        let Measured { name, unit, median, low, high, min, max, .. } = one;
        let allocations = match one.allocations {
            Some(count) => format!(" {count:.1} |"),
            None if counts => " |".to_owned(),
            None => String::new(),
        };
        let (median, low, high) = (figure(*median), figure(*low), figure(*high));
        let (min, max) = (figure(*min), figure(*max));
        let _ = writeln!(text, "| {name} | {median} {unit} | {low} to {high} | {min} to {max} |{allocations}");
    }
    if !pairs.is_empty() {
        let _ = writeln!(text, "\n| pair by pair | median of the ratios | quartiles |\n|---|---|---|");
        for Measured { name, median, low, high, .. } in pairs {
            let name = name.trim_start_matches("pairs/");
            let _ = writeln!(text, "| {name} | {median:.2} | {low:.2} to {high:.2} |");
        }
    }
    text
}

/// A number with three digits that count, and commas.
fn figure(number: f64) -> String {
    let size = number.abs();
    if size < 10.0 && number.fract() != 0.0 {
        return format!("{number:.2}");
    }
    if size < 100.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{size:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 { format!("-{text}") } else { text }
}

/// The document with other text between the marks of a bench.
fn replaced(document: &str, bench: &str, text: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- report {bench} -->\n"), "<!-- end of report -->\n");
    let missing = || format!("benches/README.md has no `{}` with an `{}` after it", begin.trim(), end.trim());
    let (before, rest) = document.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{text}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_a_bench_replace_those_before_and_nothing_else() {
        let document =
            "a\n<!-- report bus -->\nold\n<!-- end of report -->\nb\n<!-- report swap -->\n<!-- end of report -->\n";
        let measured = [
            Measured { allocations: Some(6.0), ..Measured::new("resolve", "ns", vec![1748.2, 700.0, 2653.0]) },
            Measured::ratios("one/two", &[1.0, 2.0], &[4.0, 4.0]),
            Measured::new("machine/stolen meanwhile", "%", vec![1.25]),
        ];
        let text = replaced(document, "bus", &tables(&measured)).expect("its marks");
        assert!(
            text.starts_with("a\n<!-- report bus -->\n\n| | median")
                && text.ends_with(&document[document.find("b\n").expect("it")..])
        );
        assert!(text.contains("| resolve | 1,748 ns | 700 to 1,748 | 700 to 2,653 | 6.0 |"), "{text}");
        assert!(text.contains("| one/two | 0.50 | 0.25 to 0.25 |"), "{text}");
        assert!(!text.contains("stolen") && !text.contains("old"), "{text}");
        assert_eq!(machine(&measured), "; stolen meanwhile 1.2 %");
        let again = replaced(&text, "bus", &tables(&measured)).expect("its marks");
        assert_eq!(again, text);
        assert!(replaced(document, "process", "").expect_err("no marks").contains("<!-- report process -->"));
    }

    #[test]
    fn figures_have_three_digits_that_count() {
        let shown = [0.5, 3.25, 47.26, 748.4, 1_234_567.0, 0.0, 1.0].map(figure);
        assert_eq!(shown, ["0.50", "3.25", "47.3", "748", "1,234,567", "0", "1"]);
    }
}

//! Compares the benches of two commits: their binaries run in turn (A B A B), and their instructions are counted.
//!
//! `scripts/bench-against BASE [NEW] [--bench NAME]... [--pairs N] [--instructions]`. NEW is HEAD unless given, the bench
//! is `bus`. Ends with status 1 if something is slower than its limit, 2 if it cannot be told.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use benches::{Measured, Spread, root, said, target};

/// What one thread does on the bus may not take more than this many times the instructions.
const INSTRUCTIONS: f64 = 1.01;

/// What is measured in time may not take more than this many times as long, at the median of the pairs.
const TIME: f64 = 1.05;

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match Options::read().and_then(|options| compare(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    base: String,
    new: String,
    benches: Vec<String>,
    pairs: usize,
}

impl Options {
    fn read() -> Result<Self> {
        let (mut commits, mut benches, mut pairs, mut timed) = (Vec::new(), Vec::new(), 5, true);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
            match argument.as_str() {
                "--bench" => benches.push(value()?),
                "--pairs" => pairs = value()?.parse().map_err(|_| "--pairs wants a number".to_owned())?,
                "--instructions" => timed = false,
                other if other.starts_with('-') => return Err(format!("there is no option {other}")),
                _ => commits.push(argument),
            }
        }
        let mut commits = commits.into_iter();
        let base = commits.next().ok_or("name the commit to compare with: scripts/bench-against BASE [NEW]")?;
        let new = commits.next().unwrap_or_else(|| "HEAD".to_owned());
        if benches.is_empty() && timed {
            benches.push("bus".to_owned());
        }
        Ok(Self { base, new, benches, pairs: pairs.max(1) })
    }
}

/// One commit, checked out in a folder of its own.
struct Side {
    commit: String,
    tree: PathBuf,
    /// Where its benches work and leave their results.
    work: PathBuf,
    /// Where cargo compiles; one for both, so that their dependencies are compiled once.
    build: PathBuf,
}

impl Side {
    fn check_out(name: &str) -> Result<Self> {
        let commit = said(Command::new("git").current_dir(root()).args([
            "rev-parse",
            "--verify",
            &format!("{name}^{{commit}}"),
        ]))?;
        let commit = commit.trim().to_owned();
        let folder = std::path::absolute(target().join("bench-against")).map_err(|error| error.to_string())?;
        let (tree, work) = (folder.join(&commit[..12]), folder.join(format!("{}-work", &commit[..12])));
        if tree.join(".git").exists() {
            said(Command::new("git").current_dir(&tree).args(["checkout", "-qf", "--detach", &commit]))?;
        } else {
            std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            // A folder that was removed by hand is still known to git.
            said(Command::new("git").current_dir(root()).args(["worktree", "prune"]))?;
            let mut add = Command::new("git");
            said(add.current_dir(root()).args(["worktree", "add", "-qf", "--detach"]).arg(&tree).arg(&commit))?;
        }
        Ok(Self { commit, tree, work, build: folder.join("build") })
    }

    /// The older commit is given the bench of instructions of the newer one, so that both do the same.
    fn lend(&self, other: &Side) -> Result<()> {
        let failed = |error: std::io::Error| format!("giving {} the bench of {}: {error}", self.short(), other.short());
        let file = "benches/instructions.rs";
        std::fs::copy(other.tree.join(file), self.tree.join(file)).map_err(failed)?;
        let manifest = self.tree.join("benches/Cargo.toml");
        let mut text = std::fs::read_to_string(&manifest).map_err(failed)?;
        if !text.contains("\"instructions\"") {
            let bench =
                "[[bench]]\nname = \"instructions\"\npath = \"instructions.rs\"\nharness = false\ntest = false\n\n";
            text = text.replacen("[lints]", &format!("{bench}[lints]"), 1);
        }
        // What the macros are written with.
        for name in ["proc-macro2", "quote", "semver", "syn"] {
            let line = format!("{name}.workspace = true\n");
            if !text.contains(&line) {
                text = text.replacen("[dev-dependencies]\n", &format!("[dev-dependencies]\n{line}"), 1);
            }
        }
        std::fs::write(&manifest, text).map_err(failed)
    }

    /// Makes its sources newer than anything that was built: the packages of both commits have the same names, and cargo would
    /// take what it compiled of the other one for up to date.
    fn touch(&self) -> Result<()> {
        let now = std::time::SystemTime::now();
        let files = said(Command::new("git").current_dir(&self.tree).args(["ls-files", "-z"]))?;
        for file in files.split('\0').map(|file| self.tree.join(file)).filter(|file| file.is_file()) {
            let touched = std::fs::File::options().append(true).open(&file).and_then(|file| file.set_modified(now));
            touched.map_err(|error| format!("touching {}: {error}", file.display()))?;
        }
        Ok(())
    }

    /// Builds a bench, which need not be there under this name in an older commit; its binary.
    fn build(&self, bench: &str) -> Result<PathBuf> {
        eprintln!("building {bench} of {}", self.short());
        self.touch()?;
        let mut cargo = Command::new("cargo");
        cargo.args(["bench", "-q", "-p", "benches", "--no-run", "--message-format=json", "--bench", bench]);
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.build);
        let built = benches::built(&mut cargo, bench).map_err(|error| format!("{}: {error}", self.short()))?;
        // Cargo gives the other commit's the same name, in the folder that they share.
        let own = self.work.join(bench);
        let copied = std::fs::create_dir_all(&self.work).and_then(|()| std::fs::copy(&built, &own));
        copied.map_err(|error| format!("{}: {error}", own.display()))?;
        Ok(own)
    }

    /// Runs a bench once and reads its results.
    fn run(&self, bench: &str, binary: &Path) -> Result<Vec<Measured>> {
        let mut command = Command::new(binary);
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.work).arg("--bench").stderr(Stdio::null());
        said(&mut command)?;
        let file = self.work.join("bench").join(format!("{bench}.json"));
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn short(&self) -> &str {
        &self.commit[..12]
    }
}

fn compare(options: &Options) -> Result<bool> {
    let (base, new) = (Side::check_out(&options.base)?, Side::check_out(&options.new)?);
    if options.new == "HEAD"
        && !said(Command::new("git").current_dir(root()).args(["status", "--porcelain", "-uno"]))?.is_empty()
    {
        eprintln!("what is not committed is not measured");
    }
    println!("A is {}, B is {}; ratios are B to A, more than 1 is slower", base.short(), new.short());
    base.lend(&new)?;
    let mut good = instructions(&base, &new)?;
    for bench in &options.benches {
        good &= times(bench, options.pairs, &base, &new)?;
    }
    Ok(good)
}

fn verdict(ratio: f64, limit: f64) -> (&'static str, bool) {
    if ratio <= limit { ("", true) } else { ("  SLOWER", false) }
}

fn instructions(base: &Side, new: &Side) -> Result<bool> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("instructions: not counted, there is no valgrind here");
        return Ok(true);
    }
    println!("instructions of one operation, by callgrind; limit {INSTRUCTIONS}");
    let of = |side: &Side| {
        let binary = side.build("instructions")?;
        benches::instructions::counts(&binary, &|command| {
            command.current_dir(&side.tree).env("CARGO_TARGET_DIR", &side.work);
        })
    };
    let (a, b) = (of(base)?, of(new)?);
    let mut good = true;
    for operation in benches::instructions::OPERATIONS {
        let kind = operation.name;
        let (said, within) = verdict(b[kind] / a[kind], INSTRUCTIONS);
        println!("  {kind:<34} {:>10} {:>10}   {:.4}{said}", a[kind], b[kind], b[kind] / a[kind]);
        good &= within;
    }
    Ok(good)
}

fn times(bench: &str, pairs: usize, base: &Side, new: &Side) -> Result<bool> {
    let binaries = [base.build(bench)?, new.build(bench)?];
    println!("{bench}, {pairs} pairs; the median of the ratios, its quartiles, and each pair; limit {TIME}");
    let mut ratios: Vec<(String, Vec<f64>)> = Vec::new();
    for pair in 1..=pairs {
        eprintln!("running {bench}, pair {pair} of {pairs}");
        let a = base.run(bench, &binaries[0])?;
        let b = new.run(bench, &binaries[1])?;
        for b in b.iter().filter(|b| !matches!(b.unit.as_str(), "count" | "bytes" | "ratio" | "%" | "load")) {
            // What only one of them measures cannot be compared.
            let Some(a) = a.iter().find(|a| a.name == b.name && a.unit == b.unit) else { continue };
            // Of what happens in a second, more is better.
            let ratio = if b.unit == "per s" { a.median / b.median } else { b.median / a.median };
            match ratios.iter_mut().find(|(name, _)| *name == b.name) {
                Some((_, known)) => known.push(ratio),
                None => ratios.push((b.name.clone(), vec![ratio])),
            }
        }
    }
    let mut good = true;
    for (name, ratios) in ratios {
        let spread = Spread::of(ratios.clone());
        let (said, within) = verdict(spread.median, TIME);
        let each: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
        println!(
            "  {name:<34} {:.3} ({:.3} to {:.3})   {}{said}",
            spread.median,
            spread.low,
            spread.high,
            each.join(" ")
        );
        good &= within;
    }
    Ok(good)
}

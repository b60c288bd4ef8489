//! What the benches share: medians, and where their results go.

pub mod alloc;
pub mod instructions;
pub mod picture;
pub mod report;
pub mod session;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The median and the interquartile range of some measurements.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// A quarter lies below this.
    pub low: f64,
    /// A quarter lies above this.
    pub high: f64,
}

impl Spread {
    /// Of at least one measurement.
    pub fn of(mut measured: Vec<f64>) -> Self {
        measured.sort_by(f64::total_cmp);
        let at = |share: usize| measured[(measured.len() - 1) * share / 4];
        Self { median: at(2), low: at(1), high: at(3) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ({:.1} to {:.1})", self.median, self.low, self.high)
    }
}

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

/// `target`, or what `CARGO_TARGET_DIR` names.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// What a command that must succeed printed.
///
/// # Errors
/// It cannot be run, or fails.
pub fn said(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{shown}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The binary of a bench that a cargo with `--message-format=json` builds.
///
/// # Errors
/// Cargo fails, or builds no such bench.
pub fn built(cargo: &mut Command, bench: &str) -> Result<PathBuf, String> {
    let lines = said(cargo)?;
    let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut found = artifacts.filter(|line| line["target"]["name"] == bench);
    let built = found.find_map(|line| line["executable"].as_str().map(PathBuf::from));
    built.ok_or_else(|| format!("cargo built no bench `{bench}`"))
}

/// Writes a bench's results to `target/bench/NAME.json`.
pub fn save(name: &str, results: &serde_json::Value) {
    let folder = target().join("bench");
    std::fs::create_dir_all(&folder).expect("the results' folder");
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, format!("{results:#}\n")).expect("writing the results");
    println!("results: {}", file.display());
}

/// One measured thing, as it stands in `target/bench/NAME.json`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Measured {
    /// What.
    pub name: String,
    /// The unit of the three figures, such as `ns`.
    pub unit: String,
    /// The middle sample.
    pub median: f64,
    /// The smallest one.
    pub min: f64,
    /// The largest one.
    pub max: f64,
    /// Allocations per operation, where they were counted.
    pub allocations: Option<f64>,
    /// A quarter of the samples lies below this.
    #[serde(default)]
    pub low: f64,
    /// A quarter of the samples lies above this.
    #[serde(default)]
    pub high: f64,
}

impl Measured {
    /// Of at least one sample.
    pub fn new(name: &str, unit: &str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |quarter: usize| samples[(samples.len() - 1) * quarter / 4];
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            median: samples[samples.len() / 2],
            min: samples[0],
            max: samples[samples.len() - 1],
            allocations: None,
            low: at(1),
            high: at(3),
        }
    }

    /// The ratios of two things that were measured in turn, each of `ours` to the one of `theirs` that came next.
    pub fn ratios(name: &str, ours: &[f64], theirs: &[f64]) -> Self {
        Self::new(
            &format!("pairs/{name}"),
            "ratio",
            ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect(),
        )
    }

    /// Nanoseconds per operation of `work`, which does as many operations as it is told and says how long they took.
    ///
    /// `samples` samples of about `each`; the allocations are those of the calling thread.
    pub fn ns(name: &str, samples: usize, each: Duration, mut work: impl FnMut(u64) -> Duration) -> Self {
        let mut count = 1;
        loop {
            let took = work(count);
            if took >= each / 2 {
                count = ((count as f64) * each.as_secs_f64() / took.as_secs_f64()).ceil() as u64;
                break;
            }
            count *= 2;
        }
        let mut taken = Vec::with_capacity(samples);
        let before = alloc::allocations();
        for _ in 0..samples {
            taken.push(work(count).as_nanos() as f64 / count as f64);
        }
        let allocated = (alloc::allocations() - before) as f64 / (count * samples as u64) as f64;
        let measured = Self { allocations: Some(allocated), ..Self::new(name, "ns", taken) };
        measured.print();
        measured
    }

    /// As [`Measured::ns`] for two things whose ratio matters: their samples alternate, so that both see the same
    /// machine. The third result is the ratios of the first one to the second one. Allocations are not counted.
    pub fn pair(
        names: [&str; 2],
        samples: usize,
        each: Duration,
        work: [&mut dyn FnMut(u64) -> Duration; 2],
    ) -> [Self; 3] {
        let mut count = 1;
        while work[0](count) < each / 2 {
            count *= 2;
        }
        let mut taken = [Vec::new(), Vec::new()];
        for sample in 0..2 * samples {
            let which = sample % 2;
            taken[which].push(work[which](count).as_nanos() as f64 / count as f64);
        }
        let [first, second] = taken;
        for (name, samples) in names.iter().zip([&first, &second]) {
            println!("{name}: {}", histogram(samples));
        }
        let ratios = Self::ratios(&format!("{}/{}", names[0], names[1]), &first, &second);
        let measured = [Self::new(names[0], "ns", first), Self::new(names[1], "ns", second), ratios];
        measured.iter().for_each(Self::print);
        measured
    }

    /// One line for a person.
    pub fn print(&self) {
        let allocations = self.allocations.map(|count| format!("{count:6.1} allocations")).unwrap_or_default();
        let Self { name, median, unit, low, high, min, max, .. } = self;
        match unit.as_str() {
            "ratio" => println!("{name:<44} {median:>11.2} ({low:.2} to {high:.2})"),
            _ => println!(
                "{name:<44} {median:>11.1} {unit} ({low:.1} to {high:.1}, all {min:.1} to {max:.1}) {allocations}"
            ),
        }
    }
}

/// How samples are distributed: how many are in each tenth of their range. Two peaks are two speeds.
fn histogram(samples: &[f64]) -> String {
    const BINS: usize = 10;
    let (least, most) = samples.iter().fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(*one), high.max(*one)));
    let mut bins = [0; BINS];
    for one in samples {
        bins[(((one - least) / (most - least).max(f64::MIN_POSITIVE) * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    format!("{least:.0} {bins:?} {most:.0}")
}

/// How long some work takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// Writes measurements to `target/bench/NAME.json`.
pub fn save_all(name: &str, measured: &[Measured]) {
    save(name, &serde_json::json!(measured));
}

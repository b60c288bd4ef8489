//! What the benches share: medians, and where their results go.

pub mod alloc;
pub mod picture;

use std::path::{Path, PathBuf};
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
}

impl Measured {
    /// Of at least one sample.
    pub fn new(name: &str, unit: &str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            median: samples[samples.len() / 2],
            min: samples[0],
            max: samples[samples.len() - 1],
            allocations: None,
        }
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
    /// machine. Allocations are not counted.
    pub fn pair(
        names: [&str; 2],
        samples: usize,
        each: Duration,
        work: [&mut dyn FnMut(u64) -> Duration; 2],
    ) -> [Self; 2] {
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
        let measured = [Self::new(names[0], "ns", first), Self::new(names[1], "ns", second)];
        measured.iter().for_each(Self::print);
        measured
    }

    /// One line for a person.
    pub fn print(&self) {
        let allocations = self.allocations.map(|count| format!("{count:6.1} allocations")).unwrap_or_default();
        println!(
            "{:<34} {:>11.1} {} ({:.1} to {:.1}) {allocations}",
            self.name, self.median, self.unit, self.min, self.max
        );
    }
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

//! What the benches share: medians, and where their results go.

use std::path::{Path, PathBuf};

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

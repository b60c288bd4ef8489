//! One run of a bench: what it measures, and what else the machine does meanwhile.

use std::time::{Duration, Instant};

use crate::{Measured, save_all};

/// A machine whose cores are busy for less than this share is at rest.
const AT_REST: f64 = 0.1;

/// How long is looked at it.
const LOOK: Duration = Duration::from_millis(60);

/// How long is waited for it to be at rest, before it is measured all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// A run of a bench.
pub struct Session {
    name: &'static str,
    measured: Vec<Measured>,
    load: f64,
    begun: Option<Ticks>,
    /// The share of the cores that others took before it began, in percent.
    before: Option<f64>,
}

impl Session {
    /// Begins a run, with a look at what the machine does by itself.
    pub fn begin(name: &'static str) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let load = load.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(f64::NAN);
        let first = Ticks::now();
        std::thread::sleep(Duration::from_secs(1));
        let begun = Ticks::now();
        let before = first.zip(begun).map(|(first, begun)| 100.0 * begun.busy_since(first));
        Self { name, measured: Vec::new(), load, begun, before }
    }

    /// Adds what was measured.
    pub fn push(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// Adds what was measured.
    pub fn extend(&mut self, measured: impl IntoIterator<Item = Measured>) {
        self.measured.extend(measured);
    }

    /// The median of what was measured under this name.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.measured.iter().find(|found| found.name == name).map(|found| found.median)
    }

    /// All that was measured.
    pub fn measured(&self) -> &[Measured] {
        &self.measured
    }

    /// Adds what the machine did, prints it, and writes all to `target/bench/NAME.json`.
    pub fn end(mut self) {
        let mut machine = vec![Measured::new("machine/load before", "load", vec![self.load])];
        if let Some(before) = self.before {
            machine.push(Measured::new("machine/busy before", "%", vec![before]));
        }
        if let Some((begun, now)) = self.begun.zip(Ticks::now()) {
            machine.push(Measured::new("machine/stolen meanwhile", "%", vec![100.0 * now.stolen_since(begun)]));
        }
        println!(
            "the machine: its load and how busy it was before, and the time that a hypervisor took from it meanwhile"
        );
        machine.iter().for_each(Measured::print);
        self.measured.extend(machine);
        save_all(self.name, &self.measured);
    }
}

/// Waits until the machine is at rest, for some seconds at most: what one thing leaves behind is not measured with the next one.
pub fn settle() {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let Some(before) = Ticks::now() else { return std::thread::sleep(LOOK) };
        std::thread::sleep(LOOK);
        if Ticks::now().is_none_or(|now| now.busy_since(before) < AT_REST) {
            return;
        }
    }
}

/// What all cores did since the machine was started, in ticks, from `/proc/stat`.
#[derive(Clone, Copy)]
struct Ticks {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl Ticks {
    /// `None` where the system does not say it.
    fn now() -> Option<Self> {
        Self::of(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn of(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user and nice.
        let fields = fields.get(..8)?;
        Some(Self { all: fields.iter().sum(), idle: fields[3] + fields[4], stolen: fields[7] })
    }

    fn share(self, before: Self, of: impl Fn(Self) -> u64) -> f64 {
        of(self).saturating_sub(of(before)) as f64 / self.all.saturating_sub(before.all).max(1) as f64
    }

    fn busy_since(self, before: Self) -> f64 {
        self.share(before, |ticks| ticks.all - ticks.idle)
    }

    fn stolen_since(self, before: Self) -> f64 {
        self.share(before, |ticks| ticks.stolen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_proc_stat_is_read() {
        let stat = |line: &str| Ticks::of(&format!("{line}\ncpu0 1 2 3\n"));
        let before = stat("cpu  10 0 10 70 10 0 0 0 0 0").expect("ticks");
        let now = stat("cpu  30 0 20 130 10 0 0 10 5 0").expect("ticks");
        assert!((now.busy_since(before) - 0.4).abs() < 1e-9);
        assert!((now.stolen_since(before) - 0.1).abs() < 1e-9);
        assert!(stat("intr 1 2 3").is_none() && stat("cpu 1 2 3").is_none());
    }
}

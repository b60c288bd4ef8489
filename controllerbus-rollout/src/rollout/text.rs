//! Reads a rollout's YAML, and says where in it something is wrong.

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::units::{self, Written};
use super::{Amount, Errors, Gates, HealthDirective, OnFailure, Pin, Rollout, Selector, Slow, Step};
use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    plugin: String,
    release: Spanned<String>,
    #[serde(default)]
    on: Selector,
    steps: Option<Spanned<Vec<Spanned<StepText>>>>,
    #[serde(default)]
    gates: GatesText,
    deadline: Option<Spanned<Written>>,
    #[serde(default)]
    on_failure: OnFailure,
    pin: Option<PinText>,
    #[serde(default)]
    despite: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinText {
    of: String,
    at_most: Spanned<Written>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepText {
    hosts: Option<Spanned<Written>>,
    percent: Option<Spanned<Written>>,
    bake: Option<Spanned<Written>>,
    at_a_time: Option<Spanned<Written>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GatesText {
    swaps: Option<Failed>,
    crashes: Option<Most>,
    configs: Option<Failed>,
    reachable: Option<Reachable>,
    errors: Option<ErrorsText>,
    slow: Option<SlowText>,
    health: Option<HealthDirective>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failed {
    failed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Most {
    most: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reachable {
    least: Spanned<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorsText {
    of: String,
    most: Spanned<Written>,
    #[serde(default = "fifty")]
    of_at_least: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlowText {
    of: String,
    above: Spanned<Written>,
    most: Spanned<Written>,
    #[serde(default = "fifty")]
    of_at_least: u64,
}

fn fifty() -> u64 {
    50
}

/// What is wrong, and where.
type Wrong = (Location, String);

pub(super) fn parse(name: &str, text: &str) -> Result<Rollout> {
    let at = |location: Option<Location>, why: &str| match location {
        Some(at) => Error::Invalid(format!("{name}:{}:{}: {why}", at.line(), at.column())),
        None => Error::Invalid(format!("{name}: {why}")),
    };
    let read: Text = serde_saphyr::from_str(text).map_err(|error| {
        let said = error.without_snippet().to_string();
        let first = said.lines().next().unwrap_or_default();
        at(error.location(), first.rfind(" at line ").map_or(first, |end| &first[..end]))
    })?;
    checked(read).map_err(|(location, why)| at(Some(location), &why))
}

fn read<T>(written: &Spanned<Written>, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Wrong> {
    parse(&written.value.0).map_err(|why| (written.referenced, why))
}

fn checked(text: Text) -> Result<Rollout, Wrong> {
    let version = text.release.value.parse().map_err(|error| {
        (text.release.referenced, format!("`{}` is not a version ({error}); write all of 1.4.0", text.release.value))
    })?;
    let mut rollout = Rollout::new(text.plugin, version);
    rollout.on = text.on;
    rollout.on_failure = text.on_failure;
    rollout.despite = text.despite;
    rollout.gates = gates(text.gates)?;
    if let Some(deadline) = &text.deadline {
        rollout.deadline = read(deadline, units::time)?;
        if rollout.deadline.is_zero() {
            return Err((deadline.referenced, "without time no step can succeed".to_owned()));
        }
    }
    if let Some(PinText { of, at_most }) = text.pin {
        let pin = Pin { of, at_most: read(&at_most, units::time)? };
        if pin.at_most >= rollout.deadline {
            let why = format!("it has to be less than the deadline of {:?}, or each step fails", rollout.deadline);
            return Err((at_most.referenced, why));
        }
        rollout.pin = Some(pin);
    }
    if let Some(steps) = text.steps {
        rollout.steps = checked_steps(&steps)?;
    }
    Ok(rollout)
}

fn checked_steps(steps: &Spanned<Vec<Spanned<StepText>>>) -> Result<Vec<Step>, Wrong> {
    let Some(last) = steps.value.last() else {
        return Err((steps.referenced, "there is no step; leave `steps` out for the usual ones".to_owned()));
    };
    let mut all: Vec<Step> = Vec::new();
    for step in &steps.value {
        let next = self::step(step)?;
        let is_less = all.last().is_some_and(|before| match (before.hosts, next.hosts) {
            (Amount::Hosts(before), Amount::Hosts(next)) => next < before,
            (Amount::Percent(before), Amount::Percent(next)) => next < before,
            // It depends on how many hosts there are; a step never takes the plugin from a host.
            _ => false,
        });
        if is_less {
            return Err((
                step.referenced,
                "this step has fewer hosts than the one before; a step contains those before".to_owned(),
            ));
        }
        all.push(next);
    }
    if !matches!(all.last(), Some(Step { hosts: Amount::Percent(100.0), .. })) {
        return Err((
            last.referenced,
            "the last step has to be `percent: 100`: what is done is on all hosts".to_owned(),
        ));
    }
    Ok(all)
}

fn step(step: &Spanned<StepText>) -> Result<Step, Wrong> {
    let StepText { hosts, percent, bake, at_a_time } = &step.value;
    let amount = match (hosts, percent) {
        (Some(hosts), None) => read(hosts, |text| match units::amount(text)? {
            Amount::Percent(_) => Err("write `percent: 10` for a part of all hosts".to_owned()),
            amount => Ok(amount),
        })?,
        (None, Some(percent)) => read(percent, |text| units::amount(&format!("{}%", text.trim_end_matches('%'))))?,
        _ => return Err((step.referenced, "a step has either `hosts` or `percent`".to_owned())),
    };
    let bake = bake.as_ref().map(|bake| read(bake, units::time)).transpose()?;
    let at_a_time = at_a_time.as_ref().map(|amount| read(amount, units::amount)).transpose()?;
    Ok(Step { hosts: amount, bake: bake.unwrap_or_default(), at_a_time })
}

fn gates(text: GatesText) -> Result<Gates, Wrong> {
    let mut gates = Gates { health: text.health, ..Gates::default() };
    if let Some(swaps) = text.swaps {
        gates.swaps_failed = swaps.failed;
    }
    if let Some(crashes) = text.crashes {
        gates.crashes = crashes.most;
    }
    if let Some(configs) = text.configs {
        gates.configs_failed = configs.failed;
    }
    if let Some(reachable) = &text.reachable {
        gates.reachable_percent = read(&reachable.least, units::percent)?;
    }
    if let Some(ErrorsText { of, most, of_at_least }) = text.errors {
        gates.errors = Some(Errors { of, most_percent: read(&most, units::percent)?, of_at_least });
    }
    if let Some(SlowText { of, above, most, of_at_least }) = text.slow {
        let (above, most_percent) = (read(&above, units::time)?, read(&most, units::percent)?);
        gates.slow = Some(Slow { of, above, most_percent, of_at_least });
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WHOLE: &str = "
plugin: greeter
release: 1.4.0
on: { role: edge, zone: [eu, us] }
steps:
  - { hosts: 1, bake: 2m }
  - { percent: 10, bake: 10m }
  - { percent: 100, at_a_time: 10% }
gates:
  swaps: { failed: 0 }
  crashes: { most: 1 }
  configs: { failed: 2 }
  reachable: { least: 90% }
  errors: { of: example/greet, most: 1%, of_at_least: 50 }
  slow: { of: example/greet, above: 100ms, most: 5% }
  health: { directive: example/health }
deadline: 30m
on_failure: pause
pin: { of: example/session, at_most: 10m }
";

    #[test]
    fn a_whole_rollout_is_read_and_comes_back_from_json() {
        let rollout = parse("r.yaml", WHOLE).expect("a rollout");
        assert_eq!(rollout.steps[1], Step::new(Amount::Percent(10.0), Duration::from_secs(600)));
        assert_eq!(rollout.steps[2].at_a_time, Some(Amount::Percent(10.0)));
        assert_eq!(
            rollout.gates.slow.as_ref().map(|slow| (slow.above, slow.of_at_least)),
            Some((Duration::from_millis(100), 50))
        );
        assert_eq!((rollout.gates.crashes, rollout.gates.configs_failed, rollout.on_failure), (1, 2, OnFailure::Pause));
        assert_eq!(rollout.pin, Some(Pin::new("example/session", Duration::from_secs(600))));
        let json = serde_json::to_string(&rollout).expect("JSON");
        assert_eq!(serde_json::from_str::<Rollout>(&json).expect("the same"), rollout);
        let labels = |zone: &str| [("role", "edge"), ("zone", zone)].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        assert!(rollout.on.matches(&labels("us")) && !rollout.on.matches(&labels("asia")));
    }

    #[test]
    fn two_lines_are_enough() {
        let rollout = parse("r.yaml", "{ plugin: greeter, release: 1.4.0 }").expect("a rollout");
        assert_eq!(rollout, Rollout::new("greeter", semver::Version::new(1, 4, 0)));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (from, to, expected) in [
            ("1.4.0", "1.4", "r.yaml:3:10: `1.4` is not a version"),
            ("bake: 2m", "bake: 2", "r.yaml:6:23: `2` is not a time"),
            ("hosts: 1,", "", "r.yaml:6:5: a step has either"),
            ("percent: 100,", "percent: 90,", "r.yaml:8:5: the last step has to be"),
            ("percent: 10,", "percent: 0,", "r.yaml:7:16: 0% are no hosts"),
            ("most: 1%", "most: 101%", "r.yaml:14:38: `101%` is not a part"),
            ("deadline: 30m", "deadline: 0s", "r.yaml:17:11: without time"),
            ("on_failure: pause", "on_failure: pray", "r.yaml:18:"),
            ("at_most: 10m", "at_most: 30m", "r.yaml:19:38: it has to be less than the deadline"),
            ("crashes:", "crash:", "unknown field `crash`"),
            ("plugin: greeter\n", "", "missing field `plugin`"),
        ] {
            let error = parse("r.yaml", &WHOLE.replacen(from, to, 1)).expect_err(expected).to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}, not {expected}");
        }
        let fewer = "plugin: a\nrelease: 1.0.0\nsteps: [{ percent: 50 }, { percent: 10 }, { percent: 100 }]";
        let error = parse("r.yaml", fewer).expect_err("fewer").to_string();
        assert!(error.starts_with("r.yaml:3:26: this step has fewer hosts"), "{error}");
    }
}

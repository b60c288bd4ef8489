//! What comes next in a rollout: a pure function of where it is, how the hosts are, and how much time was spent.
//!
//! ```text
//! pending ──> rolling, step 1 ──> baking, step 1 ──> rolling, step 2 ──> .. ──> done
//!    │             │   ^  more hosts   │
//!    │             └───┘               │      a gate or a deadline fails, or somebody says so
//!    v             └───────────────────┴──────────────────> rolling back ──> rolled back, or aborted
//! aborted                                                    (or paused, until somebody decides)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::gates::{Verdict, judge, listed};
use crate::health::HostHealth;
use crate::link::{Change, Link, Stage};
use crate::plan;
use crate::rollout::OnFailure;

/// How the hosts are, as far as they are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// The hosts within reach, by name.
    pub(crate) hosts: BTreeMap<String, HostHealth>,
    /// Those of the rollout's order that were not heard of for so long that they count as lost. One that is in neither is
    /// waited for.
    pub(crate) lost: BTreeSet<String>,
    /// How long ago a host was asked for the newest sign of life that it has given, by its name. What a host has said last stands
    /// for a while after it has frozen.
    pub(crate) lived: BTreeMap<String, Duration>,
    /// Whether all that are there have answered.
    pub(crate) is_complete: bool,
}

/// How long a stage lasts already. It is not known exactly where it was begun by another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    /// As long as this for sure: what hosts are watched for.
    pub(crate) at_least: Duration,
    /// Not longer than this: what deadlines are compared with.
    pub(crate) at_most: Duration,
}

/// What the gates say of the hosts that may have the release.
pub(crate) fn verdicts(link: &Link, seen: &Observed) -> Vec<Verdict> {
    let turn = link.in_turn();
    let hosts: Vec<_> = turn.iter().filter_map(|host| seen.hosts.get(host)).collect();
    let missing = turn.iter().filter(|host| seen.lost.contains(*host) && !seen.hosts.contains_key(*host)).count();
    judge(&link.wanted.gates, link.release.sequence, &hosts, (missing, turn.len()))
}

/// What comes next; `None` if it is to be waited.
pub(crate) fn next(link: &Link, seen: &Observed, spent: Spent) -> Option<Change> {
    match link.stage {
        Stage::Pending => begin(link, seen, spent),
        Stage::Rolling => roll(link, seen, spent),
        Stage::Baking => bake(link, seen, spent),
        Stage::RollingBack => end(link, seen, spent),
        Stage::Done | Stage::RolledBack | Stage::Paused | Stage::Aborted => None,
    }
}

fn begin(link: &Link, seen: &Observed, spent: Spent) -> Option<Change> {
    let on = &link.wanted.on;
    let matching = seen.hosts.values().filter(|host| on.matches(&host.labels)).map(|host| host.host.as_str());
    let order = plan::order(&link.wanted.plugin, link.release.sequence, matching);
    let step = link.wanted.steps.first()?;
    if seen.is_complete && !order.is_empty() {
        let turn = plan::next_turn(step, order.len(), 0);
        let why = format!("step 1: {} of {} hosts", turn, order.len());
        return Some(Change { turn, order: Some(order), ..link.change(Stage::Rolling, why) });
    }
    (spent.at_most > link.wanted.deadline).then(|| {
        let why = format!("no host that it is for answered within {:?}; nothing was changed", link.wanted.deadline);
        link.change(Stage::Aborted, why)
    })
}

/// The hosts that may have the release and do not, although they are not lost.
fn not_ready(link: &Link, seen: &Observed) -> Vec<String> {
    let sequence = link.release.sequence;
    let is_waited_for = |host: &&String| match seen.hosts.get(*host) {
        // Whether a failure is one too many, a gate says.
        Some(health) => !health.is_ready(sequence) && !health.has_failed(sequence),
        None => !seen.lost.contains(*host),
    };
    link.in_turn().iter().filter(is_waited_for).cloned().collect()
}

fn failed_gate(link: &Link, seen: &Observed) -> Option<Change> {
    let failed = verdicts(link, seen).into_iter().find(|verdict| !verdict.passes)?;
    Some(fails(link, format!("step {}: gate `{}` failed: {}", link.step + 1, failed.gate, failed.says)))
}

fn fails(link: &Link, why: String) -> Change {
    match link.wanted.on_failure {
        OnFailure::RollBack => goes_back(link, Stage::RolledBack, why),
        OnFailure::Pause => link.change(Stage::Paused, why),
    }
}

/// The hosts go back.
pub(crate) fn goes_back(link: &Link, ends: Stage, why: String) -> Change {
    Change { ends: Some(ends), ..link.change(Stage::RollingBack, why) }
}

fn roll(link: &Link, seen: &Observed, spent: Spent) -> Option<Change> {
    if let Some(failed) = failed_gate(link, seen) {
        return Some(failed);
    }
    let step = link.wanted.steps.get(link.step)?;
    let waiting = not_ready(link, seen);
    if !waiting.is_empty() {
        return (spent.at_most > link.wanted.deadline).then(|| {
            let (number, deadline) = (link.step + 1, link.wanted.deadline);
            fails(link, format!("step {number}: not within {deadline:?} on {}", listed(&waiting)))
        });
    }
    let hosts = link.order.len();
    let turn = plan::next_turn(step, hosts, link.turn);
    if turn > link.turn {
        let why = format!("step {}: {turn} of {hosts} hosts", link.step + 1);
        // Those who asked not to wait meant the whole step.
        return Some(Change { turn, promoted: link.promoted, ..link.change(Stage::Rolling, why) });
    }
    let why = format!("step {}: {} hosts have it", link.step + 1, link.turn);
    Some(Change { promoted: link.promoted, ..link.change(Stage::Baking, why) })
}

fn bake(link: &Link, seen: &Observed, spent: Spent) -> Option<Change> {
    if let Some(failed) = failed_gate(link, seen) {
        return Some(failed);
    }
    let step = link.wanted.steps.get(link.step)?;
    let mut waiting = not_ready(link, seen);
    let over = link.baked_for(spent.at_least);
    if let Some(over) = over.filter(|_| !link.promoted) {
        waiting.extend(silent(link, seen, over));
    }
    if waiting.is_empty() && (link.promoted || over.is_some()) {
        return Some(next_step(link));
    }
    (spent.at_most > step.bake + link.wanted.deadline).then(|| {
        let number = link.step + 1;
        fails(link, format!("step {number}: it does not come to its end: {}", listed(&waiting)))
    })
}

/// The hosts in reach that have given no sign of life since so long, when they were watched for long enough.
fn silent(link: &Link, seen: &Observed, since: Duration) -> Vec<String> {
    let has_lived = |host: &String| seen.lived.get(host).is_some_and(|ago| *ago <= since);
    let waited_for = link.in_turn().iter().filter(|host| seen.hosts.contains_key(*host));
    waited_for.filter(|host| !has_lived(host)).cloned().collect()
}

fn next_step(link: &Link) -> Change {
    let at = link.step + 1;
    match link.wanted.steps.get(at) {
        None => link.change(Stage::Done, format!("on all {} hosts", link.order.len())),
        Some(step) => {
            let hosts = link.order.len();
            let turn = plan::next_turn(step, hosts, link.turn);
            Change {
                step: at,
                turn,
                ..link.change(Stage::Rolling, format!("step {}: {turn} of {hosts} hosts", at + 1))
            }
        }
    }
}

fn end(link: &Link, seen: &Observed, spent: Spent) -> Option<Change> {
    let ends = link.ends.filter(|ends| ends.is_over()).unwrap_or(Stage::RolledBack);
    let still = |host: &&String| match seen.hosts.get(*host) {
        // One that does not know yet may just be swapping it in.
        Some(health) => health.step < link.number || health.runs_release(link.release.sequence),
        None => !seen.lost.contains(*host),
    };
    let left: Vec<_> = link.in_turn().iter().filter(still).cloned().collect();
    let lost: Vec<_> = link.in_turn().iter().filter(|host| seen.lost.contains(*host)).cloned().collect();
    let when_back = if lost.is_empty() { String::new() } else { format!("; out of reach: {}", listed(&lost)) };
    if left.is_empty() {
        return Some(link.change(ends, format!("{}{when_back}", link.why)));
    }
    (spent.at_most > link.wanted.deadline)
        .then(|| link.change(ends, format!("{}; not seen to be back: {}{when_back}", link.why, listed(&left))))
}

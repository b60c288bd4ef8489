//! Which host comes when: the same for everybody who asks, and another one first with each release.

use crate::rollout::{Rollout, Step};

/// A number by which hosts are put in order: whoever knows the names knows it, and no host comes always first.
pub(crate) fn weight(of: &[&str], host: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in of.iter().chain([&host]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// Hosts in the order in which they get a release of a plugin.
pub(crate) fn order<'a>(plugin: &str, sequence: u64, hosts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let release = sequence.to_string();
    let mut all: Vec<_> = hosts.into_iter().map(|host| (weight(&[plugin, &release], host), host)).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.dedup();
    all.into_iter().map(|(_, host)| host.to_owned()).collect()
}

/// How many of so many hosts have it at the end of a step, where so many have it already.
pub(crate) fn target(step: &Step, hosts: usize, turn: usize) -> usize {
    step.hosts.of(hosts).max(turn)
}

/// How many of so many hosts have it after the next ones got it.
pub(crate) fn next_turn(step: &Step, hosts: usize, turn: usize) -> usize {
    let batch = step.at_a_time.map_or(hosts, |amount| amount.of(hosts).max(1));
    target(step, hosts, turn).min(turn + batch)
}

/// A step as `--plan` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PlannedStep {
    /// Its number, from 1.
    pub step: usize,
    /// The hosts that get the release in it, in groups of those that get it at the same time.
    pub groups: Vec<Vec<String>>,
    /// For how long they are watched, in milliseconds.
    pub bake_ms: u64,
}

/// Which hosts get a release in which step.
pub(crate) fn plan<'a>(rollout: &Rollout, sequence: u64, hosts: impl IntoIterator<Item = &'a str>) -> Vec<PlannedStep> {
    let order = order(&rollout.plugin, sequence, hosts);
    let mut turn = 0;
    let steps = rollout.steps.iter().enumerate().map(|(at, step)| {
        let mut groups = Vec::new();
        while turn < target(step, order.len(), turn) {
            let next = next_turn(step, order.len(), turn);
            groups.push(order[turn..next].to_vec());
            turn = next;
        }
        PlannedStep { step: at + 1, groups, bake_ms: crate::release::millis(step.bake) }
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(number: usize) -> Vec<String> {
        (0..number).map(|host| format!("edge-{host}")).collect()
    }

    #[test]
    fn each_release_begins_on_another_host_and_each_host_comes_once() {
        let hosts = hosts(20);
        let names = || hosts.iter().map(String::as_str);
        let firsts: std::collections::BTreeSet<_> =
            (1..20).map(|release| order("greeter", release, names())[0].clone()).collect();
        assert!(firsts.len() > 8, "{firsts:?}");
        let mut all = order("greeter", 1, names().rev().chain(names()));
        assert_eq!(all, order("greeter", 1, names()));
        all.sort();
        let mut expected = hosts.clone();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_new_host_moves_no_other_one() {
        let hosts = hosts(50);
        let fewer = order("greeter", 1, hosts[..49].iter().map(String::as_str));
        let mut more = order("greeter", 1, hosts.iter().map(String::as_str));
        more.retain(|host| *host != hosts[49]);
        assert_eq!(fewer, more);
    }

    #[test]
    fn a_plan_has_every_host_once_in_groups_as_large_as_allowed() {
        let rollout = Rollout::new("greeter", semver::Version::new(1, 0, 0));
        let hosts = hosts(30);
        let planned = plan(&rollout, 7, hosts.iter().map(String::as_str));
        let sizes: Vec<Vec<usize>> = planned.iter().map(|step| step.groups.iter().map(Vec::len).collect()).collect();
        assert_eq!(sizes, [vec![1], vec![2], vec![3, 3, 3, 3, 3, 3, 3, 3, 3]]);
        assert_eq!(plan(&rollout, 7, []).iter().map(|step| step.groups.len()).sum::<usize>(), 0);
    }
}

//! Which host runs which controller: config sets that are published to a fleet, whose entries may say where.
//!
//! ```yaml
//! greeter: { id: example/greeter, revision: 7, on: { role: edge, zone: [eu, us] }, config: { greeting: Hello } }
//! billing: { id: billing, on: { role: core }, count: 2, spread: zone }
//! nightly: { id: nightly, on: { role: core }, exclusive: true }
//! ```
//!
//! * `on` alone: every host that has these labels. Nothing has to be agreed on.
//! * `count: n`: n of these, chosen by a hash of the entry's key and the host's name, spread over the values of a label. In a
//!   partition each side runs n.
//! * `exclusive: true`: one host, by a [lease](crate::lease). In a partition one at most, and none while the store is out of
//!   reach. The controller's config gets the lease's number as its field `fence`; what has seen a higher one refuses a lower
//!   one. Its plugin has to run in a process of its own, so that a controller that hangs is ended before its lease.

mod applied;
mod ends;
mod run;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use controllerbus::Retry;
use controllerbus::config::{ConfigSet, Entry};
use controllerbus::prelude::*;

use crate::plan::weight;
use crate::rollout::Selector;
use crate::store::Store;

pub use ends::{Ends, RuntimeEnds};
pub(crate) use run::controller;
pub use run::{PlacementOptions, place};
pub use sets::{SetPublisher, TrustedSet};

/// Asks the hosts that follow a set which of them are there, and what they are.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Clone, Debug)]
#[directive(id = "fleet/placement-hosts", value = PlacementHost)]
pub struct PlacementHosts {
    /// The set's name.
    pub set: String,
}

/// A host that follows a set.
#[derive(Serialize, Deserialize, PartialEq, Eq, Clone, Debug)]
#[non_exhaustive]
pub struct PlacementHost {
    /// Its name.
    pub host: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A config set that says where its entries run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlacedSet {
    entries: BTreeMap<String, Placed>,
}

/// An entry, and where it runs.
#[derive(Clone, Debug, PartialEq)]
struct Placed {
    entry: Entry,
    on: Selector,
    count: Option<usize>,
    spread: Option<String>,
    exclusive: bool,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    id: String,
    version: Option<semver::VersionReq>,
    #[serde(default, alias = "rev")]
    revision: u64,
    #[serde(default)]
    supersede: bool,
    retry: Option<Retry>,
    #[serde(default)]
    config: Option<serde_json::Value>,
    #[serde(default)]
    on: Selector,
    count: Option<usize>,
    spread: Option<String>,
    #[serde(default)]
    exclusive: bool,
}

impl PlacedSet {
    /// Reads a set from YAML. `name` is the file's, for messages.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] with the place and what is wrong there.
    pub fn parse(name: &str, text: &str) -> crate::Result<Self> {
        type Read = BTreeMap<String, serde_saphyr::Spanned<Text>>;
        let read: Option<Read> = serde_saphyr::from_str(text).map_err(|error| {
            let said = error.without_snippet().to_string();
            let first = said.lines().next().unwrap_or_default();
            let first = first.rfind(" at line ").map_or(first, |end| &first[..end]);
            crate::Error::Invalid(match error.location() {
                Some(at) => format!("{name}:{}:{}: {first}", at.line(), at.column()),
                None => format!("{name}: {first}"),
            })
        })?;
        let mut entries = BTreeMap::new();
        for (key, text) in read.unwrap_or_default() {
            let at = text.referenced;
            let placed = placed(text.value).map_err(|why| {
                crate::Error::Invalid(format!("{name}:{}:{}: `{key}`: {why}", at.line(), at.column()))
            })?;
            entries.insert(key, placed);
        }
        Ok(Self { entries })
    }

    /// The keys of what only one host may run.
    pub fn exclusive_on<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a str> {
        let mine = self.entries.iter().filter(|(_, placed)| placed.exclusive && placed.on.matches(labels));
        mine.map(|(key, _)| key.as_str())
    }

    /// What a host runs of it, but for what is exclusive, where these hosts are there.
    pub fn on_host(&self, host: &str, labels: &BTreeMap<String, String>, hosts: &[PlacementHost]) -> ConfigSet {
        let mut set = ConfigSet::new();
        for (key, placed) in self.entries.iter().filter(|(_, placed)| !placed.exclusive) {
            let is_here = match placed.count {
                None => placed.on.matches(labels),
                Some(count) => placed.on.matches(labels) && placed.chosen(key, count, hosts).contains(host),
            };
            if is_here {
                set.set(key.clone(), placed.entry.clone());
            }
        }
        set
    }

    /// The config of an exclusive entry, with the number of its lease.
    pub fn with_fence(&self, key: &str, fence: u64) -> Option<Entry> {
        let mut entry = self.entries.get(key).filter(|placed| placed.exclusive)?.entry.clone();
        entry.config.as_object_mut()?.insert("fence".to_owned(), fence.into());
        Some(entry)
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}

fn placed(text: Text) -> Result<Placed, String> {
    let Text { id, version, revision, supersede, retry, config, on, count, spread, exclusive } = text;
    if count == Some(0) {
        return Err("`count: 0` is no host; leave the entry out".to_owned());
    }
    if exclusive && count.is_some() {
        return Err("`exclusive` is one host; leave `count` out".to_owned());
    }
    if spread.is_some() && count.is_none() {
        return Err("`spread` says over what `count` hosts are spread; add `count`".to_owned());
    }
    let config = config.unwrap_or_else(|| serde_json::json!({}));
    if exclusive && config.as_object().is_none_or(|config| config.contains_key("fence")) {
        return Err("the config of an exclusive entry is a map, whose field `fence` is the lease's number".to_owned());
    }
    let mut entry = Entry::new(id, config).with_revision(revision);
    (entry.version, entry.supersede, entry.retry) = (version, supersede, retry);
    Ok(Placed { entry, on, count, spread, exclusive })
}

impl Placed {
    /// The hosts that run it, of those that are there: by hash, and the values of a label in turn.
    fn chosen(&self, key: &str, count: usize, hosts: &[PlacementHost]) -> BTreeSet<String> {
        let matching = hosts.iter().filter(|host| self.on.matches(&host.labels));
        let mut left: Vec<_> = matching.map(|host| (weight(&[key], &host.host), host)).collect();
        left.sort_by(|a, b| (b.0, &b.1.host).cmp(&(a.0, &a.1.host)));
        let mut of_value: BTreeMap<Option<&String>, usize> = BTreeMap::new();
        let mut chosen = BTreeSet::new();
        while chosen.len() < count && !left.is_empty() {
            let value = |host: &PlacementHost| self.spread.as_ref().and_then(|label| host.labels.get(label)).cloned();
            let taken = |host: &PlacementHost| of_value.get(&value(host).as_ref()).copied().unwrap_or(0);
            let best = left.iter().enumerate().min_by_key(|(at, (_, host))| (taken(host), *at)).map(|(at, _)| at);
            let Some(best) = best else { break };
            let (_, host) = left.remove(best);
            let value = self.spread.as_ref().and_then(|label| host.labels.get(label));
            *of_value.entry(value).or_default() += 1;
            chosen.insert(host.host.clone());
        }
        chosen
    }
}

/// Where the objects of sets are.
fn folder(name: &str) -> String {
    format!("sets/{}", crate::store::part(name))
}

/// The name of the lease of an exclusive entry.
fn lease_name(set: &str, key: &str) -> String {
    format!("set {set} {key}")
}

/// The rows of a set's objects.
fn rows(store: &Store, name: &str) -> (crate::store::Numbered, crate::store::Numbered) {
    let of = |ending| crate::store::Numbered::new(store, folder(name), ending);
    (of(".yaml"), of(".yaml.minisig"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(number: usize) -> Vec<PlacementHost> {
        let zone = |at: usize| ["eu", "us", "asia"][at % 3].to_owned();
        let labels = |at| [("role".to_owned(), "core".to_owned()), ("zone".to_owned(), zone(at))].into();
        (0..number).map(|at| PlacementHost { host: format!("core-{at}"), labels: labels(at) }).collect()
    }

    fn running<'a>(set: &PlacedSet, key: &str, hosts: &'a [PlacementHost]) -> Vec<&'a PlacementHost> {
        hosts.iter().filter(|host| set.on_host(&host.host, &host.labels, hosts).get(key).is_some()).collect()
    }

    #[test]
    fn as_many_hosts_as_wanted_run_an_entry_in_as_many_zones_as_there_are() {
        let text = "a: { id: a, on: { role: core }, count: 3, spread: zone }\nb: { id: b, count: 20 }\nc: { id: c }\n\
                    d: { id: d, on: { role: edge } }";
        let set = PlacedSet::parse("s.yaml", text).expect("a set");
        for number in [1, 2, 3, 7, 12] {
            let hosts = hosts(number);
            let chosen = running(&set, "a", &hosts);
            assert_eq!(chosen.len(), number.min(3));
            let zones: BTreeSet<_> = chosen.iter().map(|host| &host.labels["zone"]).collect();
            assert_eq!(zones.len(), number.min(3));
            assert_eq!((running(&set, "b", &hosts).len(), running(&set, "c", &hosts).len()), (number, number));
            assert_eq!(running(&set, "d", &hosts).len(), 0);
        }
    }

    #[test]
    fn a_host_that_goes_moves_only_what_it_ran() {
        let set = PlacedSet::parse("s.yaml", "a: { id: a, count: 4 }").expect("a set");
        let all = hosts(12);
        let before: BTreeSet<_> = running(&set, "a", &all).iter().map(|host| host.host.clone()).collect();
        for gone in 0..12 {
            let mut left = all.clone();
            let gone = left.remove(gone);
            let after: BTreeSet<_> = running(&set, "a", &left).iter().map(|host| host.host.clone()).collect();
            let kept = before.intersection(&after).count();
            assert_eq!((after.len(), kept), (4, 4 - usize::from(before.contains(&gone.host))));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_place() {
        for (text, expected) in [
            ("a: { id: a, count: 0 }", "s.yaml:1:4: `a`: `count: 0`"),
            ("a: { id: a, count: 2, exclusive: true }", "`exclusive` is one host"),
            ("a: { id: a, spread: zone }", "add `count`"),
            ("a: { id: a, exclusive: true, config: { fence: 1 } }", "`fence` is the lease's number"),
            ("a: { id: a, cuont: 1 }", "s.yaml:1:13: unknown field `cuont`"),
        ] {
            let error = PlacedSet::parse("s.yaml", text).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_a_fleet_takes_a_single_bus_refuses_with_its_place_and_what_it_is_for() {
        for (key, value) in [("on", "{ role: edge }"), ("count", "2"), ("spread", "zone"), ("exclusive", "true")] {
            let count = if key == "spread" { "  count: 2\n" } else { "" };
            let text = format!("a:\n  id: a\n  {key}: {value}\n{count}");
            PlacedSet::parse("s.yaml", &text).expect("a set of a fleet");
            let error = ConfigSet::parse("s.yaml", &text).expect_err("a set of one bus").to_string();
            let expected = format!("`{key}` says on which hosts of a fleet an entry runs");
            assert!(error.contains(&expected) && error.contains("s.yaml:3:"), "{error}");
        }
    }

    #[test]
    fn an_exclusive_config_gets_the_number_of_its_lease() {
        let set = PlacedSet::parse("s.yaml", "a: { id: a, exclusive: true, config: { x: 1 } }").expect("a set");
        assert_eq!(set.with_fence("a", 7).expect("it is there").config, serde_json::json!({ "x": 1, "fence": 7 }));
        let hosts = hosts(1);
        assert!(set.on_host("core-0", &hosts[0].labels, &hosts).get("a").is_none());
        assert!(set.exclusive_on(&hosts[0].labels).eq(["a"]));
    }
}

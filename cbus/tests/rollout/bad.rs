//! The ways in which a release can be bad, and how each is brought about.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::releases::PLUGIN;

/// A year, as releases last.
const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// A way to be bad.
pub struct Bad {
    pub name: &'static str,
    /// How the plugin behaves.
    pub behaviour: &'static str,
    /// How long canaries are watched: long enough for it to show.
    pub bake: u64,
    /// What the rollout's end says, one of these.
    pub says: &'static [&'static str],
    /// What else is wrong.
    pub twist: Twist,
}

/// What is wrong with a release beside its code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Twist {
    None,
    /// The canaries freeze when they have it.
    Freeze,
    /// The file in the store is not what was signed.
    Corrupt,
    /// A key has signed it that no host knows.
    WrongKey,
    /// The rollout names a release that is older than what hosts have seen.
    Older,
    /// It may not be installed any more.
    Expired,
}

const fn bad(name: &'static str, behaviour: &'static str, bake: u64, says: &'static [&'static str]) -> Bad {
    Bad { name, behaviour, bake, says, twist: Twist::None }
}

/// A twist of a release whose code is good.
const fn twisted(name: &'static str, twist: Twist, says: &'static [&'static str]) -> Bad {
    Bad { name, behaviour: "good", bake: 3, says, twist }
}

/// All of them.
pub const ALL: [Bad; 12] = [
    bad("does not load", "missing-library", 3, &["libx.so.6"]),
    bad("fails restore", "restore-error", 3, &["restore does not know schema 1"]),
    bad("panics in construct", "construct-panic", 3, &["construct was told to panic"]),
    bad("crashes after 5 s", "late-abort-5s", 8, &["gate `crashes`", "gate `swaps`"]),
    bad("answers errors", "resolve-error", 4, &["gate `errors`", "resolve was told to fail"]),
    bad("answers slowly", "slow", 8, &["gate `slow`"]),
    bad("stalls", "never-ready", 6, &["gate `slow`"]),
    twisted("hosts unreachable", Twist::Freeze, &["gate `reachable`"]),
    twisted("file corrupt", Twist::Corrupt, &["gate `swaps`"]),
    twisted("wrong key", Twist::WrongKey, &["gate `swaps`"]),
    twisted("older sequence", Twist::Older, &["gate `swaps`"]),
    twisted("expired", Twist::Expired, &["expired"]),
];

impl Bad {
    /// Publishes it, as the newest release.
    pub fn publish(&self, fleet: &Fleet) -> u64 {
        let key = if self.twist == Twist::WrongKey { "other" } else { "k" };
        let lasts = if self.twist == Twist::Expired { Duration::from_millis(1) } else { LONG };
        let release = fleet.releases.publish(self.behaviour, key, lasts);
        if self.twist == Twist::Corrupt {
            fleet.releases.corrupt(&release);
        }
        release.sequence
    }

    /// Starts the rollout of it.
    pub fn roll(&self, fleet: &Fleet) {
        let text = format!(
            "on: {{ role: edge }}
steps:
  - {{ hosts: 2, bake: {}s }}
  - {{ percent: 100 }}
gates:
  errors: {{ of: probe/ask, most: 20%, of_at_least: 8 }}
  slow: {{ of: probe/ask, above: 1s, most: 30%, of_at_least: 8 }}
deadline: 60s
",
            self.bake
        );
        if self.twist == Twist::Older { start_older(fleet) } else { fleet.roll(&text) }
    }
}

/// Writes what `cbus rollout start` refuses to: a rollout of the first release, by somebody who can write to the store.
fn start_older(fleet: &Fleet) {
    let folder = fleet.folder.path().join("store/rollouts").join(PLUGIN);
    let mut numbers: Vec<(u64, std::path::PathBuf)> = std::fs::read_dir(&folder)
        .expect("rollouts")
        .flatten()
        .filter_map(|file| Some((file.file_name().to_str()?.split('.').next()?.parse().ok()?, file.path())))
        .collect();
    numbers.sort();
    let (last, path) = numbers.pop().expect("a step");
    let mut link: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("it")).expect("JSON");
    let number = last + 1;
    for (field, value) in [("number", number.into()), ("rollout", number.into()), ("stage", "pending".into())] {
        link[field] = value;
    }
    let (none, first) = (serde_json::Value::Null, serde_json::json!(1));
    link["release"]["sequence"] = first;
    (link["ends"], link["order"], link["turn"], link["step"]) = (none, serde_json::json!([]), 0.into(), 0.into());
    // The release that hosts run is what they go back to.
    link["before"] = serde_json::json!({ "sequence": fleet_runs(fleet), "version": crate::releases::VERSION });
    let name = path.file_name().expect("a name").to_string_lossy().replace(&last.to_string(), &number.to_string());
    assert_eq!(name.split('.').next().map(|text| text.parse::<u64>().expect("a number")), Some(number), "{name}");
    std::fs::write(folder.join(name), serde_json::to_vec(&link).expect("JSON")).expect("writing");
}

/// The release that all hosts run.
fn fleet_runs(fleet: &Fleet) -> u64 {
    fleet.newest().before.expect("a release before").sequence
}

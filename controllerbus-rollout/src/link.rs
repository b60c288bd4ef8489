//! A step of a rollout as the store has it: a numbered document, written once. The newest one is what counts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::release::ReleaseName;
use crate::rollout::Rollout;

/// The first field of each document.
const KIND: &str = "controllerbus rollout 1";

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// It was asked for, and nothing was changed yet.
    Pending,
    /// The hosts of a step get the release.
    Rolling,
    /// The hosts of a step have it, and are watched.
    Baking,
    /// It is on all hosts, and what hosts run that come later.
    Done,
    /// The hosts that have it go back.
    RollingBack,
    /// They have gone back, because it failed or somebody said so.
    RolledBack,
    /// Somebody, or a failure, has stopped it; it waits for somebody.
    Paused,
    /// Somebody has ended it; the hosts that had it have gone back.
    Aborted,
}

impl Stage {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack | Self::Aborted)
    }

    /// Whether time runs: whatever happens, it will be another one after its deadline.
    pub fn has_deadline(self) -> bool {
        !self.is_over() && self != Self::Paused
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Rolling => "rolling",
            Self::Baking => "baking",
            Self::Done => "done",
            Self::RollingBack => "rolling back",
            Self::RolledBack => "rolled back",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
        })
    }
}

/// The state of a plugin's newest rollout, after its step `number`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Link {
    kind: String,
    /// Its number among the plugin's steps.
    pub number: u64,
    /// The number of the rollout's first step.
    pub rollout: u64,
    /// What was asked for.
    pub wanted: Rollout,
    /// The release that is rolled out.
    pub release: ReleaseName,
    /// The release that was done before; none if this is the plugin's first.
    pub before: Option<ReleaseName>,
    /// Where it is.
    pub stage: Stage,
    /// The step of `wanted`, from 0.
    pub step: usize,
    /// How many hosts of `order` may have the release.
    pub turn: usize,
    /// The hosts, in the order in which they get it.
    pub order: Vec<String>,
    /// Where it will be when all hosts have gone back.
    pub ends: Option<Stage>,
    /// Whether somebody has asked not to wait until the hosts were watched long enough.
    #[serde(default)]
    pub promoted: bool,
    /// When this stage began, by the clock of who began it, in milliseconds since 1970.
    pub began_ms: u64,
    /// When this was written.
    pub at_ms: u64,
    /// Who has written it.
    pub by: String,
    /// The number of the lease under which it was written; none for what a person did.
    pub lease: Option<u64>,
    /// Why it is where it is, for people.
    pub why: String,
    /// So that each writer knows his own document again.
    token: String,
}

/// Who writes a step, and when.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) by: String,
    pub(crate) lease: Option<u64>,
    pub(crate) at_ms: u64,
}

/// What a step changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) stage: Stage,
    pub(crate) step: usize,
    pub(crate) turn: usize,
    /// The hosts in their order, where that is decided now.
    pub(crate) order: Option<Vec<String>>,
    pub(crate) ends: Option<Stage>,
    pub(crate) promoted: bool,
    pub(crate) why: String,
}

impl Link {
    /// The first step of a rollout.
    pub(crate) fn first(
        number: u64,
        wanted: Rollout,
        release: ReleaseName,
        before: Option<ReleaseName>,
        writer: Writer,
    ) -> Self {
        Self {
            kind: KIND.to_owned(),
            number,
            rollout: number,
            wanted,
            release,
            before,
            stage: Stage::Pending,
            step: 0,
            turn: 0,
            order: Vec::new(),
            ends: None,
            promoted: false,
            began_ms: writer.at_ms,
            at_ms: writer.at_ms,
            by: writer.by,
            lease: writer.lease,
            why: "started".to_owned(),
            token: crate::store::token(),
        }
    }

    /// The next step.
    pub(crate) fn followed_by(&self, change: Change, writer: Writer) -> Self {
        let goes_on = change.stage == self.stage && change.step == self.step;
        Self {
            kind: KIND.to_owned(),
            number: self.number + 1,
            stage: change.stage,
            step: change.step,
            turn: change.turn,
            order: change.order.unwrap_or_else(|| self.order.clone()),
            ends: change.ends,
            promoted: change.promoted,
            began_ms: if goes_on { self.began_ms } else { writer.at_ms },
            at_ms: writer.at_ms,
            by: writer.by,
            lease: writer.lease,
            why: change.why,
            token: crate::store::token(),
            rollout: self.rollout,
            wanted: self.wanted.clone(),
            release: self.release.clone(),
            before: self.before.clone(),
        }
    }

    /// What stays as it is, for a change of some of it.
    pub(crate) fn change(&self, stage: Stage, why: impl Into<String>) -> Change {
        Change {
            stage,
            step: self.step,
            turn: self.turn,
            order: None,
            ends: self.ends,
            promoted: false,
            why: why.into(),
        }
    }

    /// Reads one that the store has under a number.
    pub(crate) fn read(plugin: &str, number: u64, bytes: &[u8]) -> Result<Self> {
        let refused = |why: String| Error::refused(format!("step {number} of the rollouts of {plugin}"), why);
        let link: Self =
            serde_json::from_slice(bytes).map_err(|error| refused(format!("it cannot be read: {error}")))?;
        let steps = link.wanted.steps.len();
        let is_right = link.kind == KIND && link.number == number && link.wanted.plugin == plugin;
        if !is_right || link.step >= steps || link.turn > link.order.len() || link.rollout > number {
            return Err(refused("it contradicts itself".to_owned()));
        }
        Ok(link)
    }

    /// The hosts that may have the release.
    pub fn in_turn(&self) -> &[String] {
        &self.order[..self.turn.min(self.order.len())]
    }

    /// For how long the hosts that have the release are watched for more than long enough, when this stage lasts so long; none
    /// before that.
    pub(crate) fn baked_for(&self, spent: Duration) -> Option<Duration> {
        let step = self.wanted.steps.get(self.step).filter(|_| self.stage == Stage::Baking)?;
        spent.checked_sub(step.bake)
    }

    /// What a host is to run by it.
    pub fn wanted_on(&self, host: &str, labels: &BTreeMap<String, String>) -> Wanted {
        if !self.wanted.on.matches(labels) {
            return Wanted::AsItIs;
        }
        match self.stage {
            Stage::Done => Wanted::Release(self.release.clone()),
            Stage::Rolling | Stage::Baking | Stage::Paused if self.in_turn().iter().any(|turn| turn == host) => {
                Wanted::Release(self.release.clone())
            }
            _ => Wanted::Before(self.before.clone()),
        }
    }
}

/// What a host is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wanted {
    /// What it runs: the rollout is not about this host.
    AsItIs,
    /// This release.
    Release(ReleaseName),
    /// What was done before the rollout; nothing, if nothing was.
    Before(Option<ReleaseName>),
}

//! The factories that the bus knows: those of this binary and those of loaded plugins.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use semver::{Version, VersionReq};

use super::Source;
use super::configs::{Changes, Earlier};
use super::engine::{Engine, Life};
use super::entry::ControllerEntry;
use crate::controller::factory::Factory;
use crate::controller::{Info, SwapMode};
use crate::error::ErrorKind;
use crate::hot::serve::configs;
use crate::linked::FACTORIES;
use crate::{Error, Result};

/// The factories that the bus knows.
#[derive(Default)]
pub(super) struct Factories {
    known: Vec<KnownFactory>,
    /// Generations that are being prepared: what they add counts for their own successors, and for nobody else before the commit.
    staged: HashSet<Source>,
    /// Generations that were replaced or removed: nothing is added by them any more.
    ended: HashSet<Source>,
}

/// A factory with its answers about itself, for which it is asked once and outside of locks.
#[derive(Clone)]
pub(super) struct KnownFactory {
    pub(super) source: Source,
    /// Whose code it is; the generation of a plugin that has added it by hand, which is another source then.
    pub(super) library: Source,
    pub(super) info: Info,
    pub(super) swap: SwapMode,
    pub(super) persist: Option<Duration>,
    pub(super) factory: Arc<dyn Factory>,
}

impl KnownFactory {
    /// Asks factories about their controllers.
    pub(super) fn of(source: Source, factories: Vec<Arc<dyn Factory>>) -> Vec<Self> {
        let asked = |factory: Arc<dyn Factory>| {
            let info = factory.info();
            let (swap, persist) = (factory.swap_mode(), factory.persist());
            Self { source, library: source.library(), info, swap, persist, factory }
        };
        factories.into_iter().map(asked).collect()
    }

    /// Whether a controller has added it, and not a generation itself.
    fn is_by_hand(&self) -> bool {
        self.source != self.library
    }

    /// Whether it is in the manifest of a plugin's generation.
    fn is_of_a_plugin(&self) -> bool {
        !self.is_by_hand() && self.source != Source::STATIC
    }

    /// Whether it ends with a source.
    pub(super) fn is_of(&self, source: Source) -> bool {
        self.source.ends_with(self.library, source)
    }
}

impl Factories {
    pub(super) fn add(&mut self, factories: Vec<KnownFactory>) {
        for known in factories.iter().filter(|known| !known.is_by_hand()) {
            self.ended.remove(&known.source);
        }
        self.known.extend(factories);
    }

    /// That a generation may add controllers and factories.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] if it was replaced or removed: what a task of it adds after that would keep it loaded.
    pub(super) fn may_add(&self, library: Source) -> Result<()> {
        if !self.ended.contains(&library) {
            return Ok(());
        }
        let what = format!("generation {} does not serve any more, and adds nothing to the bus", library.0);
        Err(Error::new(ErrorKind::Closed, what).permanent())
    }

    /// Removes a source's factories, and those that its controllers have added, which the caller drops after the lock.
    pub(super) fn remove(&mut self, source: Source) -> Vec<KnownFactory> {
        if source.library() != Source::STATIC {
            self.ended.insert(source);
        }
        let (gone, stay) = self.known.drain(..).partition(|known| known.is_of(source));
        self.known = stay;
        gone
    }

    /// A generation's library is gone: nothing of it can add anything.
    pub(super) fn forget(&mut self, generation: Source) {
        self.ended.remove(&generation);
    }

    /// Replaces a source's factories by those of the next one, in their places; returns what [`Factories::remove`] does.
    pub(super) fn replace(&mut self, from: Source, factories: Vec<KnownFactory>) -> Vec<KnownFactory> {
        for known in factories.iter().filter(|known| !known.is_by_hand()) {
            self.ended.remove(&known.source);
        }
        let at = self.known.iter().position(|known| known.source == from).unwrap_or(self.known.len());
        self.known.splice(at..at, factories);
        self.remove(from)
    }

    /// A generation is prepared beside the running one.
    pub(super) fn stage(&mut self, generation: Source) {
        self.ended.remove(&generation);
        self.staged.insert(generation);
    }

    /// A generation that was prepared serves: what it has added counts.
    pub(super) fn commit(&mut self, generation: Source) {
        self.staged.remove(&generation);
    }

    /// A generation that was prepared, and does not serve, ends. Removes what it has added, which the caller drops after the
    /// lock.
    pub(super) fn unstage(&mut self, generation: Source) -> Vec<KnownFactory> {
        if !self.staged.remove(&generation) {
            return Vec::new();
        }
        let is_its = |known: &KnownFactory| known.is_by_hand() && known.library == generation;
        let (gone, stay) = self.known.drain(..).partition(is_its);
        self.known = stay;
        gone
    }

    /// The factories that count.
    fn counting(&self) -> impl Iterator<Item = &KnownFactory> {
        self.known.iter().filter(|known| !known.is_by_hand() || !self.staged.contains(&known.library))
    }

    /// Whether a source has factories here.
    pub(super) fn has(&self, source: Source) -> bool {
        self.known.iter().any(|known| known.source == source)
    }

    /// The factory of a config ID that a source's controllers have added, as [`Factories::find`] does.
    pub(super) fn find_added_by(&self, source: Source, config_id: &str) -> Option<&KnownFactory> {
        let added = self.known.iter().filter(|known| known.is_of(source) && known.source != source);
        let candidates = added.filter(|known| known.info.config_id == config_id);
        candidates.max_by(|a, b| a.info.version.cmp(&b.info.version))
    }

    /// The factory of a config ID: the highest version in the range. Of equal versions it is the one added last, so that a plugin
    /// comes before what is linked in; but of several plugins the first keeps it.
    pub(super) fn find(&self, config_id: &str, version: Option<&VersionReq>) -> Option<&KnownFactory> {
        let candidates = self.counting().filter(|known| {
            known.info.config_id == config_id && version.is_none_or(|range| range.matches(&known.info.version))
        });
        let best = candidates.max_by(|a, b| a.info.version.cmp(&b.info.version))?;
        if !best.is_of_a_plugin() {
            return Some(best);
        }
        self.counting().find(|known| {
            known.is_of_a_plugin() && known.info.config_id == config_id && known.info.version == best.info.version
        })
    }

    /// The versions of a config ID's factories, the highest first.
    pub(super) fn versions(&self, config_id: &str) -> Vec<Version> {
        let known = self.counting().filter(|known| known.info.config_id == config_id);
        let mut versions: Vec<_> = known.map(|known| known.info.version.clone()).collect();
        versions.sort_by(|a, b| b.cmp(a));
        versions.dedup();
        versions
    }

    /// Every factory, also of generations that are being prepared.
    pub(super) fn all(&self) -> impl Iterator<Item = &KnownFactory> {
        self.known.iter()
    }

    pub(super) fn config_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.counting().map(|known| known.info.config_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    }
}

impl Engine {
    /// Runs what is linked into this binary and runs without a config set that says so: once, as soon as there is a runtime for it.
    pub(super) fn start_linked(self: &Arc<Self>) {
        if self.has_linked.load(Ordering::Acquire) || self.runtime().is_err() || self.is_closed() {
            return;
        }
        if self.has_linked.swap(true, Ordering::AcqRel) {
            return;
        }
        let set = configs(FACTORIES.iter().filter(|entry| entry.starts).map(|entry| entry.config_id));
        if set.iter().next().is_some()
            && let Err(error) = self.add_candidates(self.next_id(), set, Earlier::Keep)
        {
            tracing::error!(%error, "functions that are linked in failed to start");
        }
    }

    /// Adds factories; controllers that wait for them are constructed in the background.
    pub(super) fn add_factories(self: &Arc<Self>, known: Vec<KnownFactory>) {
        // What is not a generation's is never refused.
        let _ = self.add_factories_of(Source::STATIC, known);
    }

    /// Adds factories that a generation has added by hand.
    ///
    /// # Errors
    /// It was replaced.
    pub(super) fn add_factories_of(self: &Arc<Self>, library: Source, known: Vec<KnownFactory>) -> Result<()> {
        let added = {
            let mut life = self.life();
            let Life { factories, configs, .. } = &mut *life;
            match factories.may_add(library) {
                // They are dropped after the lock.
                Err(refused) => Err((refused, known)),
                Ok(()) => {
                    factories.add(known);
                    let mut changes = Changes::default();
                    configs.factories_added(factories, &mut changes);
                    Ok(changes)
                }
            }
        };
        match added {
            Ok(changes) => {
                self.carry_out(changes);
                Ok(())
            }
            Err((refused, _known)) => Err(refused),
        }
    }

    /// Removes a source's factories and controllers. Returns when the controllers have ended or their limits have passed,
    /// with those that have not ended.
    pub(super) async fn remove_source(self: &Arc<Self>, source: Source) -> Vec<Arc<ControllerEntry>> {
        let (gone, leaving, changes) = {
            let mut life = self.life();
            let leaving: Vec<_> = life.controllers.values().filter(|entry| entry.is_of(source)).cloned().collect();
            life.leave(&leaving);
            let Life { factories, configs, .. } = &mut *life;
            let gone = factories.remove(source);
            let mut changes = Changes::default();
            configs.source_gone(source, factories, &mut changes);
            (gone, leaving, changes)
        };
        drop(gone);
        self.dismiss(&leaving);
        self.carry_out(changes);
        self.wait_closed(leaving).await
    }
}

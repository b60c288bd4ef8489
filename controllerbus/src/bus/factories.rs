//! Which factories are there for a config ID: static ones and those of loaded plugins.

use std::sync::Arc;

use semver::{Version, VersionReq};

use super::Source;
use crate::controller::Info;
use crate::controller::factory::Factory;

/// The factories that the bus knows.
#[derive(Default)]
pub(super) struct Factories {
    known: Vec<Known>,
}

struct Known {
    source: Source,
    info: Info,
    factory: Arc<dyn Factory>,
}

impl Factories {
    pub(super) fn add(&mut self, source: Source, factories: Vec<Arc<dyn Factory>>) {
        self.known.extend(factories.into_iter().map(|factory| Known { source, info: factory.info(), factory }));
    }

    /// Takes a source's factories; the caller drops them without the lock.
    pub(super) fn remove(&mut self, source: Source) -> Vec<Arc<dyn Factory>> {
        let (gone, stay): (Vec<_>, Vec<_>) = self.known.drain(..).partition(|known| known.source == source);
        self.known = stay;
        gone.into_iter().map(|known| known.factory).collect()
    }

    /// The factory of a config ID: the highest version in the range, and of equal ones the one added last.
    pub(super) fn find(
        &self,
        config_id: &str,
        version: Option<&VersionReq>,
    ) -> Option<(Source, Info, Arc<dyn Factory>)> {
        let candidates = self.known.iter().filter(|known| {
            known.info.config_id == config_id && version.is_none_or(|range| range.matches(&known.info.version))
        });
        let best = candidates.max_by(|a, b| a.info.version.cmp(&b.info.version))?;
        Some((best.source, best.info.clone(), Arc::clone(&best.factory)))
    }

    /// The versions of a config ID's factories, the highest first.
    pub(super) fn versions(&self, config_id: &str) -> Vec<Version> {
        let known = self.known.iter().filter(|known| known.info.config_id == config_id);
        let mut versions: Vec<_> = known.map(|known| known.info.version.clone()).collect();
        versions.sort_by(|a, b| b.cmp(a));
        versions.dedup();
        versions
    }

    /// Every factory, with where it comes from.
    pub(super) fn all(&self) -> impl Iterator<Item = (Source, &Arc<dyn Factory>)> {
        self.known.iter().map(|known| (known.source, &known.factory))
    }

    pub(super) fn config_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.known.iter().map(|known| known.info.config_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    }
}

//! The steps of a plugin's rollouts in a store, in a row: step n + 1 is written only where there is none, so that two writers
//! cannot both win, and whoever loses reads again.

use crate::error::Result;
use crate::link::Link;
use crate::store::{Numbered, Store, name, part};

/// The folder of the rollouts.
const FOLDER: &str = "rollouts";

/// The steps of a plugin's rollouts.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    plugin: String,
    row: Numbered,
}

impl Chain {
    pub(crate) fn new(store: &Store, plugin: &str) -> Self {
        let row = Numbered::new(store, format!("{FOLDER}/{}", part(plugin)), ".json");
        Self { plugin: plugin.to_owned(), row }
    }

    /// The plugins that have rollouts.
    pub(crate) async fn plugins(store: &Store) -> Result<Vec<String>> {
        Ok(store.folders(FOLDER).await?.iter().filter_map(|folder| name(folder)).collect())
    }

    /// The newest step after `known`; `None` if there is none. One small request where nothing is new.
    pub(crate) async fn newest(&self, known: u64) -> Result<Option<Link>> {
        let found = self.row.newest(known).await?;
        found.map(|(number, bytes)| Link::read(&self.plugin, number, &bytes)).transpose()
    }

    /// Writes a step. False if somebody else has written one with this number: read again.
    pub(crate) async fn append(&self, link: &Link) -> Result<bool> {
        self.row.create(link.number, link).await
    }

    /// All steps after `above`, those that can be read.
    pub(crate) async fn all(&self, above: u64) -> Result<Vec<Link>> {
        let mut all = Vec::new();
        for number in self.row.numbers(above).await? {
            let Some(bytes) = self.row.read(number).await? else { continue };
            match Link::read(&self.plugin, number, &bytes) {
                Ok(link) => all.push(link),
                Err(error) => tracing::warn!(%error, "a step is left out"),
            }
        }
        Ok(all)
    }
}

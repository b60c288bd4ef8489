//! Keyed controller configs with revisions, from YAML or JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
use crate::{Config, Error, Result};

/// Controller configs by key.
///
/// ```
/// let set = controllerbus::ConfigSet::from_yaml(
///     "my-greeter:\n  id: example/greeter\n  revision: 1\n  config: { greeting: Hello }\n",
/// )?;
/// assert_eq!(set.get("my-greeter").map(|entry| entry.revision), Some(1));
/// # Ok::<(), controllerbus::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigSet {
    entries: BTreeMap<String, Entry>,
}

/// One controller's config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The config ID.
    pub id: String,
    /// The higher revision of a key wins.
    #[serde(default)]
    pub revision: u64,
    /// The config itself.
    #[serde(default = "empty")]
    pub config: serde_json::Value,
}

fn empty() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

impl ConfigSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a set from YAML.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the line and the column.
    pub fn from_yaml(text: &str) -> Result<Self> {
        serde_saphyr::from_str(text).map_err(|error| Error::new(ErrorKind::Invalid, format!("config set: {error}")))
    }

    /// Reads a set from JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the line and the column.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::new(ErrorKind::Invalid, format!("config set: {error}")))
    }

    /// Adds a typed config, replacing the key's.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`] when it does not serialize.
    pub fn insert<C: Config>(&mut self, key: impl Into<String>, revision: u64, config: &C) -> Result<()> {
        let config = serde_json::to_value(config)
            .map_err(|error| Error::new(ErrorKind::Encoding, format!("config {}: {error}", C::ID)))?;
        self.entries.insert(key.into(), Entry { id: C::ID.to_owned(), revision, config });
        Ok(())
    }

    /// Takes another set's entries in; of a key that both have the higher revision wins, and this set's on a tie.
    pub fn merge(&mut self, other: Self) {
        for (key, entry) in other.entries {
            match self.entries.get(&key) {
                Some(own) if own.revision >= entry.revision => {}
                _ => {
                    self.entries.insert(key, entry);
                }
            }
        }
    }

    /// A key's entry.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (String, Entry)> {
        self.entries.into_iter()
    }
}

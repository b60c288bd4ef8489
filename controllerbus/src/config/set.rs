//! Keyed controller configs with revisions, from YAML or JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::origin::{Origin, Place};
use crate::error::{Code, ErrorKind, Location};
use crate::{BusError, Config, Error, Result, Retry};

/// Controller configs by key.
///
/// It is read from JSON, and from YAML with the feature `yaml`, which is on by default. Plugins need no YAML, because their
/// host reads the config files.
///
/// ```
/// let set = controllerbus::ConfigSet::from_yaml(
///     "my-greeter:\n  id: example/greeter\n  revision: 1\n  config: { greeting: Hello }\n",
/// )?;
/// assert_eq!(set.get("my-greeter").map(|entry| entry.revision), Some(1));
/// # Ok::<(), controllerbus::BusError>(())
/// ```
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigSet {
    entries: BTreeMap<String, Entry>,
    /// Where the entries were read from.
    #[serde(skip)]
    places: BTreeMap<String, Place>,
}

impl PartialEq for ConfigSet {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl fmt::Debug for ConfigSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.entries).finish()
    }
}

/// One controller's config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Entry {
    /// The config ID.
    pub id: String,
    /// Which versions of the controller are accepted, such as `^1.2`; any if it is not given. The highest one that there is when
    /// the controller is made is used; see [`Entry::supersede`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<semver::VersionReq>,
    /// Of several entries for a key the one with the highest revision wins. A text may say `rev`, too.
    #[serde(default, alias = "rev", skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// Whether a factory of a higher version that comes later takes over from the running controller, as if the config had
    /// changed: the running one serves until the new one runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supersede: bool,
    /// How often the controller, its execution and its resolvers are tried again when they fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The config itself.
    #[serde(default = "empty")]
    pub config: serde_json::Value,
}

impl Entry {
    /// A config of this ID, of revision 0 and for any version.
    pub fn new(id: impl Into<String>, config: serde_json::Value) -> Self {
        Self { id: id.into(), version: None, revision: 0, supersede: false, retry: None, config }
    }

    /// With the versions of the controller that are accepted.
    #[must_use]
    pub fn with_version(self, version: semver::VersionReq) -> Self {
        Self { version: Some(version), ..self }
    }

    /// With a revision.
    #[must_use]
    pub fn with_revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// Lets a factory of a higher version that comes later take over from the running controller.
    #[must_use]
    pub fn with_supersede(self) -> Self {
        Self { supersede: true, ..self }
    }

    /// With how often the controller, its execution and its resolvers are tried again.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry: Some(retry), ..self }
    }

    /// Reads a single entry from YAML.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the line and the column.
    #[cfg(feature = "yaml")]
    pub fn from_yaml(text: &str) -> Result<Self, BusError> {
        let read =
            super::yaml::read(text).map_err(|(place, message)| invalid("config", None, text, place, &message))?;
        Ok(read.ok_or_else(|| invalid("config", None, text, Some((1, 1)), "missing field `id`"))?)
    }

    /// Reads a single entry from JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the line and the column.
    pub fn from_json(text: &str) -> Result<Self, BusError> {
        Ok(json("config", None, text)?)
    }

    /// The entry as YAML, which reads back equal.
    pub fn to_yaml(&self) -> String {
        super::write::entry(&self.fields())
    }

    /// The entry as JSON, which reads back equal.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.value())
    }

    fn value(&self) -> serde_json::Value {
        self.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What is written: all that is not the default, and the config.
    fn fields(&self) -> super::write::Fields {
        let mut fields = vec![("id", self.id.clone().into())];
        if let Some(version) = &self.version {
            fields.push(("version", version.to_string().into()));
        }
        if self.revision > 0 {
            fields.push(("revision", self.revision.into()));
        }
        if self.supersede {
            fields.push(("supersede", true.into()));
        }
        if let Some(retry) = &self.retry {
            fields.push(("retry", serde_json::to_value(retry).unwrap_or_default()));
        }
        fields.push(("config", self.config.clone()));
        fields
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(revision: &u64) -> bool {
    *revision == 0
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
    #[cfg(feature = "yaml")]
    pub fn from_yaml(text: &str) -> Result<Self, BusError> {
        Ok(Self::yaml(None, text)?)
    }

    /// Reads a set from JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the line and the column.
    pub fn from_json(text: &str) -> Result<Self, BusError> {
        Ok(Self::json(None, text)?)
    }

    /// Reads a set from a file: JSON if its name ends in `.json`, YAML otherwise. Blocks.
    ///
    /// Without the feature `yaml` every file has to be JSON.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the file cannot be read, [`ErrorKind::Invalid`] with the file, the line and the
    /// column.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, BusError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::new(ErrorKind::NotFound, format!("cannot read the config set {name}: {error}")))?;
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        Ok(if json { Self::json(Some(&name), &text) } else { Self::yaml(Some(&name), &text) }?)
    }

    /// Reads a set from a text that came from a file, as [`ConfigSet::read`] does; `name` is shown in its errors.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the name, the line and the column.
    pub fn parse(name: &str, text: &str) -> Result<Self, BusError> {
        Ok(if name.ends_with(".json") { Self::json(Some(name), text) } else { Self::yaml(Some(name), text) }?)
    }

    /// Reads a set from YAML, or from JSON where the feature `yaml` is off.
    pub(crate) fn from_text(text: &str) -> Result<Self> {
        Self::yaml(None, text)
    }

    fn yaml(file: Option<&str>, text: &str) -> Result<Self> {
        match super::yaml::read::<Self>(text) {
            Ok(set) => Ok(set.unwrap_or_default().placed(file, text)),
            Err((place, message)) => Err(invalid("config set", file, text, place, &message)),
        }
    }

    fn json(file: Option<&str>, text: &str) -> Result<Self> {
        Ok(json::<Self>("config set", file, text)?.placed(file, text))
    }

    /// The set as YAML, ordered by key. It reads back equal; comments are not kept.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// let set = ConfigSet::from_json(r#"{"door": {"id": "house/door", "config": {"code": "007"}}}"#)?;
    /// assert_eq!(set.to_yaml(), "door:\n  id: house/door\n  config:\n    code: \"007\"\n");
    /// # Ok::<(), BusError>(())
    /// ```
    pub fn to_yaml(&self) -> String {
        super::write::entries(self.iter().map(|(key, entry)| (key, entry.fields())))
    }

    /// The set as JSON, ordered by key. It reads back equal.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.value())
    }

    fn value(&self) -> serde_json::Value {
        self.entries.iter().map(|(key, entry)| (key.clone(), entry.value())).collect()
    }

    fn placed(mut self, file: Option<&str>, text: &str) -> Self {
        let origin = Origin::new(file, text);
        self.places = self.entries.keys().map(|key| (key.clone(), Place::new(&origin, key))).collect();
        self
    }

    /// Adds a typed config, in place of the key's.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`] when the config cannot be serialized.
    pub fn insert<C: Config>(&mut self, key: impl Into<String>, revision: u64, config: &C) -> Result<(), BusError> {
        let config = serde_json::to_value(config)
            .map_err(|error| Error::new(ErrorKind::Encoding, format!("config {}: {error}", C::ID)))?;
        self.set(key, Entry { revision, ..Entry::new(C::ID, config) });
        Ok(())
    }

    /// Adds an entry, in place of the key's.
    pub fn set(&mut self, key: impl Into<String>, entry: Entry) {
        let key = key.into();
        self.places.remove(&key);
        self.entries.insert(key, entry);
    }

    /// Removes a key's entry.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        self.places.remove(key);
        self.entries.remove(key)
    }

    /// Adds another set's entries. Of a key that both have the higher revision wins, and on a tie this set's.
    pub fn merge(&mut self, other: Self) {
        self.take(other, |own, other| own.revision < other.revision);
    }

    /// Adds another set's entries in place of this set's of the same keys, whatever their revisions.
    pub fn overwrite(&mut self, other: Self) {
        self.take(other, |_, _| true);
    }

    fn take(&mut self, mut other: Self, wins: impl Fn(&Entry, &Entry) -> bool) {
        for (key, entry) in other.entries {
            if self.entries.get(&key).is_none_or(|own| wins(own, &entry)) {
                match other.places.remove(&key) {
                    Some(place) => self.places.insert(key.clone(), place),
                    None => self.places.remove(&key),
                };
                self.entries.insert(key, entry);
            }
        }
    }

    /// A key's entry.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entries, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// The place of a key's config ID in the text that the set was read from.
    pub fn location(&self, key: &str) -> Option<Location> {
        self.places.get(key)?.id()
    }

    /// The place of a part of a key's config, such as `doors[0].width`, in the text that the set was read from; or of the
    /// nearest part around it.
    pub fn location_in(&self, key: &str, path: &str) -> Option<Location> {
        self.places.get(key)?.config(path)
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (String, Entry, Option<Place>)> {
        let mut places = self.places;
        self.entries.into_iter().map(move |(key, entry)| {
            let place = places.remove(&key);
            (key, entry, place)
        })
    }
}

fn json<T: serde::de::DeserializeOwned>(what: &str, file: Option<&str>, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let place = (error.line() as u64, error.column() as u64);
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        invalid(what, file, text, Some(place), message)
    })
}

/// The keys that an entry has only in a set that is published to a fleet.
const OF_A_FLEET: [&str; 4] = ["on", "count", "spread", "exclusive"];

fn invalid(what: &str, file: Option<&str>, text: &str, place: Option<(u64, u64)>, message: &str) -> Error {
    let of_a_fleet = OF_A_FLEET.iter().find(|key| message.starts_with(&format!("unknown field `{key}`")));
    let message = match of_a_fleet {
        Some(key) => &format!(
            "`{key}` says on which hosts of a fleet an entry runs, and this set is for one bus; publish the set to the fleet, or \
             leave `{key}` out"
        ),
        None => message,
    };
    let error = Error::new(ErrorKind::Invalid, format!("{what}: {message}")).with_code(Code::CONFIG_SYNTAX);
    match place {
        Some((line, column)) => error.at(Origin::new(file, text).at(line, column)),
        None => error.context(file.unwrap_or("the text")),
    }
}

//! Where a config came from: the place in its file of each key, so that errors can point at it.

use std::sync::Arc;

use super::yaml::Places;
use crate::error::Location;

/// The text that a config set was read from.
pub(crate) struct Origin {
    file: Option<Arc<str>>,
    places: Places,
}

/// A key of a config set in its text.
#[derive(Clone)]
pub(crate) struct Place {
    origin: Arc<Origin>,
    key: String,
}

impl Place {
    pub(crate) fn new(origin: &Arc<Origin>, key: &str) -> Self {
        Self { origin: Arc::clone(origin), key: key.to_owned() }
    }

    /// The place of the config ID.
    pub(crate) fn id(&self) -> Option<Location> {
        self.origin.locate(&[self.key.as_str(), "id"])
    }

    /// The place of the part of the config at `path`, such as `doors[0].width`; or of the nearest part around it.
    pub(crate) fn config(&self, path: &str) -> Option<Location> {
        let mut parts = vec![self.key.as_str(), "config"];
        parts.extend(path.split(['.', '[', ']']).filter(|part| !part.is_empty() && *part != "?"));
        self.origin.locate(&parts)
    }
}

impl Origin {
    /// Finds the places in a text that is known to be a config set.
    pub(crate) fn new(file: Option<&str>, text: &str) -> Arc<Self> {
        Arc::new(Self { file: file.map(Arc::from), places: Places::of(text) })
    }

    fn locate(&self, path: &[&str]) -> Option<Location> {
        self.places.find(path).map(|(line, column)| self.at(line, column))
    }

    pub(crate) fn at(&self, line: u64, column: u64) -> Location {
        Location { file: self.file.as_deref().map(str::to_owned), line, column }
    }
}

//! What the macros leave in this binary's or library's link sections: its factories and directive types.

use std::sync::Arc;
use std::time::Duration;

use crate::Controller;
use crate::controller::factory::{Factory, FactoryOf};
use crate::controller::{Info, SwapMode};
use crate::directive::DirectiveType;

/// Every directive type; filled by `#[derive(Directive)]`.
#[linkme::distributed_slice]
pub static DIRECTIVE_TYPES: [&'static DirectiveType];

/// Every `#[hot_plugin]`.
#[linkme::distributed_slice]
pub static FACTORIES: [FactoryEntry];

/// One `#[hot_plugin]`, as an element of the slice.
pub struct FactoryEntry {
    /// The plugin id.
    pub id: &'static str,
    /// The plugin's version, which the attribute has checked to be semver.
    pub version: &'static str,
    /// One line about the controller.
    pub description: &'static str,
    /// The config ID.
    pub config_id: &'static str,
    /// How its controllers replace others.
    pub swap: SwapMode,
    /// Whether it runs without a config set that says so, because it has functions.
    pub starts: bool,
    /// How often its controllers' states are kept, in milliseconds; 0 if they are not.
    pub persist_ms: u64,
    /// The manifest record. This reference keeps the linker from dropping its section.
    pub record: &'static [u8],
    /// Makes the factory.
    pub factory: fn(&'static FactoryEntry) -> Arc<dyn Factory>,
}

impl std::fmt::Debug for FactoryEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FactoryEntry")
            .field("id", &self.id)
            .field("version", &self.version)
            .field("config_id", &self.config_id)
            .field("swap", &self.swap)
            .finish_non_exhaustive()
    }
}

impl FactoryEntry {
    /// The factory of this entry.
    pub fn factory(&'static self) -> Arc<dyn Factory> {
        (self.factory)(self)
    }

    pub(crate) fn persist(&self) -> Option<Duration> {
        (self.persist_ms > 0).then(|| Duration::from_millis(self.persist_ms))
    }

    pub(crate) fn info(&self) -> Info {
        Info {
            id: self.id.to_owned(),
            version: self.version.parse().unwrap_or(semver::Version::new(0, 0, 0)),
            description: self.description.to_owned(),
            config_id: self.config_id.to_owned(),
            value_types: Vec::new(),
        }
    }
}

/// The factory of a [`Controller`] type for an entry of the slice.
pub fn factory_of<C: Controller>(entry: &'static FactoryEntry) -> Arc<dyn Factory> {
    FactoryOf::<C>::linked(entry)
}

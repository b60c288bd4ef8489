//! Configs: what a controller is made from, and keyed sets of them.

pub(crate) mod nearest;
mod none;
pub(crate) mod origin;
pub(crate) mod probe;
pub mod schema;
pub(crate) mod secret;
mod set;
pub(crate) mod unknown;
mod write;
#[cfg(feature = "yaml")]
mod yaml;
#[cfg(not(feature = "yaml"))]
#[path = "without_yaml.rs"]
mod yaml;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;

pub use none::NoConfig;
pub use schema::Schema;
pub use set::{ConfigSet, Entry};

/// Why a text could not be read: its line and column, where they are known, and what is wrong.
type Unreadable = (Option<(u64, u64)>, String);

/// The config of one kind of controller.
///
/// Derive it: `#[derive(Config, Serialize, Deserialize, PartialEq)]` with `#[config(id = "example/greeter")]`.
pub trait Config: Serialize + DeserializeOwned + PartialEq + Send + Sync + Sized + 'static {
    /// The name by which a factory is found, such as `example/greeter`.
    const ID: &'static str;

    /// The JSON schema, which the derive makes from the fields; [`schema::Node::to_json`] gives its text.
    const SCHEMA: &'static schema::Node = &schema::Node::Any;

    /// Rejects a config that makes no sense, before a controller is constructed from it.
    ///
    /// # Errors
    /// Says what is wrong with the config.
    fn validate(&self) -> Result<()> {
        Ok(())
    }
}

//! A directive as it passes through the plugin host: encoded by one side, decoded by the other.

use std::any::Any;
use std::hash::Hasher;

use controllerbus::Result;
use controllerbus::directive::{AnyDirective, DirectiveType, Options};

/// Its id and its bytes.
pub(super) struct Passed {
    pub(super) id: String,
    pub(super) bytes: Vec<u8>,
}

impl AnyDirective for Passed {
    fn id(&self) -> &str {
        &self.id
    }
    fn directive_type(&self) -> Option<&'static DirectiveType> {
        None
    }
    fn hash_key(&self, hasher: &mut dyn Hasher) {
        hasher.write(&self.bytes);
    }
    fn same_key(&self, other: &dyn AnyDirective) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self.id == other.id && self.bytes == other.bytes)
    }
    fn options(&self) -> Options {
        Options::default()
    }
    fn validate(&self) -> Result<()> {
        Ok(())
    }
    fn supersedes(&self, _: &dyn AnyDirective) -> bool {
        false
    }
    fn encode(&self) -> Result<Vec<u8>> {
        Ok(self.bytes.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

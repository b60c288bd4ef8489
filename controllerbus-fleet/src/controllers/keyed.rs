//! A directive with what keeps it apart on this host, for a host that is asked it.

use std::any::Any;
use std::hash::Hasher;
use std::sync::Arc;

use controllerbus::Result;
use controllerbus::bus::Source;
use controllerbus::directive::{AnyDirective, DirectiveType, Options, ValueSink};

/// A directive that supersedes, and what keeps it apart from those of other buses of this process, which are one host's to others.
struct Keyed {
    directive: Arc<dyn AnyDirective>,
    key: u64,
}

/// A directive as it is to be passed on for whoever asks it here.
pub(super) fn keyed(directive: Arc<dyn AnyDirective>, asked: &dyn ValueSink) -> Arc<dyn AnyDirective> {
    match asked.origin().key() {
        0 => directive,
        key => Arc::new(Keyed { directive, key }),
    }
}

impl AnyDirective for Keyed {
    fn id(&self) -> &str {
        self.directive.id()
    }
    fn directive_type(&self) -> Option<&'static DirectiveType> {
        self.directive.directive_type()
    }
    fn hash_key(&self, hasher: &mut dyn Hasher) {
        self.directive.hash_key(hasher);
    }
    fn same_key(&self, other: &dyn AnyDirective) -> bool {
        self.directive.same_key(other)
    }
    fn name(&self) -> String {
        self.directive.name()
    }
    fn debug_values(&self) -> Vec<(String, String)> {
        self.directive.debug_values()
    }
    fn options(&self) -> Options {
        self.directive.options()
    }
    fn validate(&self) -> Result<()> {
        self.directive.validate()
    }
    fn encode_key(&self) -> Option<Vec<u8>> {
        self.directive.encode_key()
    }
    fn confined_to(&self) -> Option<Source> {
        self.directive.confined_to()
    }
    fn origin_key(&self) -> u64 {
        self.key
    }
    fn encode(&self) -> Result<Vec<u8>> {
        self.directive.encode()
    }
    fn as_any(&self) -> &dyn Any {
        self.directive.as_any()
    }
}

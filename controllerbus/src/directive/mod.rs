//! Directives: requests for a state of the world, and the types that carry them.

mod request;
mod values;
pub mod wire;

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use request::{Event, RawEvent, RawRequest, Request};
pub use values::{AnyValue, Held, Slot, ValueId, ValueSink, Values};

use crate::{Result, error::ErrorKind};

/// A request for a state of the world. Equal directives (`Hash` and `Eq`) are merged into one.
///
/// Derive it: `#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]` with
/// `#[directive(id = "example/greet", value = Greeting)]`.
pub trait Directive: Serialize + DeserializeOwned + Hash + Eq + Send + Sync + Sized + 'static {
    /// What satisfies the directive.
    type Value: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The name that controllers route by, such as `example/greet`. The same in every process and plugin.
    const ID: &'static str;

    /// A copy of the directive, for a resolver to own.
    fn duplicate(&self) -> Self;

    /// Refuses a directive that makes no sense before any controller sees it.
    ///
    /// # Errors
    /// Says what is wrong with the directive; the requester gets it.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// What the directive is called where a person reads of it.
    fn name(&self) -> String {
        Self::ID.to_owned()
    }

    /// What tells it from others of its type, where a person reads of it; its fields, unless that is changed.
    fn debug_values(&self) -> Vec<(String, String)> {
        wire::encode(self).map(|bytes| wire::fields(&bytes)).unwrap_or_default()
    }

    /// How the bus keeps the directive.
    fn options(&self) -> Options {
        Options::default()
    }

    /// Whether this directive replaces a standing one that is not equal to it.
    fn supersedes(&self, _standing: &Self) -> bool {
        false
    }
}

/// How the bus keeps a standing directive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The largest number of values; `None` is no limit.
    pub max_values: Option<usize>,
    /// With a hard cap, values above `max_values` are refused; otherwise resolvers are just told to stop.
    pub hard_cap: bool,
    /// How long the directive stands on when nobody refers to it.
    pub keep_for: Duration,
    /// Whether an unreferenced directive without values goes at once, whatever `keep_for` says.
    pub drop_if_empty: bool,
}

/// A directive whose type is known only at run time. Implemented for every [`Directive`].
pub trait AnyDirective: Send + Sync + 'static {
    /// [`Directive::ID`].
    fn id(&self) -> &str;
    /// The type's functions, where this process knows the type.
    fn directive_type(&self) -> Option<&'static DirectiveType>;
    /// Feeds the directive's key to a hasher.
    fn hash_key(&self, hasher: &mut dyn Hasher);
    /// Whether both are the same directive.
    fn same_key(&self, other: &dyn AnyDirective) -> bool;
    /// [`Directive::name`].
    fn name(&self) -> String;
    /// [`Directive::debug_values`].
    fn debug_values(&self) -> Vec<(String, String)>;
    /// [`Directive::options`].
    fn options(&self) -> Options;
    /// [`Directive::validate`].
    ///
    /// # Errors
    /// What the directive finds wrong with itself.
    fn validate(&self) -> Result<()>;
    /// [`Directive::supersedes`], false for another type.
    fn supersedes(&self, standing: &dyn AnyDirective) -> bool;
    /// The directive in the boundary's encoding.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`] when `Serialize` fails.
    fn encode(&self) -> Result<Vec<u8>>;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
}

impl<D: Directive> AnyDirective for D {
    fn id(&self) -> &str {
        D::ID
    }
    fn directive_type(&self) -> Option<&'static DirectiveType> {
        Some(DirectiveType::of::<D>())
    }
    fn hash_key(&self, mut hasher: &mut dyn Hasher) {
        self.hash(&mut hasher);
    }
    fn same_key(&self, other: &dyn AnyDirective) -> bool {
        other.as_any().downcast_ref::<D>().is_some_and(|other| self == other)
    }
    fn name(&self) -> String {
        Directive::name(self)
    }
    fn debug_values(&self) -> Vec<(String, String)> {
        Directive::debug_values(self)
    }
    fn options(&self) -> Options {
        Directive::options(self)
    }
    fn validate(&self) -> Result<()> {
        Directive::validate(self)
    }
    fn supersedes(&self, standing: &dyn AnyDirective) -> bool {
        standing.as_any().downcast_ref::<D>().is_some_and(|standing| Directive::supersedes(self, standing))
    }
    fn encode(&self) -> Result<Vec<u8>> {
        wire::encode(self)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A directive of a type that this process does not know, merged by its encoded bytes.
pub struct OpaqueDirective {
    id: String,
    bytes: Vec<u8>,
}

impl OpaqueDirective {
    /// A directive that is only passed on, by its id and its bytes in the boundary's encoding.
    pub fn new(id: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { id: id.into(), bytes }
    }
}

impl AnyDirective for OpaqueDirective {
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
    fn name(&self) -> String {
        self.id.clone()
    }
    fn debug_values(&self) -> Vec<(String, String)> {
        wire::fields(&self.bytes)
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

/// The functions of one directive type, for code that meets it only by its id.
pub struct DirectiveType {
    /// [`Directive::ID`].
    pub id: &'static str,
    /// The Rust type's name, for messages.
    pub type_name: fn() -> &'static str,
    decode: fn(&[u8]) -> Result<Arc<dyn AnyDirective>>,
}

/// Every directive type linked into this binary or plugin; filled by `#[derive(Directive)]`.
#[linkme::distributed_slice]
pub static DIRECTIVE_TYPES: [&'static DirectiveType];

impl DirectiveType {
    /// The functions of `D`.
    pub const fn of<D: Directive>() -> &'static Self {
        const {
            &Self {
                id: D::ID,
                type_name: std::any::type_name::<D>,
                decode: |bytes| Ok(Arc::new(wire::decode::<D>(bytes)?)),
            }
        }
    }

    /// The directive type with this id, if it is linked into this binary.
    pub fn find(id: &str) -> Option<&'static Self> {
        use std::collections::HashMap;
        static BY_ID: once_cell::sync::Lazy<HashMap<&'static str, &'static DirectiveType>> =
            once_cell::sync::Lazy::new(|| DIRECTIVE_TYPES.iter().map(|kind| (kind.id, *kind)).collect());
        BY_ID.get(id).copied()
    }

    /// A directive from the boundary's encoding: typed where the type is known, opaque otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`], with the type and the field, when the bytes do not fit the type.
    pub fn decode(id: &str, bytes: &[u8]) -> Result<Arc<dyn AnyDirective>> {
        match Self::find(id) {
            Some(kind) => (kind.decode)(bytes),
            None => Ok(Arc::new(OpaqueDirective { id: id.to_owned(), bytes: bytes.to_vec() })),
        }
    }
}

pub(crate) fn wrong_type(expected: &str) -> crate::Error {
    crate::Error::new(ErrorKind::Encoding, format!("the value is not a `{expected}`"))
}

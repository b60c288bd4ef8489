//! Directives: requests for a state of the world, and the types that carry them.

mod declaration;
mod helpers;
mod latest;
mod referred;
mod relay;
mod request;
mod shared;
mod values;
mod wait;
pub mod wire;

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use declaration::Declaration;
pub use helpers::{Child, Keyed, Mapped};
pub use latest::Latest;
pub(crate) use referred::Referred;
#[doc(hidden)]
pub use referred::{ReadFrom, Reference};
pub use relay::Relay;
pub(crate) use request::superseded;
pub use request::{Event, RawEvent, RawRequest, Request};
pub use shared::{Shared, SharedMap};
pub use values::{AnyValue, Held, Slot, ValueId, ValueSink, Values};
pub use wait::{Verdict, Wait};

use crate::bus::Source;
use crate::config::schema::Node;
use crate::linked::DIRECTIVE_TYPES;
use crate::{BusError, Error, Result, error::ErrorKind};

/// A request for a state of the world. Equal directives (`Hash` and `Eq`) are merged into one, unless they are
/// [unmerged](Options::unmerged).
///
/// Derive it; [the derive](macro@crate::Directive) has options for how the bus keeps it.
///
/// ```
/// use std::time::Duration;
///
/// use controllerbus::prelude::*;
///
/// /// The price of an article, known to one controller, and kept for a minute after it was last asked for.
/// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// #[directive(id = "shop/price", value = Price, max_values = 1, keep_for_ms = 60_000, validate = Self::check)]
/// struct GetPrice { article: String }
///
/// #[derive(Serialize, Deserialize)]
/// struct Price { cents: u64 }
///
/// impl GetPrice {
///     fn check(&self) -> Result<()> {
///         if self.article.is_empty() { Err(Error::msg("which article?")) } else { Ok(()) }
///     }
/// }
///
/// assert_eq!(GetPrice::ID, "shop/price");
/// let directive = GetPrice { article: String::new() };
/// assert_eq!(directive.options().max_values, Some(1));
/// assert_eq!(directive.options().keep_for, Duration::from_secs(60));
/// assert!(Bus::new().request(directive).is_err());
/// ```
pub trait Directive: Serialize + DeserializeOwned + Hash + Eq + Send + Sync + Sized + 'static {
    /// What satisfies the directive. The derive demands that it serializes, unless the directive is [local](Directive::LOCAL).
    type Value: Send + Sync + 'static;

    /// The name that controllers route by, such as `example/greet`. The same in every process and plugin.
    const ID: &'static str;

    /// The JSON schema of its fields, which the derive makes from them: tools read it in a plugin file, and make forms of it.
    const SCHEMA: &'static Node = &Node::Any;

    /// Whether it is a call, as [`Options::once`] says for each one: what a plugin's manifest has of it.
    const ONCE: bool = false;

    /// Whether its values are live objects, of any type, for the controllers of one library: the host's binary, or one generation
    /// of one plugin.
    ///
    /// Nothing of a value is encoded: whoever asks gets the very object. So directives of different libraries are kept apart, even
    /// if they are equal, and so are those of two generations: after a swap the new generation's controllers have asked, and
    /// answered, anew. A host that asks for what only a plugin answers, or the other way round, gets an error that says so; use an
    /// [`Interface`](crate::Interface) for objects that cross. A value that stands keeps its generation loaded. In a plugin that
    /// runs in a process of its own they are objects of that process.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use controllerbus::prelude::*;
    ///
    /// trait Store: Send + Sync {
    ///     fn get(&self, key: &str) -> Option<String>;
    /// }
    ///
    /// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// #[directive(id = "example/store", value = Arc<dyn Store>, local)]
    /// struct OpenStore { name: String }
    ///
    /// # struct Nothing;
    /// # impl Store for Nothing {
    /// #     fn get(&self, _: &str) -> Option<String> { None }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let bus = Bus::new();
    /// # let stores = controllerbus::controller::Closures::new().resolves(|_: OpenStore, values| async move {
    /// #     values.add(Arc::new(Nothing));
    /// #     Ok(())
    /// # });
    /// # let info = controllerbus::controller::Info::new("stores", "1.0.0".parse()?, "stores");
    /// # bus.add_controller(Arc::new(stores), info);
    /// let store = bus.resolve(OpenStore { name: "users".into() }).await?;
    /// assert_eq!(store.get("Ada"), None);
    /// # Ok(())
    /// # }
    /// ```
    const LOCAL: bool = false;

    /// What its own code says of it. Written by the derive.
    #[doc(hidden)]
    const DECLARATION: Declaration = Declaration::UNKNOWN;

    /// A value on its way over the bus. Written by the derive.
    #[doc(hidden)]
    fn pack(value: Self::Value) -> AnyValue;

    /// A value that has come over the bus. Written by the derive.
    #[doc(hidden)]
    fn unpack(value: &AnyValue) -> Result<Arc<Self::Value>>;

    /// A copy of the directive, for a resolver to own.
    fn duplicate(&self) -> Self;

    /// Rejects a directive that makes no sense before any controller sees it.
    ///
    /// # Errors
    /// Says what is wrong with the directive; the requester gets it.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The directive's name for people.
    fn name(&self) -> String {
        Self::ID.to_owned()
    }

    /// What distinguishes it from others of its type, for people: its fields, by default.
    fn debug_values(&self) -> Vec<(String, String)> {
        wire::encode(self).map(|bytes| wire::fields(&bytes)).unwrap_or_default()
    }

    /// How the bus keeps the directive.
    fn options(&self) -> Options {
        Options::default()
    }

    /// Feeds what makes directives equivalent to a hasher: all of it, unless `#[directive(key = ...)]` names fields.
    fn key_hash(&self, mut hasher: &mut dyn Hasher) {
        self.hash(&mut hasher);
    }

    /// Whether both are equivalent, and so merged into one.
    fn key_eq(&self, other: &Self) -> bool {
        self == other
    }

    /// The named key fields in the boundary's encoding; `None` if all of it is the key.
    fn encode_key(&self) -> Option<Vec<u8>> {
        None
    }
}

/// A route with this id is for directives of every type; [`crate::controller::AnyController::resolve`] then says which
/// it wants. For controllers that pass directives on. It costs each directive a call.
pub const ANY_DIRECTIVE: &str = "*";

/// Called once when a value or a resolver is gone.
pub type Callback = Box<dyn FnOnce() + Send>;

/// Whether a directive replaces an equivalent one that stands, whose requests then end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Supersede {
    /// No: the standing one is shared.
    #[default]
    Never,
    /// Yes: the newest one stands.
    Always,
    /// If its revision is higher.
    Revision(u64),
}

impl Supersede {
    /// Whether a directive with this setting replaces a standing one with that.
    pub fn replaces(&self, standing: &Self) -> bool {
        match (self, standing) {
            (Self::Never, _) => false,
            (Self::Revision(own), Self::Revision(standing)) => own > standing,
            _ => true,
        }
    }
}

/// How the bus keeps a standing directive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Options {
    /// The largest number of values; `None` is no limit.
    pub max_values: Option<usize>,
    /// With a hard cap, values above `max_values` are refused. Either way, while there are as many, the directive counts as
    /// idle, and resolvers without a value are stopped; they are started again when there is room.
    pub hard_cap: bool,
    /// How long the directive is kept without references.
    pub keep_for: Duration,
    /// Whether an unreferenced directive without values goes at once, whatever `keep_for` says.
    pub drop_if_empty: bool,
    /// Whether it replaces an equivalent directive that stands.
    pub supersede: Supersede,
    /// Whether it stands by itself, and is not merged with equivalent ones.
    #[serde(default)]
    pub unmerged: bool,
    /// Whether it is a call: one controller answers it, and only once. No other controller is asked, a failure is not tried
    /// again, and in a swap it stays with the controller that has begun it, for as long as that takes. It stands by itself, as if
    /// it were [`unmerged`](Options::unmerged), so that an equal one is another call.
    #[serde(default)]
    pub once: bool,
    /// How long it may stay with the generation that has begun it: in a swap, the controller that answers it then goes on beside the
    /// new generation, with its values, until the directive ends, the resolver fails, or this time has passed since the switch;
    /// then the new generation answers it, which does not begin it before. A change of the config, a plugin that is unloaded,
    /// `swap = "stop-first"`, and a roll-back of the generation that has begun it end that earlier. What the controller changes
    /// in its state after the switch is not handed over. `None` lets the directive go over in the swap, like any other.
    /// [`once`](Options::once) needs no pin, and takes no notice of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Duration>,
}

impl Options {
    /// With a largest number of values; see [`Options::max_values`].
    #[must_use]
    pub fn with_max_values(self, max: usize) -> Self {
        Self { max_values: Some(max), ..self }
    }

    /// With values above the largest number refused; see [`Options::hard_cap`].
    #[must_use]
    pub fn with_hard_cap(self) -> Self {
        Self { hard_cap: true, ..self }
    }

    /// With a time for which the directive is kept without references.
    #[must_use]
    pub fn with_keep_for(self, time: Duration) -> Self {
        Self { keep_for: time, ..self }
    }

    /// With the directive dropped at once when it is unreferenced and has no values; see [`Options::drop_if_empty`].
    #[must_use]
    pub fn with_drop_if_empty(self) -> Self {
        Self { drop_if_empty: true, ..self }
    }

    /// With whether it replaces an equivalent directive that stands.
    #[must_use]
    pub fn with_supersede(self, supersede: Supersede) -> Self {
        Self { supersede, ..self }
    }

    /// With a directive of its own for each request, even if there is an equivalent one.
    #[must_use]
    pub fn with_unmerged(self) -> Self {
        Self { unmerged: true, ..self }
    }

    /// With a single answer, by the controller that is asked first; see [`Options::once`].
    #[must_use]
    pub fn with_once(self) -> Self {
        Self { once: true, ..self }
    }

    /// With a time for which it may stay with the generation that has begun it; see [`Options::pin`].
    #[must_use]
    pub fn with_pin(self, limit: Duration) -> Self {
        Self { pin: Some(limit), ..self }
    }

    /// Whether it may stay with the controller that has begun it when that is replaced.
    pub(crate) fn stays(&self) -> bool {
        self.once || self.pinned_for().is_some()
    }

    /// How long it stays with the generation that has begun it; not of calls, which stay anyway.
    pub(crate) fn pinned_for(&self) -> Option<Duration> {
        self.pin.filter(|limit| !self.once && !limit.is_zero())
    }
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
    /// What makes it equivalent to others, in the boundary's encoding, where that is not all of it.
    fn encode_key(&self) -> Option<Vec<u8>> {
        None
    }
    /// The library that its values stay in, if it is [local](Directive::LOCAL).
    fn confined_to(&self) -> Option<Source> {
        None
    }
    /// What keeps it apart from equal ones of the same end of a wire, where it supersedes: [`Origin::key`](crate::bus::Origin::key), as
    /// whoever passes it on has found it; 0 for nothing.
    #[doc(hidden)]
    fn origin_key(&self) -> u64 {
        0
    }
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
    fn hash_key(&self, hasher: &mut dyn Hasher) {
        self.key_hash(hasher);
    }
    fn same_key(&self, other: &dyn AnyDirective) -> bool {
        other.as_any().downcast_ref::<D>().is_some_and(|other| self.key_eq(other))
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
    fn encode_key(&self) -> Option<Vec<u8>> {
        Directive::encode_key(self)
    }
    fn confined_to(&self) -> Option<Source> {
        D::LOCAL.then_some(Source::STATIC)
    }
    fn encode(&self) -> Result<Vec<u8>> {
        wire::encode(self)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A directive of a type that this process does not know, merged by its encoded bytes.
#[derive(Clone, Debug)]
pub struct OpaqueDirective {
    id: String,
    bytes: Vec<u8>,
    facts: Facts,
}

/// What a process that does not know a directive's type needs in addition to its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Facts {
    /// [`Directive::options`].
    pub options: Options,
    /// [`AnyDirective::encode_key`].
    pub key: Option<Vec<u8>>,
    /// [`Directive::LOCAL`].
    #[serde(default)]
    pub local: bool,
    /// What keeps it apart from equal ones of the same end, where it supersedes; 0 for nothing. A version that does not know this field
    /// passes it over.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub origin: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_nothing(origin: &u64) -> bool {
    *origin == 0
}

impl Facts {
    /// Those of a directive, encoded; empty if they are the defaults.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`], in theory.
    pub fn encode(directive: &dyn AnyDirective) -> Result<Vec<u8>, BusError> {
        let local = directive.confined_to().is_some();
        let (key, origin) = (directive.encode_key(), directive.origin_key());
        let facts = Self { options: directive.options(), key, local, origin };
        if facts == Self::default() { Ok(Vec::new()) } else { Ok(wire::encode(&facts)?) }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() { Ok(Self::default()) } else { wire::decode(bytes) }
    }
}

impl OpaqueDirective {
    /// A directive that is only passed on: its id, and its bytes in the boundary's encoding.
    pub fn new(id: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { id: id.into(), bytes, facts: Facts::default() }
    }

    /// With options, which its bytes do not say.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.facts.options = options;
        self
    }

    /// What makes it equivalent to others.
    fn key(&self) -> &[u8] {
        self.facts.key.as_deref().unwrap_or(&self.bytes)
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
        hasher.write(self.key());
    }
    fn same_key(&self, other: &dyn AnyDirective) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self.id == other.id && self.key() == other.key())
    }
    fn name(&self) -> String {
        self.id.clone()
    }
    fn debug_values(&self) -> Vec<(String, String)> {
        wire::fields(&self.bytes)
    }
    fn options(&self) -> Options {
        self.facts.options.clone()
    }
    fn validate(&self) -> Result<()> {
        Ok(())
    }
    fn encode_key(&self) -> Option<Vec<u8>> {
        self.facts.key.clone()
    }
    fn confined_to(&self) -> Option<Source> {
        self.facts.local.then_some(Source::STATIC)
    }
    fn encode(&self) -> Result<Vec<u8>> {
        Ok(self.bytes.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A local directive of another library than this process's binary: never the same as one of a different library.
struct Confined {
    directive: Arc<dyn AnyDirective>,
    library: Source,
}

/// A directive as one of a library's, if it is local.
pub(crate) fn confined(directive: Arc<dyn AnyDirective>, library: Source) -> Arc<dyn AnyDirective> {
    if directive.confined_to().is_none() {
        return directive;
    }
    Arc::new(Confined { directive, library })
}

impl AnyDirective for Confined {
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
        let other = other.as_any().downcast_ref::<Self>();
        other.is_some_and(|other| self.library == other.library && self.directive.same_key(&*other.directive))
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
        Some(self.library)
    }
    fn encode(&self) -> Result<Vec<u8>> {
        self.directive.encode()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The functions of one directive type, for code that knows only its id.
pub struct DirectiveType {
    /// [`Directive::ID`].
    pub id: &'static str,
    /// The Rust type's name, for messages.
    pub type_name: fn() -> &'static str,
    /// [`Directive::SCHEMA`].
    pub schema: &'static Node,
    /// [`Directive::LOCAL`].
    pub local: bool,
    /// What its own code says of it.
    pub declaration: Declaration,
    decode: fn(&[u8]) -> Result<Arc<dyn AnyDirective>>,
}

impl std::fmt::Debug for DirectiveType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectiveType")
            .field("id", &self.id)
            .field("type_name", &(self.type_name)())
            .finish_non_exhaustive()
    }
}

impl DirectiveType {
    /// The functions of `D`.
    pub const fn of<D: Directive>() -> &'static Self {
        const {
            &Self {
                id: D::ID,
                type_name: std::any::type_name::<D>,
                schema: D::SCHEMA,
                local: D::LOCAL,
                declaration: D::DECLARATION,
                decode: |bytes| Ok(Arc::new(wire::decode::<D>(bytes)?)),
            }
        }
    }

    /// The directive type with this id, if it is linked into this binary.
    pub fn find(id: &str) -> Option<&'static Self> {
        use std::collections::HashMap;
        static BY_ID: once_cell::sync::Lazy<HashMap<&'static str, &'static DirectiveType>> =
            once_cell::sync::Lazy::new(|| DIRECTIVE_TYPES.iter().map(|kind| (kind.id, *kind)).collect());
        // A plugin has few, and a map in a static would leak when it is unloaded.
        if DIRECTIVE_TYPES.len() <= 16 {
            return DIRECTIVE_TYPES.iter().copied().rfind(|kind| kind.id == id);
        }
        BY_ID.get(id).copied()
    }

    /// A directive from the boundary's encoding: typed where the type is known, opaque otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`], with the type and the field, when the bytes do not fit the type.
    pub fn decode(id: &str, bytes: &[u8]) -> Result<Arc<dyn AnyDirective>, BusError> {
        Self::decode_with(id, bytes, &[])
    }

    /// The same with the directive's [`Facts`], for where the type is not known.
    ///
    /// # Errors
    /// As [`DirectiveType::decode`].
    pub fn decode_with(id: &str, bytes: &[u8], facts: &[u8]) -> Result<Arc<dyn AnyDirective>, BusError> {
        match Self::find(id) {
            Some(kind) => Ok((kind.decode)(bytes)?),
            None => {
                let facts = Facts::decode(facts)?;
                Ok(Arc::new(OpaqueDirective { id: id.to_owned(), bytes: bytes.to_vec(), facts }))
            }
        }
    }
}

/// Refuses a directive that is not valid.
pub(crate) fn check(directive: &dyn AnyDirective) -> Result<()> {
    directive
        .validate()
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("directive {} is not valid: {error}", directive.id())))
}

/// What to do where two sides mean different types by one directive id.
pub(crate) const SHARE: &str =
    "give both types the same fields, or declare the type once, in a crate that both sides depend on";

/// An error of a plugin that could not read a directive, with the type by which it was asked.
pub fn asked_as(error: Error, directive: &dyn AnyDirective) -> Error {
    match directive.directive_type() {
        Some(kind) if error.kind() == ErrorKind::Encoding && error.message().starts_with("cannot decode `") => {
            let what = format!(
                "{}; it was asked as `{}`, which has another shape: {SHARE}",
                error.message(),
                (kind.type_name)()
            );
            Error::new(ErrorKind::Encoding, what)
        }
        _ => error,
    }
}

pub(crate) fn wrong_type(expected: &str) -> crate::Error {
    crate::Error::new(ErrorKind::Encoding, format!("the value is not a `{expected}`"))
}

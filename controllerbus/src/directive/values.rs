//! What a resolver answers with: typed handles over a sink that the bus or a plugin boundary provides.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Callback, Directive, RawRequest, ReadFrom, Request, wire, wrong_type};
use crate::bus::Origin;
use crate::error::ErrorKind;
use crate::plugin::interface::{self, Object};
use crate::{BusError, Error, Result};

/// Identifies a value among those of one directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
pub struct ValueId(pub u64);

/// A value whose type is known only at run time: a native one, or one still in the boundary's encoding.
#[derive(Clone)]
pub struct AnyValue(Repr);

#[derive(Clone)]
enum Repr {
    Native(Arc<dyn Any + Send + Sync>, fn(&(dyn Any + Send + Sync)) -> Result<Vec<u8>>),
    Encoded(Arc<[u8]>, Arc<[Object]>),
    /// A live one of this library, with its type's name.
    Local(Arc<dyn Any + Send + Sync>, &'static str),
}

impl std::fmt::Debug for AnyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Repr::Native(..) => f.write_str("AnyValue(native)"),
            Repr::Encoded(bytes, _) => write!(f, "AnyValue({} bytes)", bytes.len()),
            Repr::Local(_, name) => write!(f, "AnyValue(live {name})"),
        }
    }
}

impl AnyValue {
    /// A value of this process.
    pub fn native<V: Serialize + Send + Sync + 'static>(value: V) -> Self {
        Self(Repr::Native(Arc::new(value), |value| match value.downcast_ref::<V>() {
            Some(value) => wire::encode(value),
            None => Err(wrong_type(std::any::type_name::<V>())),
        }))
    }

    /// A live value of a [local](Directive::LOCAL) directive.
    pub fn local<V: Send + Sync + 'static>(value: V) -> Self {
        Self(Repr::Local(Arc::new(value), std::any::type_name::<V>()))
    }

    /// A value from across a boundary.
    pub fn encoded(bytes: &[u8]) -> Self {
        Self::encoded_with(bytes, Vec::new())
    }

    /// A value from across a boundary, with the objects of the interface values in it.
    pub fn encoded_with(bytes: &[u8], objects: Vec<Object>) -> Self {
        Self(Repr::Encoded(bytes.into(), objects.into()))
    }

    /// The value in the boundary's encoding, for a file or another process, where objects cannot follow.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Encoding`] when `Serialize` fails, or the value contains interface values.
    pub fn encode(&self) -> Result<Cow<'_, [u8]>, BusError> {
        match &self.0 {
            Repr::Encoded(bytes, objects) if objects.is_empty() => Ok(Cow::Borrowed(bytes)),
            Repr::Encoded(..) => Err(BusError::from(Error::new(
                ErrorKind::Encoding,
                "an interface value can cross a bus, but it cannot be serialized or sent to another process",
            ))),
            Repr::Native(value, encode) => Ok(Cow::Owned(encode(&**value)?)),
            Repr::Local(_, name) => Err(stays(name).into()),
        }
    }

    /// The value in the boundary's encoding, and the objects of the interface values in it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Encoding`] when `Serialize` fails.
    pub fn encode_with_objects(&self) -> Result<(Cow<'_, [u8]>, Vec<Object>), BusError> {
        match &self.0 {
            Repr::Encoded(bytes, objects) => Ok((Cow::Borrowed(bytes), objects.to_vec())),
            Repr::Native(value, encode) => {
                let (bytes, objects) = interface::collecting(|| encode(&**value));
                Ok((Cow::Owned(bytes?), objects))
            }
            // To the host and back to the same library: all that crosses is the object.
            Repr::Local(value, name) => Ok((Cow::Borrowed(&[NIL]), vec![Object::live(Arc::clone(value), name)])),
        }
    }

    /// The value as JSON, for tools.
    pub fn to_json(&self) -> serde_json::Value {
        self.encode().map_or_else(|error| error.to_string().into(), |bytes| wire::to_json(&bytes))
    }

    /// The value as a `V`; decoded if it came from across a boundary.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Encoding`] when it is of another type, with the field where it is known.
    pub fn get<V: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<V>, BusError> {
        match &self.0 {
            Repr::Native(value, encode) => match Arc::clone(value).downcast() {
                Ok(typed) => Ok(typed),
                // Another declaration of the same value: the encoding bridges versions.
                Err(other) => {
                    let (bytes, objects) = interface::collecting(|| encode(&*other));
                    let _offered = interface::offering(&objects);
                    Ok(Arc::new(wire::decode(&bytes?)?))
                }
            },
            Repr::Encoded(bytes, objects) => {
                let _offered = interface::offering(objects);
                Ok(Arc::new(wire::decode(bytes)?))
            }
            Repr::Local(_, name) => Err(stays(name).into()),
        }
    }

    /// The live value, if it is one of this library.
    ///
    /// # Errors
    /// [`ErrorKind::Encoding`] when it is of another library or another type.
    pub fn get_local<V: Send + Sync + 'static>(&self) -> Result<Arc<V>, BusError> {
        let value = match &self.0 {
            Repr::Local(value, _) => Arc::clone(value),
            Repr::Encoded(_, objects) if objects.len() == 1 => objects[0].as_live()?,
            _ => return Err(wrong_type(std::any::type_name::<V>()).into()),
        };
        value.downcast().map_err(|_| wrong_type(std::any::type_name::<V>()).into())
    }
}

/// MessagePack's nothing.
const NIL: u8 = 0xc0;

fn stays(name: &str) -> Error {
    Error::new(ErrorKind::Encoding, format!("a live `{name}` stays in the library that made it, and has no encoding"))
}

fn not_here(what: &str) -> Error {
    Error::msg(format!("from here, a resolver cannot {what}"))
}

/// Where a resolver's values go. Implemented by the bus and by the guest's side of the boundary.
pub trait ValueSink: Send + Sync {
    /// Adds a value. `None` when the directive is gone or its hard cap is reached.
    fn add(&self, value: AnyValue) -> Option<ValueId>;
    /// Adds a value, and calls back once it is gone, for any reason; not if it is refused.
    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId>;
    /// Replaces a value of the same resolver in one step, so that it needs no room of its own. The old value is gone
    /// afterwards even if the new one is refused.
    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        let new = self.add(value);
        self.remove(old);
        new
    }
    /// Calls back once this resolver's values are gone, because it failed, the directive ended, or the controller goes;
    /// at once if they are already gone.
    fn on_gone(&self, callback: Callback);
    /// Withdraws a value; false if it is already gone.
    fn remove(&self, id: ValueId) -> bool;
    /// Says whether the resolver has nothing more to add for now.
    fn set_idle(&self, idle: bool);
    /// Tells whoever asks that what answers for this resolver elsewhere has failed, and will try again by itself: the resolver goes
    /// on, and its values stay. Says nothing about whether it is idle.
    fn report(&self, error: Error) {
        let _ = error;
    }
    /// Whether the directive, the controller or the resolver is gone, or as many values as are wanted are there.
    fn is_cancelled(&self) -> bool;
    /// Who asks, as far as that is known: a bridge asks for the same beyond it.
    #[doc(hidden)]
    fn origin(&self) -> Origin {
        Origin::HERE
    }
    /// A weak reference to the directive.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the directive or the resolver is gone; or that it cannot be referred to from here.
    fn reference(&self) -> Result<Box<dyn RawRequest>> {
        Err(not_here("refer to the directive that it answers"))
    }
    /// Ends the directive, unless it is referred to and that counts. False if it stays active.
    ///
    /// # Errors
    /// That it cannot be ended from here.
    fn close(&self, _even_if_referred: bool) -> Result<bool> {
        Err(not_here("end the directive that it answers"))
    }
}

/// A resolver's handle: it adds and withdraws the values of one directive.
///
/// A value stays until it is withdrawn, the directive is dropped, or the controller goes.
/// When the resolver function returns, its values stay and it counts as idle.
///
/// ```
/// use std::time::Duration;
///
/// use controllerbus::prelude::*;
///
/// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// #[directive(id = "example/seconds", value = u64)]
/// struct Seconds {}
///
/// # #[derive(Config, Serialize, Deserialize, PartialEq)]
/// # #[config(id = "example/clock")]
/// # struct ClockConfig {}
/// # struct Clock;
/// # #[hot_plugin(id = "example/clock", version = "1.0.0")]
/// # impl Controller for Clock {
/// #     type Config = ClockConfig;
/// #     async fn construct(_: ClockConfig, _: &Context) -> Result<Self> { Ok(Self) }
/// #[resolves]
/// async fn seconds(&self, _: Seconds, values: Values<u64>) -> Result<()> {
///     // One value at a time: each takes the place of the one before.
///     let mut slot = values.slot();
///     for second in 0.. {
///         slot.set(second);
///         values.idle();
///         tokio::time::sleep(Duration::from_secs(1)).await;
///     }
///     Ok(())
/// }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let bus = Bus::new();
/// # bus.apply(ConfigSet::from_yaml("clock: { id: example/clock }")?).await?;
/// # assert_eq!(*bus.resolve(Seconds {}).await?, 0);
/// # Ok(())
/// # }
/// ```
pub struct Values<V> {
    sink: Arc<dyn ValueSink>,
    /// [`Directive::pack`].
    pack: fn(V) -> AnyValue,
}

impl<V> Clone for Values<V> {
    fn clone(&self) -> Self {
        Self { sink: Arc::clone(&self.sink), pack: self.pack }
    }
}

impl<V> std::fmt::Debug for Values<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Values").finish_non_exhaustive()
    }
}

impl<V: Send + Sync + 'static> Values<V> {
    /// The handle of a resolver of a directive, over where its values go.
    pub(crate) fn of<D: Directive<Value = V>>(sink: Arc<dyn ValueSink>) -> Self {
        Self { sink, pack: D::pack }
    }

    /// The same with another place for the values.
    pub(super) fn with_sink(&self, sink: Arc<dyn ValueSink>) -> Self {
        Self { sink, pack: self.pack }
    }

    pub(super) fn pack(&self, value: V) -> AnyValue {
        (self.pack)(value)
    }

    /// Adds a value that stays for as long as this resolver is there.
    ///
    /// `None` when it is not wanted any more: the directive is gone, or its hard cap is reached.
    pub fn add(&self, value: V) -> Option<ValueId> {
        self.sink.add(self.pack(value))
    }

    /// Adds a value, and calls back once it is gone: withdrawn, or gone with the resolver or the directive.
    pub fn add_watched(&self, value: V, removed: impl FnOnce() + Send + 'static) -> Option<ValueId> {
        self.sink.add_watched(self.pack(value), Box::new(removed))
    }

    /// Calls back once this resolver's values are gone: it failed, the directive ended, or the controller went.
    pub fn on_gone(&self, callback: impl FnOnce() + Send + 'static) {
        self.sink.on_gone(Box::new(callback));
    }

    /// Waits until this resolver's values are gone. For tasks that it has started: its own future is dropped then.
    pub async fn gone(&self) {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        self.on_gone(move || drop(sender));
        let _ = receiver.await;
    }

    /// Adds a value that is withdrawn when the returned guard is dropped.
    #[must_use = "dropping it withdraws the value"]
    pub fn hold(&self, value: V) -> Option<Held> {
        self.add(value).map(|id| Held { sink: Arc::clone(&self.sink), id, left: false })
    }

    /// A place for one value at a time, which is withdrawn when the slot is dropped.
    pub fn slot(&self) -> Slot<V> {
        Slot { values: self.clone(), held: None }
    }

    pub(crate) fn sink(&self) -> Arc<dyn ValueSink> {
        Arc::clone(&self.sink)
    }

    /// Withdraws a value; false if it is already gone.
    pub fn remove(&self, id: ValueId) -> bool {
        self.sink.remove(id)
    }

    /// Says that there is nothing more to add for now, though the resolver keeps running.
    pub fn idle(&self) {
        self.sink.set_idle(true);
    }

    /// Revokes [`Values::idle`].
    pub fn busy(&self) {
        self.sink.set_idle(false);
    }

    /// Whether values are no longer wanted.
    pub fn is_cancelled(&self) -> bool {
        self.sink.is_cancelled()
    }

    /// A weak reference to the directive that this resolver answers: it reads its events, does not keep it, and
    /// [`Request::strong`] makes one of it that does. `D` is the directive's type.
    ///
    /// ```
    /// # use controllerbus::prelude::*;
    /// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    /// # #[directive(id = "example/link", value = u64)]
    /// # struct OpenLink {}
    /// # async fn open() -> u64 { 7 }
    /// # async fn is_used() {}
    /// async fn link(_: OpenLink, values: Values<u64>) -> Result<()> {
    ///     values.add(open().await);
    ///     // While packets come, the link stays open without a requester.
    ///     let _kept = values.directive::<OpenLink>()?.strong()?;
    ///     is_used().await;
    ///     Ok(())
    /// }
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the directive is gone; in a plugin that runs in a process of its own that is what the request
    /// says first.
    pub fn directive<D: Directive<Value = V>>(&self) -> Result<Request<D>> {
        Ok(Request::new(ReadFrom::Boxed(self.sink.reference()?)))
    }

    /// How many values stand, from all resolvers of the directive. In a plugin that runs in a process of its own, the thread waits
    /// until the host has answered.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the directive is gone.
    pub fn count(&self) -> Result<usize> {
        Ok(self.sink.reference()?.resolvers()?.iter().map(|resolver| resolver.values).sum())
    }

    /// Ends the directive for everybody: its requests end. Use this when the answer can no longer be valid, such as a link that
    /// the other side has closed. False if it has ended already. In a plugin that runs in a process of its own, the thread waits until
    /// the host has answered.
    ///
    /// # Errors
    /// In such a process, that the host has not answered.
    pub fn close(&self) -> Result<bool> {
        self.sink.close(true)
    }

    /// Ends the directive if it has no strong reference, whatever time it would be kept. False if it stays active.
    ///
    /// # Errors
    /// As [`Values::close`].
    pub fn close_unless_referred(&self) -> Result<bool> {
        self.sink.close(false)
    }
}

/// Keeps one value; dropping it withdraws the value.
#[must_use = "dropping it withdraws the value"]
pub struct Held {
    sink: Arc<dyn ValueSink>,
    id: ValueId,
    left: bool,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Held {
    /// The value that this guard keeps.
    pub fn id(&self) -> ValueId {
        self.id
    }

    /// Leaves the value for as long as its resolver is there.
    pub fn leave(mut self) {
        self.left = true;
    }
}

impl Held {
    /// Replaces the value that this guard keeps; `None` when the new one is not wanted any more.
    pub(crate) fn replace(mut self, value: AnyValue) -> Option<Self> {
        let new = self.sink.replace(self.id, value);
        self.left = true;
        new.map(|id| Self { sink: Arc::clone(&self.sink), id, left: false })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.left {
            self.sink.remove(self.id);
        }
    }
}

/// Holds one value of a directive at a time; dropping it withdraws the value.
#[must_use = "dropping it withdraws the value"]
pub struct Slot<V> {
    values: Values<V>,
    held: Option<Held>,
}

impl<V> std::fmt::Debug for Slot<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("held", &self.held).finish_non_exhaustive()
    }
}

impl<V: Send + Sync + 'static> Slot<V> {
    /// Replaces the value in one step: the new one is added, then the old one is removed.
    pub fn set(&mut self, value: V) {
        self.held = match self.held.take() {
            Some(held) => held.replace(self.values.pack(value)),
            None => self.values.hold(value),
        };
    }

    /// Withdraws the value.
    pub fn clear(&mut self) {
        self.held = None;
    }

    /// Sets the value, or withdraws it.
    pub(super) fn show(&mut self, value: Option<V>) {
        match value {
            Some(value) => self.set(value),
            None => self.clear(),
        }
    }

    /// Leaves the value for as long as the resolver is there.
    pub fn leave(mut self) {
        if let Some(held) = self.held.take() {
            held.leave();
        }
    }
}

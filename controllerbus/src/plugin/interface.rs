//! Interface values: objects with methods that cross the boundary as they are and are called directly.
//!
//! Like file descriptors on a Unix socket, the objects travel beside the bytes of a value, which refer to them by
//! their position. While a value is encoded, its objects are collected; while it is decoded, they are offered.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use ::stabby::str::Str as StableStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use super::abi::{List, Text};
pub use super::crosses::crosses;
pub use super::shape::{InterfaceType, Pointer, Receiver, TableOf, shape};

/// The crate whose types a method of an interface takes and returns. Hidden, or the compiler would write `std::string::String` in
/// every error: stabby has a `String` too.
#[doc(hidden)]
pub mod stabby {
    pub use ::stabby::*;
}

use super::abi::{InterfaceObject, InterfaceObjectDyn, ObjectPtr, boxed};
use super::contained::{Contained, contain};
use super::lease::{Holder, Lease, Leases};

/// An object of a plugin, or of the host, whose methods anybody on the bus calls directly, at the cost of a virtual
/// call. It can be a directive's value, or any part of one. Cloning it is cheap and shares the object.
///
/// It is good for as long as it is held: it keeps the generation that made it loaded, also after that generation was
/// swapped for another. So drop it when the directive says that its value is gone.
///
/// The trait is declared once, in a crate that both sides depend on:
///
/// ```
/// use controllerbus::prelude::*;
///
/// #[controllerbus::interface]
/// pub trait Double {
///     extern "C" fn double(&self, number: u64) -> u64;
/// }
///
/// struct Plain;
/// impl Double for Plain {
///     extern "C" fn double(&self, number: u64) -> u64 { number * 2 }
/// }
///
/// // `DoubleDyn`, which is declared beside `Double`, is what has the methods here.
/// let interface = Interface::<dyn Double>::new(Plain);
/// assert_eq!(interface.double(21), 42);
/// ```
///
/// A method must not panic: in an `extern "C"` function that ends the process. It must not block for long either, and
/// it runs on the caller's thread, without a tokio runtime of the plugin's around it.
///
/// What its methods take and give has to be good without the plugin, since only the object is leased: numbers, [`Text`],
/// [`List`]s, other types of `controllerbus::plugin::interface::stabby` such as its `result::Result`, structs with
/// `#[stabby::stabby]` (whose crate depends on `stabby` itself, as that macro demands), and what is borrowed from `&self` or for
/// the call. Boxes, functions, objects and `'static`
/// references are refused when the trait is compiled.
///
/// It cannot leave the process: writing one to a file, or passing it to a plugin that runs in its own process, is an error.
pub struct Interface<T: ?Sized + InterfaceType> {
    /// Points into the object, which `object` keeps.
    pointer: NonNull<Pointer<T>>,
    object: Object,
    kind: PhantomData<fn() -> Box<T>>,
}

// SAFETY: `new` takes only what is Send and Sync, and the pointer is to such an object, shared and never changed.
unsafe impl<T: ?Sized + InterfaceType> Send for Interface<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + InterfaceType> Sync for Interface<T> {}

impl<T: ?Sized + InterfaceType> Interface<T> {
    /// Makes an interface value of an implementation.
    pub fn new<I: Send + Sync + 'static>(implementation: I) -> Self
    where
        T: TableOf<I>,
    {
        let object = NonNull::from(Box::leak(Box::new(implementation)));
        let pointer = NonNull::from(Box::leak(Box::new(Pointer::<T>::new(object))));
        let made = Made { pointer: pointer.cast(), shape: T::SHAPE, name: name_of::<T>(), free: free::<T, I> };
        Self { pointer, object: Object::of(boxed(made).into()), kind: PhantomData }
    }

    fn of_object(object: Object) -> crate::Result<Self> {
        let (wanted, found) = (name_of::<T>(), object.0.name());
        if object.0.shape() != T::SHAPE {
            let what = if found.as_str() == wanted {
                format!("the interface value's `{wanted}` was declared differently in the library that made it")
            } else {
                format!("the interface value is a `{}`, not a `{wanted}`", found.as_str())
            };
            let help = "both sides must be built against the same version of the crate that declares the trait";
            return Err(crate::Error::new(crate::error::ErrorKind::Encoding, format!("{what}; {help}")));
        }
        let Some(pointer) = NonNull::new(object.0.pointer().cast_mut()) else {
            return Err(crate::Error::new(crate::error::ErrorKind::Encoding, "the interface value is empty"));
        };
        Ok(Self { pointer: pointer.cast(), object, kind: PhantomData })
    }
}

fn name_of<T: ?Sized>() -> &'static str {
    std::any::type_name::<T>()
}

impl<T: ?Sized + InterfaceType> Clone for Interface<T> {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, object: self.object.clone(), kind: PhantomData }
    }
}

impl<T: ?Sized + InterfaceType> Deref for Interface<T> {
    type Target = Pointer<T>;

    fn deref(&self) -> &Pointer<T> {
        // SAFETY: it points to a `Pointer<T>`: either `new` made it, or `of_object` compared the shapes of the
        // traits, which say so by the promise of `InterfaceType`. The object keeps it in place, and its library loaded. It is
        // not `Clone`, so it cannot outlive this.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: ?Sized + InterfaceType> std::fmt::Debug for Interface<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interface<{}>", name_of::<T>())
    }
}

impl<T: ?Sized + InterfaceType> Serialize for Interface<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match collect(&self.object) {
            Some(position) => serializer.serialize_u32(position),
            None => Err(serde::ser::Error::custom(format!(
                "an interface value (`{}`) can be passed over a bus, but not serialized or sent to another process",
                name_of::<T>()
            ))),
        }
    }
}

impl<'de, T: ?Sized + InterfaceType> Deserialize<'de> for Interface<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let position = u32::deserialize(deserializer)?;
        let object = offered(position).ok_or_else(|| {
            serde::de::Error::custom(format!("there is no interface value `{}` beside these bytes", name_of::<T>()))
        })?;
        Self::of_object(object).map_err(serde::de::Error::custom)
    }
}

/// An object on its way, whatever it is. Cloning it shares the object: by the standard library's count, since stabby's does
/// not order the uses of an object before its end on every machine.
#[derive(Clone)]
pub struct Object(Arc<ObjectPtr>);

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").finish_non_exhaustive()
    }
}

impl Object {
    /// One that has come across.
    pub(super) fn of(pointer: ObjectPtr) -> Self {
        Self(Arc::new(pointer))
    }

    /// The same object, holding a lease of the generation that it comes from.
    pub(super) fn leased(pointer: ObjectPtr, leases: &Arc<Leases>) -> Self {
        Self::of(boxed(Leased { object: pointer, _lease: leases.take(Holder::Interface) }).into())
    }

    /// The same object, to go across.
    pub(super) fn pass_on(&self) -> ObjectPtr {
        boxed(Passed(self.clone())).into()
    }
}

/// Where live values of this library are told from those of others: its address is the same for none that is loaded, and
/// whoever holds an object keeps its library loaded.
static LIBRARY: AtomicU8 = AtomicU8::new(0);

fn library() -> u64 {
    (&raw const LIBRARY).addr() as u64
}

/// What the name of a live value begins with, as that of no trait does.
const LIVE: &str = "live ";

/// A live value on its way over the host's bus, back to the library that made it.
struct Live {
    value: Contained<Arc<dyn Any + Send + Sync>>,
    name: String,
}

impl InterfaceObject for Live {
    extern "C" fn shape(&self) -> u64 {
        library()
    }
    extern "C" fn name(&self) -> StableStr<'_> {
        StableStr::new(&self.name)
    }
    extern "C" fn pointer(&self) -> *const () {
        (&raw const *self.value).cast()
    }
}

impl Object {
    /// A live value of this library.
    pub(crate) fn live(value: Arc<dyn Any + Send + Sync>, name: &str) -> Self {
        Self::of(boxed(Live { value: Contained::new(value), name: format!("{LIVE}{name}") }).into())
    }

    /// The live value that this is.
    ///
    /// # Errors
    /// If it is none, or one of another library.
    pub(crate) fn as_live(&self) -> crate::Result<Arc<dyn Any + Send + Sync>> {
        let name = self.0.name();
        if self.0.shape() != library() || !name.as_str().starts_with(LIVE) {
            let what = format!("a {} of another library, or of another generation, cannot be used here", name.as_str());
            return Err(crate::Error::new(crate::error::ErrorKind::Encoding, what));
        }
        // SAFETY: the address says that this library has made it, and the name that it is a `Live`, whose pointer is to its
        // value. The object keeps it in place during this.
        let value = unsafe { &*self.0.pointer().cast::<Arc<dyn Any + Send + Sync>>() };
        Ok(Arc::clone(value))
    }
}

/// The object where it was made. Not generic: a controller crate compiles no more of it than it must.
struct Made {
    pointer: NonNull<()>,
    shape: u64,
    name: &'static str,
    free: unsafe fn(NonNull<()>),
}

// SAFETY: `Interface::new` takes only what is Send and Sync.
unsafe impl Send for Made {}
// SAFETY: as above.
unsafe impl Sync for Made {}

/// Drops an implementation as the type that it is.
///
/// # Safety
/// `pointer` must come from `Box::leak` of a `Box<Pointer<T>>` to a leaked `Box<I>`, and neither be used again.
unsafe fn free<T: ?Sized + InterfaceType, I>(pointer: NonNull<()>) {
    // SAFETY: the caller's promise.
    let pointer = unsafe { Box::from_raw(pointer.cast::<Pointer<T>>().as_ptr()) };
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(Pointer::object(&pointer).cast::<I>().as_ptr()) });
}

impl InterfaceObject for Made {
    extern "C" fn shape(&self) -> u64 {
        self.shape
    }
    extern "C" fn name(&self) -> StableStr<'_> {
        StableStr::new(self.name)
    }
    extern "C" fn pointer(&self) -> *const () {
        self.pointer.as_ptr()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Called through a table of `extern "C"` functions: a destructor's panic must not leave it.
        contain("the destructor of an interface value", || {
            // SAFETY: `Interface::new` leaked the box for this object, whose end this is.
            unsafe { (self.free)(self.pointer) };
        });
    }
}

/// A guest's object in the host's hands. Fields drop in order: the lease goes last.
struct Leased {
    object: ObjectPtr,
    _lease: Lease,
}

impl InterfaceObject for Leased {
    extern "C" fn shape(&self) -> u64 {
        self.object.shape()
    }
    extern "C" fn name(&self) -> StableStr<'_> {
        self.object.name()
    }
    extern "C" fn pointer(&self) -> *const () {
        self.object.pointer()
    }
}

/// An object that is shared with somebody on the other side.
struct Passed(Object);

impl InterfaceObject for Passed {
    extern "C" fn shape(&self) -> u64 {
        self.0.0.shape()
    }
    extern "C" fn name(&self) -> StableStr<'_> {
        self.0.0.name()
    }
    extern "C" fn pointer(&self) -> *const () {
        self.0.0.pointer()
    }
}

/// What interface values that are encoded or decoded on this thread find.
#[derive(Clone, Copy)]
enum Scope {
    Nothing,
    Collect(NonNull<Vec<Object>>),
    Offer(NonNull<[Object]>),
}

thread_local! {
    /// Constant and without a destructor, so that it ties no library to a thread.
    static SCOPE: Cell<Scope> = const { Cell::new(Scope::Nothing) };
}

/// Puts the scope of before back.
struct Restore(Scope);

impl Drop for Restore {
    fn drop(&mut self) {
        SCOPE.set(self.0);
    }
}

/// Runs an encoding and returns the objects of the interface values that it met.
pub(crate) fn collecting<T>(encode: impl FnOnce() -> T) -> (T, Vec<Object>) {
    let mut objects = Vec::new();
    let restore = Restore(SCOPE.replace(Scope::Collect(NonNull::from(&mut objects))));
    let result = encode();
    drop(restore);
    (result, objects)
}

/// Offers objects to the interface values that are decoded on this thread, for as long as the guard lives.
pub(crate) fn offering(objects: &[Object]) -> impl Sized + '_ {
    struct Offering<'a> {
        _restore: Restore,
        _objects: &'a [Object],
    }
    Offering { _restore: Restore(SCOPE.replace(Scope::Offer(NonNull::from(objects)))), _objects: objects }
}

/// Adds an object to those that travel with the value that is being encoded; its position among them.
fn collect(object: &Object) -> Option<u32> {
    let Scope::Collect(mut objects) = SCOPE.get() else { return None };
    // SAFETY: `collecting` on this thread's stack set it and takes it back before the vector goes; nothing else
    // borrows the vector meanwhile.
    let objects = unsafe { objects.as_mut() };
    objects.push(object.clone());
    u32::try_from(objects.len() - 1).ok()
}

fn offered(position: u32) -> Option<Object> {
    let Scope::Offer(objects) = SCOPE.get() else { return None };
    // SAFETY: `offering`'s guard borrows the objects and takes the scope back when it goes.
    let objects = unsafe { objects.as_ref() };
    objects.get(usize::try_from(position).ok()?).cloned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::directive::AnyValue;

    #[controllerbus::interface]
    pub trait Count {
        extern "C" fn count(&self) -> u64;
    }

    #[controllerbus::interface]
    pub trait Other {
        extern "C" fn count(&self) -> u64;
    }

    struct Counter(Arc<AtomicUsize>);

    impl Count for Counter {
        extern "C" fn count(&self) -> u64 {
            42
        }
    }

    impl Drop for Counter {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Pair {
        name: String,
        first: Interface<dyn Count>,
        second: Option<Interface<dyn Count>>,
    }

    fn counter() -> (Interface<dyn Count>, Arc<AtomicUsize>) {
        let dropped = Arc::<AtomicUsize>::default();
        (Interface::new(Counter(Arc::clone(&dropped))), dropped)
    }

    #[test]
    fn an_object_travels_beside_the_bytes_and_is_dropped_once() {
        let (interface, dropped) = counter();
        let pair = Pair { name: "two".to_owned(), second: Some(interface.clone()), first: interface };
        let value = AnyValue::native(pair);
        let (bytes, objects) = value.encode_with_objects().expect("it is encoded");
        let across = AnyValue::encoded_with(&bytes, objects);
        drop(value);
        let pair = across.get::<Pair>().expect("it is decoded");
        drop(across);
        assert_eq!(pair.name, "two");
        assert_eq!(pair.first.count(), 42);
        assert_eq!(pair.second.as_ref().map(|second| second.count()), Some(42));
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        drop(pair);
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn it_holds_a_lease_until_it_is_dropped() {
        let (interface, dropped) = counter();
        let leases = Leases::new();
        let leased = Object::leased(interface.object.pass_on(), &leases);
        drop(interface);
        let again = Interface::<dyn Count>::of_object(leased).expect("the same trait");
        assert_eq!((leases.holders().interfaces, dropped.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(again.clone().count(), 42);
        drop(again);
        assert_eq!((leases.holders().interfaces, dropped.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn it_is_not_written_down_and_not_made_of_bytes_alone() {
        let (interface, _) = counter();
        let error = serde_json::to_string(&interface).expect_err("refused").to_string();
        assert!(error.contains("not serialized"), "{error}");
        let value = AnyValue::native(interface);
        assert!(value.encode().is_err());
        let (bytes, _) = value.encode_with_objects().expect("it is encoded");
        let error = AnyValue::encoded(&bytes).get::<Interface<dyn Count>>().expect_err("refused").to_string();
        assert!(error.contains("no interface value"), "{error}");
    }

    #[test]
    fn another_trait_is_refused_by_name() {
        let (interface, _) = counter();
        let error = Interface::<dyn Other>::of_object(interface.object.clone()).expect_err("refused").to_string();
        assert!(error.contains("Count`, not a `") && error.contains("Other`"), "{error}");
    }

    /// The shape of a trait `Count` in this module.
    macro_rules! shape {
        ($($declaration:tt)*) => {{
            $($declaration)*
            <dyn Count as InterfaceType>::SHAPE
        }};
    }

    #[rustfmt::skip]
    #[test]
    fn another_declaration_of_the_trait_has_another_shape() {
        let shape = <dyn Count as InterfaceType>::SHAPE;
        let same = shape!(#[controllerbus::interface] pub trait Count { extern "C" fn count(&self) -> u64; });
        let renamed = shape!(#[controllerbus::interface] pub trait Count { extern "C" fn counted(&self) -> u64; });
        let longer = shape!(#[controllerbus::interface] pub trait Count { extern "C" fn count(&self, by: u64) -> u64; });
        let answer = shape!(#[controllerbus::interface] pub trait Count { extern "C" fn count(&self) -> u32; });
        let strings = shape!(#[controllerbus::interface] pub trait Count { extern "C" fn count(&self, all: List<Text>) -> u64; });
        let bytes = shape!(#[controllerbus::interface] pub trait Count { extern "C" fn count(&self, all: List<u8>) -> u64; });
        let told = shape!(#[controllerbus::interface] pub trait Count { /** How many. */ extern "C" fn count (& self)->u64 ; });
        assert_eq!(shape, same);
        assert_eq!(shape, told);
        let all = std::collections::HashSet::from([shape, renamed, longer, answer, strings, bytes]);
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn a_method_may_borrow_have_any_name_and_be_provided_or_unsafe() {
        use crate::plugin::interface::stabby::str::Str;

        struct Titled(&'static str);

        #[controllerbus::interface]
        trait Titles {
            extern "C" fn title(&self) -> Str<'_>;
            extern "C" fn longer<'a>(&'a self, other: Str<'a>) -> Str<'a>;
            extern "C" fn first(&self, of: &List<u64>, #[allow(unused)] or: Str<'_>) -> &u64;
            extern "C" fn parts(&self, mut number: u64) -> u64 {
                number += 1;
                number
            }
            extern "C" fn r#type(&self);
            /// # Safety
            /// None is needed.
            unsafe extern "C" fn object(&self) -> u8;
        }

        impl Titles for Titled {
            extern "C" fn title(&self) -> Str<'_> {
                self.0.into()
            }
            extern "C" fn longer<'a>(&'a self, other: Str<'a>) -> Str<'a> {
                if other.len() > self.0.len() { other } else { self.0.into() }
            }
            extern "C" fn first(&self, _: &List<u64>, _: Str<'_>) -> &u64 {
                &7
            }
            extern "C" fn r#type(&self) {}
            unsafe extern "C" fn object(&self) -> u8 {
                3
            }
        }

        let interface = Interface::<dyn Titles>::new(Titled("short"));
        assert_eq!(interface.title().as_str(), "short");
        assert_eq!(interface.longer("the longer one".into()).as_str(), "the longer one");
        assert_eq!(*interface.first(&List::default(), "".into()), 7);
        assert_eq!(interface.parts(1), 2);
        interface.r#type();
        // SAFETY: it needs none.
        assert_eq!(unsafe { interface.object() }, 3);
    }

    #[test]
    fn a_destructor_that_panics_is_contained() {
        struct Bad;
        impl Count for Bad {
            extern "C" fn count(&self) -> u64 {
                0
            }
        }
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("a bad destructor");
            }
        }
        drop(Interface::<dyn Count>::new(Bad));
    }
}

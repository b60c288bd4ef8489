//! What an interface is to both sides: a table of functions, the object that they are called on, and the shape by which two
//! libraries know that they mean the same.

use std::marker::PhantomData;
use std::ptr::NonNull;

/// A trait, as `dyn Trait`, that an [`Interface`](super::Interface) can be of.
///
/// # Safety
/// Implemented by `#[controllerbus::interface]`, and only by it: methods of an object from another library are called by
/// [`Table`](InterfaceType::Table) because its [`SHAPE`](InterfaceType::SHAPE) is the same. So two traits may have the same
/// shape only if each method of one can be called as the same method of the other.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an interface",
    note = "put `#[controllerbus::interface]` on the trait"
)]
pub unsafe trait InterfaceType: 'static {
    /// The trait's table of functions, in the order of its methods. Each takes a [`Receiver`] for `&self`.
    type Table: Copy + 'static;
    /// What differs if the trait is declared differently: its path, its methods' names and signatures, or the layout
    /// of a type in them.
    const SHAPE: u64;
}

/// That objects of a type have an interface's methods.
///
/// # Safety
/// Implemented by `#[controllerbus::interface]`, and only by it: the functions of the table are called with receivers that are
/// an `I`.
#[diagnostic::on_unimplemented(message = "`{I}` does not implement the interface `{Self}`")]
pub unsafe trait TableOf<I>: InterfaceType {
    /// The functions.
    const TABLE: &'static Self::Table;
}

/// The object that a function of a table is called on, for as long as it is borrowed.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Receiver<'a> {
    object: NonNull<()>,
    borrowed: PhantomData<&'a ()>,
}

impl<'a> Receiver<'a> {
    /// # Safety
    /// The object must be an `I`.
    pub unsafe fn object<I>(self) -> &'a I {
        // SAFETY: the caller's promise; it is borrowed for `'a`.
        unsafe { self.object.cast::<I>().as_ref() }
    }
}

/// What an [`Interface`](super::Interface) derefs to: methods are called on it with `TraitDyn`, which is declared beside
/// `Trait`, in scope.
#[repr(C)]
pub struct Pointer<T: ?Sized + InterfaceType> {
    object: NonNull<()>,
    table: NonNull<T::Table>,
}

impl<T: ?Sized + InterfaceType> std::fmt::Debug for Pointer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pointer").finish_non_exhaustive()
    }
}

impl<T: ?Sized + InterfaceType> Pointer<T> {
    /// A pointer to an object, which it does not own.
    pub(super) fn new<I>(object: NonNull<I>) -> Self
    where
        T: TableOf<I>,
    {
        Self { object: object.cast(), table: NonNull::from(T::TABLE) }
    }

    /// The object. No method, nor is the next: an interface may have any.
    pub(super) fn object(this: &Self) -> NonNull<()> {
        this.object
    }

    /// The object, and the functions that may be called on it.
    #[doc(hidden)]
    pub fn parts(this: &Self) -> (Receiver<'_>, &T::Table) {
        // SAFETY: the table lies in the library of the object, which stays as long as this is borrowed.
        let table = unsafe { this.table.as_ref() };
        (Receiver { object: this.object, borrowed: PhantomData }, table)
    }
}

/// An [`InterfaceType::SHAPE`]: of a declaration's text, and the identities of the types in it.
pub const fn shape(declaration: &str, types: &[u64]) -> u64 {
    let mut hash = fnv(0xcbf2_9ce4_8422_2325, declaration.as_bytes());
    let mut at = 0;
    while at < types.len() {
        hash = fnv(hash, &types[at].to_le_bytes());
        at += 1;
    }
    hash
}

/// FNV-1a, continued.
const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

//! Finds the schema of a type that may not have one, for the derive.

use std::marker::PhantomData;

use super::schema::{Node, Schema};

/// Its own constant is there only if the type has a schema.
#[derive(Debug)]
pub struct Probe<T: ?Sized>(PhantomData<T>);

impl<T: Schema + ?Sized> Probe<T> {
    /// The type's schema.
    pub const NODE: &'static Node = T::NODE;
}

/// What [`Probe`] says of every other type.
pub trait Unknown {
    /// Anything.
    const NODE: &'static Node = &Node::Any;
}

impl<T: ?Sized> Unknown for Probe<T> {}

//! What a directive's own code says of it, known when that is compiled: what tools compare before two sides meet.

use crate::config::schema::Node;

/// What a directive and its values are called in its own code, and what the values look like, as far as that is known: a type
/// without [`Schema`](crate::Schema) may look like anything.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// The type, with its module; empty for one that was written by hand.
    pub name: &'static str,
    /// The type of its values, as it is written.
    pub value_name: &'static str,
    /// Its values.
    pub value: &'static Node,
}

impl Declaration {
    /// That of a directive that was written by hand.
    pub const UNKNOWN: Self = Self { name: "", value_name: "", value: &Node::Any };
}

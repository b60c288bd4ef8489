//! Config sets in YAML, of which JSON is a subset, and the places in them.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Unreadable;

/// Reads a text, which may be empty. The error is its line and column, where they are known, and what is wrong.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<Option<T>, Unreadable> {
    match serde_saphyr::from_str::<Option<T>>(text) {
        Ok(read) => Ok(read),
        Err(error) => Err((error.location().map(|at| (at.line(), at.column())), plain(&error))),
    }
}

/// An error's text without its place, which is added in front, and without the excerpt.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    match first.rfind(" at line ") {
        Some(at) => first[..at].to_owned(),
        None => first.to_owned(),
    }
}

/// The places in a text.
pub(super) struct Places(Option<Node>);

impl Places {
    /// Those of a text that is known to be a config set.
    pub(super) fn of(text: &str) -> Self {
        Self(serde_saphyr::from_str(text).ok())
    }

    /// The line and column of what is at `path`, or of the nearest part around it.
    pub(super) fn find(&self, path: &[&str]) -> Option<(u64, u64)> {
        let (mut node, mut found) = (self.0.as_ref()?, None);
        for part in path {
            let next = match node {
                Node::Map(entries) => entries.iter().find(|(key, _)| key.value == *part),
                Node::List(items) => {
                    let item = part.parse::<usize>().ok().and_then(|at| items.get(at));
                    let Some(item) = item else { break };
                    found = Some(item.referenced);
                    node = &item.value;
                    continue;
                }
                Node::Scalar => None,
            };
            let Some((key, value)) = next else { break };
            // A map or a list may begin below its key; the key is what a person looks for.
            found = Some(if matches!(value.value, Node::Scalar) { value.referenced } else { key.referenced });
            node = &value.value;
        }
        found.map(|at| (at.line(), at.column()))
    }
}

/// A text, of which only the places are kept.
enum Node {
    Scalar,
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

macro_rules! scalars {
    ($($visit:ident($type:ty)),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Node, E> {
            Ok(Node::Scalar)
        })*
    };
}

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    scalars!(visit_bool(bool), visit_i64(i64), visit_i128(i128), visit_u64(u64), visit_u128(u128), visit_f64(f64));
    scalars!(visit_str(&str), visit_bytes(&[u8]));

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

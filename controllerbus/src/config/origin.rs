//! Where a config came from: the place in its file of each key, so that errors can point at it.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::error::Location;

/// The text that a config set was read from.
pub(crate) struct Origin {
    file: Option<Arc<str>>,
    root: Option<Node>,
}

/// A key of a config set in its text.
#[derive(Clone)]
pub(crate) struct Place {
    origin: Arc<Origin>,
    key: String,
}

impl Place {
    pub(crate) fn new(origin: &Arc<Origin>, key: &str) -> Self {
        Self { origin: Arc::clone(origin), key: key.to_owned() }
    }

    /// Where the config ID stands.
    pub(crate) fn id(&self) -> Option<Location> {
        self.origin.locate(&[self.key.as_str(), "id"])
    }

    /// Where the part of the config at `path`, such as `doors[0].width`, stands; or the nearest part around it.
    pub(crate) fn config(&self, path: &str) -> Option<Location> {
        let mut parts = vec![self.key.as_str(), "config"];
        parts.extend(path.split(['.', '[', ']']).filter(|part| !part.is_empty() && *part != "?"));
        self.origin.locate(&parts)
    }
}

impl Origin {
    /// Reads where everything stands in a text that is known to be a config set.
    pub(crate) fn new(file: Option<&str>, text: &str) -> Arc<Self> {
        let root = serde_saphyr::from_str::<Node>(text).ok();
        Arc::new(Self { file: file.map(Arc::from), root })
    }

    pub(crate) fn locate(&self, path: &[&str]) -> Option<Location> {
        let (mut node, mut found) = (self.root.as_ref()?, None);
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
            // A value on a line of its own is found below its key; the key is what a person looks for.
            found = Some(if matches!(value.value, Node::Scalar) { value.referenced } else { key.referenced });
            node = &value.value;
        }
        found.map(|at| self.at(at.line(), at.column()))
    }

    pub(crate) fn at(&self, line: u64, column: u64) -> Location {
        Location { file: self.file.as_deref().map(str::to_owned), line, column }
    }
}

/// A text as places only.
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

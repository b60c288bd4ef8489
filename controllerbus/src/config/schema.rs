//! JSON schemas of configs, as constants: a tool reads them in a plugin file without executing any of it.
//!
//! `#[derive(Config)]` and `#[derive(Schema)]` describe a type as a tree of [`Node`]s; `#[hot_plugin]` has the compiler
//! write it as JSON into the plugin's manifest record.

/// A type whose JSON schema is known when it is compiled.
///
/// The usual types of the standard library have it, `#[derive(Config)]` gives it to a config, and
/// `#[derive(Schema)]` to the structs and enums that a config consists of. A field whose type does not have it is no
/// error: anything fits it.
///
/// ```
/// use controllerbus::prelude::*;
///
/// #[derive(Config, Serialize, Deserialize, PartialEq)]
/// #[config(id = "example/door")]
/// struct DoorConfig {
///     /// How wide, in centimetres.
///     width: u32,
///     #[serde(default)]
///     colour: Colour,
/// }
///
/// #[derive(Schema, Serialize, Deserialize, PartialEq, Default)]
/// #[serde(rename_all = "lowercase")]
/// enum Colour {
///     #[default]
///     Red,
///     Green,
/// }
///
/// let schema: serde_json::Value = serde_json::from_str(&DoorConfig::SCHEMA.to_json()).unwrap();
/// assert_eq!(schema["properties"]["width"]["description"], "How wide, in centimetres.");
/// assert_eq!(schema["properties"]["colour"]["enum"], serde_json::json!(["red", "green"]));
/// assert_eq!(schema["required"], serde_json::json!(["width"]));
/// ```
pub trait Schema {
    /// What fits the type.
    const NODE: &'static Node;
}

/// A JSON schema, as far as a type determines it. Texts in it are already escaped for JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Node {
    /// Anything.
    Any,
    /// The members of a schema, written out.
    Written(&'static str),
    /// Any number of one kind.
    Array(&'static Node),
    /// One of each, in this order.
    Tuple(&'static [&'static Node]),
    /// Any keys, and one kind of value.
    Map(&'static Node),
    /// The same, or null.
    Optional(&'static Node),
    /// Known keys.
    Object {
        /// The type's name.
        title: &'static str,
        /// Its doc comment.
        description: &'static str,
        /// Its keys.
        fields: &'static [Field],
        /// Whether it has no other keys.
        closed: bool,
    },
    /// One of these.
    OneOf {
        /// The type's name.
        title: &'static str,
        /// Its doc comment.
        description: &'static str,
        /// Its variants.
        variants: &'static [&'static Node],
    },
    /// The same under a description.
    Described(&'static str, &'static Node),
    /// The same, and its value is never shown: `writeOnly` in the schema.
    Secret(&'static Node),
}

/// One key of a [`Node::Object`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The key as it is written in a config; empty for a field whose own keys stand here (`serde(flatten)`).
    pub name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// Whether it may be left out.
    pub optional: bool,
    /// Its value.
    pub node: &'static Node,
}

/// Writes JSON, or, where there is no room, counts its bytes.
struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    const fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut byte = 0;
        while byte < bytes.len() {
            if self.at < self.out.len() {
                self.out[self.at] = bytes[byte];
            }
            self.at += 1;
            byte += 1;
        }
    }

    const fn quoted(&mut self, text: &str) {
        self.text("\"");
        self.text(text);
        self.text("\"");
    }

    const fn node(&mut self, node: &Node) {
        self.text("{");
        self.members(node);
        self.text("}");
    }

    const fn nodes(&mut self, name: &str, nodes: &[&Node]) {
        self.quoted(name);
        self.text(":[");
        let mut at = 0;
        while at < nodes.len() {
            if at > 0 {
                self.text(",");
            }
            self.node(nodes[at]);
            at += 1;
        }
        self.text("]");
    }

    const fn members(&mut self, node: &Node) {
        match node {
            Node::Any => {}
            Node::Written(members) => self.text(members),
            Node::Array(items) => {
                self.text("\"type\":\"array\",\"items\":");
                self.node(items);
            }
            Node::Tuple(items) => {
                self.text("\"type\":\"array\",\"items\":false,");
                self.nodes("prefixItems", items);
            }
            Node::Map(values) => {
                self.text("\"type\":\"object\",\"additionalProperties\":");
                self.node(values);
            }
            Node::Optional(node) => self.nodes("anyOf", &[node, &Node::Written("\"type\":\"null\"")]),
            Node::Object { title, description, fields, closed } => {
                self.heading(title, description);
                self.object(fields, *closed);
            }
            Node::OneOf { title, description, variants } => {
                self.heading(title, description);
                self.nodes("anyOf", variants);
            }
            Node::Described(description, node) => {
                self.described(description, node);
            }
            Node::Secret(node) => {
                self.text("\"writeOnly\":true");
                if !matches!(node, Node::Any) {
                    self.text(",");
                }
                self.members(node);
            }
        }
    }

    const fn described(&mut self, description: &str, node: &Node) {
        if !description.is_empty() {
            self.text("\"description\":");
            self.quoted(description);
            if !matches!(node, Node::Any) {
                self.text(",");
            }
        }
        // The field's own words are nearer than its type's.
        match node {
            Node::Object { title, fields, closed, .. } if !description.is_empty() => {
                self.heading(title, "");
                self.object(fields, *closed);
            }
            Node::OneOf { title, variants, .. } if !description.is_empty() => {
                self.heading(title, "");
                self.nodes("anyOf", variants);
            }
            node => self.members(node),
        }
    }

    const fn heading(&mut self, title: &str, description: &str) {
        if !title.is_empty() {
            self.text("\"title\":");
            self.quoted(title);
            self.text(",");
        }
        if !description.is_empty() {
            self.text("\"description\":");
            self.quoted(description);
            self.text(",");
        }
    }

    const fn object(&mut self, fields: &[Field], closed: bool) {
        self.text("\"type\":\"object\",\"properties\":{");
        let (mut at, mut written, mut flat) = (0, 0, 0);
        while at < fields.len() {
            if fields[at].name.is_empty() {
                flat += 1;
            } else {
                if written > 0 {
                    self.text(",");
                }
                written += 1;
                self.quoted(fields[at].name);
                self.text(":{");
                self.described(fields[at].description, fields[at].node);
                self.text("}");
            }
            at += 1;
        }
        self.text("},\"required\":[");
        (at, written) = (0, 0);
        while at < fields.len() {
            if !fields[at].name.is_empty() && !fields[at].optional && !fields[at].node.is_optional() {
                if written > 0 {
                    self.text(",");
                }
                written += 1;
                self.quoted(fields[at].name);
            }
            at += 1;
        }
        self.text("]");
        if flat > 0 {
            self.text(",\"allOf\":[");
            (at, written) = (0, 0);
            while at < fields.len() {
                if fields[at].name.is_empty() {
                    if written > 0 {
                        self.text(",");
                    }
                    written += 1;
                    self.node(fields[at].node);
                }
                at += 1;
            }
            self.text("]");
        } else if closed {
            self.text(",\"additionalProperties\":false");
        }
    }
}

/// The length of a schema's JSON, in bytes.
pub const fn length(node: &Node) -> usize {
    write_into(node, &mut [])
}

/// Writes as much of a schema's JSON as there is room for, and says how long it is.
pub(crate) const fn write_into(node: &Node, out: &mut [u8]) -> usize {
    let mut writer = Writer { out, at: 0 };
    writer.node(node);
    writer.at
}

/// A schema's JSON; `N` must be its [`length`].
pub const fn json<const N: usize>(node: &Node) -> [u8; N] {
    let mut out = [0; N];
    write_into(node, &mut out);
    out
}

impl Node {
    const fn is_optional(&self) -> bool {
        match self {
            Node::Optional(_) => true,
            Node::Secret(node) => node.is_optional(),
            _ => false,
        }
    }

    /// Whether anything in it is secret.
    pub fn has_secrets(&self) -> bool {
        match self {
            Node::Any | Node::Written(_) => false,
            Node::Secret(_) => true,
            Node::Array(node) | Node::Map(node) | Node::Optional(node) | Node::Described(_, node) => node.has_secrets(),
            Node::Tuple(nodes) | Node::OneOf { variants: nodes, .. } => nodes.iter().any(|node| node.has_secrets()),
            Node::Object { fields, .. } => fields.iter().any(|field| field.node.has_secrets()),
        }
    }

    /// What is at a path such as `doors[0].width`; `None` if that is not known, or something on the way is secret.
    pub fn at_shown_path(&self, path: &str) -> Option<&'static Node> {
        let mut here: &Node = self;
        let mut found = None;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = loop {
                match here {
                    Node::Optional(node) | Node::Described(_, node) => here = node,
                    Node::Array(node) | Node::Map(node) => break *node,
                    Node::Tuple(nodes) => break *nodes.get(step.trim_end_matches(']').parse::<usize>().ok()?)?,
                    Node::Object { fields, .. } => break fields.iter().find(|field| field.name == step)?.node,
                    Node::Any | Node::Written(_) | Node::OneOf { .. } | Node::Secret(_) => return None,
                }
            };
            (here, found) = (next, Some(next));
        }
        found
    }

    /// The schema as JSON text.
    pub fn to_json(&self) -> String {
        let mut out = vec![0; length(self)];
        write_into(self, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

macro_rules! written {
    ($($type:ty => $members:literal),* $(,)?) => {
        $(impl Schema for $type {
            const NODE: &'static Node = &Node::Written($members);
        })*
    };
}

written! {
    bool => r#""type":"boolean""#,
    u8 => r#""type":"integer","minimum":0,"maximum":255"#,
    u16 => r#""type":"integer","minimum":0,"maximum":65535"#,
    u32 => r#""type":"integer","minimum":0,"maximum":4294967295"#,
    u64 => r#""type":"integer","minimum":0"#,
    u128 => r#""type":"integer","minimum":0"#,
    usize => r#""type":"integer","minimum":0"#,
    i8 => r#""type":"integer","minimum":-128,"maximum":127"#,
    i16 => r#""type":"integer","minimum":-32768,"maximum":32767"#,
    i32 => r#""type":"integer","minimum":-2147483648,"maximum":2147483647"#,
    i64 => r#""type":"integer""#,
    i128 => r#""type":"integer""#,
    isize => r#""type":"integer""#,
    std::num::NonZeroU8 => r#""type":"integer","minimum":1,"maximum":255"#,
    std::num::NonZeroU16 => r#""type":"integer","minimum":1,"maximum":65535"#,
    std::num::NonZeroU32 => r#""type":"integer","minimum":1,"maximum":4294967295"#,
    std::num::NonZeroU64 => r#""type":"integer","minimum":1"#,
    std::num::NonZeroUsize => r#""type":"integer","minimum":1"#,
    f32 => r#""type":"number""#,
    f64 => r#""type":"number""#,
    char => r#""type":"string","minLength":1,"maxLength":1"#,
    str => r#""type":"string""#,
    String => r#""type":"string""#,
    std::path::PathBuf => r#""type":"string""#,
    std::net::IpAddr => r#""type":"string""#,
    std::net::Ipv4Addr => r#""type":"string","format":"ipv4""#,
    std::net::Ipv6Addr => r#""type":"string","format":"ipv6""#,
    std::net::SocketAddr => r#""type":"string""#,
    semver::Version => r#""type":"string""#,
    semver::VersionReq => r#""type":"string""#,
    std::time::Duration => r#""type":"object","properties":{"secs":{"type":"integer","minimum":0},"nanos":{"type":"integer","minimum":0}},"required":["secs","nanos"]"#,
    () => r#""type":"null""#,
}

impl Schema for serde_json::Value {
    const NODE: &'static Node = &Node::Any;
}

macro_rules! wraps {
    ($($node:ident: $($type:ty),*;)*) => {
        $($(impl<T: Schema> Schema for $type {
            const NODE: &'static Node = &Node::$node(T::NODE);
        })*)*
    };
}

wraps! {
    Optional: Option<T>;
    Array: Vec<T>, [T], std::collections::VecDeque<T>, std::collections::BTreeSet<T>;
}

impl<T: Schema, S> Schema for std::collections::HashSet<T, S> {
    const NODE: &'static Node = &Node::Array(T::NODE);
}

impl<T: Schema, const N: usize> Schema for [T; N] {
    const NODE: &'static Node = &Node::Array(T::NODE);
}

impl<K, T: Schema> Schema for std::collections::BTreeMap<K, T> {
    const NODE: &'static Node = &Node::Map(T::NODE);
}

impl<K, T: Schema, S> Schema for std::collections::HashMap<K, T, S> {
    const NODE: &'static Node = &Node::Map(T::NODE);
}

macro_rules! same {
    ($($type:ty),*) => {
        $(impl<T: Schema + ?Sized> Schema for $type {
            const NODE: &'static Node = T::NODE;
        })*
    };
}

same!(Box<T>, std::rc::Rc<T>, std::sync::Arc<T>);

impl<T: Schema + ToOwned + ?Sized> Schema for std::borrow::Cow<'_, T> {
    const NODE: &'static Node = T::NODE;
}

macro_rules! tuples {
    ($(($($name:ident),+))*) => {
        $(impl<$($name: Schema),+> Schema for ($($name,)+) {
            const NODE: &'static Node = &Node::Tuple(&[$($name::NODE),+]);
        })*
    };
}

tuples!((A)(A, B)(A, B, C)(A, B, C, D)(A, B, C, D, E)(A, B, C, D, E, F));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::probe::{Probe, Unknown};

    #[test]
    fn what_the_compiler_writes_is_json_and_as_long_as_it_was_counted() {
        const NODE: &Node = <Vec<Option<(u8, String)>> as Schema>::NODE;
        const TEXT: [u8; length(NODE)] = json(NODE);
        let value: serde_json::Value = serde_json::from_slice(&TEXT).unwrap();
        assert_eq!(value["type"], "array");
        assert_eq!(value["items"]["anyOf"][0]["prefixItems"][0]["maximum"], 255);
        assert_eq!(NODE.to_json().as_bytes(), TEXT);
    }

    #[test]
    fn a_type_without_a_schema_fits_anything() {
        struct Unheard;
        assert_eq!(<Probe<Unheard>>::NODE, &Node::Any);
        assert_eq!(<Probe<Vec<Unheard>>>::NODE, &Node::Any);
        assert_eq!(<Probe<Vec<u8>>>::NODE, <Vec<u8> as Schema>::NODE);
    }
}

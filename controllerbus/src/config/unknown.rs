//! Keys of a config that its type does not have: serde ignores them, and so a slip of the pen would go unnoticed.

use serde_json::Value;

use super::nearest::nearest;
use super::schema::{Field, Node};
use crate::Error;
use crate::directive::wire;

/// What is to be said of the unknown keys of a config, in the boundary's encoding; nothing if there are none.
pub(crate) fn unknown(schema: &Node, config: &[u8]) -> Option<String> {
    let mut found = Vec::new();
    look(schema, &wire::to_json(config), "", &mut found);
    (!found.is_empty()).then(|| found.join("; "))
}

/// An error of decoding a config, with its unknown keys if a key is missing, because one is probably the other.
pub(crate) fn with_unknown(error: Error, unknown: Option<&str>) -> Error {
    match unknown {
        Some(unknown) if error.message().contains("missing field") => {
            Error::new(error.kind(), format!("{}; {unknown}", error.message()))
        }
        _ => error,
    }
}

/// Logs that a config in use has unknown keys.
pub(crate) fn warn(config: &str, unknown: &str) {
    tracing::warn!("config {config}: {unknown}");
}

fn look(node: &Node, value: &Value, path: &str, found: &mut Vec<String>) {
    match (node, value) {
        (Node::Optional(node) | Node::Described(_, node) | Node::Secret(node), value) => look(node, value, path, found),
        (Node::Array(node), Value::Array(items)) => {
            items.iter().enumerate().for_each(|(at, item)| look(node, item, &format!("{path}[{at}]"), found));
        }
        (Node::Tuple(nodes), Value::Array(items)) => {
            for (at, (node, item)) in nodes.iter().zip(items).enumerate() {
                look(node, item, &format!("{path}[{at}]"), found);
            }
        }
        (Node::Map(node), Value::Object(members)) => {
            members.iter().for_each(|(name, member)| look(node, member, &below(path, name), found));
        }
        (Node::Object { fields, closed, .. }, Value::Object(members)) => {
            let mut known = Vec::new();
            // Of a type that refuses them, serde says it.
            let is_open = *closed || !keys(fields, &mut known);
            for (name, member) in members {
                match fields.iter().find(|field| field.name == name) {
                    Some(field) => look(field.node, member, &below(path, name), found),
                    None if is_open || known.contains(&name.as_str()) => {}
                    None => {
                        let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
                        let meant = nearest(name, known.iter().copied());
                        let meant = meant.map(|meant| format!(": did you mean `{meant}`?")).unwrap_or_default();
                        found.push(format!("unknown key `{name}`{place}{meant}"));
                    }
                }
            }
        }
        // Which variant is meant is serde's to find.
        _ => {}
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Adds the names of fields, and of those that are flattened into them; false if there may be any others.
fn keys(fields: &[Field], known: &mut Vec<&'static str>) -> bool {
    fields.iter().all(|field| {
        if !field.name.is_empty() {
            known.push(field.name);
            return true;
        }
        match field.node {
            Node::Object { fields, .. } => keys(fields, known),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::{Config, Schema};

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "test/clock")]
    struct Clock {
        zone: String,
        #[serde(default)]
        times: u32,
        #[serde(default)]
        hands: Vec<Hand>,
        #[serde(flatten)]
        face: Face,
    }

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    struct Hand {
        length: u32,
    }

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    struct Face {
        colour: Option<String>,
    }

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "test/any")]
    struct Any {
        #[serde(flatten)]
        all: BTreeMap<String, Value>,
    }

    fn of<C: Config>(config: &Value) -> Option<String> {
        unknown(C::SCHEMA, &wire::encode(config).expect("it is encoded"))
    }

    #[test]
    fn a_key_that_the_type_does_not_have_is_named_with_the_one_that_is_meant() {
        assert_eq!(of::<Clock>(&json!({ "zone": "a", "times": 1, "hands": [{ "length": 1 }], "colour": "red" })), None);
        assert_eq!(
            of::<Clock>(&json!({ "zone": "a", "tmies": 1, "hands": [{ "length": 1, "lenght": 2 }], "anything": 1 }))
                .as_deref(),
            Some(
                "unknown key `anything`; unknown key `lenght` in `hands[0]`: did you mean `length`?; unknown key `tmies`: did \
                 you mean `times`?"
            )
        );
        assert_eq!(of::<Any>(&json!({ "tmies": 1 })), None);
    }

    #[test]
    fn a_missing_key_is_told_together_with_the_unknown_one() {
        let bytes = wire::encode(&json!({ "zoen": "a" })).expect("it is encoded");
        let error = wire::decode::<Clock>(&bytes).err().expect("a key is missing");
        let told = with_unknown(error, unknown(Clock::SCHEMA, &bytes).as_deref()).to_string();
        assert!(told.contains("missing field `zone`; unknown key `zoen`: did you mean `zone`?"), "{told}");
    }
}

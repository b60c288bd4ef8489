//! JSON schemas: of config sets, to check values against, and described for people.
//!
//! The schemas are those of `#[derive(Config)]`, so only the keywords that it uses are supported.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// The JSON schema of config sets whose configs have these schemas, by config id.
pub fn of_config_sets(configs: &BTreeMap<String, Value>) -> Value {
    let ids: Vec<&String> = configs.keys().collect();
    let each: Vec<Value> = configs
        .iter()
        .map(|(id, schema)| {
            json!({
                "if": { "properties": { "id": { "const": id } }, "required": ["id"] },
                "then": { "properties": { "config": schema } },
            })
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A ControllerBus config set",
        "description": "The controllers to run, each under a key of your choice.",
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {
                "id": { "description": "The config id.", "anyOf": [{ "enum": ids }, { "type": "string" }] },
                "version": { "description": "Which versions of the controller are accepted, such as ^1.2.", "type": "string" },
                "revision": { "description": "The highest revision of a key wins.", "type": "integer", "minimum": 0 },
                "rev": { "description": "The same as revision.", "type": "integer", "minimum": 0 },
                "supersede": { "description": "Whether a higher version that comes later takes over from the running controller.", "type": "boolean" },
                "retry": {
                    "description": "How often the controller and its resolvers are tried again when they fail.",
                    "type": "object",
                    "properties": {
                        "start_ms": { "description": "The first wait.", "type": "integer", "minimum": 0 },
                        "factor": { "description": "How much longer each wait is than the one before.", "type": "number", "minimum": 1 },
                        "most_ms": { "description": "The longest wait.", "type": "integer", "minimum": 0 },
                        "stop_after": { "description": "The number of failures in a row after which it is given up.", "type": "integer", "minimum": 1 },
                    },
                    "additionalProperties": false,
                },
                "config": { "description": "The config itself." },
            },
            "required": ["id"],
            "additionalProperties": false,
            "allOf": each,
        },
    })
}

/// A mismatch: where, such as `doors[0].width`, and why.
pub type Misfit = (String, String);

/// All mismatches between a value and a schema.
pub fn misfits(schema: &Value, value: &Value) -> Vec<Misfit> {
    let mut found = Vec::new();
    look(schema, value, "", Keys::Checked, &mut found);
    found
}

/// Whether a schema says which keys there may be, or is a part of one that does.
#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Checked,
    Elsewhere,
}

fn look(schema: &Value, value: &Value, path: &str, keys: Keys, found: &mut Vec<Misfit>) {
    if schema.get("writeOnly") == Some(&Value::Bool(true)) {
        // Mismatches of secrets are reported without quoting them.
        let mut schema = schema.clone();
        schema.as_object_mut().map(|members| members.remove("writeOnly"));
        let mut hidden = Vec::new();
        look(&schema, value, path, keys, &mut hidden);
        if !hidden.is_empty() {
            found.push((path.to_owned(), format!("expected {}; the value is secret and not shown", kind(&schema))));
        }
        return;
    }
    let Value::Object(schema) = schema else {
        if schema == &Value::Bool(false) {
            found.push((path.to_owned(), "no value is allowed here".to_owned()));
        }
        return;
    };
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.contains(value)
    {
        let known: Vec<String> = allowed.iter().map(text).collect();
        let near = value.as_str().and_then(|word| {
            controllerbus::__private::nearest(word, allowed.iter().filter_map(Value::as_str)).map(str::to_owned)
        });
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of {}", known.join(", ")),
        };
        found.push((path.to_owned(), format!("unknown value {}; {hint}", text(value))));
        return;
    }
    if let Some(wanted) = schema.get("const")
        && wanted != value
    {
        found.push((path.to_owned(), format!("expected {}, found {}", text(wanted), text(value))));
        return;
    }
    if let Some(kinds) = schema.get("type")
        && !of_kind(kinds, value)
    {
        found.push((path.to_owned(), format!("expected {}, found {}", kind_text(kinds), text(value))));
        return;
    }
    bounds(schema, value, path, found);
    match value {
        Value::Object(members) => look_in_object(schema, members, path, keys, found),
        Value::Array(items) => {
            let first = schema.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for (at, item) in items.iter().enumerate() {
                let wanted = first.get(at).or_else(|| schema.get("items"));
                if let Some(wanted) = wanted {
                    look(wanted, item, &format!("{path}[{at}]"), Keys::Checked, found);
                }
            }
            if items.len() < first.len() {
                found.push((path.to_owned(), format!("expected {} items, found {}", first.len(), items.len())));
            }
        }
        _ => {}
    }
    for name in ["anyOf", "oneOf"] {
        let Some(Value::Array(choices)) = schema.get(name) else { continue };
        let misfits: Vec<Vec<Misfit>> = choices
            .iter()
            .map(|choice| {
                let mut found = Vec::new();
                look(choice, value, path, keys, &mut found);
                found
            })
            .collect();
        if misfits.iter().all(|misfits| !misfits.is_empty())
            // The choice that was meant is the one that matches furthest, whose mismatches are deepest.
            && let Some(best) = misfits.into_iter().max_by_key(|misfits| misfits.iter().map(|(path, _)| path.len()).max())
        {
            found.extend(best);
        }
    }
    if let Some(Value::Array(all)) = schema.get("allOf") {
        for schema in all {
            look(schema, value, path, Keys::Elsewhere, found);
        }
    }
}

fn look_in_object(
    schema: &serde_json::Map<String, Value>,
    members: &serde_json::Map<String, Value>,
    path: &str,
    keys: Keys,
    found: &mut Vec<Misfit>,
) {
    let empty = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    let known = properties.unwrap_or(&empty);
    // Whoever reads a config ignores other keys, unless its type says otherwise. Here they are mistakes.
    let mut all = BTreeSet::new();
    let is_closed = keys == Keys::Checked && properties.is_some() && all_keys(schema, &mut all);
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, member) in members {
        match (known.get(name), schema.get("additionalProperties")) {
            (Some(schema), _) => look(schema, member, &at(name), Keys::Checked, found),
            (None, None | Some(Value::Bool(_))) if is_closed && !all.contains(name.as_str()) => {
                let hint = match controllerbus::__private::nearest(name, all.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if all.is_empty() => "no keys are allowed here".to_owned(),
                    None => format!("known keys are {}", all.iter().copied().collect::<Vec<_>>().join(", ")),
                };
                found.push((at(name), format!("unknown key `{name}`; {hint}")));
            }
            (None, Some(schema @ Value::Object(_))) => look(schema, member, &at(name), Keys::Checked, found),
            (None, _) => {}
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            found.push((path.to_owned(), format!("`{name}` is missing")));
        }
    }
}

/// Adds all keys that a schema knows; false if it allows others.
fn all_keys<'a>(schema: &'a serde_json::Map<String, Value>, found: &mut BTreeSet<&'a str>) -> bool {
    if matches!(schema.get("additionalProperties"), Some(Value::Object(_) | Value::Bool(true))) {
        return false;
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    found.extend(properties.into_iter().flatten().map(|(name, _)| name.as_str()));
    let parts = ["allOf", "anyOf", "oneOf"].map(|name| schema.get(name).and_then(Value::as_array));
    let mut parts = parts.into_iter().flatten().flatten().peekable();
    let says_nothing = properties.is_none() && parts.peek().is_none();
    if says_nothing {
        // What is no map adds no keys, and what may be anything adds any.
        return schema.contains_key("const")
            || schema.get("type").is_some_and(|kind| kind.as_str().is_some_and(|kind| kind != "object"));
    }
    parts.all(|part| part.as_object().is_none_or(|part| all_keys(part, found)))
}

/// A key of a config, described for people.
pub struct Field {
    /// Its path, such as `doors[].width`.
    pub path: String,
    /// Its type: `whole number`, `red | green`, `list of text`, `text (secret)`.
    pub kind: String,
    /// Whether it is required.
    pub required: bool,
    /// Its doc comment.
    pub description: String,
}

/// The keys of a config, including nested ones.
pub fn fields(schema: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    add_fields(schema, "", &mut found);
    found
}

fn add_fields(schema: &Value, path: &str, found: &mut Vec<Field>) {
    let required: Vec<&str> = members(schema, "required").iter().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, field) in properties.into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let description = field.get("description").and_then(Value::as_str).unwrap_or_default();
        // The first line is enough here; the schema has all of it.
        let description = description.lines().next().unwrap_or_default().to_owned();
        let required = required.contains(&name.as_str());
        let secret = if field.get("writeOnly").is_some() { " (secret)" } else { "" };
        found.push(Field { path: path.clone(), kind: kind(field) + secret, required, description });
        add_fields(field, &path, found);
    }
    if let Some(items) = schema.get("items") {
        add_fields(items, &format!("{path}[]"), found);
    }
    if let Some(values @ Value::Object(_)) = schema.get("additionalProperties") {
        add_fields(values, &format!("{path}.*"), found);
    }
    for schema in ["anyOf", "oneOf", "allOf"].iter().flat_map(|name| members(schema, name)) {
        add_fields(schema, path, found);
    }
}

fn members<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The type of a schema, in a few words.
fn kind(schema: &Value) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let any_of = |kinds: &mut dyn Iterator<Item = String>, between: &str| {
        let mut distinct: Vec<String> = Vec::new();
        for kind in kinds {
            if !distinct.contains(&kind) {
                distinct.push(kind);
            }
        }
        distinct.join(between)
    };
    if let Some(value) = schema.get("const") {
        return word(value);
    }
    if !members(schema, "enum").is_empty() {
        return any_of(&mut members(schema, "enum").iter().map(word), " | ");
    }
    for name in ["anyOf", "oneOf"] {
        // That null means the same as omitting it goes without saying.
        let mut choices = members(schema, name).iter().map(kind).filter(|kind| kind != "null").peekable();
        if choices.peek().is_some() {
            return any_of(&mut choices, " | ");
        }
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => "true | false".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("string") => "text".to_owned(),
        Some("array") if !members(schema, "prefixItems").is_empty() => {
            let each: Vec<String> = members(schema, "prefixItems").iter().map(kind).collect();
            format!("[{}]", each.join(", "))
        }
        Some("array") => format!("list of {}", schema.get("items").map_or_else(|| "anything".to_owned(), kind)),
        Some("object") => match schema.get("additionalProperties") {
            Some(values @ Value::Object(_)) => format!("map of {}", kind(values)),
            _ => "map".to_owned(),
        },
        Some(other) => other.to_owned(),
        None => "anything".to_owned(),
    }
}

fn bounds(schema: &serde_json::Map<String, Value>, value: &Value, path: &str, found: &mut Vec<Misfit>) {
    let Some(number) = value.as_f64() else { return };
    if let Some(least) = schema.get("minimum").and_then(Value::as_f64)
        && number < least
    {
        found.push((path.to_owned(), format!("{number} is too small; the minimum is {least}")));
    }
    if let Some(most) = schema.get("maximum").and_then(Value::as_f64)
        && number > most
    {
        found.push((path.to_owned(), format!("{number} is too large; the maximum is {most}")));
    }
}

fn of_kind(kinds: &Value, value: &Value) -> bool {
    match kinds {
        Value::Array(kinds) => kinds.iter().any(|kind| of_kind(kind, value)),
        Value::String(kind) => match kind.as_str() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        },
        _ => true,
    }
}

fn kind_text(kinds: &Value) -> String {
    match kinds {
        Value::Array(kinds) => kinds.iter().map(kind_text).collect::<Vec<_>>().join(" or "),
        Value::String(kind) => match kind.as_str() {
            "boolean" => "true or false".to_owned(),
            "integer" => "a whole number".to_owned(),
            "number" => "a number".to_owned(),
            "string" => "text".to_owned(),
            "array" => "a list".to_owned(),
            "object" => "a map".to_owned(),
            other => other.to_owned(),
        },
        other => other.to_string(),
    }
}

fn text(value: &Value) -> String {
    controllerbus_api::__private::cut(&value.to_string(), 60)
}

#[cfg(test)]
mod tests {
    use controllerbus::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "test/hammer")]
    struct Hammer {
        name: String,
        #[serde(default, alias = "count")]
        times: u32,
        #[serde(default)]
        heads: Vec<Head>,
        #[serde(flatten)]
        grip: Grip,
    }

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    struct Head {
        #[serde(default)]
        weight: u32,
    }

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    #[serde(tag = "grip", rename_all = "lowercase")]
    enum Grip {
        Wood { colour: Option<String> },
        Steel,
    }

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "test/open")]
    struct Open {
        name: String,
        #[serde(flatten)]
        others: BTreeMap<String, Value>,
    }

    fn told<C: Config>(config: &Value) -> Vec<String> {
        let schema = serde_json::from_str(&C::SCHEMA.to_json()).expect("JSON");
        misfits(&schema, config).into_iter().map(|(path, why)| format!("{path}: {why}")).collect()
    }

    #[test]
    fn an_unknown_key_is_a_mistake_wherever_the_type_does_not_collect_others() {
        let good = json!({ "name": "a", "times": 3, "heads": [{ "weight": 1 }], "grip": "wood", "colour": "red" });
        assert_eq!(told::<Hammer>(&good), Vec::<String>::new());
        assert_eq!(told::<Hammer>(&json!({ "name": "a", "count": 3, "grip": "steel" })), Vec::<String>::new());
        let bad = json!({ "name": "a", "tmies": 3, "heads": [{ "wieght": 1 }], "grip": "wood", "color": "red" });
        assert_eq!(
            told::<Hammer>(&bad),
            [
                "color: unknown key `color`; did you mean `colour`?",
                "heads[0].wieght: unknown key `wieght`; did you mean `weight`?",
                "tmies: unknown key `tmies`; did you mean `times`?",
            ]
        );
        let both = told::<Hammer>(&json!({ "nmae": "a", "grip": "steel" }));
        assert_eq!(both, ["nmae: unknown key `nmae`; did you mean `name`?", ": `name` is missing"]);
        assert_eq!(told::<Open>(&json!({ "name": "a", "tmies": 3, "more": { "of": "it" } })), Vec::<String>::new());
    }
}

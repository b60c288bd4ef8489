//! What two sides mean differently by one id, as far as their manifests say it.

use std::borrow::Cow;

use controllerbus::directive::DirectiveType;
use serde_json::Value;

use super::{DirectiveTypes, FactoryRecord};

/// What is wrong where one id means two things.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The id, of a directive or of a config.
    pub id: String,
    /// A sentence that names the other side, what differs, and what to do.
    pub what: String,
}

const SHARE: &str = "give both types the same fields, or declare the type once, in a crate that both depend on";

/// How the controllers of a plugin conflict with those of another one, by that one's id.
pub fn conflicts(ours: &[FactoryRecord], other: &str, theirs: &[FactoryRecord]) -> Vec<Conflict> {
    let mut found = Vec::new();
    for one in ours {
        for their in theirs.iter().filter(|their| their.config == one.config && their.version == one.version) {
            let differ = difference(&their.schema, &one.schema).map(|what| format!(", although {what}"));
            found.push(Conflict {
                id: one.config.clone(),
                what: format!(
                    "the plugin `{other}` has controllers of the config id `{}` and the version {} too: the plugin that came first \
                     makes them{}; give one of the two another id",
                    one.config,
                    one.version,
                    differ.unwrap_or_default()
                ),
            });
        }
    }
    found.extend(of_directives(ours, &format!("the plugin `{other}`"), |id| {
        declared(theirs).find(|their| their.id == id)
    }));
    found
}

/// A directive as one side declares it.
struct Declared<'a> {
    id: &'a str,
    fields: Cow<'a, Value>,
    types: Cow<'a, DirectiveTypes>,
}

/// What a plugin's code says of the directives that can be asked from outside.
fn declared(factories: &[FactoryRecord]) -> impl Iterator<Item = Declared<'_>> {
    factories.iter().flat_map(|factory| {
        let described = factory.resolves.iter().zip(&factory.directives).zip(&factory.types);
        described.filter(|((_, fields), _)| !fields.is_null()).filter_map(|((id, fields), types)| {
            Some(Declared { id, fields: Cow::Borrowed(fields), types: Cow::Borrowed(types.as_ref()?) })
        })
    })
}

/// How the controllers of a plugin conflict with what this program asks.
pub(crate) fn conflicts_with_this_program(ours: &[FactoryRecord]) -> Vec<Conflict> {
    of_directives(ours, "this program", |id| {
        let known = DirectiveType::find(id).filter(|known| !known.declaration.name.is_empty())?;
        let schema = |json: String| serde_json::from_str::<Value>(&json).unwrap_or_default();
        let types = DirectiveTypes {
            name: known.declaration.name.to_owned(),
            value_name: known.declaration.value_name.to_owned(),
            value: schema(known.declaration.value.to_json()),
        };
        Some(Declared { id: known.id, fields: Cow::Owned(schema(known.schema.to_json())), types: Cow::Owned(types) })
    })
}

fn of_directives<'a>(
    ours: &[FactoryRecord],
    other: &str,
    their: impl Fn(&str) -> Option<Declared<'a>>,
) -> Vec<Conflict> {
    let mut found: Vec<Conflict> = Vec::new();
    for one in declared(ours) {
        let Some(their) = their(one.id).filter(|_| !found.iter().any(|known| known.id == one.id)) else { continue };
        let (id, ours, theirs) = (one.id, &one.types, &their.types);
        let what = if let Some(what) = difference(&their.fields, &one.fields) {
            let (ours, theirs) = (&ours.name, &theirs.name);
            format!("the directive `{id}` is `{ours}` here and `{theirs}` in {other}, and {what}; {SHARE}")
        } else if let Some(what) = difference(&theirs.value, &ours.value) {
            let (ours, theirs) = (&ours.value_name, &theirs.value_name);
            format!("the values of `{id}` are `{ours}` here and `{theirs}` in {other}, and {what}; {SHARE}")
        } else {
            continue;
        };
        found.push(Conflict { id: id.to_owned(), what });
    }
    found
}

/// What does not fit where a value of one schema is read by the other; nothing where they may fit.
fn difference(theirs: &Value, ours: &Value) -> Option<String> {
    let (path, what) = apart(theirs, ours)?;
    Some(if path.is_empty() { format!("one is {what}") } else { format!("`{path}` is {what}") })
}

fn apart(theirs: &Value, ours: &Value) -> Option<(String, String)> {
    let (theirs, ours) = (present(theirs), present(ours));
    let (their, our) = (kind(theirs)?, kind(ours)?);
    if their != our {
        return Some((String::new(), format!("{our} here and {their} there")));
    }
    if let (Some(theirs), Some(ours)) = (theirs.get("items"), ours.get("items")) {
        return apart(theirs, ours).map(|(path, what)| (below("[]", &path), what));
    }
    let (theirs, ours) = (Object::of(theirs)?, Object::of(ours)?);
    let missing = |these: &Object<'_>, those: &Object<'_>| {
        these.required().find(|name| !those.fields.contains_key(*name)).map(str::to_owned)
    };
    if let Some(name) = missing(&ours, &theirs) {
        return Some((name, "required here and unknown there".to_owned()));
    }
    if let Some(name) = missing(&theirs, &ours) {
        return Some((name, "unknown here and required there".to_owned()));
    }
    ours.fields.iter().find_map(|(name, field)| {
        let (path, what) = apart(theirs.fields.get(name)?, field)?;
        Some((below(name, &path), what))
    })
}

fn below(name: &str, path: &str) -> String {
    match path {
        "" => name.to_owned(),
        list if list.starts_with('[') => format!("{name}{list}"),
        field => format!("{name}.{field}"),
    }
}

/// A schema without the null that may stand in place of its value.
fn present(schema: &Value) -> &Value {
    let Some(choices) = schema.get("anyOf").and_then(Value::as_array) else { return schema };
    let mut others = choices.iter().filter(|choice| kind(choice) != Some("nothing"));
    match (others.next(), others.next()) {
        (Some(only), None) if choices.len() == 2 => only,
        _ => schema,
    }
}

/// What kind of value fits a schema, if that is one.
fn kind(schema: &Value) -> Option<&'static str> {
    Some(match schema.get("type")?.as_str()? {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "array" => "a list",
        "object" => "a map",
        _ => return None,
    })
}

/// The fields of a struct.
struct Object<'a> {
    fields: &'a serde_json::Map<String, Value>,
    schema: &'a Value,
}

impl<'a> Object<'a> {
    /// Nothing for a map with any keys, or a struct that collects other keys.
    fn of(schema: &'a Value) -> Option<Self> {
        let fields = schema.get("properties")?.as_object().filter(|_| schema.get("allOf").is_none())?;
        Some(Self { fields, schema })
    }

    fn required(&self) -> impl Iterator<Item = &'a str> {
        self.schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn factory(config: &str, schema: &Value, directive: Option<(&Value, &str, &Value)>) -> FactoryRecord {
        let (resolves, directives, types) = match directive {
            None => (json!([]), json!([]), json!([])),
            Some((fields, value_name, value)) => {
                let types = json!([{ "name": "clock::Watch", "value_name": value_name, "value": value }]);
                (json!(["clock/tick"]), json!([fields]), types)
            }
        };
        let record = json!({
            "plugin": config, "version": "0.1.0", "crate": "c", "crate_version": "0.1.0", "description": "", "entry": "e",
            "config": config, "resolves": resolves, "schema": schema, "directives": directives, "types": types,
        });
        serde_json::from_value(record).expect("a record")
    }

    fn told(ours: &FactoryRecord, theirs: &FactoryRecord) -> Vec<String> {
        let found = conflicts(std::slice::from_ref(ours), "other", std::slice::from_ref(theirs));
        found.into_iter().map(|conflict| conflict.what).collect()
    }

    #[test]
    fn two_plugins_with_one_config_id_are_told_with_what_differs() {
        let times =
            |kind: &str| json!({ "type": "object", "properties": { "times": { "type": kind } }, "required": [] });
        let (ours, same) = (factory("clock", &times("integer"), None), factory("clock", &times("integer"), None));
        assert_eq!(
            told(&ours, &same),
            [
                "the plugin `other` has controllers of the config id `clock` and the version 0.1.0 too: the plugin that came first \
              makes them; give one of the two another id"
            ]
        );
        let differs = told(&ours, &factory("clock", &times("string"), None));
        assert!(differs[0].contains("although `times` is a whole number here and text there"), "{differs:?}");
        assert_eq!(told(&ours, &factory("watch", &times("string"), None)), Vec::<String>::new());
    }

    #[test]
    fn one_directive_id_with_two_shapes_is_told_and_what_may_fit_is_not() {
        let unit = json!({ "type": "null" });
        let of = |name: &str, schema: &Value| factory(name, &json!({}), Some((&unit, name, schema)));
        let (text, number) = (of("String", &json!({ "type": "string" })), of("u32", &json!({ "type": "integer" })));
        assert_eq!(
            told(&text, &number),
            [
                "the values of `clock/tick` are `String` here and `u32` in the plugin `other`, and one is text here and a whole number \
              there; give both types the same fields, or declare the type once, in a crate that both depend on"
            ]
        );
        let zone = json!({ "type": "object", "properties": { "zone": { "type": "string" } }, "required": ["zone"] });
        let more = json!({
            "type": "object", "required": ["zone"],
            "properties": { "zone": { "anyOf": [{ "type": "string" }, { "type": "null" }] }, "more": { "type": "integer" } },
        });
        let asked = |name: &str, fields: &Value| factory(name, &json!({}), Some((fields, "u32", &json!({}))));
        let differs = told(&asked("a", &unit), &asked("b", &zone));
        assert!(differs[0].contains("one is nothing here and a map there"), "{differs:?}");
        let renamed =
            json!({ "type": "object", "properties": { "place": { "type": "string" } }, "required": ["place"] });
        let differs = told(&asked("a", &zone), &asked("b", &renamed));
        assert!(differs[0].contains("`zone` is required here and unknown there"), "{differs:?}");
        for fits in [&zone, &more, &json!({}), &json!({ "anyOf": [{ "const": "a" }, { "type": "object" }] })] {
            assert_eq!(told(&asked("a", &zone), &asked("b", fits)), Vec::<String>::new(), "{fits}");
        }
    }
}

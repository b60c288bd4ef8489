//! Errors about configs with `#[config(secret)]` fields, which do not quote what is secret.

use super::schema::Node;
use crate::Error;
use crate::directive::wire;

/// An error of decoding a config without the value that it quotes, unless that is known not to be secret.
pub(crate) fn without_secrets(error: Error, schema: &Node) -> Error {
    if !schema.has_secrets() {
        return error;
    }
    let shown =
        wire::path_of(&error).is_some_and(|path| schema.at_shown_path(path).is_some_and(|at| !at.has_secrets()));
    let (what, why) = error.message().split_once("`: ").unwrap_or(("", ""));
    // These name fields, and quote nothing.
    if shown || why.starts_with("missing field") || why.starts_with("unknown field") {
        return error;
    }
    let hidden = format!("{what}`: the value does not fit; it is not shown, because it may be secret");
    Error::new(error.kind(), hidden)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{Config, Schema};

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "test/secret")]
    struct Account {
        name: u32,
        #[config(secret)]
        pin: Option<u32>,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    struct Inner {
        #[config(secret)]
        word: bool,
        size: u32,
    }

    fn refused(config: &serde_json::Value) -> String {
        let bytes = wire::encode(config).expect("it is encoded");
        let error = wire::decode::<Account>(&bytes).err().expect("it does not fit");
        without_secrets(error, Account::SCHEMA).to_string()
    }

    #[test]
    fn what_is_secret_is_not_quoted_and_everything_else_is() {
        let cases = [
            (serde_json::json!({ "name": 1, "pin": "hunter2" }), "pin"),
            (serde_json::json!({ "name": 1, "pin": 2, "inner": [{ "word": "hunter2", "size": 1 }] }), "inner[0].word"),
            (serde_json::json!("hunter2"), "Account"),
            (serde_json::json!({ "name": 1, "pin": null, "inner": ["hunter2"] }), "inner[0]"),
        ];
        for (config, place) in cases {
            let error = refused(&config);
            assert!(!error.contains("hunter2") && error.contains(place) && error.contains("not shown"), "{error}");
        }
        let error = refused(&serde_json::json!({ "name": "Ada", "pin": 2 }));
        assert!(error.contains("\"Ada\""), "{error}");
        let error = refused(&serde_json::json!({ "name": 1, "inner": [{ "word": true, "size": "large" }] }));
        assert!(error.contains("\"large\"") && error.contains("inner[0].size"), "{error}");
        assert!(refused(&serde_json::json!({ "pin": 2 })).contains("missing field `name`"));
    }

    #[test]
    fn a_secret_field_is_one_in_the_schema_too() {
        let schema: serde_json::Value = serde_json::from_str(&Account::SCHEMA.to_json()).expect("JSON");
        assert_eq!(schema["properties"]["pin"]["writeOnly"], true);
        assert_eq!(schema["properties"]["pin"]["anyOf"][0]["minimum"], 0);
        assert_eq!(schema["properties"]["inner"]["items"]["properties"]["word"]["writeOnly"], true);
        assert_eq!(schema["properties"]["name"].get("writeOnly"), None);
        assert_eq!(schema["required"], serde_json::json!(["name"]));
    }
}

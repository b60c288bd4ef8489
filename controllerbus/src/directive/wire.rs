//! The boundary's encoding: MessagePack with field names, so that both sides may have different versions of a type.
//!
//! Generic code here is compiled into every controller crate at every edit, so there is next to none.

mod decoder;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};

pub(crate) use self::decoder::{Decoder, Failure};
use crate::error::ErrorKind;
use crate::{Error, Result};

/// Encodes a value with its field names.
///
/// # Errors
/// [`ErrorKind::Encoding`] with the type's name.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|error| not_encoded(&error, std::any::type_name::<T>()))
}

/// A map of names to encoded values.
pub(crate) fn map_of(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = rmp::encode::ByteBuf::new();
    // Memory is all that it writes to.
    let Ok(_) = rmp::encode::write_map_len(&mut bytes, entries.len() as u32);
    for (name, value) in entries {
        let Ok(()) = rmp::encode::write_str(&mut bytes, name);
        bytes.as_mut_vec().extend_from_slice(value);
    }
    bytes.into_vec()
}

fn not_encoded(error: &rmp_serde::encode::Error, type_name: &str) -> Error {
    Error::new(ErrorKind::Encoding, format!("cannot encode `{type_name}`: {error}"))
}

/// Decodes a value. Unknown fields are ignored unless the type says otherwise.
///
/// # Errors
/// [`ErrorKind::Encoding`] with the type's name and the path to the field.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    T::deserialize(&mut Decoder::new(bytes)).map_err(|failure| not_decoded(&failure, std::any::type_name::<T>()))
}

pub(crate) fn not_decoded(failure: &Failure, type_name: &str) -> Error {
    let path = failure.path();
    let place = if path.is_empty() { String::new() } else { format!(" at `{path}`") };
    Error::new(ErrorKind::Encoding, format!("cannot decode `{type_name}`{place}: {failure}"))
}

/// An encoded value as JSON, for tools; a text that says so if JSON cannot express it.
pub(crate) fn to_json(bytes: &[u8]) -> serde_json::Value {
    serde_json::Value::deserialize(&mut Decoder::new(bytes))
        .unwrap_or_else(|_| format!("{} bytes that JSON cannot express", bytes.len()).into())
}

/// The fields of an encoded struct as texts; anything else is one field without a name.
pub(crate) fn fields(bytes: &[u8]) -> Vec<(String, String)> {
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    match to_json(bytes) {
        serde_json::Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, text(value))).collect(),
        serde_json::Value::Null => Vec::new(),
        other => vec![(String::new(), text(other))],
    }
}

/// The path to the field that an error of [`decode`] is about, such as `doors[0].width`.
pub(crate) fn path_of(error: &Error) -> Option<&str> {
    if error.kind() != ErrorKind::Encoding {
        return None;
    }
    let (_, place) = error.message().split_once("` at `")?;
    place.split_once('`').map(|(path, _)| path)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Inner {
        count: u32,
        kind: Kind,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    enum Kind {
        Empty,
        One(String),
        Named { at: Option<i64>, bytes: Vec<u8> },
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Outer {
        inner: Vec<Inner>,
        tuple: (f64, char),
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        let kinds = [Kind::Empty, Kind::One("one".into()), Kind::Named { at: Some(-3), bytes: vec![1, 2] }];
        let inner = kinds.into_iter().map(|kind| Inner { count: 7, kind }).collect();
        let outer = Outer { inner, tuple: (0.5, 'x') };
        assert_eq!(decode::<Outer>(&encode(&outer).unwrap()).unwrap(), outer);
    }

    #[test]
    fn what_nests_too_deep_is_an_error_and_not_the_end_of_the_stack() {
        #[derive(Serialize, Deserialize)]
        struct Nested {
            // Not a struct of one unnamed field: that is no array, and reading it would use up none of the input.
            inner: Option<Box<Nested>>,
        }
        // An array of one, around an array of one, ...
        let bytes = [vec![0x91; 100_000], vec![0xc0]].concat();
        let error = decode::<Nested>(&bytes).map(drop).unwrap_err().to_string();
        assert!(error.contains("depth limit"), "{error}");
    }

    #[test]
    fn another_version_of_a_type_is_understood_and_a_mismatch_names_type_and_field() {
        #[derive(Serialize)]
        struct Newer {
            count: u32,
            kind: Kind,
            added_since: bool,
        }
        let newer = encode(&Newer { count: 1, kind: Kind::Empty, added_since: true }).unwrap();
        assert_eq!(decode::<Inner>(&newer).unwrap().count, 1);

        #[derive(Serialize)]
        struct Wrong {
            inner: Vec<WrongInner>,
            tuple: (f64, char),
        }
        #[derive(Serialize)]
        struct WrongInner {
            count: &'static str,
            kind: Kind,
        }
        let wrong = Wrong { inner: vec![WrongInner { count: "many", kind: Kind::Empty }], tuple: (0.0, 'x') };
        let error = decode::<Outer>(&encode(&wrong).unwrap()).unwrap_err().to_string();
        assert!(error.contains("Outer") && error.contains("inner[0].count"), "{error}");
        assert_eq!(path_of(&Error::new(ErrorKind::Encoding, error)), Some("inner[0].count"));
    }
}

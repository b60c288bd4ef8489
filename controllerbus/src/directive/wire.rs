//! The boundary's encoding: MessagePack with field names, so that both sides may have different versions of a type.
//!
//! Generic code here is compiled into every controller crate at every edit, so there is next to none: the encoding itself
//! works on `erased_serde`'s objects and is compiled once.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ErrorKind;
use crate::{Error, Result};

/// Encodes a value with its field names.
///
/// # Errors
/// [`ErrorKind::Encoding`] with the type's name.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    encode_erased(value, std::any::type_name::<T>())
}

fn encode_erased(value: &dyn erased_serde::Serialize, type_name: &str) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value)
        .map_err(|error| Error::new(ErrorKind::Encoding, format!("cannot encode `{type_name}`: {error}")))
}

/// Decodes a value. Unknown fields are ignored unless the type says otherwise.
///
/// # Errors
/// [`ErrorKind::Encoding`] with the type's name and the path to the field.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut decoded = None;
    decode_with(bytes, std::any::type_name::<T>(), &mut |deserializer| {
        decoded = Some(T::deserialize(deserializer)?);
        Ok(())
    })?;
    decoded.ok_or_else(|| Error::new(ErrorKind::Encoding, "nothing was decoded"))
}

pub(crate) type Decode<'a> = dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error> + 'a;

/// How deep a value may nest. Deeper ones would overflow a thread's stack, which cannot be reported as an error.
const DEPTH: usize = 128;

fn reader(bytes: &[u8]) -> rmp_serde::Deserializer<rmp_serde::decode::ReadRefReader<'_, [u8]>> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(DEPTH);
    deserializer
}

fn as_json(bytes: &[u8]) -> Result<serde_json::Value, rmp_serde::decode::Error> {
    serde::Deserialize::deserialize(&mut reader(bytes))
}

/// Decodes with a function, which may be called more than once if it fails.
pub(crate) fn decode_with(bytes: &[u8], type_name: &str, decode: &mut Decode<'_>) -> Result<()> {
    let mut deserializer = reader(bytes);
    let first = decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut deserializer));
    first.map_err(|error| {
        // Only a failure pays for the path, and for messages in terms of JSON, which a person understands.
        let mut track = serde_path_to_error::Track::new();
        let again = match as_json(bytes) {
            Ok(json) => {
                let tracked = serde_path_to_error::Deserializer::new(json, &mut track);
                decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(tracked)).err()
            }
            Err(_) => None,
        };
        let error = again.unwrap_or_else(|| {
            track = serde_path_to_error::Track::new();
            let mut again = reader(bytes);
            let tracked = serde_path_to_error::Deserializer::new(&mut again, &mut track);
            decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(tracked)).err().unwrap_or(error)
        });
        let path = track.path().to_string();
        let place = if path.starts_with('.') { String::new() } else { format!(" at `{path}`") };
        Error::new(ErrorKind::Encoding, format!("cannot decode `{type_name}`{place}: {error}"))
    })
}

/// An encoded value as JSON, for tools; a text that says so if JSON cannot express it.
pub(crate) fn to_json(bytes: &[u8]) -> serde_json::Value {
    as_json(bytes).unwrap_or_else(|_| format!("{} bytes that JSON cannot express", bytes.len()).into())
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

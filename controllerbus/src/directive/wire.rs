//! The boundary's encoding: MessagePack with field names, so that both sides may be of different versions.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ErrorKind;
use crate::{Error, Result};

/// Encodes a value with its field names.
///
/// # Errors
/// [`ErrorKind::Encoding`] with the type's name.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|error| {
        Error::new(ErrorKind::Encoding, format!("cannot encode `{}`: {error}", std::any::type_name::<T>()))
    })
}

/// Decodes a value; unknown fields are ignored, as serde does unless the type says otherwise.
///
/// # Errors
/// [`ErrorKind::Encoding`] with the type's name and the path to the field.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        // Only a failure pays for tracking the path.
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
        let place = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Err(at) if !at.path().to_string().starts_with('.') => format!(" at `{}`", at.path()),
            _ => String::new(),
        };
        Error::new(ErrorKind::Encoding, format!("cannot decode `{}`{place}: {error}", std::any::type_name::<T>()))
    })
}

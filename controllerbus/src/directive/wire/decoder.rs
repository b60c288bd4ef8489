//! Reads MessagePack as serde's types.
//!
//! What is generic over a visitor is compiled into every controller crate at every edit, once for each type that is read. So this is one
//! concrete type, what does not depend on the visitor is in functions of its own, and a visitor is only asked for what can come where a
//! type says what it expects. Of a failure it tells the place and, as serde_json does, what was found in a person's words.

use rmp::Marker;
use serde::de::{self, DeserializeSeed, Deserializer, Expected, Unexpected, Visitor};

/// How deep a value may nest. Deeper ones would overflow a thread's stack, which cannot be reported as an error.
const DEPTH: usize = 128;

/// Why a value cannot be read, and where.
#[derive(Debug)]
pub(crate) struct Failure(Box<Reason>);

#[derive(Debug)]
struct Reason {
    message: String,
    /// The innermost step first.
    path: Vec<Step>,
}

/// A step to a part of a value.
#[derive(Debug)]
enum Step {
    Element(usize),
    Named(String),
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Reason { message: message.into(), path: Vec::new() }))
    }

    fn within(mut self, step: Step) -> Self {
        self.0.path.push(step);
        self
    }

    /// The path to the part that it is about, such as `doors[0].width`; empty if it is about the whole.
    pub(crate) fn path(&self) -> String {
        let mut path = String::new();
        for step in self.0.path.iter().rev() {
            match step {
                Step::Element(at) => path.push_str(&format!("[{at}]")),
                Step::Named(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
            }
        }
        path
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match found {
            Unexpected::Unit => Self::new(format!("invalid type: null, expected {expected}")),
            other => Self::new(format!("invalid type: {other}, expected {expected}")),
        }
    }
}

fn wrong(token: Token<'_>, expected: &dyn Expected) -> Failure {
    de::Error::invalid_type(token.unexpected(), expected)
}

/// The bytes of a number that is longer than MessagePack's.
fn sixteen(bytes: &[u8]) -> Result<[u8; 16], Failure> {
    bytes.try_into().map_err(|_| de::Error::invalid_length(bytes.len(), &"16 bytes"))
}

/// What a value begins with; all of it, unless it has parts.
#[derive(Clone, Copy, Debug)]
enum Token<'de> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'de str),
    Bytes(&'de [u8]),
    Array(usize),
    Map(usize),
    Extension(i8, &'de [u8]),
}

impl<'de> Token<'de> {
    fn unexpected(self) -> Unexpected<'de> {
        match self {
            Self::Nil => Unexpected::Unit,
            Self::Bool(it) => Unexpected::Bool(it),
            Self::Unsigned(it) => Unexpected::Unsigned(it),
            Self::Signed(it) => Unexpected::Signed(it),
            Self::Float(it) => Unexpected::Float(it),
            Self::Text(it) => Unexpected::Str(it),
            Self::Bytes(it) => Unexpected::Bytes(it),
            Self::Array(_) => Unexpected::Seq,
            Self::Map(_) => Unexpected::Map,
            Self::Extension(..) => Unexpected::Other("an extension type"),
        }
    }
}

/// Reads one value, and leaves what follows it.
pub(crate) struct Decoder<'de> {
    input: &'de [u8],
    /// What comes before the input, the first last.
    pending: Vec<Token<'de>>,
    /// How many arrays and maps, and how many enums, the next value is in.
    depth: [usize; 2],
}

/// What nests, as an index of [`Decoder::depth`].
const COMPOUND: usize = 0;
const ENUM: usize = 1;

impl<'de> Decoder<'de> {
    pub(crate) fn new(input: &'de [u8]) -> Self {
        Self { input, pending: Vec::new(), depth: [0; 2] }
    }

    fn take(&mut self, length: usize) -> Result<&'de [u8], Failure> {
        let (taken, rest) =
            self.input.split_at_checked(length).ok_or_else(|| Failure::new("it ends in the middle of a value"))?;
        self.input = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A length of so many bytes.
    fn length<const N: usize>(&mut self) -> Result<usize, Failure> {
        Ok(self.array::<N>()?.into_iter().fold(0, |length, byte| length << 8 | usize::from(byte)))
    }

    fn text(&mut self, length: usize) -> Result<Token<'de>, Failure> {
        let bytes = self.take(length)?;
        Ok(std::str::from_utf8(bytes).map_or(Token::Bytes(bytes), Token::Text))
    }

    fn extension(&mut self, length: usize) -> Result<Token<'de>, Failure> {
        let [tag] = self.array()?;
        Ok(Token::Extension(tag as i8, self.take(length)?))
    }

    fn token(&mut self) -> Result<Token<'de>, Failure> {
        if let Some(token) = self.pending.pop() {
            return Ok(token);
        }
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Token::Nil,
            Marker::True => Token::Bool(true),
            Marker::False => Token::Bool(false),
            Marker::FixPos(it) => Token::Unsigned(it.into()),
            Marker::U8 => Token::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Token::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Token::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::FixNeg(it) => Token::Signed(it.into()),
            Marker::I8 => Token::Signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Token::Signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Token::Signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Token::Signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => self.text(length.into())?,
            Marker::Str8 => self.length::<1>().and_then(|length| self.text(length))?,
            Marker::Str16 => self.length::<2>().and_then(|length| self.text(length))?,
            Marker::Str32 => self.length::<4>().and_then(|length| self.text(length))?,
            Marker::Bin8 => Token::Bytes(self.length::<1>().and_then(|length| self.take(length))?),
            Marker::Bin16 => Token::Bytes(self.length::<2>().and_then(|length| self.take(length))?),
            Marker::Bin32 => Token::Bytes(self.length::<4>().and_then(|length| self.take(length))?),
            Marker::FixArray(length) => Token::Array(length.into()),
            Marker::Array16 => Token::Array(self.length::<2>()?),
            Marker::Array32 => Token::Array(self.length::<4>()?),
            Marker::FixMap(length) => Token::Map(length.into()),
            Marker::Map16 => Token::Map(self.length::<2>()?),
            Marker::Map32 => Token::Map(self.length::<4>()?),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => self.length::<1>().and_then(|length| self.extension(length))?,
            Marker::Ext16 => self.length::<2>().and_then(|length| self.extension(length))?,
            Marker::Ext32 => self.length::<4>().and_then(|length| self.extension(length))?,
            Marker::Reserved => return Err(Failure::new("it is not MessagePack")),
        })
    }

    fn is_nil(&self) -> bool {
        match self.pending.last() {
            Some(token) => matches!(token, Token::Nil),
            None => self.input.first().is_some_and(|first| Marker::from_u8(*first) == Marker::Null),
        }
    }

    /// Passes over a value, however deep it nests.
    fn skip(&mut self) -> Result<(), Failure> {
        let mut left = 1_u64;
        while left > 0 {
            left -= 1;
            match self.token()? {
                Token::Array(length) => left += length as u64,
                Token::Map(length) => left += 2 * length as u64,
                _ => {}
            }
        }
        Ok(())
    }

    fn enter(&mut self, what: usize) -> Result<(), Failure> {
        if self.depth[what] == DEPTH {
            return Err(Failure::new("depth limit exceeded"));
        }
        self.depth[what] += 1;
        Ok(())
    }

    /// Ends an array or a map, which the visitor must have read.
    fn leave(&mut self, length: usize, left: usize, expected: &str) -> Result<(), Failure> {
        self.depth[COMPOUND] -= 1;
        if left == 0 { Ok(()) } else { Err(de::Error::invalid_length(length, &expected)) }
    }

    /// Passes an extension on as an array of its tag and its bytes, as rmp_serde does.
    fn unfold(&mut self, tag: i8, bytes: &'de [u8]) {
        self.pending.extend([Token::Bytes(bytes), Token::Signed(tag.into()), Token::Array(2)]);
    }

    /// The step to what a key leads to.
    fn step_of(key: &[u8]) -> Step {
        Step::Named(match Decoder::new(key).token() {
            Ok(Token::Text(name)) => name.to_owned(),
            Ok(Token::Unsigned(number)) => number.to_string(),
            Ok(Token::Signed(number)) => number.to_string(),
            Ok(Token::Bool(it)) => it.to_string(),
            _ => "?".to_owned(),
        })
    }

    /// Reads the entries of a map whose keys are texts; what `read` says that it has not read is passed over.
    pub(crate) fn fields(
        &mut self,
        read: &mut dyn FnMut(&str, &mut Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let length = match self.token()? {
            Token::Map(length) => length,
            other => return Err(wrong(other, &"fields with names")),
        };
        self.enter(COMPOUND)?;
        for _ in 0..length {
            let name = match self.token()? {
                Token::Text(name) => name,
                other => return Err(wrong(other, &"a string")),
            };
            if !read(name, self).map_err(|failure| failure.within(Step::Named(name.to_owned())))? {
                self.skip()?;
            }
        }
        self.leave(length, 0, "")
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Unsigned(it) => visitor.visit_u64(it),
            Token::Signed(it) => visitor.visit_i64(it),
            Token::Float(it) => visitor.visit_f64(it),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn string<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Text(it) => visitor.visit_borrowed_str(it),
            Token::Bytes(it) => visitor.visit_borrowed_bytes(it),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn elements<V: Visitor<'de>>(
        &mut self,
        length: usize,
        bytes: Option<&'de [u8]>,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.enter(COMPOUND)?;
        let mut elements = Elements { decoder: self, length, left: length, bytes };
        let value = visitor.visit_seq(&mut elements)?;
        let left = elements.left;
        self.leave(length, left, "fewer elements in array")?;
        Ok(value)
    }

    fn entries<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Failure> {
        self.enter(COMPOUND)?;
        let mut entries = Entries { decoder: self, left: length, key: &[] };
        let value = visitor.visit_map(&mut entries)?;
        let left = entries.left;
        self.leave(length, left, "fewer elements in map")?;
        Ok(value)
    }
}

macro_rules! read_as {
    ($how:ident: $($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            self.$how(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = Failure;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(it) => visitor.visit_bool(it),
            Token::Unsigned(it) => visitor.visit_u64(it),
            Token::Signed(it) => visitor.visit_i64(it),
            Token::Float(it) => visitor.visit_f64(it),
            Token::Text(it) => visitor.visit_borrowed_str(it),
            Token::Bytes(it) => visitor.visit_borrowed_bytes(it),
            Token::Array(length) => self.elements(length, None, visitor),
            Token::Map(length) => self.entries(length, visitor),
            Token::Extension(tag, bytes) => {
                self.unfold(tag, bytes);
                visitor.visit_newtype_struct(self)
            }
        }
    }

    read_as! { number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
    deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 }

    read_as! { string: deserialize_char deserialize_str deserialize_string }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Bool(it) => visitor.visit_bool(it),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Unsigned(it) => visitor.visit_i128(it.into()),
            Token::Signed(it) => visitor.visit_i128(it.into()),
            Token::Bytes(bytes) => visitor.visit_i128(i128::from_be_bytes(sixteen(bytes)?)),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Unsigned(it) => visitor.visit_u128(it.into()),
            Token::Bytes(bytes) => visitor.visit_u128(u128::from_be_bytes(sixteen(bytes)?)),
            other => Err(wrong(other, &visitor)),
        }
    }

    /// Also a number: the place of a field or a variant, or the key of a map that is flattened.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Text(it) => visitor.visit_borrowed_str(it),
            Token::Unsigned(it) => visitor.visit_u64(it),
            Token::Signed(it) => visitor.visit_i64(it),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Bytes(it) => visitor.visit_borrowed_bytes(it),
            Token::Text(it) => visitor.visit_borrowed_str(it),
            Token::Array(length) => self.elements(length, None, visitor),
            other => Err(wrong(other, &visitor)),
        }
    }

    read_as! { deserialize_bytes: deserialize_byte_buf }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.is_nil() {
            self.token()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Nil => visitor.visit_unit(),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Nil | Token::Array(0) => visitor.visit_unit(),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Failure> {
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME {
            match self.token()? {
                Token::Extension(tag, bytes) => self.unfold(tag, bytes),
                other => self.pending.push(other),
            }
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Array(length) => self.elements(length, None, visitor),
            Token::Bytes(bytes) => self.elements(bytes.len(), Some(bytes), visitor),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Map(length) => self.entries(length, visitor),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match self.token()? {
            Token::Map(length) => self.entries(length, visitor),
            Token::Array(length) => self.elements(length, None, visitor),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let has_content = match self.token()? {
            Token::Map(1) => true,
            Token::Map(_) => return Err(de::Error::invalid_value(Unexpected::Map, &"map with a single key")),
            name @ (Token::Text(_) | Token::Unsigned(_)) => {
                self.pending.push(name);
                false
            }
            other => return Err(wrong(other, &"string or map")),
        };
        self.enter(ENUM)?;
        let value = visitor.visit_enum(Variant { name: self.input, decoder: self, has_content })?;
        self.depth[ENUM] -= 1;
        Ok(value)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.skip()?;
        visitor.visit_unit()
    }
}

/// The elements of an array, or the bytes of a text of bytes.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    length: usize,
    left: usize,
    bytes: Option<&'de [u8]>,
}

impl Elements<'_, '_> {
    /// The number of the next element, if there is one.
    fn next(&mut self) -> Option<usize> {
        let at = self.length - self.left;
        self.left = self.left.checked_sub(1)?;
        if let Some(byte) = self.bytes.and_then(|bytes| bytes.get(at)) {
            self.decoder.pending.push(Token::Unsigned((*byte).into()));
        }
        Some(at)
    }
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failure> {
        let Some(at) = self.next() else { return Ok(None) };
        let element = seed.deserialize(&mut *self.decoder);
        element.map(Some).map_err(|failure| failure.within(Step::Element(at)))
    }

    fn size_hint(&self) -> Option<usize> {
        // What comes says how many there are, and may lie.
        Some(self.left.min(self.decoder.input.len().max(self.bytes.map_or(0, <[u8]>::len))))
    }
}

/// The entries of a map.
struct Entries<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
    /// The input where the last key begins.
    key: &'de [u8],
}

impl Entries<'_, '_> {
    fn next(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        self.key = self.decoder.input;
        Some(())
    }

    fn failed(&self, failure: Failure) -> Failure {
        failure.within(Decoder::step_of(self.key))
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_, 'de> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        if self.next().is_none() {
            return Ok(None);
        }
        seed.deserialize(&mut *self.decoder).map(Some).map_err(|failure| self.failed(failure))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        seed.deserialize(&mut *self.decoder).map_err(|failure| self.failed(failure))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(self.decoder.input.len()))
    }
}

/// A variant of an enum: its name, or a map of its name to its content.
struct Variant<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    has_content: bool,
    /// The input where the name begins, if there is content.
    name: &'de [u8],
}

impl Variant<'_, '_> {
    fn failed(name: &[u8], failure: Failure) -> Failure {
        failure.within(Decoder::step_of(name))
    }

    fn needs_content(&self, expected: &str) -> Result<(), Failure> {
        if self.has_content { Ok(()) } else { Err(de::Error::invalid_type(Unexpected::UnitVariant, &expected)) }
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Failure;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Failure> {
        let variant = seed.deserialize(&mut *self.decoder)?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        if !self.has_content {
            return Ok(());
        }
        match self.decoder.token()? {
            Token::Nil => Ok(()),
            other => Err(Self::failed(self.name, wrong(other, &"unit"))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failure> {
        self.needs_content("newtype variant")?;
        seed.deserialize(self.decoder).map_err(|failure| Self::failed(self.name, failure))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.needs_content("tuple variant")?;
        self.decoder.deserialize_seq(visitor).map_err(|failure| Self::failed(self.name, failure))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Failure> {
        self.needs_content("struct variant")?;
        self.decoder.deserialize_struct("", fields, visitor).map_err(|failure| Self::failed(self.name, failure))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;
    use std::net::IpAddr;
    use std::time::Duration;

    use serde::de::{Deserialize, DeserializeOwned};
    use serde::{Deserialize as De, Serialize as Ser};

    use super::*;

    fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Failure> {
        T::deserialize(&mut Decoder::new(bytes))
    }

    fn encoded<T: Ser>(value: &T) -> Vec<u8> {
        rmp_serde::to_vec_named(value).expect("it is encoded")
    }

    /// It reads what rmp_serde writes as rmp_serde does, and of no part of it.
    #[track_caller]
    fn is_read_back<T: Ser + DeserializeOwned + PartialEq + Debug>(value: T) {
        let bytes = encoded(&value);
        let found: T = read(&bytes).unwrap_or_else(|failure| panic!("{value:?}: {failure} at {}", failure.path()));
        assert_eq!(found, rmp_serde::from_slice::<T>(&bytes).expect("by rmp_serde"));
        assert_eq!(found, value);
        for length in 0..bytes.len() {
            assert!(read::<T>(&bytes[..length]).is_err(), "{value:?} of {length} bytes");
        }
        let mut decoder = Decoder::new(&bytes);
        decoder.skip().expect("it is passed over");
        assert!(decoder.input.is_empty(), "{value:?}");
    }

    #[derive(Ser, De, PartialEq, Debug)]
    enum Kind {
        Empty,
        One(u8),
        Two(u8, String),
        Named { at: Option<i64>, all: Vec<Kind> },
    }

    #[derive(Ser, De, PartialEq, Debug)]
    struct Unit;

    #[derive(Ser, De, PartialEq, Debug)]
    struct New(Vec<String>);

    #[derive(Ser, De, PartialEq, Debug)]
    struct Pair(u8, bool);

    #[derive(Ser, De, PartialEq, Debug)]
    #[serde(tag = "type")]
    enum Inside {
        Plain { width: u32 },
        Other,
    }

    #[derive(Ser, De, PartialEq, Debug)]
    #[serde(tag = "type", content = "of")]
    enum Beside {
        Plain { width: u32 },
        Few(u8, u8),
        Other,
    }

    #[derive(Ser, De, PartialEq, Debug)]
    #[serde(untagged)]
    enum Untagged {
        Number(i64),
        Real(f64),
        Text(String),
        Several(Vec<Untagged>),
        Map { inside: Inside },
    }

    #[derive(Ser, De, PartialEq, Debug)]
    struct Flat {
        name: String,
        #[serde(flatten)]
        inner: Inner,
        #[serde(flatten)]
        rest: BTreeMap<String, Untagged>,
    }

    #[derive(Ser, De, PartialEq, Debug)]
    struct Inner {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        width: Option<u16>,
        kind: Kind,
    }

    /// As a user's type has it that is one of MessagePack's extensions.
    #[derive(Ser, De, PartialEq, Debug)]
    #[serde(rename = "_ExtStruct")]
    struct Extension((i8, serde_bytes::ByteBuf));

    #[test]
    fn what_is_written_is_read_whatever_it_is() {
        for number in [0, 1, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            is_read_back(number);
        }
        for number in [-1, -32, -33, -128, -129, -32_768, -32_769, i64::from(i32::MIN), -(1 << 40), i64::MIN, 7] {
            is_read_back(number);
        }
        is_read_back((u128::MAX, i128::MIN, 0.5_f32, -0.1_f64, f64::INFINITY, 'ß', true, false));
        for length in [0, 1, 31, 32, 255, 256, 65_535, 65_536] {
            let bytes = encoded(&"x".repeat(length));
            assert_eq!(read::<&str>(&bytes).expect("a text").len(), length);
            assert_eq!(read::<Vec<u8>>(&encoded(&vec![200_u8; length])).expect("numbers"), vec![200; length]);
            let bytes = encoded(&serde_bytes::ByteBuf::from(vec![200; length]));
            assert_eq!(read::<&serde_bytes::Bytes>(&bytes).expect("bytes").len(), length);
            assert_eq!(read::<Vec<u8>>(&bytes).expect("bytes as numbers"), vec![200; length]);
            let map: BTreeMap<usize, ()> = (0..length.min(300)).map(|key| (key, ())).collect();
            assert_eq!(read::<BTreeMap<usize, ()>>(&encoded(&map)).expect("a map"), map);
        }
        is_read_back((
            None::<u8>,
            Some(3),
            Some(Some("a".to_owned())),
            ((), Unit, New(vec!["b".to_owned()]), Pair(1, true)),
        ));
        let named = |at| Kind::Named { at, all: vec![Kind::Empty, Kind::One(1), Kind::Two(2, "c".to_owned())] };
        is_read_back(vec![named(None), named(Some(-5)), Kind::Empty]);
        is_read_back((Inside::Plain { width: 70_000 }, Inside::Other));
        is_read_back((Beside::Plain { width: 70_000 }, Beside::Few(1, 2), Beside::Other));
        let several =
            || Untagged::Several(vec![Untagged::Number(-1), Untagged::Real(1.5), Untagged::Text("d".to_owned())]);
        is_read_back((several(), Untagged::Map { inside: Inside::Plain { width: 1 } }));
        for width in [None, Some(3)] {
            let inner = Inner { width, kind: Kind::One(9) };
            is_read_back(Flat { name: "e".to_owned(), inner, rest: [("more".to_owned(), several())].into() });
        }
        is_read_back((
            Duration::new(1, 2),
            Ok::<u8, String>(1),
            [1_u16, 2, 3],
            "10.1.2.3".parse::<IpAddr>().expect("one"),
        ));
        is_read_back((std::num::NonZeroU8::MIN, Box::<str>::from("f"), std::ops::Range { start: 1, end: 2 }));
        let extension = Extension((-5, serde_bytes::ByteBuf::from(vec![1, 2, 3])));
        let bytes = encoded(&extension);
        assert_eq!(read::<Extension>(&bytes).expect("an extension"), extension);
    }

    #[test]
    fn a_type_by_its_fields_places_is_read_too_and_what_is_new_is_passed_over() {
        let bytes = rmp_serde::to_vec(&(("g", 1), [("h", 2)])).expect("encoding");
        #[derive(De, PartialEq, Debug)]
        struct Point {
            name: String,
            at: u8,
        }
        let point = |name: &str, at| Point { name: name.to_owned(), at };
        assert_eq!(read::<(Point, [Point; 1])>(&bytes).expect("points"), (point("g", 1), [point("h", 2)]));
        let newer = serde_json::json!({ "new": [{ "a": { "b": [1, 2.5, null] } }], "name": "i", "at": 3, "more": "j" });
        assert_eq!(read::<Point>(&encoded(&newer)).expect("a point"), point("i", 3));
    }

    /// Where and why a value does not fit a type.
    fn refusal<T: DeserializeOwned>(value: &impl Ser) -> (String, String) {
        let failure = read::<T>(&encoded(value)).err().expect("it does not fit");
        (failure.path(), failure.to_string())
    }

    #[test]
    fn a_failure_says_where_it_is_and_what_was_found() {
        use serde_json::json;
        let of = |path: &str, message: &str| (path.to_owned(), message.to_owned());
        let kinds = json!({ "all": [{ "Named": { "at": 1, "all": ["Empty", { "Two": [1, 2] }] } }] });
        let expected = of("all[0].Named.all[1].Two[1]", "invalid type: integer `2`, expected a string");
        assert_eq!(refusal::<BTreeMap<String, Vec<Kind>>>(&kinds), expected);
        let unknown = json!(["Empty", "Full"]);
        let expected = of("[1]", "unknown variant `Full`, expected one of `Empty`, `One`, `Two`, `Named`");
        assert_eq!(refusal::<Vec<Kind>>(&unknown), expected);
        assert_eq!(refusal::<Kind>(&"One"), of("", "invalid type: unit variant, expected newtype variant"));
        assert_eq!(refusal::<Kind>(&json!({ "Empty": 3 })), of("Empty", "invalid type: integer `3`, expected unit"));
        assert_eq!(refusal::<Kind>(&json!({})), of("", "invalid value: map, expected map with a single key"));
        assert_eq!(refusal::<Kind>(&[1]), of("", "invalid type: sequence, expected string or map"));
        assert_eq!(refusal::<Kind>(&json!({ "Named": {} })), of("Named", "missing field `all`"));
        assert_eq!(refusal::<Kind>(&json!({ "One": 300 })), of("One", "invalid value: integer `300`, expected u8"));
        assert_eq!(refusal::<u8>(&()), of("", "invalid type: null, expected u8"));
        assert_eq!(refusal::<bool>(&1.5), of("", "invalid type: floating point `1.5`, expected a boolean"));
        assert_eq!(refusal::<(u8, u8)>(&[1, 2, 3]), of("", "invalid length 3, expected fewer elements in array"));
        assert_eq!(refusal::<BTreeMap<u8, bool>>(&BTreeMap::from([(7, "k")])).0, "7");
        #[derive(De, Debug)]
        #[serde(deny_unknown_fields)]
        struct Strict {
            #[allow(dead_code)]
            name: Option<String>,
        }
        let expected = of("doors[0].nmae", "unknown field `nmae`, expected `name`");
        assert_eq!(refusal::<BTreeMap<String, Vec<Strict>>>(&json!({ "doors": [{ "nmae": "l" }] })), expected);
        let outside = Extension((1, serde_bytes::ByteBuf::new()));
        assert_eq!(refusal::<String>(&outside), of("", "invalid type: an extension type, expected a string"));
        assert_eq!(read::<u8>(&[0xc1]).expect_err("reserved").to_string(), "it is not MessagePack");
        assert_eq!(read::<String>(&[0xa2, 0xff, 0xfe]).expect_err("no text").path(), "");
    }

    #[test]
    fn what_nests_too_deep_is_an_error_also_where_it_is_enums_or_is_passed_over() {
        #[derive(De, Debug)]
        enum Nested {
            Inner(#[allow(dead_code)] Box<Nested>),
        }
        let inner = [&[0x81, 0xa5][..], b"Inner"].concat();
        assert!(read::<Nested>(&inner.repeat(100_000)).expect_err("too deep").to_string().contains("depth limit"));
        let arrays = [vec![0x91; 100_000], vec![0xc0]].concat();
        assert!(read::<serde_json::Value>(&arrays).expect_err("too deep").to_string().contains("depth limit"));
        read::<de::IgnoredAny>(&arrays).expect("nobody looks at it");
        let hundred = |of: &[u8], end: &[u8]| [of.repeat(100), end.to_vec()].concat();
        read::<serde_json::Value>(&hundred(&[0x91], &[0xc0])).expect("not too deep");
        // Lengths that lie take no memory.
        assert!(read::<Vec<u64>>(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(read::<BTreeMap<u8, u8>>(&[0xdf, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let value =
            (Kind::Named { at: Some(1), all: vec![Kind::Two(1, "m".to_owned())] }, Untagged::Real(2.5), vec![7_u8; 40]);
        let bytes = encoded(&value);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut changed = bytes.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..changed.len());
                changed[at] = random.u8(..);
            }
            let _ = read::<(Kind, Untagged, Vec<u8>)>(&changed);
            let _ = read::<serde_json::Value>(&changed);
        }
    }
}

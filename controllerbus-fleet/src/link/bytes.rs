//! Numbers and bytes as frames have them: positional, numbers of seven bits a byte.

use bytes::{BufMut, BytesMut};

/// What a frame cannot be read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled(pub(crate) &'static str);

/// How many bytes a number has at most.
pub(crate) const LONGEST_NUMBER: usize = 10;

/// What of a frame has not been read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Garbled> {
        let (byte, rest) = self.0.split_first().ok_or(Garbled("it ends within a number"))?;
        self.0 = rest;
        Ok(*byte)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Garbled> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Garbled("a number has more than 64 bits"))
    }

    pub(crate) fn fixed(&mut self) -> Result<u64, Garbled> {
        let (number, rest) = self.0.split_first_chunk::<8>().ok_or(Garbled("it ends within its head"))?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    /// Bytes, of which there are as many as the number before them says.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Garbled> {
        let length = usize::try_from(self.number()?).map_err(|_| Garbled("its bytes are too many"))?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Garbled("it ends within its bytes"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Garbled> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Garbled("a text is not UTF-8"))
    }
}

pub(crate) fn put_number(into: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        into.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}

pub(crate) fn put_bytes(into: &mut BytesMut, bytes: &[u8]) {
    put_number(into, bytes.len() as u64);
    into.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_are_read_as_they_were_written() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = BytesMut::new();
            put_number(&mut bytes, number);
            put_bytes(&mut bytes, b"value");
            let mut reader = Reader::new(&bytes);
            assert_eq!((reader.number(), reader.bytes()), (Ok(number), Ok(&b"value"[..])));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn what_ends_early_or_is_too_long_is_an_error() {
        assert!(Reader::new(&[0x80]).number().is_err());
        assert!(Reader::new(&[0xff; 11]).number().is_err());
        assert!(Reader::new(&[5, 1, 2]).bytes().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).bytes().is_err());
        assert!(Reader::new(&[1, 0xff]).text().is_err());
    }
}

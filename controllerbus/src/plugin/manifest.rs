//! What a plugin file says about itself in a section of its own, readable without executing any of it.

use super::abi;
use crate::config::schema::{self, Node};

/// The version of the boundary's meaning, raised when calls change in a way that types do not show.
pub const BOUNDARY_VERSION: u32 = 1;

/// [`BOUNDARY_VERSION`] as text, for manifest records.
pub const BOUNDARY_TEXT: &str = "1";

/// The fingerprint of every type that crosses the boundary, from stabby's reports, as 16 hex digits.
pub const ABI_HEX: &str = {
    const HEX: [u8; 16] = hex(abi::FINGERPRINT);
    match std::str::from_utf8(&HEX) {
        Ok(text) => text,
        Err(_) => panic!("hex digits are UTF-8"),
    }
};

/// The length of the parts put together, in bytes.
pub const fn length(parts: &[&str]) -> usize {
    let mut total = 0;
    let mut part = 0;
    while part < parts.len() {
        total += parts[part].len();
        part += 1;
    }
    total
}

/// The parts put together; `N` must be their [`length`].
pub const fn concat<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    let mut part = 0;
    while part < parts.len() {
        let bytes = parts[part].as_bytes();
        let mut byte = 0;
        while byte < bytes.len() {
            out[at] = bytes[byte];
            at += 1;
            byte += 1;
        }
        part += 1;
    }
    out
}

/// The length of a factory's record: its parts, the schema of its config, and its end.
pub const fn record_length(parts: &[&str], schema: &Node) -> usize {
    length(parts) + schema::length(schema) + END.len()
}

const END: &str = "}\n";

/// A factory's record; `N` must be its [`record_length`].
pub const fn record<const N: usize>(parts: &[&str], schema: &Node) -> [u8; N] {
    let mut out = concat::<N>(parts);
    let (_, rest) = out.split_at_mut(length(parts));
    let written = schema::write_into(schema, rest);
    let mut byte = 0;
    while byte < END.len() {
        rest[written + byte] = END.as_bytes()[byte];
        byte += 1;
    }
    out
}

const fn hex(number: u64) -> [u8; 16] {
    let mut out = [0; 16];
    let mut digit = 0;
    while digit < 16 {
        let nibble = ((number >> (60 - 4 * digit)) & 15) as u8;
        out[digit] = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        digit += 1;
    }
    out
}

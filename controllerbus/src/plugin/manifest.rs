//! What a plugin file says about itself in its own section, readable without running any of its code.
//!
//! And the boundary: which host may load which plugin.

use super::abi::{Failure, GuestPtr, GuestStart};
use crate::Directive;
use crate::config::schema::{self, Node};
use crate::directive::Declaration;

/// The number, and the same as text: a constant cannot be made of one out of the other.
macro_rules! boundary_version {
    ($version:literal) => {
        /// The version of the boundary between hosts and plugins. Raised whenever [`ABI_HEX`] changes, and when calls change
        /// in a way that it does not show.
        pub const BOUNDARY_VERSION: u32 = $version;

        /// [`BOUNDARY_VERSION`] as text, for manifest records.
        pub const BOUNDARY_TEXT: &str = stringify!($version);
    };
}

boundary_version!(4);

/// The boundary's fingerprint, as 16 hex digits: two sides that have the same may call each other.
///
/// It is made of stabby's reports, which cover the types, their fields and the names of methods in their own layout and that
/// of stabby's types, and of the tokens of what is written here, which cover signatures, numbers and orders. Comments and
/// formatting do not count, nor does what crosses as bytes with field names (see [`crate::directive::wire`]).
pub const ABI_HEX: &str = {
    const HEX: [u8; 16] = hex(FINGERPRINT);
    match std::str::from_utf8(&HEX) {
        Ok(text) => text,
        Err(_) => panic!("hex digits are UTF-8"),
    }
};

/// A boundary: what a plugin was built for, or a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary<'a> {
    /// Its version.
    pub version: u32,
    /// Its fingerprint, as 16 hex digits.
    pub fingerprint: &'a str,
}

/// The boundary of this version of the framework.
pub const BOUNDARY: Boundary<'static> = Boundary { version: BOUNDARY_VERSION, fingerprint: ABI_HEX };

/// The boundaries whose plugins a host of this version loads: its own, and those before it of which nothing was removed.
///
/// One of before may stay if all that has changed since are methods added at the end of traits that the host implements, and
/// classes of errors, which a plugin that does not know them reads as [`Failed`](crate::error::ErrorKind::Failed): such
/// a plugin finds what it knows where it was, and calls none of the rest. With a change of what the *guest* implements, of
/// what is handed over, or of what a number means, none may: the host would use what is not there.
pub const ACCEPTED: &[Boundary<'static>] = &[
    BOUNDARY,
    // Laid out as this one, but written with stabby's results. Fingerprints of other machines have not been written down.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Boundary { version: 3, fingerprint: "99c50630ce64db6f" },
    // Without `Unreachable`.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Boundary { version: 2, fingerprint: "17e8bfed2f390abb" },
];

/// The version of `controllerbus`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The lowest version of a host that loads plugins which are built with this one. The boundary changes with minor versions
/// only, so it is the first of this minor version; before that is out, this one.
pub const MIN_RUNTIME: &str = if env!("CARGO_PKG_VERSION_PRE").is_empty() {
    concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"), ".0")
} else {
    VERSION
};

const FINGERPRINT: u64 = {
    use stabby::IStable;
    const TOKENS: u64 = controllerbus_macros::fingerprint_of!(
        "src/plugin/abi.rs",
        "src/plugin/fallible.rs": Fallible + WORDS + Tagged + Tag + BEHIND_NUMBER + BEHIND_OBJECT + BEHIND_LIST + IN_STATE,
        "src/plugin/entry.rs": EntryCall + Entry + STARTED + TAKEN + ANSWERED,
        "src/plugin/level.rs": number,
        "src/plugin/shape.rs": InterfaceType + Receiver + Pointer + shape + fnv,
        "src/listen/mod.rs": Service,
    );
    let types = [<GuestStart as IStable>::ID, <GuestPtr as IStable>::ID, <Failure as IStable>::ID, TOKENS];
    super::shape::shape(BOUNDARY_TEXT, &types)
};

/// The section that records lie in, in an ELF library: they are put there by `__manifest_record!`, which follows.
pub const SECTION_ELF: &str = ".cbus.manifest";
/// The same of a Mach-O library, in its segment `__DATA`.
pub const SECTION_MACH_O: &str = "__cbus_manifest";
/// The same of a PE library.
pub const SECTION_PE: &str = ".cbusman";

/// Puts a record into the section where tools find it.
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest_record {
    ($name:ident: $length:expr, $record:expr) => {
        #[used]
        #[cfg_attr(any(target_os = "macos", target_os = "ios"), unsafe(link_section = "__DATA,__cbus_manifest"))]
        #[cfg_attr(windows, unsafe(link_section = ".cbusman"))]
        #[cfg_attr(not(any(windows, target_os = "macos", target_os = "ios")), unsafe(link_section = ".cbus.manifest"))]
        static $name: [u8; $length] = $record;
    };
}

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

/// What a factory says of itself, to be written as one record.
#[derive(Clone, Copy, Debug)]
pub struct Factory {
    /// The record up to the config's id, which comes next.
    pub head: &'static str,
    /// The config's id.
    pub config: &'static str,
    /// The directives that are resolved.
    pub resolves: &'static [Resolved],
    /// The config's schema.
    pub schema: &'static Node,
    /// The trait whose functions it has, if it has some; it runs without a config set that says so.
    pub functions: Option<&'static str>,
}

/// A directive that a factory's controllers resolve.
#[derive(Clone, Copy, Debug)]
pub struct Resolved {
    id: &'static str,
    /// None for what cannot be asked from outside its library.
    schema: Option<&'static Node>,
    once: bool,
    types: Declaration,
}

impl Resolved {
    /// One with a type, from that type's constants.
    pub const fn new(id: &'static str, schema: &'static Node, local: bool, once: bool, types: Declaration) -> Self {
        Self { id, schema: if local { None } else { Some(schema) }, once, types }
    }

    /// The same of a type of the framework's.
    pub const fn of<D: Directive>() -> Self {
        Self::new(D::ID, D::SCHEMA, D::LOCAL, D::ONCE, D::DECLARATION)
    }

    /// The calls of functions, which nobody asks by hand.
    pub const fn by_functions(id: &'static str) -> Self {
        Self { id, schema: None, once: true, types: Declaration::UNKNOWN }
    }
}

impl Factory {
    /// The record's length, in bytes.
    pub const fn length(&self) -> usize {
        self.write(&mut [])
    }

    /// The record; `N` must be its length.
    pub const fn record<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.write(&mut out);
        out
    }

    /// Writes it, as far as there is room; its length.
    const fn write(&self, out: &mut [u8]) -> usize {
        let mut at = put(out, 0, self.head);
        at = put_escaped(out, at, self.config);
        at = put(out, at, "\",\"resolves\":[");
        let mut one = 0;
        while one < self.resolves.len() {
            at = put(out, at, if one == 0 { "\"" } else { ",\"" });
            at = put_escaped(out, at, self.resolves[one].id);
            at = put(out, at, "\"");
            one += 1;
        }
        at = put(out, at, "],\"directives\":[");
        one = 0;
        while one < self.resolves.len() {
            if one > 0 {
                at = put(out, at, ",");
            }
            at = match self.resolves[one].schema {
                Some(schema) => put_schema(out, at, schema),
                None => put(out, at, "null"),
            };
            one += 1;
        }
        at = put(out, at, "]");
        at = put(out, at, ",\"calls\":[");
        one = 0;
        while one < self.resolves.len() {
            at = put(out, at, if one > 0 { "," } else { "" });
            at = put(out, at, if self.resolves[one].once { "true" } else { "false" });
            one += 1;
        }
        at = put(out, at, "],\"types\":[");
        one = 0;
        while one < self.resolves.len() {
            if one > 0 {
                at = put(out, at, ",");
            }
            at = put_types(out, at, &self.resolves[one].types);
            one += 1;
        }
        at = put(out, at, "]");
        if let Some(of) = self.functions {
            at = put(out, at, ",\"functions\":\"");
            at = put_escaped(out, at, of);
            at = put(out, at, "\"");
        }
        at = put(out, at, ",\"schema\":");
        at = put_schema(out, at, self.schema);
        put(out, at, END)
    }
}

const END: &str = "}\n";

/// Writes a text, as far as there is room; where it ends.
const fn put(out: &mut [u8], mut at: usize, text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut byte = 0;
    while byte < bytes.len() {
        if at < out.len() {
            out[at] = bytes[byte];
        }
        at += 1;
        byte += 1;
    }
    at
}

/// The same of a schema.
const fn put_schema(out: &mut [u8], at: usize, schema: &Node) -> usize {
    if at < out.len() {
        let (_, rest) = out.split_at_mut(at);
        at + schema::write_into(schema, rest)
    } else {
        at + schema::length(schema)
    }
}

/// The same of what a directive and its values are called.
const fn put_types(out: &mut [u8], at: usize, of: &Declaration) -> usize {
    if of.name.is_empty() {
        return put(out, at, "null");
    }
    let at = put(out, at, "{\"name\":\"");
    let at = put_escaped(out, at, of.name);
    let at = put(out, at, "\",\"value_name\":\"");
    let at = put_escaped(out, at, of.value_name);
    let at = put(out, at, "\",\"value\":");
    let at = put_schema(out, at, of.value);
    put(out, at, "}")
}

/// The same between the quotes of a JSON text.
const fn put_escaped(out: &mut [u8], mut at: usize, text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut byte = 0;
    while byte < bytes.len() {
        let plain = bytes[byte];
        if plain < 0x20 {
            at = put(out, at, "\\u00");
            let mut nibble = 2;
            while nibble > 0 {
                nibble -= 1;
                let digit = (plain >> (4 * nibble)) & 15;
                if at < out.len() {
                    out[at] = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
                }
                at += 1;
            }
        } else {
            if plain == b'"' || plain == b'\\' {
                at = put(out, at, "\\");
            }
            if at < out.len() {
                out[at] = plain;
            }
            at += 1;
        }
        byte += 1;
    }
    at
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::error::ErrorKind;
    use crate::plugin::abi::KINDS;

    /// Each version and its fingerprint, the newest last. A line is never changed once it was published.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    const VERSIONS: &[(u32, &str)] = &[(2, "17e8bfed2f390abb"), (3, "99c50630ce64db6f"), (4, "0947655f4b0053a1")];

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn who_changes_the_boundary_gives_it_another_version() {
        let ours = (BOUNDARY_VERSION, ABI_HEX);
        assert_eq!(
            VERSIONS.last(),
            Some(&ours),
            "what crosses between hosts and plugins is not what its version stands for. If this change was not meant, take it \
             back. If it was, and the version on the left is published, raise `boundary_version!` in this file by one, and add \
             a line with what this test says then; and see at `ACCEPTED` whether plugins of the version before may stay. If it \
             is not published, change its line."
        );
        assert_eq!(BOUNDARY_TEXT, BOUNDARY_VERSION.to_string());
        assert!(VERSIONS.is_sorted_by(|one, next| one.0 < next.0), "versions only rise");
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn plugins_of_the_boundary_before_are_accepted_and_read_new_classes_of_errors_as_failed() {
        assert!(ACCEPTED.iter().any(|accepted| accepted.version == BOUNDARY_VERSION - 1));
        let is_known = |accepted: &Boundary| VERSIONS.contains(&(accepted.version, accepted.fingerprint));
        assert!(ACCEPTED.iter().all(is_known), "a fingerprint that no version had: {ACCEPTED:?}");
        let number = |kind| KINDS.iter().position(|known| *known == kind);
        // Version 2 knows the eight numbers before this one, and reads any other one as 0.
        assert_eq!((number(ErrorKind::Failed), number(ErrorKind::Crashed)), (Some(0), Some(7)));
        assert_eq!(number(ErrorKind::Unreachable), Some(8));
        let crossed = |error: Error| Error::from(Failure::from(error));
        let error = crossed(Error::new(ErrorKind::Unreachable, "edge-7").permanent());
        assert_eq!((error.kind(), error.is_permanent()), (ErrorKind::Unreachable, true));
    }

    #[test]
    fn a_record_is_json_whatever_the_ids_are() {
        const FACTORY: Factory = Factory {
            head: "{\"config\":\"",
            config: "a\"b\\c\n",
            resolves: &[
                Resolved { id: "one", schema: Some(&Node::Any), once: false, types: Declaration::UNKNOWN },
                Resolved::by_functions("t\u{1}wo\""),
            ],
            schema: &Node::Any,
            functions: None,
        };
        const LENGTH: usize = FACTORY.length();
        const RECORD: [u8; LENGTH] = FACTORY.record();
        let record: serde_json::Value = serde_json::from_slice(&RECORD).expect("JSON");
        assert_eq!(record["config"], "a\"b\\c\n");
        assert_eq!(record["resolves"], serde_json::json!(["one", "t\u{1}wo\""]));
        assert_eq!(record["directives"], serde_json::json!([{}, null]));
        assert_eq!(record["schema"], serde_json::json!({}));
        const WITH: Factory = Factory { functions: Some("api::Greeter"), ..FACTORY };
        const LONGER: usize = WITH.length();
        let record: serde_json::Value = serde_json::from_slice(&WITH.record::<LONGER>()).expect("JSON");
        assert_eq!(record["functions"], "api::Greeter");
        let types = Declaration { name: "a::\"One\"", value_name: "()", value: &Node::Written("\"type\":\"null\"") };
        let told = [Resolved { id: "one", schema: None, once: false, types }, Resolved::by_functions("two")];
        let told = Factory { resolves: Vec::from(told).leak(), ..FACTORY };
        let mut record = vec![0; told.length()];
        told.write(&mut record);
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        assert_eq!(
            record["types"],
            serde_json::json!([{ "name": "a::\"One\"", "value_name": "()", "value": { "type": "null" } }, null])
        );
        let none = Factory { resolves: &[], ..FACTORY };
        assert_eq!(none.length(), LENGTH - "\"one\",\"t\\u0001wo\\\"\"{},nullfalse,truenull,null".len());
    }
}

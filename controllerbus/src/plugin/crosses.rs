//! What a method of an interface may take and return, checked when its trait is compiled.
//!
//! Only the object is leased, so what its methods pass must be usable without its library: memory of the process, or borrowed
//! from a side that is there during the call. Types are known here by stabby's reports, which name every field.

use stabby::abi::report::TypeReport;

/// Refuses a type in a method's signature that would outlive the library whose code it needs. `borrows` says whether a lifetime
/// is visible where the type is written.
///
/// # Panics
/// With what is wrong, when it is evaluated: at compile time.
#[track_caller]
pub const fn crosses(report: &TypeReport, borrows: bool) {
    check(report, borrows, false);
}

const ALLOCATOR: &str = "it contains a default allocator of stabby, whose memory only the library that allocated it can free: \
                         write `controllerbus::plugin::interface::Text` for text and `List` for lists";
const OWNED: &str = "a box, an `Arc` and the like cannot be passed, because they may need code of the library that made them: \
                     write `controllerbus::plugin::interface::Text` for text and `List` for lists";
const FUNCTION: &str = "a function pointer cannot be passed: nothing keeps the library it points into loaded";
const OBJECT: &str = "an object with methods cannot be passed through a method: nothing keeps its library loaded; make it an \
                      `Interface` in a directive's value";
const HIDDEN: &str = "it borrows, and its lifetime is not visible here: write the lifetime out, as in \
                      `fn name<'a>(&'a self) -> Str<'a>`";
const INSIDE: &str =
    "a struct that borrows cannot be passed: its lifetime is not visible here; pass what it borrows by itself";

#[track_caller]
const fn check(report: &TypeReport, borrows: bool, inside: bool) {
    let (name, module) = (report.name.as_str(), report.module.as_str());
    let ours = begins(module, "stabby_abi") || begins(module, "core");
    if is(name, "RustAlloc") {
        panic!("{}", ALLOCATOR);
    }
    if begins(name, "extern ") || begins(name, "unsafe extern ") {
        panic!("{}", FUNCTION);
    }
    if ours && (is(name, "Dyn") || is(name, "DynRef")) {
        panic!("{}", OBJECT);
    }
    let of_the_process = is(name, "String") || is(name, "Vec") || is(name, "VecInner") || is(name, "AllocPtr");
    if begins(module, "stabby_abi::alloc::") && !of_the_process && !is(name, "LibcAlloc") {
        panic!("{}", OWNED);
    }
    let reference = is(name, "&") || is(name, "&mut") || is(name, "std::os::fd::BorrowedFd");
    let view = begins(module, "stabby_abi::str") || begins(module, "stabby_abi::slice");
    if ours && (reference || view) {
        if inside {
            panic!("{}", INSIDE);
        }
        if !borrows {
            panic!("{}", HIDDEN);
        }
    }
    let mut fields = report.fields();
    while let (next, Some(field)) = fields.next_const() {
        fields = next;
        check(field.ty, borrows, inside || !ours);
    }
}

const fn begins(text: &str, with: &str) -> bool {
    let (text, with) = (text.as_bytes(), with.as_bytes());
    let mut at = 0;
    while at < with.len() {
        if at >= text.len() || text[at] != with[at] {
            return false;
        }
        at += 1;
    }
    true
}

const fn is(text: &str, other: &str) -> bool {
    text.len() == other.len() && begins(text, other)
}

#[cfg(test)]
mod tests {
    use stabby::IStable;
    use stabby::str::Str;

    use super::*;
    use crate::plugin::interface::{List, Text};

    #[stabby::stabby]
    struct Plain {
        name: Text,
        numbers: List<u64>,
        maybe: stabby::option::Option<u32>,
    }

    #[stabby::stabby]
    struct Borrows<'a> {
        name: Str<'a>,
    }

    #[stabby::stabby]
    struct Calls {
        back: extern "C" fn(u32) -> u32,
    }

    fn said<T: IStable>(borrows: bool) -> String {
        let checked = std::panic::catch_unwind(|| crosses(T::REPORT, borrows));
        checked.map_or_else(|payload| crate::Error::from_panic(payload).to_string(), |()| "yes".to_owned())
    }

    #[test]
    fn what_needs_no_library_crosses_and_nothing_else_however_deep_it_is() {
        use stabby::alloc::allocators::RustAlloc;
        for said in [
            said::<u64>(false),
            said::<Plain>(false),
            said::<List<Plain>>(false),
            said::<stabby::result::Result<Text, List<u8>>>(false),
            said::<&'static Plain>(true),
            said::<Str<'static>>(true),
            said::<stabby::slice::Slice<'static, u8>>(true),
        ] {
            assert_eq!(said, "yes");
        }
        type Theirs = stabby::string::String<RustAlloc>;
        for (said, why) in [
            (said::<Theirs>(false), ALLOCATOR),
            (said::<List<Theirs>>(false), ALLOCATOR),
            (said::<stabby::result::Result<u8, Theirs>>(false), ALLOCATOR),
            (said::<stabby::option::Option<stabby::vec::Vec<u8, RustAlloc>>>(false), ALLOCATOR),
            (said::<stabby::boxed::Box<u64>>(false), OWNED),
            (said::<stabby::sync::Arc<u64>>(false), OWNED),
            (said::<stabby::string::ArcStr>(false), OWNED),
            (said::<extern "C" fn(u32) -> u32>(false), FUNCTION),
            (said::<Calls>(false), FUNCTION),
            (said::<List<Calls>>(false), FUNCTION),
            (said::<stabby::future::DynFuture<'static, u8>>(false), OBJECT),
            (said::<Str<'static>>(false), HIDDEN),
            (said::<Borrows<'static>>(true), INSIDE),
            (said::<List<Borrows<'static>>>(true), INSIDE),
        ] {
            assert!(said.contains(why), "{said}, not: {why}");
        }
    }
}

//! Recognizes errors that come from something that only one controller can own, and adds what to do about it.

use crate::Error;
use crate::error::Code;

/// How systems say that an address is in use, anywhere in an error's text. The text is all there is: the error may come from
/// another library or process.
const TAKEN: [&str; 5] = [
    "address already in use",
    "address in use",
    "(os error 98)",
    "(os error 48)",
    "only one usage of each socket address",
];

/// How databases and locks say that something is in use.
const LOCKED: [&str; 5] =
    ["already open", "database is locked", "acquire lock", "would block", "resource temporarily unavailable"];

/// Adds advice to an error of a new generation, if it looks as though the running one still owns what is needed.
pub(super) fn with_advice(error: Error) -> Error {
    let text = error.message().to_lowercase();
    if TAKEN.iter().any(|taken| text.contains(taken)) {
        return error
            .and(
                "the running generation, or another program, is still using that address. Let the host keep the socket \
             (`context.listen(..)`), or end the old controller before the new one is constructed \
             (`#[hot_plugin(.., swap = \"stop-first\")]`)",
            )
            .with_code(Code::STILL_OWNED);
    }
    if LOCKED.iter().any(|locked| text.contains(locked)) {
        return error
            .and(
                "if the running generation is using it, end the old controller before the new one is constructed \
             (`#[hot_plugin(.., swap = \"stop-first\")]`)",
            )
            .with_code(Code::STILL_OWNED);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_lock_that_is_taken_is_told_with_what_to_do_and_nothing_else_is() {
        for text in ["binding 1.2.3.4:80: Address already in use (os error 98)", "error: address in use"] {
            let told = with_advice(Error::msg(text)).to_string();
            assert!(told.starts_with(text), "{told}");
            assert!(told.contains("context.listen(..)") && told.contains("stop-first"), "{told}");
        }
        for text in ["Database already open. Cannot acquire lock.", "database is locked"] {
            let told = with_advice(Error::msg(text)).to_string();
            assert!(told.contains("stop-first") && !told.contains("context.listen"), "{told}");
        }
        let plain = "cannot listen at 127.0.0.1:80: the address is already in use";
        assert_eq!(with_advice(Error::msg(plain)).to_string(), plain);
    }
}

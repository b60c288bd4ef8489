//! What a controller owns that only one can own, and how to say so when that is what keeps a new one from being made.

use crate::Error;

/// How systems say that an address is taken, wherever in an error's text. A controller's error is text: it may have come from
/// another library, or another process.
const TAKEN: [&str; 5] = [
    "address already in use",
    "address in use",
    "(os error 98)",
    "(os error 48)",
    "only one usage of each socket address",
];

/// How stores and locks say that somebody else has what they want.
const LOCKED: [&str; 5] =
    ["already open", "database is locked", "acquire lock", "would block", "resource temporarily unavailable"];

/// An error of a new generation with what to do about it, where it is that the one that serves may hold what it wants.
pub(super) fn with_advice(error: Error) -> Error {
    let text = error.message().to_lowercase();
    if TAKEN.iter().any(|taken| text.contains(taken)) {
        return error.and(
            "the running generation, or another program, is still using that address. Let the host keep the socket \
             (`context.listen(..)`), or end the old controller before the new one is constructed \
             (`#[hot_plugin(.., swap = \"stop-first\")]`)",
        );
    }
    if LOCKED.iter().any(|locked| text.contains(locked)) {
        return error.and(
            "if the running generation is using it, end the old controller before the new one is constructed \
             (`#[hot_plugin(.., swap = \"stop-first\")]`)",
        );
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
        let plain = "cannot listen at 127.0.0.1:80: somebody else listens there";
        assert_eq!(with_advice(Error::msg(plain)).to_string(), plain);
    }
}

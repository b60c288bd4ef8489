//! What a person would get wrong, and what the macros say about it. `TRYBUILD=overwrite` renews the texts.

#[test]
fn mistakes_get_an_error_that_says_what_to_write() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

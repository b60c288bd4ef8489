//! What is said of a config that does not fit its schema: the tests are in the file itself.

#[path = "../src/schema.rs"]
#[allow(dead_code)]
mod schema;

mod text {
    pub use controllerbus_api::__private::cut;
}

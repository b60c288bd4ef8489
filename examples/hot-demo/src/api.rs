//! The directives that the demo asks, declared on its own: the host links none of the controllers.
//!
//! A directive is known by its id, and values cross with their field names, so that host and plugin need not be
//! compiled from one declaration. A crate that both depend on works as well.

use controllerbus::prelude::*;

/// As in `examples/greeter`.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/greet", value = Greeting)]
pub struct Greet {
    /// Whom to greet.
    pub name: String,
}

/// As in `examples/greeter`.
#[derive(Serialize, Deserialize)]
pub struct Greeting(pub String);

/// As in `examples/boilerplate`.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "boilerplate/work", value = BoilerplateResult)]
pub struct Boilerplate {
    /// Names the work.
    pub boilerplate_id: String,
}

/// As in `examples/boilerplate`.
#[derive(Serialize, Deserialize)]
pub struct BoilerplateResult {
    /// A line about it.
    pub print_output: String,
}

/// As in `examples/trouble`.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/do", value = Done)]
pub struct Trouble {
    /// Which plugin.
    pub plugin: String,
    /// What it shall do.
    pub what: String,
    /// Makes requests differ.
    pub nonce: u64,
}

/// As in `examples/trouble`.
#[derive(Serialize, Deserialize)]
pub struct Done(pub String);

/// Not as in `examples/trouble`, which answers with a number.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/words", value = Vec<String>)]
pub struct Words {
    /// Makes requests differ.
    pub nonce: u64,
}

//! The directives that the demo asks, with declarations of its own: the host does not link the controllers.
//!
//! A directive is identified by its id, and values are passed by field name, so host and plugin need not share a
//! declaration. A crate that both depend on works as well.

use controllerbus::prelude::*;

/// As in `examples/greeter`.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "example/greet", value = Greeting)]
pub struct Greet {
    /// Who to greet.
    pub name: String,
}

/// As in `examples/greeter`.
#[derive(Serialize, Deserialize)]
pub struct Greeting(pub String);

/// As in `examples/boilerplate`.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "boilerplate/work", value = BoilerplateResult)]
pub struct Boilerplate {
    /// Identifies the work.
    pub boilerplate_id: String,
}

/// As in `examples/boilerplate`.
#[derive(Serialize, Deserialize)]
pub struct BoilerplateResult {
    /// A line that describes it.
    pub print_output: String,
}

/// As in `examples/trouble`.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/do", value = Done)]
pub struct Trouble {
    /// The plugin's id.
    pub plugin: String,
    /// What it is to do.
    pub what: String,
    /// Makes requests distinct.
    pub nonce: u64,
}

/// As in `examples/trouble`.
#[derive(Serialize, Deserialize)]
pub struct Done(pub String);

/// Deliberately different from `examples/trouble`, which answers with a number.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "trouble/words", value = Vec<String>)]
pub struct Words {
    /// Makes requests distinct.
    pub nonce: u64,
}

//! The trait that the greeter and its host share.

use serde::{Deserialize, Serialize};

/// Somebody who was greeted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// As given.
    pub name: String,
    /// How often.
    pub greetings: u64,
}

/// Greets people.
#[controllerbus::hot]
pub trait Greeter {
    /// A greeting for somebody.
    fn greet(&self, name: &str) -> String;

    /// Who was greeted, and how often.
    ///
    /// # Errors
    /// That nobody of this name was.
    async fn look_up(&self, name: &str) -> Result<Guest, String>;
}

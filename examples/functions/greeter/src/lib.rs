//! Greets, as plain functions, and remembers whom: also when it is edited.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use controllerbus::prelude::*;
use greeter_api::{Greeter, Guest};

#[derive(Default, Serialize, Deserialize)]
struct Polite {
    greeted: Mutex<BTreeMap<String, u64>>,
}

/// Greets people politely.
#[hot_plugin(id = "greeter", version = "1.0.0", state)]
impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        *self.greeted.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default() += 1;
        format!("Good day, {name}")
    }

    async fn look_up(&self, name: &str) -> Result<Guest, String> {
        let greetings = self.greeted.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        let greetings = greetings.ok_or_else(|| format!("{name} was never here"))?;
        Ok(Guest { name: name.to_owned(), greetings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_plain_type_with_a_plain_trait() {
        assert_eq!(Polite::default().greet("Ada"), "Good day, Ada");
    }
}

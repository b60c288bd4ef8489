//! Greets, as plain functions, and remembers whom: also when it is edited.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use controllerbus::prelude::*;
use greeter_api::{Greeter, Guest};

#[derive(Default)]
struct Polite {
    guests: Mutex<Guests>,
}

/// What is handed over to the next version.
#[derive(Default, State)]
struct Guests {
    greeted: BTreeMap<String, u64>,
}

impl Polite {
    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Greets people politely.
#[hot_plugin(id = "greeter", version = "1.0.0", state = guests)]
impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        *self.guests().greeted.entry(name.to_owned()).or_default() += 1;
        format!("Good day, {name}")
    }

    async fn look_up(&self, name: &str) -> Result<Guest, String> {
        let greetings = self.guests().greeted.get(name).copied();
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

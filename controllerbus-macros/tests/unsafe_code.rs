//! A crate that forbids unsafe code can use every macro: what they emit is theirs, not the crate's.

#![forbid(unsafe_code)]

use controllerbus::prelude::*;

/// An interface.
#[controllerbus::interface]
pub trait Double {
    /// Twice the number.
    extern "C" fn double(&self, number: u64) -> u64;
}

/// Something that computes.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "unsafe-code/double", value = Interface<dyn Double>)]
pub struct GetDouble;

/// Nothing to configure.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "unsafe-code")]
pub struct DoublerConfig {}

struct Twice;

impl Double for Twice {
    extern "C" fn double(&self, number: u64) -> u64 {
        2 * number
    }
}

/// A controller.
pub struct Doubler;

#[hot_plugin(id = "unsafe-code", version = "1.0.0")]
impl Controller for Doubler {
    type Config = DoublerConfig;

    async fn construct(_: DoublerConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn double(&self, _: GetDouble) -> Result<Interface<dyn Double>> {
        Ok(Interface::new(Twice))
    }
}

#[test]
fn a_crate_that_forbids_unsafe_code_can_use_every_macro() {
    assert_eq!(Interface::<dyn Double>::new(Twice).double(21), 42);
    assert!(controllerbus::__private::FACTORIES.iter().any(|factory| factory.id == "unsafe-code"));
}

//! Whatever bytes a value or a directive has, decoding it ends with a value or an error; and what decodes is encoded
//! and decoded again to the same.
#![no_main]

use std::collections::BTreeMap;

use controllerbus::directive::{AnyValue, wire};
use controllerbus::prelude::*;
use libfuzzer_sys::fuzz_target;

/// Every shape that a value can have.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Shape {
    Empty,
    One(String),
    Two(i8, u64),
    Named { text: Option<Box<str>>, bytes: Vec<u8>, nested: Vec<Shape> },
    Map(BTreeMap<String, Shape>),
    Numbers((f32, f64, char, bool, i128)),
}

/// One that also looks for an interface value, of which there is none beside these bytes.
#[derive(Serialize, Deserialize)]
struct WithInterface {
    name: String,
    count: Interface<dyn Count>,
}

mod api {
    /// A trait to look for.
    #[controllerbus::interface]
    pub trait Count {
        extern "C" fn count(&self) -> u64;
    }
}
use api::Count;

fuzz_target!(|data: &[u8]| {
    assert!(AnyValue::encoded(data).get::<WithInterface>().is_err());
    if let Ok(shape) = wire::decode::<Shape>(data) {
        let encoded = wire::encode(&shape).expect("what was decoded is encoded");
        let again = wire::decode::<Shape>(&encoded).expect("and decoded again");
        // Not compared as values: NaN is not equal to itself.
        assert_eq!(encoded, wire::encode(&again).expect("and encoded"));
    }
});

//! The same crate linked into an ordinary binary, without a plugin and without a change to its code.

use controllerbus::prelude::*;
use greeter::{Greet, Greeting};

#[tokio::test]
async fn a_linked_controller_crate_registers_itself_and_serves() {
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml("g:\n  id: example/greeter\n  config: { greeting: Hello }\n").unwrap())
        .await
        .unwrap();
    let greeting = bus.resolve(Greet { name: "Ada".into() }).await.unwrap();
    assert_eq!(*greeting, Greeting("Hello, Ada!".into()));
}

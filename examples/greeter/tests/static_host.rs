//! The same crate linked into an ordinary binary, without a plugin and without a change to its code.

use controllerbus::prelude::*;
use controllerbus::testing::TestBus;
use greeter::{Greet, GreeterConfig, Greeting};

#[tokio::test(start_paused = true)]
async fn a_linked_controller_crate_registers_itself_and_serves() -> Result<()> {
    let bus = TestBus::new();
    bus.run(GreeterConfig { greeting: "Hello".into() }).await?;
    assert_eq!(*bus.ask(Greet { name: "Ada".into() }).await?, Greeting("Hello, Ada!".into()));
    Ok(())
}

//! The plugin as a plain function.

use controllerbus::hot_plugin;

mod logic;

#[controllerbus::hot(id = "bench/value")]
pub trait Value {
    async fn value(&self) -> u64;
}

#[derive(Default)]
struct Bench;

#[hot_plugin(id = "bench", version = "1.0.0")]
impl Value for Bench {
    async fn value(&self) -> u64 {
        logic::run().await
    }
}

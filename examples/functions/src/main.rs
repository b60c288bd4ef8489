//! Greets Ada once a second. Edit `greeter/src/lib.rs` meanwhile.

use std::time::Duration;

use controllerbus::hot::Hot;
use greeter_api::Greeter;
use hot_runtime::HotRuntime;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = HotRuntime::watch(concat!(env!("CARGO_MANIFEST_DIR"), "/greeter")).await?;
    let greeter: Hot<dyn Greeter> = runtime.hot().await?;
    loop {
        println!("{}", greeter.greet("Ada").await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

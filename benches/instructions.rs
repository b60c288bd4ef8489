//! A fixed number of operations of one kind, for tools that count instructions: `instructions resolve 2000`.
//!
//! One thread does everything, so that two runs do the same. What comes before the operations is the difference of two
//! runs with different numbers. `scripts/bench-against` is who asks.

use std::hint::black_box;

use controllerbus::controller::Info;
use controllerbus::controller::factory::erase;
use controllerbus::directive::AnyValue;
use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "bench/square", value = u64)]
struct Square(u64);

/// A value as a service would hand out.
#[derive(Serialize, Deserialize, Clone)]
struct Endpoint {
    name: String,
    addresses: Vec<String>,
    port: u16,
    weight: f64,
    zone: Option<String>,
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "bench/none")]
struct NoConfig {}

struct Squares;

#[hot_plugin(id = "bench/squares", version = "1.0.0")]
impl Controller for Squares {
    type Config = NoConfig;

    async fn construct(_: NoConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn square(&self, request: Square, values: Values<u64>) -> Result<()> {
        values.add(request.0.wrapping_mul(request.0));
        Ok(())
    }
}

fn bus() -> Bus {
    let bus = Bus::new();
    let info = Info::new("bench", "1.0.0".parse().expect("a version"), "bench/none");
    bus.add_controller(erase(Squares), info);
    bus
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let kind = arguments.next().unwrap_or_else(|| "resolve".to_owned());
    let count: u64 = arguments.next().map_or(1, |text| text.parse().expect("a number of operations"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // As a task, which is where those ask who ask a lot.
    let operations = async move {
        match kind.as_str() {
            "resolve" => {
                let bus = bus();
                for number in 0..count {
                    black_box(*bus.resolve(Square(number)).await.expect("a value"));
                }
            }
            "merged" => {
                let bus = bus();
                let mut standing = bus.request(Square(0)).expect("a request");
                standing.value().await.expect("a value");
                for _ in 0..count {
                    black_box(*bus.resolve(Square(0)).await.expect("a value"));
                }
            }
            // As a value crosses a boundary, and back.
            "encode" => {
                let endpoint = Endpoint {
                    name: "orders".to_owned(),
                    addresses: vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()],
                    port: 8080,
                    weight: 0.25,
                    zone: Some("a".to_owned()),
                };
                for _ in 0..count {
                    let value = AnyValue::native(endpoint.clone());
                    let bytes = value.encode().expect("it is encoded");
                    let read = AnyValue::encoded(&bytes).get::<Endpoint>().expect("it is decoded");
                    black_box((&read.name, &read.addresses, read.port, read.weight, &read.zone));
                }
            }
            other => panic!("no operation `{other}`; there are resolve, merged and encode"),
        }
    };
    runtime.block_on(async { tokio::spawn(operations).await.expect("the operations end") });
}

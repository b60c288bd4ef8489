//! A fixed number of operations of one kind, for tools that count instructions: `instructions resolve 2000`.
//!
//! One thread does everything but a plugin's own runtime, so that two runs do the same. What comes before the operations is
//! the difference of two runs with different numbers. `cargo run --release -p benches -- instructions` and
//! `scripts/bench-against` are who asks.

// The macros as functions: a program cannot call those of a crate of macros.
#[path = "../controllerbus-macros/src/config.rs"]
#[allow(dead_code, unreachable_pub)]
mod config;
#[path = "../controllerbus-macros/src/directive.rs"]
#[allow(dead_code, unreachable_pub)]
mod directive;
#[path = "../controllerbus-macros/src/functions.rs"]
#[allow(dead_code, unreachable_pub)]
mod functions;
#[path = "../controllerbus-macros/src/hot_plugin.rs"]
#[allow(dead_code, unreachable_pub)]
mod hot_plugin;
#[path = "../controllerbus-macros/src/keys.rs"]
#[allow(dead_code, unreachable_pub)]
mod keys;
#[path = "../controllerbus-macros/src/schema.rs"]
#[allow(dead_code, unreachable_pub)]
mod schema;
#[path = "../controllerbus-macros/src/serde.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod serde;
#[path = "../controllerbus-macros/src/tokens.rs"]
#[allow(dead_code, unreachable_pub)]
mod tokens;

use std::hint::black_box;
use std::path::{Path, PathBuf};

use controllerbus::controller::Info;
use controllerbus::controller::factory::erase;
use controllerbus::directive::AnyValue;
use controllerbus::prelude::*;
use hot_runtime::artifact::Checks;
use hot_runtime::{HotRuntime, PluginSpec, Trust};
use proc_macro2::TokenStream;

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

/// A controller as people write them, for the macros.
mod controller {
    pub const ARGUMENTS: &str = r#"id = "bench/greeter", version = "1.0.0", state = greeted"#;

    pub const BLOCK: &str = "
        impl Controller for Greeter {
            type Config = GreeterConfig;

            async fn construct(config: GreeterConfig, _: &Context) -> Result<Self> {
                Ok(Self { config, greeted: Keep::new() })
            }

            /// Greets.
            #[resolves]
            async fn greet(&self, request: Greet, values: Values<Greeting>) -> Result<()> {
                let count = self.greeted.update(|greeted| { greeted.count += 1; greeted.count });
                values.add(Greeting { text: format!(\"Hello, {}!\", request.name), count });
                Ok(())
            }

            #[resolves]
            async fn count(&self, _: Count) -> Result<u64> {
                Ok(self.greeted.read(|greeted| greeted.count))
            }

            async fn execute(&self, context: Context) -> Result<()> {
                context.cancelled().await;
                Ok(())
            }
        }";

    pub const CONFIG: &str = r#"
        /// What it says.
        #[config(id = "bench/greeter")]
        #[serde(deny_unknown_fields)]
        pub struct GreeterConfig {
            /// How it begins.
            #[serde(default = "hello")]
            pub greeting: String,
            /// Whom it does not greet.
            #[serde(default)]
            pub not: Vec<String>,
            /// After how many it stops.
            pub limit: Option<u32>,
        }"#;

    pub const DIRECTIVE: &str = r#"
        /// Asks for a greeting.
        #[directive(id = "bench/greet", value = Greeting)]
        pub struct Greet {
            /// Who is greeted.
            pub name: String,
            /// In which language.
            pub language: Option<String>,
        }"#;
}

/// As rustc calls them for a crate with one controller, its config and a directive.
fn expand(count: u64) {
    let tokens = |text: &str| text.parse::<TokenStream>().expect("tokens");
    let (arguments, block) = (tokens(controller::ARGUMENTS), tokens(controller::BLOCK));
    let (config, directive) = (tokens(controller::CONFIG), tokens(controller::DIRECTIVE));
    for _ in 0..count {
        black_box(hot_plugin::expand(arguments.clone(), block.clone()).expect("a plugin"));
        black_box(config::expand(config.clone()).expect("a config"));
        black_box(directive::expand(directive.clone()).expect("a directive"));
    }
}

/// Builds the optimised plugin that is verified and loaded.
async fn artifact() -> PathBuf {
    let scratch = tests::Scratch::new(&["probe"]);
    let work = tests::work_dir().join("instructions");
    let spec = PluginSpec::new("probe").crate_path(scratch.path("probe")).release(true).watch(false);
    let builder = HotRuntime::builder(&Bus::new()).plugin(spec).work_dir(&work).target_dir(tests::target_dir());
    builder.start().await.expect("building the probe").shutdown().await;
    work.join("artifacts").join(format!("probe.cbus{}", std::env::consts::DLL_SUFFIX))
}

/// A host that loads a file, asks it, and unloads it.
async fn load(file: &Path, count: u64) {
    let bus = Bus::new();
    let config = ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: quiet }\n").expect("a config set");
    bus.apply(config).await.expect("applying");
    let work = tempfile::tempdir().expect("a folder");
    let builder = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(work.path());
    let runtime = builder.start().await.expect("the runtime");
    for _ in 0..count {
        let loaded = runtime.load_file(file).await.expect("loading");
        black_box(tests::ask(&bus, "number").await.expect("the first answer"));
        runtime.unload(&loaded.plugin).await.expect("unloading");
    }
    runtime.shutdown().await;
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let kind = arguments.next().unwrap_or_else(|| "resolve".to_owned());
    let count: u64 = arguments.next().map_or(1, |text| text.parse().expect("a number of operations"));
    let file = arguments.next().map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
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
            "expand" => expand(count),
            // The optimised plugin that the following are about; counting what builds it is of no use.
            "artifact" => println!("{}", artifact().await.display()),
            "verify" => {
                let checks = Checks::new(Trust::anyone());
                for _ in 0..count {
                    black_box(checks.verify(file.as_deref().expect("a file")).expect("a file that is accepted"));
                }
            }
            "load" => load(file.as_deref().expect("a file"), count).await,
            other => {
                panic!("no operation `{other}`; there are resolve, merged, encode, expand, artifact, verify and load")
            }
        }
    };
    runtime.block_on(async { tokio::spawn(operations).await.expect("the operations end") });
}

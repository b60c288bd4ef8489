//! A host program as an embedder writes it: its own plugin host, by one line. The tests run, and kill, it.
//!
//! `process-host ARTIFACT FOLDER` loads a `hazard` artifact in a process of its own, prints that process's id and that of one
//! which the plugin has started, and serves until it is killed.

use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, Isolation};
use tests::process::{CONFIG, act};

fn main() {
    hot_runtime::plugin_host();
    let mut arguments = std::env::args().skip(1);
    let (Some(artifact), Some(folder)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: process-host ARTIFACT FOLDER");
        std::process::exit(2);
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let served: Result<()> = runtime.block_on(async {
        let bus = Bus::new();
        let builder = HotRuntime::builder(&bus)
            .trust(hot_runtime::Trust::anyone())
            .work_dir(folder)
            .isolation(Isolation::Process);
        let hot = builder.start().await?;
        bus.apply(ConfigSet::from_yaml(CONFIG)?).await?;
        hot.load_file(artifact).await?;
        println!("{} {}", act(&bus, "pid").await?, act(&bus, "start-another").await?);
        std::future::pending().await
    });
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

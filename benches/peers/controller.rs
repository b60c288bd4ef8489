//! The controller of `../ours/lib.rs` with its directive, by hand: what makes a plugin without a framework do the same work.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::logic;

#[derive(Serialize, Deserialize, Hash, PartialEq, Eq)]
pub struct Ask;

#[derive(Serialize, Deserialize)]
pub struct Answer(pub u64);

#[derive(Serialize, Deserialize, PartialEq)]
pub struct BenchConfig {}

type Error = Box<dyn std::error::Error + Send + Sync>;

pub struct Bench;

impl Bench {
    async fn construct(_: BenchConfig) -> Result<Self, Error> {
        Ok(Self)
    }

    async fn ask(&self, _: Ask, values: mpsc::UnboundedSender<Answer>) -> Result<(), Error> {
        values.send(Answer(logic::run().await))?;
        Ok(())
    }
}

/// What a host calls: the config and the directive come as bytes, and so does the answer go.
async fn resolve(config: &[u8], ask: &[u8]) -> Result<Vec<u8>, Error> {
    let bench = Bench::construct(rmp_serde::from_slice(config)?).await?;
    let (sender, mut values) = mpsc::unbounded_channel();
    bench.ask(rmp_serde::from_slice(ask)?, sender).await?;
    let answer = values.recv().await.ok_or("no value")?;
    Ok(rmp_serde::to_vec_named(&answer)?)
}

/// The same for a host that calls a plain function.
pub fn value() -> u64 {
    let asked = || -> Result<u64, Error> {
        let (config, ask) = (rmp_serde::to_vec_named(&BenchConfig {})?, rmp_serde::to_vec_named(&Ask)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer: Answer = rmp_serde::from_slice(&runtime.block_on(resolve(&config, &ask))?)?;
        Ok(answer.0)
    };
    std::panic::catch_unwind(asked).expect("no panic").expect("an answer")
}

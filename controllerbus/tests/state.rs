//! A controller that names a field as its state: other versions of it go on with that, also after a roll-back.
#![allow(missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use controllerbus::bus::{Bus, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info};
use controllerbus::prelude::*;

fn info(id: &str) -> Info {
    Info::new(id, semver::Version::new(1, 0, 0), id)
}

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it does not take long")
}

/// Adds to the count, and says what it is then. No two are the same question.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/tally", value = u64, unmerged)]
pub struct Tally(u64);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/tallied")]
pub struct TallyConfig {}

mod one {
    use super::*;

    #[derive(State, Default)]
    struct Sum {
        count: u64,
    }

    #[derive(Default)]
    pub struct Teller {
        sum: Mutex<Sum>,
    }

    #[hot_plugin(id = "test/teller-one", version = "1.0.0", state = sum)]
    impl Controller for Teller {
        type Config = TallyConfig;

        async fn construct(_: TallyConfig, _: &Context) -> Result<Self> {
            Ok(Self::default())
        }

        #[resolves]
        async fn tally(&self, request: Tally) -> Result<u64> {
            let mut sum = self.sum.lock().unwrap();
            sum.count += request.0;
            Ok(sum.count)
        }
    }
}

mod two {
    use super::*;

    #[derive(State, Default)]
    struct Sum {
        #[state(was = "count")]
        total: u64,
        #[state(default = 1000)]
        extra: u64,
    }

    #[derive(Default)]
    pub struct Teller {
        sum: tokio::sync::watch::Sender<Sum>,
    }

    #[hot_plugin(id = "test/teller-two", version = "2.0.0", state = sum)]
    impl Controller for Teller {
        type Config = TallyConfig;

        async fn construct(_: TallyConfig, _: &Context) -> Result<Self> {
            Ok(Self::default())
        }

        #[resolves]
        async fn tally(&self, request: Tally) -> Result<u64> {
            self.sum.send_modify(|sum| sum.total += request.0);
            let sum = self.sum.borrow();
            Ok(sum.total + sum.extra)
        }
    }
}

/// The same field with something else in it.
mod three {
    use super::*;

    #[derive(State, Default)]
    struct Sum {
        total: Vec<String>,
    }

    #[derive(Default)]
    pub struct Teller {
        sum: std::sync::RwLock<Sum>,
    }

    #[hot_plugin(id = "test/teller-three", version = "3.0.0", state = sum)]
    impl Controller for Teller {
        type Config = TallyConfig;

        async fn construct(_: TallyConfig, _: &Context) -> Result<Self> {
            Ok(Self::default())
        }

        #[resolves]
        async fn tally(&self, _: Tally) -> Result<u64> {
            Ok(self.sum.read().unwrap().total.len() as u64)
        }
    }
}

struct Tellers(fn() -> Arc<dyn AnyController>);

impl Factory for Tellers {
    fn info(&self) -> Info {
        info("test/tellers")
    }

    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move { Ok((self.0)()) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controllers_named_state_is_handed_to_each_version_and_back_and_what_does_not_fit_is_refused_by_name() {
    let of = |made| vec![Arc::new(Tellers(made)) as Arc<dyn Factory>];
    let bus = Bus::new();
    bus.apply(ConfigSet::from_yaml("tellers:\n  id: test/tellers\n").unwrap()).await.unwrap();
    bus.add_factories(Source(1), of(|| erase(one::Teller::default())));
    assert_eq!(*soon(bus.resolve(Tally(5))).await.unwrap(), 5);

    let patience = Duration::from_secs(10);
    let swap = async |from, made| -> Result<()> {
        let staged = bus.stage(Source(from), Source(from + 1), of(made), patience).await?;
        staged.commit(patience).await?.drained().await;
        Ok(())
    };
    swap(1, || erase(two::Teller::default())).await.expect("a field was renamed and one is new");
    assert_eq!(*soon(bus.resolve(Tally(2))).await.unwrap(), 1007);

    let error = swap(2, || erase(three::Teller::default())).await.expect_err("it does not fit").to_string();
    assert!(error.contains("total") && error.contains("Sum"), "{error}");
    assert_eq!(*soon(bus.resolve(Tally(1))).await.unwrap(), 1008, "the one before serves on");

    swap(2, || erase(one::Teller::default())).await.expect("the older version knows the name from before");
    assert_eq!(*soon(bus.resolve(Tally(0))).await.unwrap(), 8);
}

//! What the tests share: directives, controllers made of closures, and waits for states.

use std::sync::Arc;
use std::time::Duration;

use controllerbus::Routes;
use controllerbus::bus::{Bus, ControllerId};
use controllerbus::controller::factory::{Factory, FactoryOf, erase};
use controllerbus::controller::{BoxFuture, Info};
use controllerbus::prelude::*;

/// Asks for the words about a number.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq, Debug)]
#[directive(id = "test/words", value = String)]
pub struct Words {
    pub number: u64,
}

/// How a [`Scripted`] controller resolves.
pub type Resolve = Arc<dyn Fn(Words, Values<String>) -> BoxFuture<'static, Result<()>> + Send + Sync>;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/scripted")]
pub struct NoConfig {}

/// A controller that resolves [`Words`] by a closure.
pub struct Scripted {
    resolve: Resolve,
}

impl Controller for Scripted {
    type Config = NoConfig;

    async fn construct(_: NoConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by hand"))
    }

    fn routes(routes: &mut Routes<Self>) {
        routes.add::<Words>(|this, request, values| (this.resolve)(request, values));
    }
}

pub fn info(id: &str) -> Info {
    Info {
        id: id.to_owned(),
        version: "1.0.0".parse().expect("a version"),
        description: "for a test".to_owned(),
        config_id: id.to_owned(),
    }
}

/// Puts a controller on the bus that resolves [`Words`] by a closure.
pub fn resolver<F>(bus: &Bus, resolve: impl Fn(Words, Values<String>) -> F + Send + Sync + 'static) -> ControllerId
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let resolve: Resolve = Arc::new(move |request, values| Box::pin(resolve(request, values)));
    bus.add_controller(erase(Scripted { resolve }), info("test/scripted"))
}

/// Puts a controller on the bus that answers at once with one value.
pub fn answers(bus: &Bus, text: &'static str) -> ControllerId {
    resolver(bus, move |request, values| {
        values.add(format!("{text} {}", request.number));
        std::future::ready(Ok(()))
    })
}

/// A factory under an id and a version.
pub fn factory<C: Controller>(id: &str, version: &str) -> Arc<dyn Factory> {
    FactoryOf::<C>::with_info(Info {
        id: id.to_owned(),
        version: version.parse().expect("a version"),
        description: String::new(),
        config_id: C::Config::ID.to_owned(),
    })
}

/// Ends a test that would wait forever.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it happens within 20 s")
}

//! What the tests share: directives, controllers made of closures, and waits for states.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/scripted")]
pub struct NoConfig {}

pub fn info(id: &str) -> Info {
    Info::new(id, "1.0.0".parse().expect("a version"), id).with_description("for a test")
}

/// Puts a controller on the bus that resolves [`Words`] by a closure.
pub fn resolver<F>(bus: &Bus, resolve: impl Fn(Words, Values<String>) -> F + Send + Sync + 'static) -> ControllerId
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    resolver_of::<Words, F>(bus, resolve)
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
    FactoryOf::<C>::with_info(Info::new(id, version.parse().expect("a version"), C::Config::ID))
}

/// Ends a test that would wait forever.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it happens within 20 s")
}

type Resolve<D> = Box<dyn Fn(D, Values<<D as Directive>::Value>) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A controller that resolves one type of directive by a closure.
pub struct Closure<D: Directive> {
    resolve: Resolve<D>,
}

impl<D: Directive> Controller for Closure<D> {
    type Config = NoConfig;

    async fn construct(_: NoConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by hand"))
    }

    fn routes(routes: &mut Routes<Self>) {
        routes.add::<D>(|this, request, values| (this.resolve)(request, values));
    }
}

/// Puts a controller on the bus that resolves `D` by a closure.
pub fn resolver_of<D: Directive, F>(
    bus: &Bus,
    resolve: impl Fn(D, Values<D::Value>) -> F + Send + Sync + 'static,
) -> ControllerId
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let resolve = Box::new(move |request, values| Box::pin(resolve(request, values)) as BoxFuture<'static, Result<()>>);
    bus.add_controller(erase(Closure::<D> { resolve }), info("test/closure"))
}

/// A controller that counts how often it is asked.
pub fn counted(bus: &Bus) -> Arc<AtomicUsize> {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    resolver(bus, move |_, values| {
        values.add(format!("call {}", count.fetch_add(1, Ordering::Relaxed)));
        std::future::ready(Ok(()))
    });
    calls
}

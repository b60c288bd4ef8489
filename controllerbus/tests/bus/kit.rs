//! What the tests share: directives, controllers made of closures, and waits for states.

use std::any::Any;
use std::future::poll_fn;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use controllerbus::Routes;
use controllerbus::bus::{Bus, ControllerId, Origin, Source};
use controllerbus::controller::factory::{Factory, FactoryOf, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info};
use controllerbus::directive::{AnyDirective, DirectiveType, Options, RawEvent, RawRequest};
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
    resolver_from(bus, Origin::HERE, resolve)
}

/// The same for another origin: a controller that passes directives on to another host.
pub fn resolver_from<D: Directive, F>(
    bus: &Bus,
    origin: Origin,
    resolve: impl Fn(D, Values<D::Value>) -> F + Send + Sync + 'static,
) -> ControllerId
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let resolve = Box::new(move |request, values| Box::pin(resolve(request, values)) as BoxFuture<'static, Result<()>>);
    bus.add_controller_from(origin, erase(Closure::<D> { resolve }), info("test/closure"))
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

/// A local directive as a plugin's code asks it: it is that library's.
pub struct AskedBy<D> {
    pub library: Source,
    pub directive: D,
}

impl<D: Directive> AnyDirective for AskedBy<D> {
    fn id(&self) -> &str {
        D::ID
    }
    fn directive_type(&self) -> Option<&'static DirectiveType> {
        self.directive.directive_type()
    }
    fn hash_key(&self, hasher: &mut dyn Hasher) {
        self.directive.hash_key(hasher);
    }
    fn same_key(&self, other: &dyn AnyDirective) -> bool {
        let other = other.as_any().downcast_ref::<Self>();
        other.is_some_and(|other| self.library == other.library && self.directive == other.directive)
    }
    fn name(&self) -> String {
        Directive::name(&self.directive)
    }
    fn debug_values(&self) -> Vec<(String, String)> {
        Directive::debug_values(&self.directive)
    }
    fn options(&self) -> Options {
        Directive::options(&self.directive)
    }
    fn validate(&self) -> Result<()> {
        Ok(())
    }
    fn confined_to(&self) -> Option<Source> {
        Some(self.library)
    }
    fn encode(&self) -> Result<Vec<u8>> {
        AnyDirective::encode(&self.directive)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What happens next to a directive.
pub async fn next_of(request: &mut Box<dyn RawRequest>) -> RawEvent {
    soon(poll_fn(|cx| request.poll_event(cx))).await.expect("it stands")
}

/// Waits until nothing changes on the bus any more. The test's clock is paused: it goes on only when all are at rest.
pub async fn at_rest(bus: &Bus) {
    let mut changes = bus.changes();
    let mut seen = 0;
    while let Ok(changed) = tokio::time::timeout(Duration::from_millis(1), changes.changed()).await {
        changed.expect("the bus is there");
        seen += 1;
        assert!(seen < 1_000, "it does not come to rest");
    }
}

/// A factory whose controllers cannot be constructed, which counts the tries.
#[derive(Default)]
pub struct Fails {
    pub tries: AtomicUsize,
}

impl Factory for Fails {
    fn info(&self) -> Info {
        info("test/fails")
    }
    fn construct(self: Arc<Self>, _: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Err(Error::msg("it cannot be made"))))
    }
}

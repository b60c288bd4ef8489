//! A controller made of closures, for what is too small for a type of its own.

use std::future::Future;
use std::sync::Arc;

use super::routes::owned;
use super::{AnyController, BoxFuture, Context, OnStarted, starting};
use crate::Result;
use crate::directive::{AnyDirective, Directive, ValueSink, Values};

type Execute = Box<dyn Fn(Context) -> BoxFuture<'static, Result<()>> + Send + Sync>;
type Resolve = Box<dyn Fn(&dyn AnyDirective, Arc<dyn ValueSink>) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A controller made of closures, for [`crate::BusHandle::add_controller`] and [`crate::Bus::add_controller`].
///
/// ```
/// use std::sync::Arc;
///
/// use controllerbus::controller::{Closures, Info};
/// use controllerbus::prelude::*;
///
/// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// # #[directive(id = "example/greet", value = String)]
/// # struct Greet { name: String }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let bus = Bus::new();
/// let greeter = Closures::new().resolves(|request: Greet, values| async move {
///     values.add(format!("Hello, {}!", request.name));
///     Ok(())
/// });
/// bus.add_controller(Arc::new(greeter), Info::new("greeter", "1.0.0".parse()?, "greeter"));
/// assert_eq!(*bus.resolve(Greet { name: "Ada".into() }).await?, "Hello, Ada!");
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Closures {
    execute: Option<Execute>,
    resolvers: Vec<(&'static str, Resolve)>,
}

impl std::fmt::Debug for Closures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closures").field("resolves", &self.resolves()).finish_non_exhaustive()
    }
}

impl Closures {
    /// A controller that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Executes a function: see [`crate::Controller::execute`].
    #[must_use]
    pub fn executes<F>(self, execute: impl Fn(Context) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self { execute: Some(Box::new(move |context| Box::pin(execute(context)))), ..self }
    }

    /// Resolves directives of a type with a function.
    #[must_use]
    pub fn resolves<D: Directive, F>(
        mut self,
        resolve: impl Fn(D, Values<D::Value>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let resolve: Resolve = Box::new(move |directive, sink| match owned(directive) {
            Ok(directive) => Box::pin(resolve(directive, Values::of::<D>(sink))),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        });
        self.resolvers.push((D::ID, resolve));
        self
    }
}

impl AnyController for Closures {
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        let token = context.token().clone();
        let work = self.execute.as_ref().map(|execute| execute(context));
        Box::pin(async move {
            match work {
                Some(work) => starting(work, on_started).await,
                None => {
                    let waits = async {
                        token.cancelled().await;
                        Ok(())
                    };
                    starting(waits, on_started).await
                }
            }
        })
    }
    fn resolves(&self) -> Vec<String> {
        self.resolvers.iter().map(|(id, _)| (*id).to_owned()).collect()
    }
    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        let (_, resolve) = self.resolvers.iter().find(|(id, _)| *id == directive.id())?;
        Some(resolve(&*directive, sink))
    }
}

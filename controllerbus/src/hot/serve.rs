//! The plugin's side: a factory and a controller for a type that implements a trait of functions. The macros fill in a table, and
//! all else is compiled here, once.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::call::{Asked, read, short};
use super::{Functions, ListFunctions, Method, PREFIX, Serves};
use crate::bus::contained;
use crate::config::{ConfigSet, Entry};
use crate::controller::factory::Factory;
use crate::controller::{AnyController, BoxFuture, Context, Info, State, SwapMode};
use crate::directive::{AnyDirective, AnyValue, ValueSink};
use crate::error::ErrorKind;
use crate::linked::FactoryEntry;
use crate::{Directive, Error, Result, Retry};

/// A value of the plugin's type.
pub type Object = Arc<dyn Any + Send + Sync>;

/// The result of a call, encoded.
pub type Answer = BoxFuture<'static, Result<Vec<u8>>>;

/// What `#[hot_plugin]` says of a type that implements a trait of functions.
#[derive(Debug)]
pub struct Table {
    /// The plugin's id.
    pub id: &'static str,
    /// The trait.
    pub of: &'static str,
    /// The trait's methods.
    pub methods: &'static [Method],
    /// Makes a value of the type.
    pub make: fn(Context) -> BoxFuture<'static, Result<Object>>,
    /// Calls a method.
    pub call: fn(Object, usize, &[u8]) -> Answer,
    /// How its state is handed over, if it is.
    pub state: Option<Kept>,
}

/// How a state is handed over from one generation to the next.
#[derive(Debug)]
pub struct Kept {
    /// A value's state.
    pub save: fn(&Object) -> Result<State>,
    /// Gives a value a state; what comes back takes the value's place.
    pub restore: fn(&Object, &State) -> Result<Option<Object>>,
}

impl Kept {
    /// A type that is its own state.
    pub const fn of<T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static>() -> Self {
        Self {
            save: |object| State::encode(1, as_a::<T>(object)?).map_err(explained),
            restore: |_, state| Ok(Some(Arc::new(state.decode::<T>()?))),
        }
    }
}

/// Serde refuses a lock that is poisoned, and says neither why nor what to do.
fn explained(error: Error) -> Error {
    if !error.message().contains("lock poison") {
        return error;
    }
    error.and(
        "a method panicked while it held that lock, so nothing can be handed over until the plugin is loaded anew. \
         `state = field`, for a lock around a `#[derive(State)]` struct, hands it over all the same",
    )
}

/// A value as one of its type.
pub fn as_a<T: 'static>(object: &Object) -> Result<&T> {
    object.downcast_ref().ok_or_else(another)
}

fn another() -> Error {
    Error::msg("it is a value of another type")
}

/// Calls a method of a trait on a value of a type that implements it.
pub fn call<I: ?Sized + Serves<T>, T: Send + Sync + 'static>(
    object: Object,
    method: usize,
    arguments: &[u8],
) -> BoxFuture<'static, Result<Vec<u8>>> {
    match object.downcast::<T>() {
        Ok(object) => I::call(object, method, arguments),
        Err(_) => failed(another()),
    }
}

/// A call that fails at once.
pub fn failed(error: Error) -> BoxFuture<'static, Result<Vec<u8>>> {
    Box::pin(std::future::ready(Err(error)))
}

/// The configs by which functions with these config ids run: each is its own key.
pub fn configs<'a>(ids: impl IntoIterator<Item = &'a str>) -> ConfigSet {
    let mut set = ConfigSet::new();
    for id in ids {
        set.set(id, Entry::new(id, serde_json::Value::Object(serde_json::Map::new())));
    }
    set
}

/// The factory for an entry of the slice.
pub fn factory(entry: &'static FactoryEntry, table: &'static Table) -> Arc<dyn Factory> {
    Arc::new(FactoryOf { info: entry.info(), swap: entry.swap, persist: entry.persist(), table })
}

struct FactoryOf {
    info: Info,
    swap: SwapMode,
    persist: Option<Duration>,
    table: &'static Table,
}

impl Factory for FactoryOf {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn swap_mode(&self) -> SwapMode {
        self.swap
    }

    fn persist(&self) -> Option<Duration> {
        self.persist
    }

    fn construct(self: Arc<Self>, _: Vec<u8>, context: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let object = Mutex::new((self.table.make)(context).await?);
            let directive = format!("{PREFIX}{}", self.table.id);
            Ok(Arc::new(Serving { table: self.table, directive, object }) as Arc<dyn AnyController>)
        })
    }
}

/// The controller.
struct Serving {
    table: &'static Table,
    directive: String,
    object: Mutex<Object>,
}

impl Serving {
    fn object(&self) -> Object {
        Arc::clone(&self.object.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn functions(&self) -> Functions {
        let Table { id, of, methods, .. } = self.table;
        let methods = methods.iter().map(|method| format!("{}{}", method.name, method.signature)).collect();
        Functions { plugin: (*id).to_owned(), of: (*of).to_owned(), methods }
    }

    /// The index of the method that is meant.
    fn method(&self, asked: &Asked) -> Result<usize> {
        let Table { id, of, methods, .. } = self.table;
        let Asked { of: theirs, method, signature, .. } = asked;
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what).permanent());
        let named = format!("{}::{method}", short(theirs));
        if theirs != of {
            return invalid(format!(
                "`{named}` was called, but the plugin `{id}` implements `{of}`, and not `{theirs}`"
            ));
        }
        let Some(index) = methods.iter().position(|own| own.name == method) else {
            return invalid(format!(
                "the plugin `{id}` has no `{named}`: its `{of}` lacks the method, so rebuild it with that of the caller"
            ));
        };
        let own = methods[index].signature;
        if own != signature {
            return invalid(format!(
                "`{named}` is `{own}` in the plugin `{id}`, and `{signature}` for the caller; rebuild both with the same `{of}`"
            ));
        }
        Ok(index)
    }

    async fn answer(&self, asked: Asked) -> Result<AnyValue> {
        let index = self.method(&asked)?;
        let (object, call) = (self.object(), self.table.call);
        let answered = contained(async move { call(object, index, &asked.arguments.0).await }).await;
        let encoded = answered.map_err(|error| {
            let named = format!("`{}::{}` of `{}`", short(&asked.of), asked.method, self.table.id);
            match error.kind() {
                ErrorKind::Panicked => Error::new(ErrorKind::Panicked, format!("{named} {error}")),
                _ => error.context(named),
            }
        })?;
        Ok(AnyValue::encoded(&encoded))
    }
}

impl AnyController for Serving {
    fn save(self: Arc<Self>) -> BoxFuture<'static, Result<Option<State>>> {
        Box::pin(async move { self.table.state.as_ref().map(|kept| (kept.save)(&self.object())).transpose() })
    }

    fn restore(self: Arc<Self>, state: State) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            if let Some(kept) = &self.table.state
                && let Some(fresh) = (kept.restore)(&self.object(), &state)?
            {
                let before = std::mem::replace(&mut *self.object.lock().unwrap_or_else(PoisonError::into_inner), fresh);
                // Its destructor is the user's, and so runs when the lock is released.
                drop(before);
            }
            Ok(())
        })
    }

    fn retry(&self, directive: &str) -> Option<Retry> {
        (directive == self.directive).then(Retry::never)
    }

    fn resolves(&self) -> Vec<String> {
        vec![self.directive.clone(), ListFunctions::ID.to_owned()]
    }

    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        if directive.id() == ListFunctions::ID {
            sink.add(ListFunctions::pack(self.functions()));
            return Some(Box::pin(std::future::ready(Ok(()))));
        }
        if directive.id() != self.directive {
            return None;
        }
        Some(Box::pin(async move {
            let asked = read(&*directive)?;
            let named = format!("`{}::{}` of `{}`", short(&asked.of), asked.method, self.table.id);
            let value = self.answer(asked).await?;
            if sink.add(value).is_none() && !sink.is_cancelled() {
                return Err(Error::msg(format!("the result of {named} could not be returned to the caller")));
            }
            Ok(())
        }))
    }
}

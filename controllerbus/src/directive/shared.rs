//! Something costly that several resolvers use, by itself or one for each key.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use crate::Result;
use crate::controller::BoxFuture;

type Make<T> = Box<dyn Fn() -> BoxFuture<'static, Result<T>> + Send + Sync>;

/// Something costly that several resolvers use: made when the first one needs it, dropped when the last one lets it go, and made
/// anew when it has been invalidated.
///
/// ```
/// use controllerbus::directive::Shared;
/// # use controllerbus::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let connection = Shared::new(|| async { Ok(String::from("a connection")) });
/// let one = connection.get().await?;
/// assert!(std::sync::Arc::ptr_eq(&one, &connection.get().await?));
/// // It has broken. Whoever shows it with `values.share` shows the next one.
/// connection.invalidate();
/// assert!(!std::sync::Arc::ptr_eq(&one, &connection.get().await?));
/// # Ok(())
/// # }
/// ```
pub struct Shared<T> {
    make: Make<T>,
    /// What was made last, with the number of invalidations that came before.
    current: tokio::sync::Mutex<(u64, Weak<T>)>,
    invalidations: watch::Sender<u64>,
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Shares what a function makes.
    pub fn new<F>(make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        Self {
            make: Box::new(move || Box::pin(make())),
            current: tokio::sync::Mutex::new((0, Weak::new())),
            invalidations: watch::Sender::new(0),
        }
    }

    /// A reference to it. It is made now if there is none; other callers wait for that. Cancel-safe.
    ///
    /// # Errors
    /// Why it could not be made; the next call tries again.
    pub async fn get(&self) -> Result<Arc<T>> {
        let mut current = self.current.lock().await;
        let now = *self.invalidations.borrow();
        if let Some(there) = current.1.upgrade().filter(|_| current.0 == now) {
            return Ok(there);
        }
        let made = Arc::new((self.make)().await?);
        *current = (now, Arc::downgrade(&made));
        Ok(made)
    }

    /// Makes the next [`Shared::get`] make it anew, whoever still holds what there was.
    pub fn invalidate(&self) {
        self.invalidations.send_modify(|count| *count += 1);
    }

    /// Waits until this is no longer what [`Shared::get`] returns.
    pub async fn invalidated(&self, held: &Arc<T>) {
        let mut invalidations = self.invalidations.subscribe();
        loop {
            let now = *invalidations.borrow_and_update();
            {
                let current = self.current.lock().await;
                if current.0 != now || !std::ptr::eq(current.1.as_ptr(), Arc::as_ptr(held)) {
                    return;
                }
            }
            // The sender is held here.
            let _ = invalidations.changed().await;
        }
    }

    /// Whether nobody holds what was made.
    fn is_unused(&self) -> bool {
        self.current.try_lock().is_ok_and(|current| current.1.strong_count() == 0)
    }
}

/// One [`Shared`] for each key, such as a connection for each address.
pub struct SharedMap<K, T> {
    make: Arc<dyn Fn(K) -> BoxFuture<'static, Result<T>> + Send + Sync>,
    all: Mutex<Keys<K, T>>,
}

struct Keys<K, T> {
    shared: HashMap<K, Arc<Shared<T>>>,
    /// The number of keys at which the unused ones are removed.
    look_at: usize,
}

/// The number of keys below which unused ones are kept.
const FEW: usize = 16;

impl<K, T> std::fmt::Debug for SharedMap<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedMap").finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static, T: Send + Sync + 'static> SharedMap<K, T> {
    /// Shares what a function makes for a key.
    pub fn new<F>(make: impl Fn(K) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let keys = Keys { shared: HashMap::new(), look_at: FEW };
        Self { make: Arc::new(move |key| Box::pin(make(key))), all: Mutex::new(keys) }
    }

    /// That of a key: `values.share(&map.of(key), view)` shows it, `map.of(key).invalidate()` has it made anew.
    pub fn of(&self, key: K) -> Arc<Shared<T>> {
        let mut unused = Vec::new();
        let shared = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.shared.len() >= all.look_at {
                let is_unused =
                    |_: &K, shared: &mut Arc<Shared<T>>| Arc::strong_count(shared) == 1 && shared.is_unused();
                unused.extend(all.shared.extract_if(is_unused));
                all.look_at = (all.shared.len() * 2).max(FEW);
            }
            let make = Arc::clone(&self.make);
            let new = |key: &K| {
                let key = key.clone();
                Arc::new(Shared::new(move || make(key.clone())))
            };
            if let Some(shared) = all.shared.get(&key) {
                Arc::clone(shared)
            } else {
                let shared = new(&key);
                all.shared.insert(key, Arc::clone(&shared));
                shared
            }
        };
        // Keys are the user's, and so is their destructor.
        drop(unused);
        shared
    }
}

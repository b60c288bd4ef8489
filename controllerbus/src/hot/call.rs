//! A call of a function: the directive that carries it, and the future that waits for its result.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::hash::Hasher;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Method, PREFIX};
use crate::directive::{AnyDirective, AnyValue, DirectiveType, Options, RawEvent, RawRequest, superseded, wire};
use crate::error::ErrorKind;
use crate::{BusError, BusHandle, Error, Result};

/// Bytes that are encoded as such, and not one by one.
#[doc(hidden)]
#[derive(Debug)]
pub struct Bytes<T>(pub T);

impl<T: AsRef<[u8]>> Serialize for Bytes<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_ref())
    }
}

impl<'de> Deserialize<'de> for Bytes<Vec<u8>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Bytes<Vec<u8>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
                Ok(Bytes(bytes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = sequence.next_element()? {
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }

        deserializer.deserialize_byte_buf(Read)
    }
}

/// A call as it crosses.
#[derive(Serialize, Deserialize)]
pub(super) struct Asked {
    /// The trait that the caller knows.
    pub(super) of: String,
    pub(super) method: String,
    /// Of the method, as the caller knows it.
    pub(super) signature: String,
    pub(super) arguments: Bytes<Vec<u8>>,
}

/// The directive. Its id is the plugin's, so that nobody else is asked.
struct CallDirective {
    id: Arc<str>,
    /// Spreads calls over the bus's shards.
    number: u64,
    asked: Asked,
}

impl AnyDirective for CallDirective {
    fn id(&self) -> &str {
        &self.id
    }
    fn directive_type(&self) -> Option<&'static DirectiveType> {
        None
    }
    fn hash_key(&self, hasher: &mut dyn Hasher) {
        hasher.write_u64(self.number);
    }
    fn same_key(&self, _: &dyn AnyDirective) -> bool {
        false
    }
    fn name(&self) -> String {
        format!("{}::{}", self.asked.of, self.asked.method)
    }
    fn debug_values(&self) -> Vec<(String, String)> {
        // Arguments may be secret.
        vec![("method".to_owned(), self.asked.method.clone())]
    }
    fn options(&self) -> Options {
        Options::default().with_unmerged().with_once()
    }
    fn validate(&self) -> Result<()> {
        Ok(())
    }
    fn encode(&self) -> Result<Vec<u8>> {
        wire::encode(&self.asked)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Reads a call where it is answered.
pub(super) fn read(directive: &dyn AnyDirective) -> Result<Asked> {
    wire::decode(&directive.encode()?)
}

/// Makes calls of one plugin. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    bus: BusHandle,
    directive: Arc<str>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("plugin", &self.plugin()).finish_non_exhaustive()
    }
}

impl Caller {
    pub(super) fn new(bus: BusHandle, plugin: &str) -> Self {
        Self { bus, directive: format!("{PREFIX}{plugin}").into() }
    }

    pub(super) fn plugin(&self) -> &str {
        &self.directive[PREFIX.len()..]
    }

    /// Begins a call of a trait's method, with its arguments encoded.
    #[doc(hidden)]
    pub fn call<R: DeserializeOwned>(
        &self,
        of: &'static str,
        method: &'static Method,
        arguments: Result<Vec<u8>>,
    ) -> Call<R> {
        let what = What { of, method: method.name };
        let state = arguments.and_then(|arguments| Ok(self.begin(what, method, arguments)?)).map_err(BusError::from);
        Call { what, caller: self.clone(), state: Some(state), result: PhantomData }
    }

    fn begin(&self, what: What, method: &Method, arguments: Vec<u8>) -> Result<Box<dyn RawRequest>, BusError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let asked = Asked {
            of: what.of.to_owned(),
            method: method.name.to_owned(),
            signature: method.signature.to_owned(),
            arguments: Bytes(arguments),
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.bus.raw(Arc::new(CallDirective { id: Arc::clone(&self.directive), number, asked }))
    }
}

/// A method of a trait, for messages: `Greeter::greet`.
#[derive(Clone, Copy)]
struct What {
    of: &'static str,
    method: &'static str,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", short(self.of), self.method)
    }
}

/// A trait without its crate.
pub(super) fn short(of: &str) -> &str {
    of.rsplit("::").next().unwrap_or(of)
}

/// A call that has begun; await it for what the function returns. Dropping it cancels the call. It borrows nothing, and so can be
/// spawned.
///
/// # Errors
/// What may go wrong is in the [module's documentation](super).
#[must_use = "dropping it cancels the call"]
pub struct Call<R> {
    what: What,
    caller: Caller,
    state: Option<Result<Box<dyn RawRequest>, BusError>>,
    result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &format_args!("{}", self.what))
            .field("plugin", &self.caller.plugin())
            .finish_non_exhaustive()
    }
}

impl<R: DeserializeOwned> Call<R> {
    /// Waits for this long at most; then the call is cancelled.
    ///
    /// # Errors
    /// As without a limit, or [`ErrorKind::TimedOut`].
    pub async fn within(self, limit: Duration) -> Result<R, BusError> {
        let (what, plugin) = (self.what, self.caller.plugin().to_owned());
        tokio::time::timeout(limit, self).await.unwrap_or_else(|_| {
            let what = format!("`{what}` of `{plugin}` did not answer within {limit:?}");
            Err(Error::new(ErrorKind::TimedOut, what).into())
        })
    }

    fn result_of(&self, value: &AnyValue) -> Result<R> {
        wire::decode(&value.encode()?).map_err(|error| error.context(format!("reading what `{}` returns", self.what)))
    }

    fn failed(&self, error: Error) -> Error {
        let named = format!("`{}`", self.what);
        let error = if error.message().contains(&named) { error } else { error.context(named) };
        let is_lost = matches!(error.kind(), ErrorKind::Crashed | ErrorKind::Unreachable);
        if is_lost { error.and("this call is not made again") } else { error }
    }

    fn nobody(&self) -> Error {
        let plugin = self.caller.plugin();
        Error::new(ErrorKind::NotFound, format!("`{}`: the plugin `{plugin}` was unloaded", self.what))
    }
}

impl<R: DeserializeOwned> Future for Call<R> {
    type Output = Result<R, BusError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = match &mut this.state {
            Some(Ok(raw)) => loop {
                match ready!(raw.poll_event(cx)) {
                    Some(RawEvent::Added(_, value)) => break this.result_of(&value),
                    // Its controller went before it had answered.
                    Some(RawEvent::Failed(error)) if error.kind() == ErrorKind::NotFound => break Err(this.nobody()),
                    Some(RawEvent::Failed(error)) => break Err(this.failed(error)),
                    Some(RawEvent::Idle) => break Err(this.nobody()),
                    Some(RawEvent::Removed(_) | RawEvent::Busy) => {}
                    None => break Err(superseded(&this.caller.directive)),
                }
            },
            Some(Err(error)) => Err(error.clone().into_inner()),
            None => Err(Error::new(ErrorKind::Closed, format!("`{}` has returned already", this.what))),
        };
        this.state = None;
        Poll::Ready(result.map_err(BusError::from))
    }
}

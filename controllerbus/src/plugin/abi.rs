//! The types and traits that cross the plugin boundary, stable by stabby's layout rules.
//!
//! A change of this file that is not of a comment is another boundary: see [`super::manifest::BOUNDARY_VERSION`].
//!
//! Named after the side that implements them: a `Host…` object lives in the host and is called by the guest,
//! a `Guest…` object the other way round. No call unwinds, and no destructor: each implementation contains its panics.
//! An object has one owner. Where more than one thread needs it, its owner shares it.

use stabby::alloc::allocators::LibcAlloc;

use super::fallible::Fallible;
use crate::error::ErrorKind;
use crate::{Error, Result};

/// Text that crosses. Its memory is the process's: dropping it calls no code of the side that made it. With stabby's default
/// allocator it would, and which one that is depends on what else is compiled with it.
pub type Text = stabby::string::String<LibcAlloc>;
/// A list that crosses, in the process's memory.
pub type List<T> = stabby::vec::Vec<T, LibcAlloc>;
/// What an object that crosses lies in, in the process's memory.
pub type Boxed<T> = stabby::boxed::Box<T, LibcAlloc>;

/// Puts an object into memory of the process.
pub(super) fn boxed<T>(object: T) -> Boxed<T> {
    Boxed::new_in(object, LibcAlloc::new())
}

/// An [`Error`] on its way across.
#[stabby::stabby]
pub struct Failure {
    kind: u8,
    message: Text,
}

/// A yes with nothing to say, or a failure.
#[stabby::stabby]
pub struct Outcome {
    /// Whether `failure` is empty.
    pub ok: bool,
    failure: Failure,
}

/// By their number in a failure. One that a side does not know is read as the first.
pub(super) const KINDS: [ErrorKind; 9] = [
    ErrorKind::Failed,
    ErrorKind::Panicked,
    ErrorKind::Encoding,
    ErrorKind::Invalid,
    ErrorKind::NotFound,
    ErrorKind::Closed,
    ErrorKind::TimedOut,
    ErrorKind::Crashed,
    ErrorKind::Unreachable,
];

/// Set in a failure's kind where trying again does not help.
const PERMANENT: u8 = 0x80;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(0);
        let kind = kind as u8 | if error.is_permanent() { PERMANENT } else { 0 };
        Self { kind, message: Text::from(error.to_string().as_str()) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = KINDS.get(usize::from(failure.kind & !PERMANENT)).copied().unwrap_or(ErrorKind::Failed);
        let error = Error::new(kind, failure.message.as_str());
        if failure.kind & PERMANENT == 0 { error } else { error.permanent() }
    }
}

impl From<Result<()>> for Outcome {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self { ok: true, failure: Failure { kind: 0, message: Text::default() } },
            Err(error) => Self { ok: false, failure: error.into() },
        }
    }
}

impl From<Outcome> for Result<()> {
    fn from(outcome: Outcome) -> Self {
        if outcome.ok { Ok(()) } else { Err(outcome.failure.into()) }
    }
}

/// What a factory's controllers will be.
#[stabby::stabby]
pub struct FactoryInfo {
    /// The plugin id.
    pub id: Text,
    /// Semver.
    pub version: Text,
    /// One line.
    pub description: Text,
    /// The config ID.
    pub config_id: Text,
    /// The config's JSON schema.
    pub schema: Text,
    /// Whether its controllers end before others come in their place: [`crate::controller::SwapMode::StopFirst`].
    pub stop_first: bool,
    /// How often its controllers' states are kept, in milliseconds; 0 if they are not.
    pub persist_ms: u64,
}

/// A controller's state on its way to the next generation; `there` is false when it has none.
#[stabby::stabby]
pub struct SavedState {
    /// Whether there is a state.
    pub there: bool,
    /// The version of its shape.
    pub schema: u32,
    /// Its bytes.
    pub bytes: List<u8>,
}

/// An object with methods on its way across, whatever its trait is: see [`super::interface`].
#[stabby::stabby]
pub trait InterfaceObject {
    /// The trait's [`SHAPE`](super::shape::InterfaceType::SHAPE).
    extern "C" fn shape(&self) -> u64;
    /// The trait's name, for messages.
    extern "C" fn name<'a>(&'a self) -> stabby::str::Str<'a>;
    /// The [`Pointer`](super::shape::Pointer) of that trait, which stays where it is.
    extern "C" fn pointer(&self) -> *const ();
}
/// An owned [`InterfaceObject`].
pub type ObjectPtr = stabby::dynptr!(Boxed<dyn InterfaceObject + Send + Sync>);

/// What [`HostRequest::poll`] found.
#[stabby::stabby]
pub struct PolledEvent {
    /// One of the `EVENT_` constants.
    pub kind: u8,
    /// The value's id, for added and removed.
    pub value: u64,
    /// The value's bytes (added) or nothing.
    pub bytes: List<u8>,
    /// The objects of the interface values in it.
    pub objects: List<ObjectPtr>,
    /// The error (failed).
    pub failure: Outcome,
}

/// No event yet: the waker is called when there is one.
pub const EVENT_PENDING: u8 = 0;
/// No further event will come.
pub const EVENT_END: u8 = 1;
/// A value came.
pub const EVENT_ADDED: u8 = 2;
/// A value went.
pub const EVENT_REMOVED: u8 = 3;
/// Every resolver has nothing more to add.
pub const EVENT_IDLE: u8 = 4;
/// A resolver works again.
pub const EVENT_BUSY: u8 = 5;
/// A resolver failed.
pub const EVENT_FAILED: u8 = 6;

/// One `tracing` event or new span of a guest.
#[stabby::stabby]
pub struct TraceRecord {
    /// The target.
    pub target: Text,
    /// The event's message, or the span's name.
    pub message: Text,
    /// The other fields as `name=value`, separated by spaces.
    pub fields: Text,
    /// The source file, or empty.
    pub file: Text,
    /// The line, or 0.
    pub line: u32,
    /// 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub level: u8,
}

/// Wakes a guest's task.
#[stabby::stabby]
pub trait GuestWaker {
    /// Wakes it.
    extern "C" fn wake(&self);
}
/// An owned [`GuestWaker`].
pub type GuestWakerPtr = stabby::dynptr!(Boxed<dyn GuestWaker + Send + Sync>);

/// A guest's reference to a directive that stands on the host's bus.
#[stabby::stabby]
pub trait HostRequest {
    /// The next event, or [`EVENT_PENDING`], and then the waker is kept until there is one.
    extern "C" fn poll(&self, waker: GuestWakerPtr) -> PolledEvent;
    /// Makes another reference to the same directive; a weak one does not keep it. A trait cannot speak of itself, so
    /// the host keeps it under a number until [`HostSide::referred`] fetches it.
    extern "C" fn refer(&self, strong: bool) -> Fallible<u64>;
    /// Who answers the directive, as a list of [`crate::bus::ResolverSnapshot`]s in the boundary's encoding.
    extern "C" fn resolvers(&self) -> Fallible<List<u8>>;
}
/// An owned [`HostRequest`].
pub type HostRequestPtr = stabby::dynptr!(Boxed<dyn HostRequest + Send + Sync>);

/// A factory in a guest.
#[stabby::stabby]
pub trait GuestFactory {
    /// What its controllers will be.
    extern "C" fn info(&self) -> FactoryInfo;
    /// Starts the construction of a controller, which has its sockets from there.
    extern "C" fn construct(&self, config: List<u8>, sockets: HostSocketsPtr, done: HostConstructedPtr)
    -> GuestTaskPtr;
}
/// An owned [`GuestFactory`].
pub type GuestFactoryPtr = stabby::dynptr!(Boxed<dyn GuestFactory + Send + Sync>);

/// The host, as one generation of a plugin sees it.
#[stabby::stabby]
pub trait HostSide {
    /// Adds a directive in the boundary's encoding to the host's bus; `facts` are what a host that does not know its
    /// type has to know, see [`crate::directive::Facts`].
    extern "C" fn request(&self, id: Text, bytes: List<u8>, facts: List<u8>) -> Fallible<HostRequestPtr>;
    /// Hands out what [`HostRequest::refer`] made.
    extern "C" fn referred(&self, number: u64) -> Fallible<HostRequestPtr>;
    /// The most verbose level that anybody listens to: 0 none to 5 trace.
    extern "C" fn trace_level(&self) -> u8;
    /// A `tracing` event.
    extern "C" fn trace_event(&self, record: TraceRecord);
    /// A new span below the current one; returns its id, 0 for none.
    extern "C" fn span_new(&self, record: TraceRecord) -> u64;
    /// Enters a span on this thread.
    extern "C" fn span_enter(&self, id: u64);
    /// Leaves a span on this thread.
    extern "C" fn span_exit(&self, id: u64);
    /// One more refers to a span.
    extern "C" fn span_clone(&self, id: u64);
    /// One less refers to a span; the last ends it.
    extern "C" fn span_close(&self, id: u64);
    /// Adds a controller to the host's bus; `retry` is its [`crate::Retry`] in the boundary's encoding. Returns its id there.
    extern "C" fn add_controller(
        &self,
        info: FactoryInfo,
        retry: List<u8>,
        controller: GuestControllerPtr,
    ) -> Fallible<u64>;
    /// How the execution of one that was added has ended for good: [`EVENT_END`] or [`EVENT_FAILED`]; or [`EVENT_PENDING`], and
    /// then the waker is kept until it has.
    extern "C" fn exited(&self, controller: u64, waker: GuestWakerPtr) -> PolledEvent;
    /// Removes one that was added, and says whether it has ended; if not, the waker is kept until it has.
    extern "C" fn close(&self, controller: u64, waker: GuestWakerPtr) -> bool;
    /// Removes one that was added, without another word.
    extern "C" fn let_go(&self, controller: u64);
    /// Adds factories to the host's bus, until they are removed by the number that this returns, or with the generation.
    extern "C" fn add_factories(&self, factories: List<GuestFactoryPtr>) -> Fallible<u64>;
    /// Removes factories that were added, and their controllers.
    extern "C" fn remove_factories(&self, number: u64);
}
/// An owned [`HostSide`].
pub type HostPtr = stabby::dynptr!(Boxed<dyn HostSide + Send + Sync>);

/// Where a guest's resolver puts its values.
#[stabby::stabby]
pub trait HostSink {
    /// Adds a value with the objects of the interface values in it; returns its id plus 1, or 0 when it is not wanted.
    extern "C" fn add(&self, bytes: List<u8>, objects: List<ObjectPtr>) -> u64;
    /// Withdraws a value.
    extern "C" fn remove(&self, id: u64) -> bool;
    /// Puts a value in the place of one of this resolver's own, in one step; returns as `add` does. The old one is gone
    /// then in any case.
    extern "C" fn replace(&self, old: u64, bytes: List<u8>, objects: List<ObjectPtr>) -> u64;
    /// Whether there is, for now, nothing more to add.
    extern "C" fn set_idle(&self, idle: bool);
    /// Whether values are no longer wanted.
    extern "C" fn is_cancelled(&self) -> bool;
    /// Calls the waker once, when this resolver's values are gone.
    extern "C" fn on_gone(&self, waker: GuestWakerPtr);
    /// Makes a weak reference to the directive, to be fetched as that of [`HostRequest::refer`].
    extern "C" fn refer(&self) -> Fallible<u64>;
    /// Ends the directive, unless it is referred to and that counts; 1 if it has ended by this.
    extern "C" fn close(&self, even_if_referred: bool) -> Fallible<u64>;
}
/// An owned [`HostSink`].
pub type HostSinkPtr = stabby::dynptr!(Boxed<dyn HostSink + Send + Sync>);

/// Called once, with how a guest's task ended.
#[stabby::stabby]
pub trait HostDone {
    /// The task ended.
    extern "C" fn done(&self, outcome: Outcome);
}
/// An owned [`HostDone`]; dropping it without a call means that the task was dropped.
pub type HostDonePtr = stabby::dynptr!(Boxed<dyn HostDone + Send + Sync>);

/// Called once, with what a controller saved.
#[stabby::stabby]
pub trait HostSaved {
    /// The state, or why there is none.
    extern "C" fn done(&self, result: Fallible<SavedState>);
}
/// An owned [`HostSaved`]; dropping it without a call means that nothing was saved.
pub type HostSavedPtr = stabby::dynptr!(Boxed<dyn HostSaved + Send + Sync>);

/// Called with the result of listening, and from then on with whether the controller serves.
#[stabby::stabby]
pub trait GuestListening {
    /// Whether the controller serves: the number of a [`crate::listen::Service`]. Called before `done` is, and whenever it
    /// changes after that, until the controller has served.
    extern "C" fn service(&self, service: u8);
    /// Once: a descriptor of the socket, which is the guest's own from now on, or why there is none.
    extern "C" fn done(&self, result: Fallible<i32>);
}
/// An owned [`GuestListening`].
pub type GuestListeningPtr = stabby::dynptr!(Boxed<dyn GuestListening + Send + Sync>);

/// Where the sockets of one controller come from, and what keeps its code loaded for connections.
#[stabby::stabby]
pub trait HostSockets {
    /// Starts to listen at an address.
    extern "C" fn listen(&self, address: Text, listening: GuestListeningPtr);
    /// A connection was accepted: the generation stays loaded.
    extern "C" fn opened(&self);
    /// One that was accepted is closed.
    extern "C" fn closed(&self);
}
/// An owned [`HostSockets`].
pub type HostSocketsPtr = stabby::dynptr!(Boxed<dyn HostSockets + Send + Sync>);

/// A task on the guest's runtime. Dropping it drops the task's future.
#[stabby::stabby]
pub trait GuestTask {
    /// Cancels the context that the task was given; the task ends in its own time.
    extern "C" fn cancel(&self);
}
/// An owned [`GuestTask`].
pub type GuestTaskPtr = stabby::dynptr!(Boxed<dyn GuestTask + Send + Sync>);

/// A controller in a guest.
#[stabby::stabby]
pub trait GuestController {
    /// Starts `execute`; `began` is called once it reaches its first wait, or its end without an error.
    extern "C" fn execute(&self, began: HostDonePtr, done: HostDonePtr) -> GuestTaskPtr;
    /// Starts `close`.
    extern "C" fn close(&self, done: HostDonePtr) -> GuestTaskPtr;
    /// Starts to drop the controller, once it is no longer used; a failure says what still uses it after this time.
    extern "C" fn part(&self, within_ms: u64, done: HostDonePtr) -> GuestTaskPtr;
    /// Starts `save`, on a thread that may block. Dropping the task does not stop it, but nothing waits for it then.
    extern "C" fn save(&self, done: HostSavedPtr) -> GuestTaskPtr;
    /// Starts `health`.
    extern "C" fn health(&self, done: HostDonePtr) -> GuestTaskPtr;
    /// Starts `restore`.
    extern "C" fn restore(&self, state: SavedState, done: HostDonePtr) -> GuestTaskPtr;
    /// The ids of the directives that it resolves.
    extern "C" fn resolves(&self) -> List<Text>;
    /// How often its resolvers are tried again, where that is not left to its config: a list of directive ids and
    /// [`crate::Retry`]s in the boundary's encoding, or nothing.
    extern "C" fn retries(&self) -> List<u8>;
    /// Starts a resolver; `done` is called when it ends.
    extern "C" fn resolve(&self, id: Text, bytes: List<u8>, sink: HostSinkPtr, done: HostDonePtr) -> GuestTaskPtr;
}
/// An owned [`GuestController`].
pub type GuestControllerPtr = stabby::dynptr!(Boxed<dyn GuestController + Send + Sync>);

/// Called once, with the result of a construction.
#[stabby::stabby]
pub trait HostConstructed {
    /// The controller, or why there is none.
    extern "C" fn done(&self, result: Fallible<GuestControllerPtr>);
}
/// An owned [`HostConstructed`].
pub type HostConstructedPtr = stabby::dynptr!(Boxed<dyn HostConstructed + Send + Sync>);

/// What gives the keys for thread-local data of a library back, once none of its other code will run any more.
#[stabby::stabby]
#[derive(Clone, Copy)]
pub struct LastCall {
    /// Returns how many keys there were. No other code of the library may run, then or later.
    pub give_keys_back: unsafe extern "C" fn() -> u32,
}

/// One loaded generation, as the host sees it.
#[stabby::stabby]
pub trait GuestSide {
    /// Its factories.
    extern "C" fn factories(&self) -> List<GuestFactoryPtr>;
    /// Starts a task on each worker of the guest's runtime; `done` is called once every one of them has run it.
    extern "C" fn ping(&self, done: HostDonePtr) -> GuestTaskPtr;
    /// Ends the guest's runtime and joins its threads; false when some did not end within the time.
    extern "C" fn shutdown(&self, timeout_ms: u64) -> bool;
    /// How many thread-local values of this generation were left behind on the host's threads.
    extern "C" fn leaked_thread_locals(&self) -> u64;
    /// What is to be called last.
    extern "C" fn last_call(&self) -> LastCall;
}
/// An owned [`GuestSide`].
pub type GuestPtr = stabby::dynptr!(Boxed<dyn GuestSide + Send + Sync>);

/// How a guest tells the host of what would outlive its code: threads, and signal handlers.
#[stabby::stabby]
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Handed to each call that takes one, and to none of another host.
    pub context: *const (),
    /// A thread is about to be made.
    pub created: unsafe extern "C" fn(*const ()),
    /// A thread that was about to be made runs, under this id of the system's.
    pub entered: unsafe extern "C" fn(*const (), i32),
    /// Registers a function to be called when the current thread ends, after the destructors of its thread-locals.
    pub at_end: extern "C" fn(extern "C" fn()) -> bool,
    /// The thread could not be made after all.
    pub failed: unsafe extern "C" fn(*const ()),
    /// `sigaction` of the C library, with its types, for this library's handlers.
    pub signal_action: unsafe extern "C" fn(*const (), i32, *const (), *mut ()) -> i32,
}

/// What a guest is started with.
#[stabby::stabby]
pub struct GuestStart {
    /// The host.
    pub host: HostPtr,
    /// How to tell it of threads and signal handlers.
    pub hooks: Hooks,
    /// How many worker threads the guest's runtime has.
    pub workers: u32,
    /// The plugin and the generation, for thread names.
    pub name: Text,
}

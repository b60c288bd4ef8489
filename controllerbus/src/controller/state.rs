//! What a controller hands over to its next generation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::de::DeserializeOwned;
use serde::ser::Serialize;

use crate::directive::wire::{self, Decoder, Failure};
use crate::{Error, Result};

/// A controller's state on its way to the next generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The version of the state's shape, which the author raises when the shape changes. 0 for a [`Stateful`] type, whose
    /// fields have names instead.
    pub schema: u32,
    /// The state in an encoding of the author's choice.
    pub bytes: Vec<u8>,
}

impl State {
    /// Encodes a serde value as state, with field names.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Encoding`] when the value cannot be serialized.
    pub fn encode<T: Serialize>(schema: u32, value: &T) -> Result<Self> {
        Ok(Self { schema, bytes: wire::encode(value)? })
    }

    /// Decodes a state made by [`State::encode`].
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Encoding`] with the field that does not fit.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        wire::decode(&self.bytes)
    }

    /// Saves the fields of a value by their names.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Encoding`] when a field cannot be serialized.
    pub fn of<T: Stateful>(value: &T) -> Result<Self> {
        let fields: Result<Vec<_>> = value.fields().into_iter().map(|(name, value)| Ok((name, value.0?))).collect();
        Ok(Self { schema: 0, bytes: wire::map_of(&fields?) })
    }

    /// A value with the fields of this state, whichever version of the type they are of: see
    /// [`Stateful`](macro@crate::State).
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Encoding`] with the name of the field that does not fit.
    pub fn restore<T: Stateful>(&self) -> Result<T> {
        let mut made = T::Restored::default();
        let read = Decoder::new(&self.bytes).fields(&mut |name, decoder| {
            let mut read = false;
            let field = T::field(&mut made, name, FieldValue { decoder, read: &mut read });
            field.map(|()| read).map_err(|FieldError(failure)| failure)
        });
        read.map_err(|failure| wire::not_decoded(&failure, std::any::type_name::<T>()))?;
        Ok(T::restored(made))
    }
}

/// What a controller has saved last, as far as its host knows: for who makes it again in another process.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct LastState(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    state: Option<Arc<State>>,
    /// It is stored.
    is_kept: bool,
    /// How many processes in a row have ended while they restored it.
    ended: u32,
    /// One that was refused after a crash, until it is set aside.
    refused: Option<(Arc<State>, Error)>,
}

/// How many processes may end while they restore a state, before that is taken for the reason.
pub(crate) const ENDED: u32 = 2;

impl LastState {
    /// What it has saved or restored last.
    pub fn get(&self) -> Option<Arc<State>> {
        self.lock().state.clone()
    }

    pub(crate) fn set(&self, state: Arc<State>) {
        let mut last = self.lock();
        last.is_kept = false;
        // Where no process has it, what is saved is what was saved before.
        if last.state.as_ref() != Some(&state) {
            last.ended = 0;
        }
        let before = last.state.replace(state);
        drop(last);
        drop(before);
    }

    /// Notes that it is refused: it is not given to anybody again.
    pub fn refuse(&self, why: Error) {
        let mut last = self.lock();
        (last.is_kept, last.ended) = (false, 0);
        let refused = last.state.take().map(|state| (state, why));
        let before = std::mem::replace(&mut last.refused, refused);
        drop(last);
        drop(before);
    }

    /// Notes that a process has ended while it restored it. True if that counts as a refusal, because it was not the first.
    pub fn ended_a_process(&self) -> bool {
        let mut last = self.lock();
        last.ended += 1;
        last.ended >= ENDED
    }

    /// Notes that a process has restored it.
    pub fn is_restored(&self) {
        self.lock().ended = 0;
    }

    /// One that was refused and is not set aside yet.
    pub(crate) fn take_refused(&self) -> Option<(Arc<State>, Error)> {
        self.lock().refused.take()
    }

    /// Notes that this is what was kept.
    pub(crate) fn is_kept(&self) {
        self.lock().is_kept = true;
    }

    /// What was kept, if it has saved nothing else since.
    pub(crate) fn kept(&self) -> Option<Arc<State>> {
        let last = self.lock();
        last.state.clone().filter(|_| last.is_kept)
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A struct whose fields are saved and restored by their names. `#[derive(State)]` implements it.
pub trait Stateful: Sized {
    /// The fields that were found so far.
    #[doc(hidden)]
    type Restored: Default;

    /// What is saved: names and values, with the names and the fields that older versions had.
    #[doc(hidden)]
    fn fields(&self) -> Vec<(&'static str, FieldBytes)>;

    /// Reads a field; what is not known is left alone.
    #[doc(hidden)]
    fn field(restored: &mut Self::Restored, name: &str, value: FieldValue<'_, '_>) -> Result<(), FieldError>;

    /// Fills in what was not found.
    #[doc(hidden)]
    fn restored(restored: Self::Restored) -> Self;
}

/// A field to save.
#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct FieldBytes(Result<Vec<u8>>);

impl FieldBytes {
    pub fn of<T: Serialize>(value: &T) -> Self {
        Self(wire::encode(value))
    }
}

/// Why a field does not fit.
#[doc(hidden)]
#[derive(Debug)]
pub struct FieldError(Failure);

/// A field that was found.
#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct FieldValue<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    read: &'a mut bool,
}

impl FieldValue<'_, '_> {
    /// Reads it into its place.
    pub fn read<T: DeserializeOwned>(self, place: &mut Option<T>) -> Result<(), FieldError> {
        *self.read = true;
        *place = Some(T::deserialize(self.decoder).map_err(FieldError)?);
        Ok(())
    }
}

/// Where a controller keeps a [`Stateful`] value: what `#[hot_plugin(.., state = field)]` saves and restores.
///
/// Of a [`Mutex`], an [`RwLock`] or a [`tokio::sync::watch::Sender`], whose receivers are told what was restored. A panic while
/// a lock was held changes nothing here: what it has by then is saved.
pub trait StateCell {
    /// Saves what it has now.
    ///
    /// # Errors
    /// As [`State::of`].
    fn save(&self) -> Result<State>;

    /// Replaces what it has.
    ///
    /// # Errors
    /// As [`State::restore`]; then it keeps what it has.
    fn restore(&self, state: &State) -> Result<()>;
}

impl<T: Stateful> StateCell for Mutex<T> {
    fn save(&self) -> Result<State> {
        State::of(&*self.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn restore(&self, state: &State) -> Result<()> {
        let restored = state.restore()?;
        let before = std::mem::replace(&mut *self.lock().unwrap_or_else(PoisonError::into_inner), restored);
        drop(before);
        Ok(())
    }
}

impl<T: Stateful> StateCell for RwLock<T> {
    fn save(&self) -> Result<State> {
        State::of(&*self.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn restore(&self, state: &State) -> Result<()> {
        let restored = state.restore()?;
        let before = std::mem::replace(&mut *self.write().unwrap_or_else(PoisonError::into_inner), restored);
        drop(before);
        Ok(())
    }
}

impl<T: Stateful> StateCell for tokio::sync::watch::Sender<T> {
    fn save(&self) -> Result<State> {
        State::of(&*self.borrow())
    }

    fn restore(&self, state: &State) -> Result<()> {
        drop(self.send_replace(state.restore()?));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{State, StateCell};

    /// The first version.
    #[derive(crate::State, Default, Debug, PartialEq)]
    struct One {
        hits: u64,
        names: Vec<String>,
        note: Option<String>,
        gone: u32,
    }

    /// The next one: a field is renamed, one is new, one has a default of its own, one was removed.
    #[derive(crate::State, Debug, PartialEq)]
    #[state(removed(gone = self.visits as u32 + 1))]
    struct Two {
        #[state(was = "hits")]
        visits: u64,
        names: Vec<String>,
        #[state(default = Some("none".to_owned()))]
        note: Option<String>,
        #[state(default = 7)]
        fresh: u8,
        empty: Vec<u8>,
    }

    fn one() -> One {
        One { hits: 41, names: vec!["Ada".into(), "Bob".into()], note: None, gone: 3 }
    }

    #[test]
    fn state_goes_on_over_new_renamed_and_removed_fields_and_back_again() {
        let saved = State::of(&one()).expect("saving");
        assert_eq!(saved.schema, 0);
        let two: Two = saved.restore().expect("restoring");
        let expected = Two { visits: 41, names: one().names, note: None, fresh: 7, empty: Vec::new() };
        assert_eq!(two, expected);
        // A roll-back: the older code finds what it knows.
        let back: One = State::of(&two).expect("saving").restore().expect("restoring");
        assert_eq!(back, One { gone: 42, ..one() });
        // And what is restored from its own version is what was saved.
        let again: Two = State::of(&two).expect("saving").restore().expect("restoring");
        assert_eq!(again, expected);
    }

    #[test]
    fn a_field_that_does_not_fit_is_named_and_what_was_there_stays() {
        #[derive(crate::State, Debug)]
        #[allow(dead_code)]
        struct Other {
            names: Vec<u64>,
        }
        let saved = State::of(&one()).expect("saving");
        let error = saved.restore::<Other>().expect_err("it does not fit").to_string();
        assert!(error.contains("names") && error.contains("Ada"), "{error}");
        let cell = Mutex::new(Other { names: vec![1] });
        assert!(StateCell::restore(&cell, &saved).is_err());
        assert_eq!(cell.lock().expect("no panic").names, [1]);
    }

    #[test]
    fn every_kind_of_cell_hands_over_what_it_has_and_a_panic_that_held_it_does_not_lose_it() {
        let cells: [Box<dyn StateCell + Send + Sync>; 3] = [
            Box::new(Mutex::new(one())),
            Box::new(std::sync::RwLock::new(one())),
            Box::new(tokio::sync::watch::Sender::new(one())),
        ];
        for cell in &cells {
            for to in &cells {
                StateCell::restore(&**to, &cell.save().expect("saving")).expect("restoring");
            }
        }
        let poisoned = std::sync::Arc::new(Mutex::new(one()));
        let held = std::sync::Arc::clone(&poisoned);
        let panicked = std::thread::spawn(move || {
            let _held = held.lock();
            panic!("while it is held");
        });
        assert!(panicked.join().is_err());
        assert_eq!(poisoned.save().expect("saving"), State::of(&one()).expect("saving"));
        let (sender, mut told) = tokio::sync::watch::channel(One::default());
        StateCell::restore(&sender, &poisoned.save().expect("saving")).expect("restoring");
        assert!(told.has_changed().expect("the sender") && *told.borrow_and_update() == one());
    }

    #[test]
    fn a_state_that_was_saved_by_hand_with_names_is_taken_over() {
        #[derive(serde::Serialize)]
        struct ByHand {
            hits: u64,
        }
        let saved = State::encode(3, &ByHand { hits: 9 }).expect("saving");
        assert_eq!(saved.restore::<Two>().expect("restoring").visits, 9);
        assert!(State { schema: 0, bytes: vec![1] }.restore::<Two>().is_err());
    }
}

//! A value that crosses the boundary, or why there is none.

use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};

use stabby::abi::vtable::HasDropVt;

use super::abi::{Boxed, Failure, List, SavedState};
use crate::{Error, Result};

/// A `T` or a [`Failure`], in the layout of stabby's `Result<T, Failure>`.
///
/// stabby computes in the type system where such a result has its tag, and rustc repeats that for each signature that it is in:
/// this crate took twice as long to compile. Here the place is written down, and a test compares the two.
#[stabby::stabby]
pub struct Fallible<T: Tagged> {
    /// The value or the failure, at its start.
    either: MaybeUninit<[usize; WORDS]>,
    of: PhantomData<T>,
}

/// How many words a failure takes: its kind, and its text.
const WORDS: usize = 4;

/// What a `Fallible` can hold.
///
/// # Safety
/// It fits into a failure, and its tag is free: a [`Tag::Word`] lies behind it, a [`Tag::Bit`] in its padding and in a failure's.
pub unsafe trait Tagged: Sized {
    /// What tells it from a failure.
    const TAG: Tag;
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("what crosses between hosts and plugins is laid out for 64-bit systems");

/// What tells a value from a failure.
#[derive(Clone, Copy, Debug)]
pub enum Tag {
    /// The word with this index: zero beside a value, and a pointer of the text in a failure, which is none.
    Word(usize),
    /// The lowest bit of the byte with this index: set for a failure.
    Bit(usize),
}

const BEHIND_NUMBER: Tag = Tag::Word(1);
const BEHIND_OBJECT: Tag = Tag::Word(2);
const BEHIND_LIST: Tag = Tag::Word(3);
const IN_STATE: Tag = Tag::Bit(1);

// SAFETY: it has one word.
unsafe impl Tagged for u64 {
    const TAG: Tag = BEHIND_NUMBER;
}

// SAFETY: it has half a word; a failure's first word is no pointer.
unsafe impl Tagged for i32 {
    const TAG: Tag = BEHIND_NUMBER;
}

// SAFETY: it has three words.
unsafe impl Tagged for List<u8> {
    const TAG: Tag = BEHIND_LIST;
}

// SAFETY: it has two words.
unsafe impl<T: HasDropVt> Tagged for stabby::Dyn<'static, Boxed<()>, T> {
    const TAG: Tag = BEHIND_OBJECT;
}

// SAFETY: it has four words; a byte of padding follows its first one, as it does in a failure.
unsafe impl Tagged for SavedState {
    const TAG: Tag = IN_STATE;
}

impl<T: Tagged> Fallible<T> {
    /// Where the value lies, or the failure.
    fn place(&mut self) -> std::result::Result<*mut T, *mut Failure> {
        let start = self.either.as_mut_ptr();
        let is_value = match T::TAG {
            // SAFETY: `of` initialised every word behind a value, and a failure's text has only words that are.
            Tag::Word(index) => unsafe { start.cast::<usize>().add(index).read() == 0 },
            // SAFETY: `of` wrote it.
            Tag::Bit(index) => unsafe { start.cast::<u8>().add(index).read() & 1 == 0 },
        };
        if is_value { Ok(start.cast()) } else { Err(start.cast()) }
    }

    /// What it holds.
    pub(super) fn into_result(self) -> Result<T> {
        let mut this = ManuallyDrop::new(self);
        match this.place() {
            // SAFETY: the tag says that it is there, and it is not dropped as well.
            Ok(value) => Ok(unsafe { value.read() }),
            // SAFETY: likewise.
            Err(failure) => Err(Error::from(unsafe { failure.read() })),
        }
    }

    /// Puts a value or a failure into its place.
    fn of<E>(one: E, bit: u8) -> Self {
        const {
            assert!(size_of::<E>() <= WORDS * size_of::<usize>() && align_of::<E>() <= align_of::<usize>());
            assert!(size_of::<Failure>() == WORDS * size_of::<usize>());
        }
        let mut either = MaybeUninit::new([0; WORDS]);
        // SAFETY: it fits, as was asserted; and what the tag is written to then is no part of it.
        unsafe {
            either.as_mut_ptr().cast::<E>().write(one);
            if let Tag::Bit(index) = T::TAG {
                either.as_mut_ptr().cast::<u8>().add(index).write(bit);
            }
        }
        Self { either, of: PhantomData }
    }
}

impl<T: Tagged> Drop for Fallible<T> {
    fn drop(&mut self) {
        match self.place() {
            // SAFETY: the tag says that it is there; what `into_result` takes out is not dropped here.
            Ok(value) => unsafe { value.drop_in_place() },
            // SAFETY: likewise.
            Err(failure) => unsafe { failure.drop_in_place() },
        }
    }
}

impl<T: Tagged> From<Result<T>> for Fallible<T> {
    fn from(result: Result<T>) -> Self {
        match result {
            Ok(value) => Self::of(value, 0),
            Err(error) => Self::of(Failure::from(error), 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use stabby::abi::IDeterminantProvider;
    use stabby::result::Result as Theirs;

    use super::*;
    use crate::error::ErrorKind;
    use crate::plugin::abi::{HostRequest, HostRequestPtr, Outcome, PolledEvent, boxed};

    fn failure() -> Error {
        Error::new(ErrorKind::TimedOut, "no answer within 3 s").permanent()
    }

    /// Takes what one of both has laid out as the other.
    fn across<From, To>(from: From) -> To {
        assert_eq!((size_of::<From>(), align_of::<From>()), (size_of::<To>(), align_of::<To>()));
        // SAFETY: that both are laid out alike is what is tested.
        unsafe { std::mem::transmute_copy(&ManuallyDrop::new(from)) }
    }

    /// Values and failures, from each layout to the other.
    fn is_laid_out_as_theirs<T: Tagged + IDeterminantProvider<Failure>>(
        value: impl Fn() -> T,
        is_it: impl Fn(&T) -> bool,
    ) {
        let failed = |error: &Error| {
            error.kind() == ErrorKind::TimedOut && error.is_permanent() && error.to_string() == failure().to_string()
        };
        let name = std::any::type_name::<T>();
        let theirs: Theirs<T, Failure> = across(Fallible::from(Ok(value())));
        assert!(theirs.match_owned(|value| is_it(&value), |_| false), "our {name} as theirs");
        let theirs: Theirs<T, Failure> = across(Fallible::<T>::from(Err(failure())));
        assert!(theirs.match_owned(|_| false, |failure| failed(&failure.into())), "our failure of {name} as theirs");
        let ours: Fallible<T> = across(Theirs::<T, Failure>::Ok(value()));
        assert!(ours.into_result().is_ok_and(|value| is_it(&value)), "their {name} as ours");
        let ours: Fallible<T> = across(Theirs::<T, Failure>::Err(failure().into()));
        assert!(ours.into_result().is_err_and(|error| failed(&error)), "their failure of {name} as ours");
        drop((Fallible::from(Ok(value())), Fallible::<T>::from(Err(failure()))));
    }

    /// Counts how many of it are alive.
    struct Counted {
        _alive: std::sync::Arc<()>,
    }

    impl HostRequest for Counted {
        extern "C" fn poll(&self, _: crate::plugin::abi::GuestWakerPtr) -> PolledEvent {
            let failure: Outcome = Ok(()).into();
            PolledEvent { kind: 0, value: 0, bytes: List::default(), objects: List::default(), failure }
        }
        extern "C" fn refer(&self, strong: bool) -> Fallible<u64> {
            Ok(u64::from(strong)).into()
        }
        extern "C" fn resolvers(&self) -> Fallible<List<u8>> {
            Err(failure()).into()
        }
    }

    #[test]
    fn what_may_fail_is_laid_out_as_stabby_lays_out_its_results() {
        for number in [0, 1, u64::MAX] {
            is_laid_out_as_theirs(|| number, |value| *value == number);
        }
        for number in [0, 1, -1] {
            is_laid_out_as_theirs(|| number, |value: &i32| *value == number);
        }
        for bytes in [&[][..], b"abc"] {
            is_laid_out_as_theirs(|| List::<u8>::from(bytes), |value| value.as_ref() == bytes);
            for there in [false, true] {
                is_laid_out_as_theirs(
                    || SavedState { there, schema: u32::MAX, bytes: bytes.into() },
                    |state| state.there == there && state.schema == u32::MAX && state.bytes.as_ref() == bytes,
                );
            }
        }
        let alive = std::sync::Arc::new(());
        let object = || -> HostRequestPtr {
            let object: Boxed<Counted> = boxed(Counted { _alive: std::sync::Arc::clone(&alive) });
            object.into()
        };
        is_laid_out_as_theirs(object, |_| std::sync::Arc::strong_count(&alive) == 2);
        assert_eq!(std::sync::Arc::strong_count(&alive), 1, "each is dropped, and once");
    }
}

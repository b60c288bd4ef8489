//! The call of a plugin's entry symbol: the first thing that crosses.

use std::mem::MaybeUninit;

use super::abi::{GuestPtr, GuestStart};
use crate::{Error, Result};

/// What a host hands to a plugin's entry symbol, and where the answer goes.
#[repr(C)]
pub struct EntryCall {
    state: u32,
    start: MaybeUninit<GuestStart>,
    guest: MaybeUninit<GuestPtr>,
    failure_length: u32,
    failure: [u8; 480],
}

impl std::fmt::Debug for EntryCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryCall").field("state", &self.state).finish_non_exhaustive()
    }
}

const STARTED: u32 = 0;
const TAKEN: u32 = 1;
const ANSWERED: u32 = 2;

/// A plugin's entry symbol.
pub type Entry = extern "C" fn(&mut EntryCall);

impl EntryCall {
    pub(super) fn new(start: GuestStart) -> Self {
        Self {
            state: STARTED,
            start: MaybeUninit::new(start),
            guest: MaybeUninit::uninit(),
            failure_length: 0,
            failure: [0; 480],
        }
    }

    pub(super) fn take_start(&mut self) -> Option<GuestStart> {
        if self.state != STARTED {
            return None;
        }
        self.state = TAKEN;
        // SAFETY: `new` filled `start`, and `state` says that nobody has taken it since.
        Some(unsafe { self.start.assume_init_read() })
    }

    pub(super) fn answer(&mut self, result: Result<GuestPtr>) {
        match result {
            Ok(guest) => {
                self.guest = MaybeUninit::new(guest);
                self.state = ANSWERED;
            }
            Err(error) => {
                let text = error.to_string();
                let length = text.len().min(self.failure.len());
                self.failure[..length].copy_from_slice(&text.as_bytes()[..length]);
                self.failure_length = length as u32;
            }
        }
    }

    pub(super) fn into_answer(mut self) -> Result<GuestPtr> {
        if self.state == ANSWERED {
            self.state = TAKEN;
            // SAFETY: `answer` filled `guest` before it set the state, which is changed so that it is read once.
            return Ok(unsafe { self.guest.assume_init_read() });
        }
        let length = (self.failure_length as usize).min(self.failure.len());
        let text = String::from_utf8_lossy(&self.failure[..length]).into_owned();
        Err(Error::msg(if text.is_empty() { "the entry symbol gave no answer".to_owned() } else { text }))
    }
}

impl Drop for EntryCall {
    fn drop(&mut self) {
        if self.state == STARTED {
            // SAFETY: `start` is filled and was not taken.
            unsafe { self.start.assume_init_drop() };
        } else if self.state == ANSWERED {
            // SAFETY: `guest` is filled and was not taken.
            unsafe { self.guest.assume_init_drop() };
        }
    }
}

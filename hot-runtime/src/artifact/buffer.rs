//! A file's bytes in memory that goes back to the system when it is dropped.

use std::io::Read;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use super::io::STEP;
use crate::util::Pace;

/// The bytes of a file.
///
/// Large ones have memory of their own, in huge pages where the system has them: an allocator would keep it for later, and
/// thousands of page faults take longer than reading the file.
pub(super) struct Buffer {
    memory: Memory,
    /// How many bytes of the memory may be used.
    room: usize,
    /// How many bytes of it were read or added.
    length: usize,
}

/// The size of a huge page in bytes, on most systems.
const HUGE_PAGE: usize = 2 << 20;

enum Memory {
    Allocated(Vec<u8>),
    Mapped(MmapMut),
}

impl Buffer {
    /// Room for so many bytes.
    ///
    /// # Errors
    /// The system's, if there is not that much memory.
    pub(super) fn with_room(room: usize) -> std::io::Result<Self> {
        let memory = if room < STEP {
            Memory::Allocated(vec![0; room])
        } else {
            // Linux aligns a mapping of whole huge pages to them. What is not used takes no memory.
            let mapped = MmapMut::map_anon(room.next_multiple_of(HUGE_PAGE))?;
            // Without huge pages it only takes longer, but where each has to be fetched from a hypervisor.
            #[cfg(target_os = "linux")]
            if crate::sys::memory::large_pages_pay() {
                let _ = mapped.advise(memmap2::Advice::HugePage);
            }
            Memory::Mapped(mapped)
        };
        Ok(Self { memory, room, length: 0 })
    }

    fn room(&mut self) -> &mut [u8] {
        let memory: &mut [u8] = match &mut self.memory {
            Memory::Allocated(memory) => memory,
            Memory::Mapped(memory) => memory,
        };
        &mut memory[..self.room]
    }

    /// Reads until the end or until there is no room, and passes each part to `look` while it is still in the
    /// processor's cache.
    ///
    /// # Errors
    /// The reader's.
    pub(super) fn read_in_steps(&mut self, mut from: impl Read, mut look: impl FnMut(&[u8])) -> std::io::Result<()> {
        let mut pace = Pace::new();
        loop {
            let (before, mut length) = (self.length, self.length);
            let room = self.room();
            let end = room.len().min(before + STEP);
            while length < end {
                match from.read(&mut room[length..end]) {
                    Ok(0) => break,
                    Ok(read) => length += read,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if length == before {
                return Ok(());
            }
            look(&room[before..length]);
            self.length = length;
            pace.step();
        }
    }

    /// Adds bytes at the end; there must be room for them.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (from, to) = (self.length, self.length + bytes.len());
        self.room()[from..to].copy_from_slice(bytes);
        self.length = to;
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { room: bytes.len(), length: bytes.len(), memory: Memory::Allocated(bytes) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let memory: &[u8] = match &self.memory {
            Memory::Allocated(memory) => memory,
            Memory::Mapped(memory) => memory,
        };
        &memory[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        &mut self.room()[..length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_there_however_large_it_is_and_no_more_than_there_is_room_for() {
        for length in [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            let mut buffer = Buffer::with_room(length + 4).expect("memory");
            let mut seen = Vec::new();
            buffer.read_in_steps(bytes.as_slice(), |part| seen.extend_from_slice(part)).expect("reading");
            assert!(*buffer == bytes && seen == bytes, "{length}");
            buffer.add(b"more");
            assert!(buffer.ends_with(b"more") && buffer.len() == length + 4);
            buffer[0] = b'x';
            assert_eq!(buffer[0], b'x');
            let mut small = Buffer::with_room(length / 2).expect("memory");
            small.read_in_steps(bytes.as_slice(), |_| {}).expect("reading");
            assert!(*small == bytes[..length / 2], "{length}");
        }
    }
}

//! A value that is read without waiting for anybody, from signal handlers too, and replaced as a whole.

use std::ptr::NonNull;

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The value that counts now, if there is one.
pub(super) struct Current<T> {
    /// Null, or made by `Box::into_raw`.
    now: AtomicPtr<T>,
    /// How many read it, or one before.
    readers: AtomicUsize,
}

/// What counted before. It is never freed but by [`Before::free`].
pub(super) struct Before<T>(NonNull<T>);

// SAFETY: it is a box that nothing else frees.
unsafe impl<T: Send> Send for Before<T> {}

impl<T: Send + Sync> Current<T> {
    pub(super) fn new() -> Self {
        Self { now: AtomicPtr::new(std::ptr::null_mut()), readers: AtomicUsize::new(0) }
    }

    /// Reads what counts now. Allocates nothing, and may be interrupted by itself.
    pub(super) fn read(&self, work: impl FnOnce(&T)) {
        self.readers.fetch_add(1, Ordering::AcqRel);
        // SAFETY: null, or a value that is not freed while somebody reads, as `readers` says from here to below.
        if let Some(value) = unsafe { self.now.load(Ordering::Acquire).as_ref() } {
            work(value);
        }
        self.readers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Has another value count. The one before may be read until [`Current::is_read`] has said no once.
    pub(super) fn replace(&self, next: T) -> Option<Before<T>> {
        let before = self.now.swap(Box::into_raw(Box::new(next)), Ordering::AcqRel);
        NonNull::new(before).map(Before)
    }

    /// Whether it is being read. A read that begins after this has returned false finds the current value.
    pub(super) fn is_read(&self) -> bool {
        // A change that changes nothing: a reader is either seen here, or sees what was done before this.
        self.readers.fetch_add(0, Ordering::AcqRel) > 0
    }
}

impl<T> Before<T> {
    /// Frees it.
    ///
    /// # Safety
    /// [`Current::is_read`] of where it was replaced must have said no since.
    pub(super) unsafe fn free(self) {
        // SAFETY: made by `Box::into_raw`, not current any more, and not being read.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[cfg(all(test, cbus_loom))]
mod loom_tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    use super::*;

    /// The code of a library, which is used by what finds it in the value, and changed when it is unmapped.
    struct Library(UnsafeCell<bool>);

    // SAFETY: loom checks that nothing uses it while it is changed.
    unsafe impl Sync for Library {}
    // SAFETY: as above.
    unsafe impl Send for Library {}

    #[test]
    fn loom_what_was_replaced_is_not_used_once_nobody_reads() {
        loom::model(|| {
            let library = Arc::new(Library(UnsafeCell::new(true)));
            let current = Arc::new(Current::<Option<Arc<Library>>>::new());
            assert!(current.replace(Some(Arc::clone(&library))).is_none());
            let reading: Vec<_> = (0..2)
                .map(|_| {
                    let current = Arc::clone(&current);
                    loom::thread::spawn(move || {
                        current.read(|value| {
                            if let Some(library) = value {
                                // SAFETY: loom checks that nothing changes it meanwhile.
                                library.0.with(|mapped| assert!(unsafe { *mapped }));
                            }
                        });
                    })
                })
                .collect();
            let before = current.replace(None).expect("the first one");
            while current.is_read() {
                loom::thread::yield_now();
            }
            // SAFETY: it is not being read.
            unsafe { before.free() };
            // SAFETY: loom checks that nothing uses it meanwhile.
            library.0.with_mut(|mapped| unsafe { *mapped = false });
            reading.into_iter().for_each(|thread| thread.join().expect("it ends"));
            // SAFETY: it is no longer being read.
            current.replace(None).into_iter().for_each(|last| unsafe { last.free() });
        });
    }
}

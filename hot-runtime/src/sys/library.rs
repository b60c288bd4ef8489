//! Opening a plugin's library, and whether it can be closed safely.
#![allow(unsafe_code)]

use std::path::Path;

#[cfg(unix)]
pub(crate) type Library = libloading::os::unix::Library;
#[cfg(windows)]
pub(crate) type Library = libloading::os::windows::Library;

/// Opens a library. Where the system supports it, its symbols are kept local, and all symbols that it needs are resolved
/// at once.
///
/// # Errors
/// The loader's error.
///
/// # Safety
/// The library's initialisers run, so its code must be safe to run in this process.
pub(crate) unsafe fn open(path: &Path) -> Result<Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix::{RTLD_LOCAL, RTLD_NOW};
        // SAFETY: the caller's promise, passed on.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
    }
    #[cfg(windows)]
    {
        // SAFETY: the caller's promise, passed on.
        unsafe { Library::new(path) }
    }
}

/// Keeps a shared library that a plugin's library needs and that the loader has opened with it.
///
/// What such a library does in its own threads, or at the end of the host's, is not counted as the plugin's own is, so it
/// must not go with the plugin. It is one library for all generations, as the loader finds it by its name.
pub(crate) fn keep_needed(name: &str) {
    #[cfg(target_os = "linux")]
    {
        use libloading::os::unix::RTLD_NOW;
        // The same on every architecture of Linux, in glibc and musl.
        const RTLD_NOLOAD: std::ffi::c_int = 4;
        const RTLD_NODELETE: std::ffi::c_int = 0x1000;
        // SAFETY: the library is open already, so no code of it runs.
        let kept = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) };
        if let Err(error) = kept {
            tracing::debug!(name, %error, "a library that a plugin needs is not open");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

/// Why a plugin's library is never closed here; `None` where it is.
///
/// Code of a library may run until the last of its threads, and the last destructor of its thread-locals, has ended.
/// Only where `controllerbus` hooks thread creation and these destructors (`controllerbus::plugin_bundle!`) is it known
/// when that is; elsewhere closing a library could unmap code that runs.
pub(crate) fn never_closed() -> Option<&'static str> {
    if cfg!(target_os = "linux") {
        None
    } else {
        Some(
            "on this system it cannot be known when the threads and thread-local destructors of a library have ended, so the \
             library is never closed; give the plugin a process of its own to have it unloaded",
        )
    }
}

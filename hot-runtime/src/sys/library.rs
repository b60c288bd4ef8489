//! Whether a plugin's library can be closed safely on this system.

/// Why a plugin's library is never closed here; `None` where it is.
///
/// Code of a library may run until the last of its threads, and the last destructor of its thread-locals, has ended. Only
/// where `controllerbus` hooks thread creation and these destructors (`controllerbus::plugin_bundle!`) is it known when that
/// is; elsewhere closing a library could unmap code that runs.
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

//! Finds the executable that serves process-hosted plugins.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this executable's `main` has called `plugin_host`, so that it can be started as one.
static OWN: AtomicBool = AtomicBool::new(false);

/// The name of the ready-made plugin host.
const NAME: &str = "cbus-plugin-host";

/// Notes that this executable can be started as a plugin host.
pub(super) fn mark_self_as_plugin_host() {
    OWN.store(true, Ordering::Release);
}

/// Whether a path is that of this executable, which has its own version.
pub(super) fn is_self(path: &Path) -> bool {
    path == Path::new("/proc/self/exe") || std::env::current_exe().is_ok_and(|own| own == path)
}

/// The configured executable, or `CBUS_PLUGIN_HOST`, or this executable, or `cbus-plugin-host` beside it or in `PATH`.
pub(super) fn plugin_host(configured: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = configured {
        return existing(path, "the plugin host given to the runtime");
    }
    if let Some(path) = std::env::var_os("CBUS_PLUGIN_HOST") {
        return existing(Path::new(&path), "CBUS_PLUGIN_HOST");
    }
    if OWN.load(Ordering::Acquire) {
        // This path is the running executable, even if its file was replaced.
        let own = Path::new("/proc/self/exe");
        return if own.exists() { Ok(own.to_owned()) } else { std::env::current_exe().map_err(|e| e.to_string()) };
    }
    let name = format!("{NAME}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(|folder| folder.join(&name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join(&name)));
    places.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        format!(
            "there is no plugin host for process isolation; call `hot_runtime::plugin_host()` at the start of `main`, or \
             put `{NAME}` beside this executable or in PATH (`cargo install hot-runtime`), or name one with \
             `Builder::plugin_host` or CBUS_PLUGIN_HOST"
        )
    })
}

fn existing(path: &Path, what: &str) -> Result<PathBuf, String> {
    if path.is_file() {
        return std::path::absolute(path).map_err(|error| format!("{what}: {error}"));
    }
    Err(format!("{what} is {}, which is not a file", path.display()))
}

//! The ready-made plugin host, for runtimes whose own executable is none: see `hot_runtime::plugin_host`.

fn main() -> std::process::ExitCode {
    hot_runtime::plugin_host();
    eprintln!(
        "cbus-plugin-host is started by a runtime for a plugin in a process of its own; there is nothing to run by hand"
    );
    std::process::ExitCode::from(64)
}

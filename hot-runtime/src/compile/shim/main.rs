// Stands between cargo and rustc: records how rustc is called, then calls it. Compiled on first use by the compiler
// that builds plugins, so that any host program can record its builds without another program being installed.
//
// CBUS_CAPTURE  the folder to write to
// CBUS_OUTER    lines NAME=HASH: the variables that cargo itself was started with
// CBUS_WRAPPER  the wrapper that would have been called instead of this one
// CBUS_REMAP    lines FROM=TO: paths to replace in the outputs
// CBUS_LOCAL    lines FROM=TO for the plugin's own crates, if their outputs must not depend on where they are
//
// It also refuses flags with which no plugin works: cargo asks for what they amount to before it compiles anything.

use std::ffi::OsString;
use std::process::Command;

const OWN: [&str; 5] = ["CBUS_CAPTURE", "CBUS_OUTER", "CBUS_WRAPPER", "CBUS_REMAP", "CBUS_LOCAL"];

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(rustc) = arguments.next() else { std::process::exit(2) };
    let mut arguments: Vec<OsString> = arguments.collect();
    let asks = arguments.iter().any(|argument| argument == "--print=cfg") && !is_of_a_script();
    if let Some(why) = asks.then(|| unfit(&arguments)).flatten() {
        eprintln!("cbus-refuses: {why}");
        std::process::exit(1);
    }
    hide_paths(&mut arguments);
    if let Some(folder) = std::env::var_os("CBUS_CAPTURE") {
        // Without the record the next build is only slower.
        let _ = record(std::path::Path::new(&folder), &rustc, &arguments);
    }
    let mut command = match std::env::var_os("CBUS_WRAPPER").filter(|wrapper| !wrapper.is_empty()) {
        Some(wrapper) => {
            let mut command = Command::new(wrapper);
            // Meant for cargo only; sccache refuses to work if it is set.
            command.arg(&rustc).env_remove("CARGO_INCREMENTAL");
            command
        }
        None => Command::new(&rustc),
    };
    command.args(&arguments);
    for name in OWN {
        command.env_remove(name);
    }
    run(command)
}

/// Whether the cargo that calls was started by a build script, and so builds something else: the script's OUT_DIR is not one that
/// the outer cargo was started with.
fn is_of_a_script() -> bool {
    let outer = std::env::var("CBUS_OUTER").unwrap_or_default();
    std::env::var_os("OUT_DIR").is_some_and(|folder| {
        let known = format!("OUT_DIR={:016x}", fnv(folder.as_encoded_bytes()));
        !outer.lines().any(|line| line == known)
    })
}

/// Why no plugin works that is compiled with these arguments.
fn unfit(arguments: &[OsString]) -> Option<&'static str> {
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let after = |at: usize| texts.get(at + 1).map(|text| &**text);
    // This program is compiled without flags, and so has what the host's target has by default.
    let (mut is_musl, mut by_default) = (cfg!(target_env = "musl"), cfg!(target_feature = "crt-static"));
    let (mut unwinds, mut is_static) = (true, None);
    for (at, text) in texts.iter().enumerate() {
        if let Some(target) = text.strip_prefix("--target=").or_else(|| after(at).filter(|_| text == "--target")) {
            is_musl = target.contains("-musl");
            // Distributions have targets of their own, where this is off.
            by_default = target.contains("-unknown-linux-musl");
        }
        let option = match text.strip_prefix("--codegen").or_else(|| text.strip_prefix("-C")) {
            Some("") => after(at).unwrap_or_default(),
            Some(option) => option.strip_prefix('=').unwrap_or(option),
            None => continue,
        };
        match option.split_once('=') {
            Some(("panic", how)) => unwinds = how == "unwind",
            Some(("target-feature", features)) => {
                for feature in features.split(',') {
                    match feature {
                        "+crt-static" => is_static = Some(true),
                        "-crt-static" => is_static = Some(false),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !unwinds {
        return Some(
            "a plugin must unwind from a panic, or one in it would end the host: take `-C panic=...` out of RUSTFLAGS and of \
             `rustflags` in cargo's settings",
        );
    }
    match (is_static.unwrap_or(by_default), is_musl) {
        (false, _) => None,
        (true, true) => Some(
            "a plugin is a shared library, which needs musl as one too: add `-C target-feature=-crt-static` to RUSTFLAGS or to \
             `rustflags` in cargo's settings, for the host program as well",
        ),
        (true, false) => Some(
            "a plugin has the C library of its host, and cannot have one of its own: take `-C target-feature=+crt-static` out of \
             RUSTFLAGS and of `rustflags` in cargo's settings",
        ),
    }
}

/// Adds arguments that keep paths out of the outputs. Cargo's `-C metadata`, which is part of every symbol's name, is a
/// hash that covers the path of a local crate; it is replaced by a hash of the same call with the paths replaced.
fn hide_paths(arguments: &mut Vec<OsString>) {
    let pairs = |name: &str| -> Vec<(String, String)> {
        let text = std::env::var(name).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.rsplit_once('='))
            .map(|(from, to)| (from.to_owned(), to.to_owned()))
            .collect()
    };
    let (everywhere, local) = (pairs("CBUS_REMAP"), pairs("CBUS_LOCAL"));
    if !arguments.iter().any(|argument| argument == "--out-dir") {
        return;
    }
    let here = std::env::current_dir().unwrap_or_default();
    let is_local = |path: &std::path::Path| local.iter().any(|(from, _)| path.starts_with(from));
    let source = arguments.iter().find(|argument| argument.to_string_lossy().ends_with(".rs"));
    if source.is_some_and(|source| is_local(&here.join(source))) {
        let mut call = String::new();
        let mut before = String::new();
        for argument in arguments.iter() {
            let text = argument.to_string_lossy();
            let placed = ["--out-dir", "-L", "--extern"].contains(&&*before)
                || ["metadata=", "extra-filename=", "incremental="].iter().any(|start| text.starts_with(start));
            before = text.to_string();
            if !placed {
                call.push_str(&local.iter().fold(text.into_owned(), |text, (from, to)| text.replace(from, to)));
                call.push('\0');
            }
        }
        call.push_str(&std::env::var("CARGO_PKG_VERSION").unwrap_or_default());
        let hash = fnv(call.as_bytes());
        if let Some(metadata) =
            arguments.iter_mut().find(|argument| argument.to_string_lossy().starts_with("metadata="))
        {
            *metadata = format!("metadata={hash:016x}").into();
        }
    }
    for (from, to) in everywhere.iter().chain(&local) {
        arguments.push(format!("--remap-path-prefix={from}={to}").into());
    }
}

/// FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// NUL-separated: the working directory, the compiler, the number of arguments, the arguments, then NAME=value of each
/// variable that cargo has set. The rest of the environment, which may include secrets, is not recorded.
fn record(folder: &std::path::Path, rustc: &OsString, arguments: &[OsString]) -> std::io::Result<()> {
    let after =
        |flag: &str| arguments.iter().position(|argument| argument == flag).and_then(|at| arguments.get(at + 1));
    let extra =
        arguments.iter().find_map(|argument| argument.to_str()?.strip_prefix("extra-filename=")).unwrap_or_default();
    let (Some(name), Some(_)) = (after("--crate-name").and_then(|name| name.to_str()), after("--out-dir")) else {
        return Ok(());
    };
    let mut text = Vec::new();
    let mut add = |part: &[u8]| {
        text.extend_from_slice(part);
        text.push(0);
    };
    add(std::env::current_dir()?.as_os_str().as_encoded_bytes());
    add(rustc.as_encoded_bytes());
    add(arguments.len().to_string().as_bytes());
    for argument in arguments {
        add(argument.as_encoded_bytes());
    }
    let outer = std::env::var("CBUS_OUTER").unwrap_or_default();
    let outer: std::collections::HashSet<&str> = outer.lines().collect();
    for (name, value) in std::env::vars_os() {
        let known = format!("{}={:016x}", name.to_string_lossy(), fnv(value.as_encoded_bytes()));
        if outer.contains(known.as_str()) || OWN.iter().any(|own| name == *own) {
            continue;
        }
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        add(pair.as_encoded_bytes());
    }
    let unfinished = folder.join(format!("{name}{extra}.{}", std::process::id()));
    write_private(&unfinished, &text)?;
    std::fs::rename(unfinished, folder.join(format!("{name}{extra}.call")))
}

/// Writes a new file that only its owner can read: cargo may have been configured to set secrets.
fn write_private(path: &std::path::Path, text: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    std::io::Write::write_all(&mut options.open(path)?, text)
}

#[cfg(unix)]
fn run(mut command: Command) {
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    eprintln!("error: {:?} could not be run: {error}", command.get_program());
    std::process::exit(1);
}

#[cfg(not(unix))]
fn run(mut command: Command) {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {:?} could not be run: {error}", command.get_program());
            std::process::exit(1);
        }
    }
}

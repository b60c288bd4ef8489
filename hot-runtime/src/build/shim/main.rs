// Stands between cargo and rustc: writes down how rustc is called, then calls it. Compiled on first use by the very
// compiler that builds plugins, so that any host program can record its builds without an extra program installed.
//
// CBUS_CAPTURE  the folder to write to
// CBUS_WRAPPER  the wrapper that would have been called instead of this one

use std::ffi::OsString;
use std::process::Command;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(rustc) = arguments.next() else { std::process::exit(2) };
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(folder) = std::env::var_os("CBUS_CAPTURE") {
        // Without the record the next edit takes cargo's time; nothing else is lost.
        let _ = record(std::path::Path::new(&folder), &rustc, &arguments);
    }
    let mut command = match std::env::var_os("CBUS_WRAPPER").filter(|wrapper| !wrapper.is_empty()) {
        Some(wrapper) => {
            let mut command = Command::new(wrapper);
            command.arg(&rustc);
            command
        }
        None => Command::new(&rustc),
    };
    command.args(&arguments).env_remove("CBUS_CAPTURE").env_remove("CBUS_WRAPPER");
    run(command)
}

/// NUL-separated: the working folder, the compiler, the number of arguments, the arguments, then NAME=value.
fn record(folder: &std::path::Path, rustc: &OsString, arguments: &[OsString]) -> std::io::Result<()> {
    let after = |flag: &str| arguments.iter().position(|argument| argument == flag).and_then(|at| arguments.get(at + 1));
    let extra = arguments.iter().find_map(|argument| argument.to_str()?.strip_prefix("extra-filename=")).unwrap_or_default();
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
    for (name, value) in std::env::vars_os() {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        add(pair.as_encoded_bytes());
    }
    let unfinished = folder.join(format!("{name}{extra}.{}", std::process::id()));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, folder.join(format!("{name}{extra}.call")))
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

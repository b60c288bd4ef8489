//! The plugin host: a process that loads one verified artifact and serves it to the runtime that started it.

/// Prints to standard error. Unlike `eprintln!`, it does not panic if that is closed.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod confine;
#[cfg(target_os = "linux")]
mod filter;
mod line;
mod server;
mod sockets;
mod trace;
mod watch;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::protocol::{Hello, Versions, Welcome};
use super::{ASKS_VERSIONS, MARKER};
use watch::Deadline;

/// No first message is longer than this.
const LONGEST_HELLO: u32 = 16 << 20;

/// In a process that a runtime started as a plugin host, serves and never returns. Otherwise returns at once.
///
/// Call it at the start of `main`, before a runtime or a thread is started. Then this executable is the plugin host of
/// its own process-hosted plugins, and no other program needs to be installed.
///
/// ```
/// // The first line of `main`:
/// hot_runtime::plugin_host();
/// ```
pub fn plugin_host() {
    match std::env::var_os(MARKER) {
        None => {
            super::find::mark_self_as_plugin_host();
            return;
        }
        Some(asked) if asked == ASKS_VERSIONS => {
            let versions = serde_json::to_string(&Versions::ours()).unwrap_or_default();
            let _ = writeln!(std::io::stdout(), "{versions}");
            std::process::exit(0);
        }
        Some(_) => {}
    }
    std::process::exit(serve());
}

fn serve() -> i32 {
    let mut socket = match take_socket() {
        Ok(socket) => socket,
        Err(error) => {
            say!("a plugin host must be started by a runtime, with its socket as standard input: {error}");
            return 64;
        }
    };
    match start(&mut socket) {
        Ok((hello, layers, deadline)) => {
            let line = socket.try_clone();
            let code = catch_unwind(AssertUnwindSafe(|| server::run(socket, hello, layers, deadline))).unwrap_or(70);
            // The thread that watches the socket sees its end as well, but this one may end the process first.
            if line.is_ok_and(|line| watch::has_hung_up(&line)) {
                end_group();
            }
            code
        }
        Err(reason) => {
            let refused = Err(controllerbus::Error::msg(&reason));
            let layers = Vec::new();
            let _ = write_frame(&mut socket, &Welcome { versions: Versions::ours(), factories: refused, layers });
            say!("{reason}");
            65
        }
    }
}

/// Takes the socket from standard input, which is empty from then on.
fn take_socket() -> std::io::Result<UnixStream> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let empty = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&empty)?;
    let socket = UnixStream::from(socket);
    // Fails if it is not a socket.
    socket.peer_addr()?;
    Ok(socket)
}

/// Reads what to serve, and confines the process before any of the plugin's code runs.
fn start(socket: &mut UnixStream) -> Result<(Hello, Vec<String>, Deadline), String> {
    let frame = read_frame(socket).map_err(|error| format!("no first message from the runtime: {error}"))?;
    let versions: Versions =
        rmp_serde::from_slice(&frame).map_err(|error| format!("the runtime's first message: {error}"))?;
    if let Some(mismatch) = versions.mismatch("the runtime") {
        return Err(mismatch);
    }
    let hello: Hello =
        rmp_serde::from_slice(&frame).map_err(|error| format!("the runtime's first message: {error}"))?;
    // Before any other thread is started: an unconfined thread would be a way out for the others.
    let layers = confine::apply(&hello)?;
    let deadline = end_with_parent(socket, &hello)?;
    Ok((hello, layers, deadline))
}

/// Ends this process, and those that it started, when the runtime's process is gone or the deadline has passed, even if this one
/// hangs.
fn end_with_parent(socket: &UnixStream, hello: &Hello) -> Result<Deadline, String> {
    let failed = |error: std::io::Error| format!("cannot monitor the runtime's process: {error}");
    #[cfg(target_os = "linux")]
    {
        // Not a signal that ends it: it could be gone before it has ended what it started. This one resumes a stopped
        // process, which then sees the end of the socket.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT))
            .map_err(|error| failed(error.into()))?;
        let lives = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get() as u32 == hello.parent);
        // A parent in another process namespace has another id here; the socket shows its end all the same.
        if !lives && rustix::process::getppid().is_some_and(rustix::process::Pid::is_init) {
            return Err("the runtime is gone".to_owned());
        }
    }
    let watched = socket.try_clone().map_err(failed)?;
    watch::start(watched, hello.deadline).map_err(failed)
}

/// Kills this process and those that it started.
fn end_group() -> ! {
    let group = rustix::process::getpgrp();
    if group == rustix::process::getpid() {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    std::process::abort();
}

fn read_frame(socket: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST_HELLO {
        return Err(std::io::Error::other(format!("it is {length} bytes long")));
    }
    let mut frame = vec![0; length as usize];
    socket.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(socket: &mut UnixStream, welcome: &Welcome) -> std::io::Result<()> {
    let message = rmp_serde::to_vec_named(welcome).map_err(std::io::Error::other)?;
    socket.write_all(&(message.len() as u32).to_le_bytes())?;
    socket.write_all(&message)
}

//! The live view of `cbus dev` and `cbus top`, on a terminal that the test reads as a person does.

use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pty_process::blocking::{Command, Pty, open};
use rustix::termios::{LocalModes, tcgetattr};
use tests::Scratch;

use crate::process::{Daemon, daemon_folder};
use crate::{cbus, terminate};

const LIMIT: Duration = Duration::from_secs(300);

/// A command on a terminal of its own. Ended, if need be by force, when it is dropped.
pub struct Terminal {
    process: Child,
    pty: Arc<Pty>,
    output: Receiver<Vec<u8>>,
    seen: vt100::Parser,
    /// All that was written to it.
    raw: Vec<u8>,
}

impl Terminal {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        const ROWS: NonZero<u16> = NonZero::new(30).unwrap();
        const COLUMNS: NonZero<u16> = NonZero::new(120).unwrap();
        Self::with_size(folder, arguments, ROWS, COLUMNS)
    }

    /// On a terminal of so many lines and columns.
    pub fn with_size(folder: &Path, arguments: &[&str], rows: NonZero<u16>, columns: NonZero<u16>) -> Self {
        let (pty, theirs) = open().expect("a terminal");
        pty.resize(pty_process::Size::new(rows.get(), columns.get())).expect("its size");
        let mut command = cbus(folder);
        command.args(arguments).env("CBUS_WORK_DIR", folder.join("work")).env("TERM", "xterm-256color");
        // One that a test has made, or none.
        command.env("VISUAL", folder.join("bin/vim")).env_remove("EDITOR");
        let process = Command::from(command).spawn(theirs).expect("running cbus");
        let pty = Arc::new(pty);
        let (sender, output) = channel();
        let reading = Arc::clone(&pty);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of a terminal is an error.
            while let Ok(length @ 1..) = (&*reading).read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { process, pty, output, seen: vt100::Parser::new(rows, columns, 0), raw: Vec::new() }
    }

    /// Waits until the view is on the screen, with a text. The cursor is hidden at the end of each drawing.
    fn wait(&mut self, text: &str) {
        self.watch(text, |_| {});
    }

    /// Waits until a text is not on the screen any more.
    fn wait_without(&mut self, text: &str) {
        let begun = Instant::now();
        while self.seen.screen().contents().contains(text) {
            let output = self.output.recv_timeout(LIMIT.saturating_sub(begun.elapsed()));
            let Ok(output) = output else { panic!("still `{text}`:\n{}", self.seen.screen().contents()) };
            self.seen.process(&output);
            self.raw.extend(output);
            self.rest_of_the_drawing();
        }
    }

    /// The same; each drawing is passed to `look`.
    pub fn watch(&mut self, text: &str, mut look: impl FnMut(&vt100::Screen)) {
        let begun = Instant::now();
        let shown = |screen: &vt100::Screen| {
            screen.alternate_screen() && screen.hide_cursor() && screen.contents().contains(text)
        };
        while !shown(self.seen.screen()) {
            let output = self.output.recv_timeout(LIMIT.saturating_sub(begun.elapsed()));
            let Ok(output) = output else { panic!("no `{text}`, but:\n{}", self.seen.screen().contents()) };
            self.seen.process(&output);
            self.raw.extend(output);
            self.rest_of_the_drawing();
            look(self.seen.screen());
        }
    }

    /// A drawing comes in pieces, with nothing that says where it ends.
    fn rest_of_the_drawing(&mut self) {
        while let Ok(more) = self.output.recv_timeout(Duration::from_millis(10)) {
            self.seen.process(&more);
            self.raw.extend(more);
        }
    }

    pub fn press(&self, key: &[u8]) {
        (&*self.pty).write_all(key).expect("typing");
    }

    /// Whether what is typed is shown and kept until Enter, as a shell expects it.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&*self.pty).expect("the terminal's settings").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits for its end, which must be one without complaint, and for the terminal to be as it was.
    fn ends_and_leaves_the_terminal_as_it_was(self) {
        self.ends_with(0, &["Shutting down"]);
    }

    /// Waits for its end, with what it says, and for the terminal to be as it was.
    fn ends_with(mut self, code: i32, says: &[&str]) {
        let status = self.process.wait().expect("its end");
        while let Ok(output) = self.output.recv_timeout(LIMIT) {
            self.seen.process(&output);
        }
        let screen = self.seen.screen();
        assert!(!screen.alternate_screen(), "what was on the screen before is back");
        assert!(!screen.hide_cursor(), "the cursor is shown");
        assert!(self.is_cooked(), "what is typed is shown again");
        for text in says {
            assert!(screen.contents().contains(text), "no `{text}` in:\n{}", screen.contents());
        }
        assert_eq!(status.code(), Some(code), "{status}: {}", screen.contents());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_live_view_shows_builds_and_errors_and_puts_the_terminal_back_however_it_ends() {
    let scratch = Scratch::new(&["second"]);
    std::fs::write(scratch.folder().join("second/config.yaml"), "one:\n  id: second\n").expect("writing");
    let arguments = ["dev", "second", "--name", "view"];
    let mut dev = Terminal::start(scratch.folder(), &arguments);
    dev.wait("cbus dev second");
    assert!(!dev.is_cooked(), "keys are read as they are pressed");
    dev.wait("generation 1 serves");
    scratch.edit("second", "\"from the second\"", "\"from the second\" oops");
    dev.wait("Compiler");
    dev.wait("oops");
    terminate(&dev.process);
    dev.ends_and_leaves_the_terminal_as_it_was();

    // While the first build runs, by a key.
    let mut dev = Terminal::start(scratch.folder(), &arguments);
    dev.wait("cbus dev second");
    dev.press(b"q");
    dev.ends_and_leaves_the_terminal_as_it_was();
}

#[test]
fn the_terminal_is_put_back_when_a_plugin_ends_the_process_and_what_ended_it_is_told() {
    let scratch = Scratch::new(&["second"]);
    std::fs::write(scratch.folder().join("second/config.yaml"), "one:\n  id: second\n").expect("writing");
    let mut end = "Ok(Self)".to_owned();
    for (by, code, says) in [
        ("std::process::abort()", 134, "killed by SIGABRT, an abort (signal 6)"),
        ("unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) }", 139, "SIGSEGV"),
        ("std::process::exit(0)", 1, "exited with code 0"),
    ] {
        let next = format!("{{ eprintln!(\"last words\"); {by}; #[allow(unreachable_code)] Ok(Self) }}");
        let start = || Terminal::start(scratch.folder(), &["dev", "second", "--name", "ended"]);
        let dev = if code == 134 {
            let mut dev = start();
            dev.wait("generation 1 serves");
            scratch.edit("second", &end, &next);
            dev
        } else {
            // With the first generation.
            scratch.edit("second", &end, &next);
            start()
        };
        dev.ends_with(code, &[says, "last words", "--isolation process"]);
        end = next;
    }
}

#[test]
fn a_mistake_is_found_and_mended_without_the_mouse() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new(&["second"]);
    let at = scratch.folder();
    std::fs::write(at.join("second/config.yaml"), "one:\n  id: second\n").expect("writing");
    // An editor that takes the whole terminal, and tells how it was called.
    let editor = at.join("bin/vim");
    std::fs::create_dir(at.join("bin")).expect("a folder");
    let script =
        format!("#!/bin/sh\necho \"the editor\"\necho \"$@\" > {0}/new && mv {0}/new {0}/called\n", at.display());
    std::fs::write(&editor, script).expect("a script");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
    scratch.edit("second", "Ok(Self)", "println!(\"said by the plugin\");\n        let unused = 1;\n        Ok(Self)");

    let mut dev = Terminal::start(at, &["dev", "second", "--name", "mended", "--locations"]);
    dev.wait("generation 1 serves");
    dev.wait("output said by the plugin");
    dev.wait("warning: unused variable: `unused`");
    dev.press(b"?");
    dev.wait("open the editor at the first error");
    dev.press(b"x");
    dev.press(b"l");
    dev.wait(": debug");
    dev.press(b"/building\r");
    dev.wait("with `building`");

    scratch.edit("second", "\"from the second\"", "oops");
    dev.wait("Compiler: 1 error, 1 warning in second");
    dev.wait("error[E0425]");
    dev.wait("DEBUG second building");
    dev.press(b"\x1b");
    // With a key right behind it, it would be another one.
    dev.wait_without("with `building`");
    let source = at.join("second/src/lib.rs").canonicalize().expect("the source");
    let text = std::fs::read_to_string(&source).expect("the source");
    let line = text.lines().position(|line| line.contains("oops")).expect("the mistake") + 1;
    let places = std::fs::read_to_string(at.join(".bacon-locations")).expect("the places");
    let mut kinds = places.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect::<Vec<_>>();
    kinds.sort_unstable();
    assert_eq!(kinds, ["error", "warning"], "{places}");
    assert!(places.contains(&format!("error {}:{line}:", source.display())), "{places}");

    dev.press(b"e");
    let begun = Instant::now();
    while !at.join("called").exists() {
        assert!(begun.elapsed() < LIMIT, "the editor was not called");
        std::thread::sleep(Duration::from_millis(5));
    }
    let called = std::fs::read_to_string(at.join("called")).expect("how it was called");
    assert_eq!(called.trim(), format!("+{line} {}", source.display()));
    dev.press(b" ");
    dev.wait("PAUSED");
    scratch.edit("second", "oops", "\"mended\"");
    dev.press(b" ");
    dev.wait("generation 2 serves");
    let told = String::from_utf8_lossy(&dev.raw).into_owned();
    assert!(told.contains("\u{7}\u{1b}]9;cbus dev: second does not build\u{7}"), "the bell");
    assert!(told.contains("the editor"), "it had the terminal");
    dev.press(b"q");
    // What was shown last is still there.
    dev.ends_with(0, &["generation 2 serves", "unused variable", "Shutting down"]);
}

#[test]
fn top_shows_a_daemon_asks_before_it_rolls_back_and_finds_it_again() {
    let folder = daemon_folder();
    let at = folder.path();
    std::fs::copy(&crate::built().1, at.join("plugins/second.cbus.so")).expect("copying");
    let listen = format!("unix:{}", at.join("top.sock").display());
    let arguments = ["config.yaml", "--plugins", "plugins", "--listen", &listen];
    let daemon = Daemon::start(at, &arguments);
    let size = |length| NonZero::new(length).expect("a size");
    let mut top = Terminal::with_size(at, &["top", "--connect", &listen], size(30), size(200));
    top.wait(&format!("process {}", daemon.process.id()));
    top.wait("serving");
    top.wait("generation 1 serves");
    top.press(b"d");
    top.wait("Directives: 0");
    top.press(b"d");
    top.press(b"\t");
    top.press(b"b");
    top.wait("Roll second back to the generation before?");
    top.press(b"y");
    top.wait("does not allow clients to reload or unload plugins");
    daemon.end();
    top.wait("the daemon is away");
    let daemon = Daemon::start(at, &arguments);
    top.wait(&format!("process {}", daemon.process.id()));
    top.press(b"q");
    top.ends_with(0, &["generation 1 serves"]);
    daemon.end();
}

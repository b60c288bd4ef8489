//! The command, run as a person runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use tests::{Scratch, target_dir, work_dir};

/// The command, in a folder, with the builds of all tests in one target folder.
pub fn cbus(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cbus"));
    command.current_dir(folder).env("CBUS_TARGET_DIR", target_dir()).stdin(Stdio::null());
    command.env("XDG_RUNTIME_DIR", run_dir());
    let own = ["CBUS_CONNECT", "CBUS_LISTEN", "CBUS_NAME", "CBUS_LOG", "CBUS_WORK_DIR", "CBUS_TOKEN_FILE"];
    for name in own.into_iter().chain(["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"]) {
        command.env_remove(name);
    }
    command
}

/// Where the sockets of all tests' daemons are.
pub fn run_dir() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("cbus-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    })
}

/// Asks a process to end, as a service manager would.
pub fn terminate(process: &Child) {
    let asked = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().expect("running kill");
    assert!(asked.success());
}

/// What a finished command said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a command to its end.
pub fn run(folder: &Path, arguments: &[&str]) -> Said {
    finish(cbus(folder).args(arguments))
}

/// Runs a command to its end, which must come within four minutes.
pub fn finish(command: &mut Command) -> Said {
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("running cbus");
    let id = process.id().to_string();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if ended.recv_timeout(std::time::Duration::from_secs(240)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
        }
    });
    let output = process.wait_with_output().expect("its output");
    drop(done);
    let _ = guard.join();
    said(output)
}

/// Runs a command that must succeed; what it printed.
pub fn fine(folder: &Path, arguments: &[&str]) -> String {
    let said = run(folder, arguments);
    assert_eq!(said.code, Some(0), "cbus {arguments:?}: {}{}", said.out, said.err);
    said.out
}

/// Runs a command that must fail with a status and a message.
pub fn fails(folder: &Path, arguments: &[&str], code: i32, message: &str) -> String {
    let said = run(folder, arguments);
    assert_eq!(said.code, Some(code), "cbus {arguments:?}: {}{}", said.out, said.err);
    assert!(said.err.contains(message), "cbus {arguments:?} does not say `{message}`: {}", said.err);
    said.err
}

/// Runs a command that must succeed, and reads what it printed as JSON.
pub fn json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&fine(folder, arguments)).expect("JSON")
}

/// A config of which tools have something to tell.
pub const CONFIG: &str = "pub struct SecondConfig {
    /// How loud it answers.
    #[serde(default)]
    pub loudness: Option<u32>,
    /// Who may ask.
    #[serde(default)]
    pub guests: Vec<Guest>,
}

/// Somebody.
#[derive(Schema, Serialize, Deserialize, PartialEq)]
pub struct Guest {
    /// As on the list.
    pub name: String,
    /// How they are greeted.
    #[serde(default)]
    pub tone: Tone,
}

/// A way to speak.
#[derive(Schema, Serialize, Deserialize, PartialEq, Default)]
#[serde(rename_all = \"lowercase\")]
pub enum Tone {
    /// With care.
    #[default]
    Polite,
    /// Without.
    Short,
}";

/// What the environment of that build has, and nothing that it leaves behind may have.
pub const SECRET: &str = "s3cr3t-of-whoever-builds";

/// The `second` fixture with such a config as a plugin file, built once by `cbus build`; its folder has a copy of the sources.
pub fn built() -> &'static (Scratch, PathBuf, serde_json::Value) {
    static BUILT: OnceLock<(Scratch, PathBuf, serde_json::Value)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let scratch = Scratch::new(&["second"]);
        scratch.edit("second", "pub struct SecondConfig {}", CONFIG);
        let file = scratch.folder().join("second.cbus.so");
        let arguments = ["build", "second", "-o", "second.cbus.so", "--plugin-version", "1.2.3", "--json"];
        let mut command = cbus(scratch.folder());
        command.args(arguments).env("CBUS_WORK_DIR", work_dir().join("cbus-built"));
        // What is none of the compiler's business.
        command.envs([("AWS_SECRET_ACCESS_KEY", SECRET), ("CARGO_REGISTRY_TOKEN", SECRET)]);
        let said = said(command.output().expect("running cbus"));
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        let told = serde_json::from_str(&said.out).expect("JSON");
        (scratch, file, told)
    })
}

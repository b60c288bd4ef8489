//! Clients in other languages: generated from the proto file, as their authors do it, and run against a daemon. Python's tools come from
//! PyPI; a client in Go would take a Go toolchain, which a machine that builds this need not have.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::built;
use crate::process::{Daemon, daemon_folder};

/// A Python that has `grpcio-tools`: `CBUS_TEST_PYTHON`, which has to have them then, as in CI, or else `python3`.
fn python() -> Option<PathBuf> {
    let set = std::env::var_os("CBUS_TEST_PYTHON").map(PathBuf::from);
    let python = set.clone().unwrap_or_else(|| "python3".into());
    let has = Command::new(&python).args(["-c", "import grpc_tools.protoc"]).stderr(Stdio::null()).status();
    if has.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    let missing = "there is no Python with grpcio-tools here (python3 -m venv DIR && DIR/bin/pip install grpcio-tools)";
    assert!(set.is_none(), "{missing}");
    println!("SKIPPED: {missing}");
    None
}

#[test]
fn a_python_client_is_generated_from_the_proto_file_and_talks_to_a_daemon() {
    let Some(python) = python() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = daemon_folder();
    let at = folder.path();
    let generated = Command::new(&python)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(root.join("controllerbus-api/proto"))
        .args(["--python_out=.", "--grpc_python_out=.", "controllerbus/api/v1/api.proto"])
        .current_dir(at)
        .status();
    assert!(generated.expect("running protoc").success());
    std::fs::copy(root.join("examples/python/client.py"), at.join("client.py")).expect("copying the client");

    std::fs::copy(&built().1, at.join("plugins/second.cbus.so")).expect("copying");
    let daemon = Daemon::start(at, &["--plugins", "plugins", "--allow-exec"]);
    let client = |arguments: &[&str]| {
        let mut client = Command::new(&python);
        client.arg("client.py").arg(daemon.socket()).args(arguments).current_dir(at);
        client
    };
    let told = |arguments: &[&str]| {
        let output = client(arguments).output().expect("running the client");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let overview = told(&[]);
    assert_eq!(overview["api_revision"], controllerbus_api::API_REVISION);
    assert_eq!(overview["plugins"], serde_json::json!({ "second": "serving" }));

    // While it is attached, its config runs; when it has gone, it does not.
    let mut attached = client(&["exec", "config.yaml"]).stdout(Stdio::piped()).spawn().expect("running the client");
    let mut lines = BufReader::new(attached.stdout.take().expect("its output")).lines();
    let running = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("\"running\"")));
    assert!(running.is_some_and(|line| line.is_ok_and(|line| line.contains("\"one\""))));
    assert_eq!(told(&[])["configs"]["one"], "running");
    attached.kill().expect("ending it");
    attached.wait().expect("its end");
    let begun = std::time::Instant::now();
    while told(&[])["configs"].get("one").is_some() {
        assert!(begun.elapsed().as_secs() < 20, "its config is still there");
    }
    daemon.end();
}

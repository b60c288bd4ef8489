//! The program, run as the page shows it.

use std::process::Command;

#[test]
fn a_request_is_one_trace_across_the_host_and_the_plugin_in_either_process() {
    for isolation in ["none", "process"] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_opentelemetry-example"));
        let run = run.arg(isolation).output().expect("running it");
        let told = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{isolation}: {told}{}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(told, "Hello, Countess Ada!\nrequest\n  greet\n    look up the title\n", "{isolation}");
    }
}

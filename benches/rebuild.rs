//! What the attribute costs at each edit: rustc's time for `examples/greeter` after a one-line edit, against the same
//! code with a plain `extern "C"` function in place of the attribute.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use benches::{Spread, root, save, target};

const ROUNDS: usize = 15;
const EDITED: &str = "\"{}, {}!\"";

/// As `hot-runtime` builds plugins: line tables for the edited crate.
const PROFILE: &str = "
[workspace]

[profile.dev]
debug = \"line-tables-only\"
[profile.dev.package.\"*\"]
debug = false
";

struct Variant {
    source: PathBuf,
    text: String,
    rustc: String,
    times: Vec<f64>,
}

impl Variant {
    /// Makes a crate of its own from a source, builds it once by cargo, and keeps the command that cargo ran for it.
    fn new(folder: &Path, name: &str, text: String) -> Self {
        let dir = folder.join(name);
        std::fs::create_dir_all(dir.join("src")).expect("a folder");
        let manifest = std::fs::read_to_string(root().join("examples/greeter/Cargo.toml")).expect("the manifest");
        let controllerbus = format!("{:?}", root().join("controllerbus"));
        let manifest = manifest
            .replace("name = \"greeter\"", &format!("name = \"{name}\""))
            .replace("\"../../controllerbus\"", &controllerbus);
        std::fs::write(dir.join("Cargo.toml"), manifest + PROFILE).expect("the manifest");
        std::fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock")).expect("the lock file");
        let source = dir.join("src/lib.rs");
        std::fs::write(&source, &text).expect("the source");
        let output = Command::new("cargo")
            .args(["build", "-vv"])
            .current_dir(&dir)
            .env("CARGO_TARGET_DIR", target().join("bench-rebuild"))
            .output()
            .expect("cargo");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let crate_name = format!("--crate-name {name} ");
        let running = said.lines().find(|line| line.contains("Running") && line.contains(&crate_name));
        let running = running.expect("cargo ran rustc for the crate").trim();
        let rustc = running.trim_start_matches("Running `").trim_end_matches('`').to_owned();
        Self { source, text, rustc, times: Vec::new() }
    }

    fn edit_and_compile(&mut self, round: usize) {
        let edited = self.text.replace(EDITED, &format!("\"{{}}, {{}}! ({round})\""));
        assert_ne!(edited, self.text);
        std::fs::write(&self.source, edited).expect("the edit");
        let folder = self.source.parent().and_then(Path::parent).expect("the crate");
        let begun = Instant::now();
        let output = Command::new("sh").arg("-c").arg(&self.rustc).current_dir(folder).output().expect("rustc");
        let time = begun.elapsed();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The first rounds fill the caches.
        if round > 1 {
            self.times.push(time.as_secs_f64() * 1000.0);
        }
    }
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let with = std::fs::read_to_string(root().join("examples/greeter/src/lib.rs")).expect("the greeter");
    let mut hot = Variant::new(folder.path(), "greeter", with.clone());
    let mut plain = Variant::new(folder.path(), "plain_greeter", without_attribute(&with, CALLS));
    let mut unused = Variant::new(folder.path(), "unused_greeter", without_attribute(&with, CALLS_NOTHING));
    for round in 0..ROUNDS + 2 {
        hot.edit_and_compile(round);
        plain.edit_and_compile(round);
        unused.edit_and_compile(round);
    }
    let (hot, plain, unused) = (Spread::of(hot.times), Spread::of(plain.times), Spread::of(unused.times));
    let ratio = hot.median / plain.median;
    let ratio_unused = hot.median / unused.median;
    println!("rustc after a one-line edit of examples/greeter, median of {ROUNDS} (quartiles), ms");
    println!("  #[hot_plugin]                                      {hot}");
    println!("  plain extern \"C\" fn that calls the controller      {plain}, ratio {ratio:.2}");
    println!("  plain extern \"C\" fn that leaves it uncompiled      {unused}, ratio {ratio_unused:.2}");
    save(
        "rebuild",
        &serde_json::json!({
            "hot_plugin_ms": hot.median,
            "plain_ms": plain.median,
            "ratio": ratio,
            "plain_unused_ms": unused.median,
            "ratio_unused": ratio_unused,
            "rounds": ROUNDS,
        }),
    );
}

/// A plain entry that uses the controller, so that the same code has to be compiled.
const CALLS: &str = "
/// Greets.
#[unsafe(no_mangle)]
pub extern \"C\" fn greeter_entry(request: Greet, values: Values<Greeting>) {
    let greeter = Greeter { config: GreeterConfig { greeting: String::from(\"Hello\") } };
    let call = std::pin::pin!(greeter.greet(request, values));
    let _ = std::future::Future::poll(call, &mut std::task::Context::from_waker(std::task::Waker::noop()));
}
";

/// A plain entry that does not: rustc compiles no body of an async function that nobody calls.
const CALLS_NOTHING: &str = "
/// Makes the controller.
#[unsafe(no_mangle)]
pub extern \"C\" fn greeter_entry(greeter: &mut Option<Greeter>) {
    *greeter = Some(Greeter { config: GreeterConfig { greeting: String::new() } });
}
";

/// The greeter's source with a plain exported function in place of the attribute.
fn without_attribute(source: &str, plain: &str) -> String {
    let attribute = "#[hot_plugin(id = \"example/greeter\", version = \"1.0.0\")]\n";
    assert!(source.contains(attribute));
    let (before, after) = source.split_once("    #[resolves]\n").expect("a resolver");
    let method = after.trim_end().strip_suffix('}').expect("the end of the block");
    let text = format!("{before}}}\n\nimpl Greeter {{\n    /// Greets.\n    pub {}}}\n{plain}", method.trim_start());
    text.replace(attribute, "").replace("#![forbid(unsafe_code)]\n", "")
}

//! A plugin of several small crates, written out as files, on which every kind of edit can be made.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The crates, in a folder of their own. The plugin crate is `edits`.
pub struct Crates {
    folder: tempfile::TempDir,
}

const LIB: &str = r#"//! A fixture that every kind of edit is made on.

use controllerbus::prelude::*;

mod part;

const CONSTANT: &str = "one";

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "probe/ask", value = Answer)]
pub struct Ask {
    pub what: String,
    pub nonce: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Answer(pub String);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "edits")]
pub struct EditsConfig {}

pub struct Edits;

/// Answers with all that it was built from.
#[hot_plugin(id = "edits", version = "1.0.0")]
impl Controller for Edits {
    type Config = EditsConfig;

    async fn construct(_: EditsConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn ask(&self, ask: Ask, values: Values<Answer>) -> Result<()> {
        values.add(Answer(if ask.what == "backtrace" { backtrace() } else { everything() }));
        Ok(())
    }
}

#[inline(never)]
fn backtrace() -> String {
    std::backtrace::Backtrace::force_capture().to_string()
}

fn everything() -> String {
    let parts = [
        CONSTANT.to_owned(),
        format!("line {}", line!()),
        part::text().to_owned(),
        include_str!("data.txt").to_owned(),
        include_str!("../../outside.txt").to_owned(),
        helper::text(),
        helper::generic(7),
        helper::expanded!().to_owned(),
        env!("FROM_SCRIPT").to_owned(),
        shout::shouted!().to_owned(),
        env!("CARGO_PKG_VERSION").to_owned(),
        format!("extra {}", cfg!(feature = "extra")),
        // more
    ];
    parts.join(", ")
}
"#;

const HELPER: &str = r#"//! A path dependency.
pub fn text() -> String {
    "helper".to_owned()
}
pub fn generic<T: std::fmt::Display>(value: T) -> String {
    format!("generic {value}")
}
#[macro_export]
macro_rules! expanded {
    () => {
        "expanded"
    };
}
"#;

const SHOUT: &str = r#"//! A procedural macro.
#[proc_macro]
pub fn shouted(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
    "\"SHOUTED\"".parse().expect("a literal")
}
"#;

const SCRIPT: &str = r#"fn main() {
    println!("cargo:rerun-if-changed=script.txt");
    println!("cargo:rerun-if-changed=build.rs");
    let text = std::fs::read_to_string("script.txt").expect("the script's input");
    println!("cargo:rustc-env=FROM_SCRIPT=script {}", text.trim());
}
"#;

impl Crates {
    /// Writes them out.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let crates = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let controllerbus = crate::root().join("controllerbus").canonicalize().expect("the controllerbus crate");
        let manifest = |name: &str, rest: &str| {
            format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n{rest}")
        };
        let edits = format!(
            "\n[dependencies]\ncontrollerbus = {{ path = {controllerbus:?}, default-features = false }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n\
             helper = {{ path = \"../helper\" }}\nshout = {{ path = \"../shout\" }}\n\n[features]\ndefault = []\nextra = []\n\n[workspace]\n"
        );
        crates.write("edits/Cargo.toml", &manifest("edits", &edits));
        std::fs::copy(crate::root().join("Cargo.lock"), crates.path("edits/Cargo.lock")).expect("the lock file");
        crates.write("edits/src/lib.rs", LIB);
        crates.write("edits/src/part.rs", "pub fn text() -> &'static str {\n    \"part\"\n}\n");
        crates.write("edits/src/data.txt", "data");
        crates.write("edits/build.rs", SCRIPT);
        crates.write("edits/script.txt", "input");
        crates.write("outside.txt", "outside");
        crates.write("helper/Cargo.toml", &manifest("helper", "\n[workspace]\n"));
        crates.write("helper/src/lib.rs", HELPER);
        crates.write("shout/Cargo.toml", &manifest("shout", "\n[lib]\nproc-macro = true\n\n[workspace]\n"));
        crates.write("shout/src/lib.rs", SHOUT);
        crates.write("added/Cargo.toml", &manifest("added", "\n[workspace]\n"));
        crates.write("added/src/lib.rs", "pub const TEXT: &str = \"added\";\n");
        crates
    }

    /// The path of a file or folder.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// Writes a file.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        std::fs::write(path, text).expect("writing a file");
    }

    /// Replaces a text in a file, which has to be there.
    pub fn replace(&self, inside: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(inside)).expect("the file");
        assert!(text.contains(from), "{inside} has no `{from}`");
        self.write(inside, &text.replace(from, to));
    }

    /// Removes a file.
    pub fn remove(&self, inside: &str) {
        std::fs::remove_file(self.path(inside)).expect("removing a file");
    }

    /// Writes a file as a restore from a backup does: with the time that the backup has.
    pub fn restore(&self, inside: &str, text: &str) {
        self.write(inside, text);
        let old = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
        let file = std::fs::File::options().write(true).open(self.path(inside)).expect("the file");
        file.set_modified(old).expect("an old time");
    }
}

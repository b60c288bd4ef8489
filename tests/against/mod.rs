//! Two equal workspaces: a plugin's, which a host watches, and one that plain cargo builds, whose library is opened by
//! hand. Random edits are made of both; what they say must be the same.

pub mod edits;
pub mod model;
pub mod random;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use edits::Save;
use model::{Files, Flavour, Model, Node};

/// Both workspaces.
pub struct Both {
    folder: tempfile::TempDir,
    controllerbus: String,
    plugin: Files,
    plain: Files,
}

/// Opens a library and prints what it says; a program of its own, which the library may end.
const OPENER: &str = r#"
use std::ffi::{CString, c_char, c_int, c_void};
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
extern "C" fn say(text: *const u8, length: usize) {
    print!("{}", String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(text, length) }));
}
fn main() {
    let path = CString::new(std::env::args().nth(1).unwrap()).unwrap();
    unsafe {
        let library = dlopen(path.as_ptr(), 2);
        assert!(!library.is_null());
        let found = dlsym(library, c"against_cargo".as_ptr());
        assert!(!found.is_null());
        let ask: extern "C" fn(extern "C" fn(*const u8, usize)) = std::mem::transmute(found);
        ask(say);
    }
}
"#;

impl Both {
    /// Writes both out.
    pub fn new(model: &Model) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let controllerbus = tests::root().join("controllerbus").canonicalize().expect("the controllerbus crate");
        let controllerbus = controllerbus.to_string_lossy().into_owned();
        let mut both = Self { folder, controllerbus, plugin: Files::new(), plain: Files::new() };
        both.make_repository();
        both.make_opener();
        both.write(model, Save::Over);
        for root in ["plugin", "plain"] {
            let lock = both.folder.path().join(root).join("work space/Cargo.lock");
            std::fs::copy(tests::root().join("Cargo.lock"), lock).expect("the lock file");
        }
        both
    }

    /// The controller crate.
    pub fn controller(&self) -> PathBuf {
        self.folder.path().join("plugin/work space/control-ler")
    }

    fn git(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn make_repository(&self) {
        let at = self.git();
        std::fs::create_dir_all(at.join("src")).expect("a folder");
        let run = |arguments: &[&str]| {
            let who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"];
            let output = Command::new("git").current_dir(&at).args(who).args(arguments).output().expect("git");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&["init", "-q"]);
        for tag in ["v0", "v1"] {
            let manifest = "[package]\nname = \"from_git\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n";
            std::fs::write(at.join("Cargo.toml"), manifest).expect("writing");
            let source = format!(
                "pub fn report() -> String {{ \"git {tag}\".to_owned() }}\npub fn inlined() -> u64 {{ 7 }}\n\
                 pub fn generic<T: std::fmt::Display>(of: T) -> String {{ of.to_string() }}\n\
                 #[macro_export]\nmacro_rules! from_git_expanded {{ () => {{ \"git {tag}\" }} }}\n"
            );
            std::fs::write(at.join("src/lib.rs"), source).expect("writing");
            run(&["add", "."]);
            run(&["commit", "-q", "-m", tag]);
            run(&["tag", tag]);
        }
    }

    fn make_opener(&self) {
        let source = self.folder.path().join("opener.rs");
        std::fs::write(&source, OPENER).expect("writing");
        let mut rustc = Command::new("rustc");
        rustc.current_dir(self.folder.path()).args(["--edition=2024", "-o", "opener"]).arg(&source);
        let made = rustc.output().expect("rustc");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Makes both as a model says.
    pub fn write(&mut self, model: &Model, save: Save) {
        let git = self.git().to_string_lossy().into_owned();
        let plugin = model.files(Flavour::Plugin(&self.controllerbus), &git);
        let plain = model.files(Flavour::Plain, &git);
        bring(&self.folder.path().join("plugin"), &self.plugin, &plugin, save);
        // Cargo goes by times, and takes what was put back for what it has built: it gets new ones.
        bring(&self.folder.path().join("plain"), &self.plain, &plain, Save::Over);
        (self.plugin, self.plain) = (plugin, plain);
    }

    /// What plain cargo and a dlopen give, with everything compiled anew; `None` if it does not compile.
    pub fn plain(&self) -> Result<String, String> {
        let root = self.folder.path().join("plain");
        touch(&root);
        let mut cargo = Command::new("cargo");
        cargo.current_dir(root.join("work space")).args(["build", "--quiet", "--package", "control-ler"]);
        cargo.env("CARGO_TARGET_DIR", self.folder.path().join("plain-target"));
        for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO_INCREMENTAL"] {
            cargo.env_remove(name);
        }
        let output = cargo.output().expect("running cargo");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let library = self.folder.path().join("plain-target/debug/libcontrol_ler.so");
        let output = Command::new(self.folder.path().join("opener")).arg(library).output().expect("opening");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Makes a folder's files what they are to be.
fn bring(root: &Path, before: &Files, after: &Files, save: Save) {
    for (path, node) in before {
        let gone = after.get(path).is_none_or(|now| std::mem::discriminant(now) != std::mem::discriminant(node));
        if gone {
            let _ = std::fs::remove_file(root.join(path));
            let mut folder = root.join(path);
            // Folders that were made for it go with it.
            while folder.pop() && folder != root && std::fs::remove_dir(&folder).is_ok() {}
        }
    }
    for (path, node) in after {
        if before.get(path) == Some(node) {
            continue;
        }
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        match node {
            Node::Link(target) => {
                let _ = std::fs::remove_file(&path);
                std::os::unix::fs::symlink(target, &path).expect("a link");
            }
            Node::Text(text) => match save {
                Save::Over => std::fs::write(&path, text).expect("writing"),
                Save::Rename => {
                    let beside = path.with_extension("new~");
                    std::fs::write(&beside, text).expect("writing");
                    std::fs::rename(beside, &path).expect("renaming");
                }
                Save::Anew => {
                    let _ = std::fs::remove_file(&path);
                    std::fs::write(&path, text).expect("writing");
                }
                Save::Old => {
                    std::fs::write(&path, text).expect("writing");
                    let old = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
                    let file = std::fs::File::options().write(true).open(&path).expect("the file");
                    file.set_modified(old).expect("an old time");
                }
            },
        }
    }
}

/// Gives every file a new time.
fn touch(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            touch(&path);
        } else if kind.is_file()
            && !path.ends_with("Cargo.lock")
            && let Ok(file) = std::fs::File::options().append(true).open(&path)
        {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

//! A small controller crate that is written by a test, and a host that watches it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use controllerbus::prelude::*;
use hot_runtime::{Builder, HotRuntime, PluginSpec, RuntimeEvent};
use tokio::sync::mpsc;

use crate::{ask, target_dir, work_dir};

/// A controller crate in `crate`, with whatever a test puts beside it.
pub struct Small {
    folder: tempfile::TempDir,
    name: &'static str,
}

const LIB: &str = r#"//! Answers with what it is made of.
use controllerbus::prelude::*;

HEAD

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "probe/ask", value = Answer)]
pub struct Ask {
    pub what: String,
    pub nonce: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Answer(pub String);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "small")]
pub struct SmallConfig {}

pub struct Small;

#[hot_plugin(id = "small", version = "1.0.0")]
impl Controller for Small {
    type Config = SmallConfig;

    async fn construct(_: SmallConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn ask(&self, _: Ask, values: Values<Answer>) -> Result<()> {
        values.add(Answer(everything()));
        Ok(())
    }
}

fn everything() -> String {
    let parts: Vec<String> = vec![PARTS];
    parts.join(" ")
}
"#;

impl Small {
    /// A crate whose name no other test's has, with more in its manifest's `[dependencies]`, what comes before the
    /// controller in its source, and the strings that it answers.
    pub fn new(name: &'static str, dependencies: &str, head: &str, parts: &str) -> Self {
        let small = Self { folder: tempfile::tempdir().expect("a temporary folder"), name };
        let controllerbus = crate::root().join("controllerbus").canonicalize().expect("the controllerbus crate");
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n[dependencies]\n\
             controllerbus = {{ path = {controllerbus:?}, default-features = false }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n{dependencies}\n\
             [workspace]\n"
        );
        small.write("crate/Cargo.toml", &manifest);
        std::fs::copy(crate::root().join("Cargo.lock"), small.path("crate/Cargo.lock")).expect("the lock file");
        small.write("crate/src/lib.rs", &LIB.replace("HEAD", head).replace("PARTS", parts));
        small
    }

    /// The path of a file or folder. It has in it what paths have that people have.
    pub fn path(&self, inside: &str) -> PathBuf {
        let long = format!("ö dd's #1 %41 ({})", "x".repeat(100));
        self.folder.path().join(long).join(inside)
    }

    /// A path without that, for what cannot do with it.
    pub fn plain(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// Writes a script, which finds its own folder as `$here`.
    pub fn script(&self, inside: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        self.write(inside, &format!("#!/bin/sh\nhere=$(dirname \"$0\")\n{text}"));
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path(inside), executable).expect("making it executable");
    }

    /// Writes a file.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        std::fs::write(path, text).expect("writing a file");
    }

    /// Writes a file as one that was put back: with a time of long ago.
    pub fn put_back(&self, inside: &str, text: &str) {
        self.write(inside, text);
        let file = std::fs::File::options().write(true).open(self.path(inside)).expect("the file");
        file.set_modified(SystemTime::now() - Duration::from_secs(24 * 60 * 60)).expect("an old time");
    }

    /// Writes a library crate without dependencies of its own.
    pub fn library(&self, name: &str, rest: &str, source: &str) {
        let manifest =
            format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{rest}\n\n[workspace]\n");
        self.write(&format!("{name}/Cargo.toml"), &manifest);
        self.write(&format!("{name}/src/lib.rs"), source);
    }

    /// Replaces a text in a file, which has to be there, by rename as many editors save.
    pub fn replace(&self, inside: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(inside)).expect("the file");
        assert!(text.contains(from), "{inside} has no `{from}`");
        self.write(&format!("{inside}~"), &text.replace(from, to));
        std::fs::rename(self.path(&format!("{inside}~")), self.path(inside)).expect("renaming");
    }

    /// What is built of it.
    pub fn spec(&self) -> PluginSpec {
        PluginSpec::new(self.name).crate_path(self.path("crate"))
    }

    /// A host that builds and watches it.
    pub async fn host(&self) -> Host {
        self.host_with(|builder| builder.target_dir(target_dir())).await
    }

    /// The same, with more said to the runtime.
    pub async fn host_with(&self, more: impl FnOnce(Builder) -> Builder) -> Host {
        let bus = Bus::new();
        bus.apply(ConfigSet::from_yaml("small:\n  id: small\n").expect("a config set")).await.expect("applying");
        let (sender, told) = mpsc::unbounded_channel();
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let builder = HotRuntime::builder(&bus).work_dir(work_dir().join(self.name)).plugin(self.spec());
        let builder = more(builder).on_event(move |event| {
            println!("{event:?}");
            count.fetch_add(usize::from(matches!(event, RuntimeEvent::BuildStarted { .. })), Ordering::Relaxed);
            let _ = sender.send(event.clone());
        });
        let runtime = builder.start().await.expect("starting");
        Host { bus, runtime, told, begun, name: self.name }
    }
}

/// A host, and what its runtime tells.
pub struct Host {
    /// The bus.
    pub bus: Bus,
    /// The runtime.
    pub runtime: HotRuntime,
    /// Its events.
    pub told: mpsc::UnboundedReceiver<RuntimeEvent>,
    begun: Arc<AtomicUsize>,
    name: &'static str,
}

impl Host {
    /// What it answers now.
    pub async fn answer(&self) -> String {
        ask(&self.bus, "").await.unwrap_or_else(|error| error.to_string())
    }

    /// Waits until it answers this.
    pub async fn answers(&mut self, wanted: &str) {
        let waiting = async {
            while self.answer().await != wanted {
                // The next event, or another look.
                let _ = tokio::time::timeout(Duration::from_millis(100), self.told.recv()).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(120), waiting).await.is_err() {
            panic!("it answers `{}`, not `{wanted}`", self.answer().await);
        }
    }

    /// Waits until a build has failed; what was wrong.
    pub async fn fails(&mut self) -> String {
        crate::wait_for(&mut self.told, |event| match event {
            RuntimeEvent::BuildFailed { rendered, .. } => Some(rendered.clone()),
            _ => None,
        })
        .await
    }

    /// Builds now; true if something else serves then.
    pub async fn rebuild(&self) -> bool {
        self.runtime.rebuild(self.name).await.expect("a build").is_some()
    }

    /// How many builds were begun since this was asked last.
    pub fn begun(&self) -> usize {
        self.begun.swap(0, Ordering::Relaxed)
    }
}

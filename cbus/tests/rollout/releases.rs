//! Releases of one plugin that give their numbers, and behave well or not: variants of one build.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use controllerbus_rollout::{Publisher, Release, Store};
use hot_runtime::sign::{self, SecretKey};
use tests::load::{replace, seal};

/// The plugin's id.
pub const PLUGIN: &str = "probe";

/// What it is asked.
pub const ASK: &str = "probe/ask";

/// The version of all variants.
pub const VERSION: &str = "0.1.0";

/// What the built library has, and each variant has instead.
const NUMBER: &str = "generation-0000000";
const BEHAVIOUR: &str = "behaviour:good............";

/// What a release with a number answers.
pub fn answer(number: u64) -> String {
    format!("generation-{number:07}")
}

/// The number of what was answered.
pub fn number_of(answer: &str) -> Option<u64> {
    answer.strip_prefix("generation-")?.parse().ok()
}

/// The library of the `probe` fixture, built once.
pub fn library() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = match std::env::var_os("CONTROLLERBUS_TEST_PROBE") {
            Some(named) => PathBuf::from(named),
            None => {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
                runtime.block_on(tests::process::artifact("probe", &["probe"]))
            }
        };
        hot_runtime::artifact::inspect(&built).expect("an artifact").library().to_vec()
    })
}

/// An artifact in a folder that answers with its number, and behaves so.
pub fn variant(folder: &Path, number: u64, behaviour: &str) -> PathBuf {
    let mut library = library().to_vec();
    replace(&mut library, NUMBER.as_bytes(), answer(number).as_bytes());
    match behaviour {
        // The system's loader does not find what it needs.
        "missing-library" => replace(&mut library, b"libc.so.6", b"libx.so.6"),
        behaviour => {
            let named = format!("{:.<1$}", format!("behaviour:{behaviour}"), BEHAVIOUR.len());
            replace(&mut library, BEHAVIOUR.as_bytes(), named.as_bytes());
        }
    }
    let out = folder.join(format!("{number}.cbus{}", std::env::consts::DLL_SUFFIX));
    seal(&library, &out);
    out
}

/// Keys in a folder: `NAME.key` and `NAME.pub`.
pub fn keys(folder: &Path, name: &str) -> SecretKey {
    let of = |ending: &str| folder.join(format!("{name}.{ending}"));
    sign::generate(&of("key"), &of("pub"), None).expect("keys");
    SecretKey::read(&of("key"), None).expect("the key")
}

/// A store with what is published into it.
pub struct Releases {
    folder: PathBuf,
    pub store: Store,
    pub runtime: tokio::runtime::Runtime,
}

impl Releases {
    /// The store below a folder.
    pub fn below(folder: &Path) -> Self {
        let store = folder.join("store");
        std::fs::create_dir_all(&store).expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
        let store = Store::open(&url(folder)).expect("a store");
        Self { folder: folder.to_owned(), store, runtime }
    }

    /// Publishes a variant, signed with the key of this name, which lasts for so long.
    pub fn publish(&self, behaviour: &str, key: &str, lasts: Duration) -> Release {
        let number = self.last() + 1;
        let artifact = variant(&self.folder, number, behaviour);
        let key = SecretKey::read(&self.folder.join(format!("{key}.key")), None).expect("the key");
        let publisher = Publisher::new(&self.store, key).lasting(lasts);
        let release = self.runtime.block_on(publisher.publish([artifact])).expect("publishing");
        assert_eq!((release.plugin.as_str(), release.sequence), (PLUGIN, number));
        release
    }

    fn last(&self) -> u64 {
        let folder = self.folder.join("store/releases").join(PLUGIN);
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let numbers = names.filter_map(|name| name.file_name().to_str()?.split('.').next()?.parse().ok());
        numbers.max().unwrap_or(0)
    }

    /// Has something else in the place of a release's file.
    pub fn corrupt(&self, release: &Release) {
        let path = format!("artifacts/{}", release.artifacts[0].blake3);
        let file = self.folder.join("store").join(&path);
        let mut bytes = std::fs::read(&file).expect("the artifact");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        self.runtime.block_on(self.store.write(&path, Bytes::from(bytes))).expect("writing");
    }
}

/// The plugin and its version, as it is written.
pub fn at_version() -> String {
    format!("{PLUGIN}@{VERSION}")
}

/// The URL of the store below a folder.
pub fn url(folder: &Path) -> String {
    format!("file://{}", folder.join("store").display())
}

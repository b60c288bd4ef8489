//! What is known about a plugin's builds: the files that they read, and what else the build hash covers. It is saved
//! beside the overlay, so that the first build of the next process has the right hash at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::compile::guess;
use crate::compile::units::Units;
use crate::source::environment;
use crate::source::hash::Names;
use crate::source::inputs::InputSet;
use crate::source::workspace::Workspace;

/// The file's name.
const FILE: &str = "inputs.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Learned {
    pub(crate) set: InputSet,
    /// The inputs that are not files.
    pub(crate) texts: Vec<String>,
    /// The registry's packages that are not in the workspace's lock file.
    pub(crate) beyond: Vec<String>,
}

impl Learned {
    /// What a build read.
    pub(crate) fn of(units: &Units, names: &Names, beyond: Vec<String>) -> Self {
        Self { set: units.sources(), texts: Self::texts_of(units, names, &beyond), beyond }
    }

    /// The inputs of a build that are not files.
    pub(crate) fn texts_of(units: &Units, names: &Names, beyond: &[String]) -> Vec<String> {
        let mut texts = units.texts(names);
        texts.extend_from_slice(beyond);
        texts.extend(environment::variables_in_code());
        texts
    }

    /// A guess, before the first build.
    pub(crate) fn guess(workspace: &Workspace) -> Self {
        let roots = workspace.packages.values().flat_map(|package| &package.sources);
        let files = roots.flat_map(|root| guess::sources(root)).collect();
        let set = InputSet { files, ..InputSet::default() };
        Self { set, texts: environment::variables_in_code(), beyond: Vec::new() }
    }

    /// What an earlier process saved beside the overlay of these crates.
    pub(crate) fn read(overlay: &Path, crates: &[PathBuf]) -> Option<Self> {
        let (of, learned): (Vec<PathBuf>, Self) =
            serde_json::from_slice(&std::fs::read(overlay.join(FILE)).ok()?).ok()?;
        (of == crates).then_some(learned)
    }

    /// Saves it there. Without it the next process may only build twice.
    pub(crate) fn write(&self, overlay: &Path, crates: &[PathBuf]) {
        if Self::read(overlay, crates).as_ref() != Some(self) {
            let written = serde_json::to_vec(&(crates, self)).map(|text| std::fs::write(overlay.join(FILE), text));
            if let Err(error) = written {
                tracing::debug!(%error, "cannot save the inputs of a build");
            }
        }
    }
}

/// The packages in an overlay's lock file that are not in the workspace's.
pub(crate) fn beyond(overlay: &Path, lock_file: Option<&Path>) -> Vec<String> {
    let of_workspace = lock_file.map(packages).unwrap_or_default();
    packages(&overlay.join("Cargo.lock")).difference(&of_workspace).cloned().collect()
}

/// The packages in a lock file that are not local.
fn packages(lock_file: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(lock_file).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    let packages = table.get("package").and_then(|it| it.as_array()).into_iter().flatten();
    let from_elsewhere = packages.filter(|package| package.get("source").is_some());
    let of =
        |package: &toml::Value, key: &str| package.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
    from_elsewhere
        .map(|package| ["name", "version", "source", "checksum"].map(|key| of(package, key)).join(" "))
        .collect()
}

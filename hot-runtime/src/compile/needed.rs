//! Checks that a built plugin does not need a shared library of Rust, which would not be found when the plugin is
//! opened.

use std::path::Path;

use crate::artifact::needed;
use crate::compile::units::{CargoArtifact, Kind};

/// Why a library could not be opened because it needs one of Rust's; `made` is what cargo built. Blocks.
pub(crate) fn of_rust(library: &Path, made: &[CargoArtifact]) -> Option<String> {
    let cache = object::ReadCache::new(std::fs::File::open(library).ok()?);
    let name = needed(&cache).into_iter().find(|name| name.starts_with("libstd-"))?;
    let has = |made: &CargoArtifact, ending: &str| {
        made.files.iter().any(|file| file.extension().is_some_and(|it| it == ending))
    };
    // Nothing depends on the overlay.
    let shared = |made: &&CargoArtifact| made.kind == Kind::Library && has(made, "so") && !has(made, "rlib");
    let shared = made.iter().filter(shared).filter(|made| !made.package_name.starts_with("cbus-overlay-"));
    let crates: Vec<_> = shared.map(|made| format!("`{}`", made.package_name)).collect();
    let reason = if crates.is_empty() {
        "remove `-C prefer-dynamic` from the flags that its crates are compiled with".to_owned()
    } else {
        format!("{} has the crate-type `dylib`: make it `lib` or `rlib`", crates.join(", "))
    };
    Some(format!(
        "the plugin would need {name}, the shared standard library, which is not found when a plugin is opened; {reason}"
    ))
}

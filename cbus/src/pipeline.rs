//! Building crates into one sealed plugin file, for `build` and `watch`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use controllerbus::Schema;
use hot_runtime::PluginSpec;
use hot_runtime::artifact::Read;
use hot_runtime::compile::{BuildOptions, BuildReport, MessageLevel, PluginBuilder};
use hot_runtime::workspace::Workspace;
use miette::Result;
use serde::Serialize;

use crate::cli::{Folders, Source};
use crate::report::{explain, report};
use crate::settings::Settings;
use crate::text;

/// The result of a build, as JSON shows it.
#[derive(Serialize, Schema)]
pub struct Output {
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: String,
    /// The sealed file.
    pub path: PathBuf,
    /// The hash of what it was built from.
    pub build_hash: String,
    /// The hash of its content.
    pub hash: String,
    /// Its size in bytes.
    pub size: u64,
    /// The file with what only debuggers and backtraces read, if that was set apart.
    pub symbols: Option<PathBuf>,
    /// How long it took, in milliseconds.
    pub build_ms: f64,
    /// How many warnings the compiler gave.
    pub warnings: usize,
}

impl Output {
    pub fn of(job: &Job, report: BuildReport) -> Self {
        let warnings = report.messages.iter().filter(|message| message.level == MessageLevel::Warning).count();
        // The version may have the build's hash in it, which only the artifact knows.
        let artifact = Read::file(&report.artifact, report.size).and_then(Read::inspect);
        let version = artifact.map(|artifact| artifact.bundle.version.to_string()).unwrap_or_default();
        Self {
            id: job.id.clone(),
            version,
            path: report.artifact,
            build_hash: report.build_hash,
            hash: report.hash,
            size: report.size,
            symbols: report.symbols,
            build_ms: text::ms(report.took),
            warnings,
        }
    }
}

/// A generated overlay crate.
#[derive(Serialize, Schema)]
pub struct Codegen {
    /// The plugin's id.
    pub id: String,
    /// Its folder.
    pub overlay: PathBuf,
    /// The hash of what it would be built from.
    pub build_hash: String,
}

/// A plugin to build, with defaults for everything that the command line left out.
pub struct Job {
    pub id: String,
    /// The names of its crates.
    pub crates: Vec<String>,
    pub builder: PluginBuilder,
    /// Where its overlay crate goes.
    pub overlay_dir: PathBuf,
}

impl Job {
    /// Reads the crates and fills in the defaults. The file is `output`, or ID.cbus.so in the current directory. What is built once
    /// and optimised does not depend on where that is.
    pub async fn new(source: &Source, output: Option<&Path>, once: bool) -> Result<Self> {
        let workspace = read_crates(&source.crates).await?;
        let first = &workspace.crates[0];
        let id = source.id.clone().unwrap_or_else(|| first.name.clone());
        let compiling = &source.compiling;
        let mut spec = PluginSpec::new(&id).version(first.version.clone()).release(compiling.release);
        if let Some(text) = &source.plugin_version {
            spec = spec.version_text(text).map_err(|error| {
                report(
                    format!("`{text}` is not a version: {error}"),
                    "a version is MAJOR.MINOR.PATCH, as in Cargo.toml: 1.0.0, or 1.0.0+{buildHash}",
                )
            })?;
        }
        for path in &source.crates {
            spec = spec.crate_path(path);
        }
        for feature in &compiling.features {
            spec = spec.feature(feature);
        }
        spec = spec.default_features(!compiling.no_default_features);
        // What they set of themselves; what concerns the whole file is the first one's.
        for (at, found) in workspace.crates.iter().enumerate() {
            let own = Settings::of(&found.dir)?;
            for feature in &own.features {
                let whose = if feature.contains('/') { String::new() } else { format!("{}/", found.name) };
                spec = spec.feature(whose + feature);
            }
            if at == 0 {
                spec = own.compile(spec);
            }
        }
        let is_anywhere = once && spec.release;
        spec = spec.watch(!is_anywhere);
        let default = format!("{}.cbus{}", id.replace('/', "-"), std::env::consts::DLL_SUFFIX);
        let mut options = BuildOptions::new(&source.folders.work_dir)
            .target_dir(target_dir(&source.folders))
            .output(output.unwrap_or(Path::new(&default)))
            .timeout(Duration::from_secs(3600));
        let overlay_dir = match &source.codegen_dir {
            Some(dir) => absolute(dir),
            None => options.work_dir.join("overlays").join(id.replace('/', "-")),
        };
        options = options.overlay_dir(&overlay_dir);
        let crates = workspace.crates.iter().map(|found| found.name.clone()).collect();
        Ok(Self { id, crates, builder: PluginBuilder::new(spec, options), overlay_dir })
    }
}

/// Reads controller crates with cargo.
pub async fn read_crates(crates: &[PathBuf]) -> Result<Workspace> {
    let crates = crates.to_vec();
    match tokio::task::spawn_blocking(move || Workspace::read(&crates)).await {
        Ok(workspace) => workspace.map_err(explain),
        Err(error) => Err(report(error.to_string(), "")),
    }
}

/// Where cargo compiles.
pub fn target_dir(folders: &Folders) -> PathBuf {
    match &folders.target_dir {
        Some(dir) => absolute(dir),
        None => absolute(&folders.work_dir).join("target"),
    }
}

/// The absolute path; unchanged if there is no current directory.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

//! `cbus inspect`: what is in a plugin file; none of its code is run.

use std::path::{Path, PathBuf};

use controllerbus::Schema;
use controllerbus::error::Code;
use hot_runtime::artifact::inspect;
use hot_runtime::text::escaped;
use miette::Result;
use serde::Serialize;

use crate::cli::Inspect;
use crate::report::{explain, report};
use crate::schema::fields;
use crate::text;

/// What is known about a plugin file.
#[derive(Serialize, Schema)]
pub struct Inspected {
    /// The file.
    file: PathBuf,
    /// The plugin's id.
    id: String,
    /// The plugin's version.
    version: String,
    /// The hash of what it was built from.
    build_hash: String,
    /// The hash of its content (BLAKE3).
    hash: String,
    /// The size of the library in bytes.
    size: u64,
    /// The target triple that it was built for.
    target: String,
    /// The compiler that built it.
    toolchain: String,
    /// `dev` or `release`.
    profile: String,
    /// The fingerprint of its boundary.
    abi: String,
    /// The version of its boundary.
    boundary: u32,
    /// The lowest version of hot-runtime that loads it.
    min_runtime: String,
    /// The entry symbol.
    entry: String,
    /// Why it cannot be loaded here, if it cannot.
    unfit: Option<String>,
    /// The code of that, such as `CB0012`.
    unfit_code: Option<Code>,
    /// What the signature next to it says, if there is one. Not verified: `cbus verify` does that.
    signature: Option<Signature>,
    /// What it has.
    factories: Vec<Factory>,
}

#[derive(Serialize, Schema)]
struct Signature {
    /// The file with the signature.
    file: PathBuf,
    /// The trusted comment in it.
    comment: String,
}

#[derive(Serialize, Schema)]
struct Factory {
    /// The controller's id.
    id: String,
    /// The controller's version.
    version: String,
    /// What it says of itself, in a line.
    description: String,
    /// The crate that it is from.
    #[serde(rename = "crate")]
    crate_name: String,
    /// The id of its config.
    config: String,
    /// The config's JSON schema.
    schema: serde_json::Value,
    /// The ids of the directives that it resolves.
    resolves: Vec<String>,
    /// The JSON schemas of those directives, in the same order; `null` for one that cannot be asked from outside the plugin.
    directives: Vec<serde_json::Value>,
}

pub async fn run(args: &Inspect) -> Result<()> {
    let found = read(&args.file).await?;
    if args.json {
        text::print_json(&found, false);
        return Ok(());
    }
    let signature = match &found.signature {
        None => "none".to_owned(),
        Some(signature) => format!("{} (`cbus verify` checks it)", signature.comment),
    };
    let rows = [
        ("file", found.file.display().to_string()),
        ("plugin", format!("{} {}", found.id, found.version)),
        ("build", found.build_hash.clone()),
        ("size", text::size(found.size)),
        ("content", format!("{} (BLAKE3)", found.hash)),
        ("target", format!("{}, {} profile", found.target, found.profile)),
        ("toolchain", found.toolchain.clone()),
        ("boundary", format!("version {}, fingerprint {}", found.boundary, found.abi)),
        ("needs", format!("hot-runtime {} or later", found.min_runtime)),
        ("entry", found.entry.clone()),
        ("loads here", found.unfit.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"))),
        ("signature", signature),
    ];
    for (name, value) in rows {
        text::print_line(&format!("{name:<10} {}", escaped(&value)));
    }
    for factory in &found.factories {
        text::print_line("");
        text::print_line(&format!("controller {} {}, from crate {}", factory.id, factory.version, factory.crate_name));
        if !factory.description.is_empty() {
            text::print_line(&format!("  {}", escaped(&factory.description)));
        }
        text::print_line(&format!("  config     {}", factory.config));
        let fields = fields(&factory.schema);
        let widest = fields.iter().map(|field| field.path.chars().count()).max().unwrap_or_default();
        for field in fields {
            let required = if field.required { ", required" } else { "" };
            let about = if field.description.is_empty() { String::new() } else { format!(": {}", field.description) };
            text::print_line(&format!("    {:<widest$}   {}{required}{about}", field.path, field.kind));
        }
        let resolves = match factory.resolves.as_slice() {
            [] => "nothing".to_owned(),
            some => some.join(", "),
        };
        text::print_line(&format!("  resolves   {resolves}"));
    }
    Ok(())
}

async fn read(path: &Path) -> Result<Inspected> {
    let (file, read) = (path.to_owned(), path.to_owned());
    let artifact = match tokio::task::spawn_blocking(move || inspect(&read)).await {
        Ok(read) => read.map_err(explain)?,
        Err(error) => return Err(report(error.to_string(), "")),
    };
    let size = artifact.size() as u64;
    let unfit = artifact.check_compatible().err();
    let (unfit_code, unfit) = (unfit.as_ref().map(hot_runtime::Error::code), unfit.map(|error| error.to_string()));
    let signature = read_signature(path);
    let bundle = artifact.bundle;
    Ok(Inspected {
        file,
        id: bundle.id,
        version: bundle.version.to_string(),
        build_hash: bundle.build_hash,
        hash: artifact.hash,
        size,
        target: bundle.target,
        toolchain: bundle.toolchain,
        profile: bundle.profile,
        abi: bundle.abi,
        boundary: bundle.boundary,
        min_runtime: bundle.min_runtime.to_string(),
        entry: bundle.entry,
        unfit,
        unfit_code,
        signature,
        factories: artifact
            .factories
            .into_iter()
            .map(|factory| Factory {
                id: factory.plugin,
                version: factory.version.to_string(),
                description: factory.description,
                crate_name: factory.crate_name,
                config: factory.config,
                schema: factory.schema,
                resolves: factory.resolves,
                directives: factory.directives,
            })
            .collect(),
    })
}

/// The signature next to a file, unverified.
fn read_signature(path: &Path) -> Option<Signature> {
    let file = hot_runtime::sign::signature_path(path);
    let text = std::fs::read_to_string(&file).ok()?;
    let comment = text.lines().find_map(|line| line.strip_prefix("trusted comment: "))?.to_owned();
    Some(Signature { file, comment })
}

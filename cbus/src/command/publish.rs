//! `cbus publish` and `cbus sets push`: put what is signed into a store.

use controllerbus::Schema;
use miette::Result;
use serde::Serialize;

use crate::cli::{Publish, Sets};

/// A release that was published.
#[derive(Serialize, Schema)]
pub struct Published {
    /// The plugin's id.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// The number of the release, which rises with each.
    pub sequence: u64,
    /// After this time it is not installed any more, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The store.
    pub store: String,
    /// The id of the key that signed it.
    pub key: String,
    /// The files.
    pub artifacts: Vec<PublishedFile>,
}

/// A file of a release.
#[derive(Serialize, Schema)]
pub struct PublishedFile {
    /// The target triple that it was built for.
    pub target: String,
    /// The hash of the whole file (BLAKE3), which is its name in the store.
    pub blake3: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A set that was published.
#[derive(Serialize, Schema)]
pub struct Pushed {
    /// Its name.
    pub set: String,
    /// Its number, which rises with each.
    pub number: u64,
    /// The store.
    pub store: String,
    /// The id of the key that signed it.
    pub key: String,
}

/// `cbus publish`
#[cfg(not(feature = "fleet"))]
pub async fn publish(_: Publish) -> Result<()> {
    Err(super::fleet::missing("this command"))
}

/// `cbus sets`
#[cfg(not(feature = "fleet"))]
pub async fn sets(_: Sets) -> Result<()> {
    Err(super::fleet::missing("this command"))
}

#[cfg(feature = "fleet")]
pub use with_stores::{publish, sets};

#[cfg(feature = "fleet")]
mod with_stores {
    use std::time::Duration;

    use controllerbus_rollout::Publisher;
    use controllerbus_rollout::placement::SetPublisher;
    use hot_runtime::sign::SecretKey;

    use super::*;
    use crate::cli::{SetsPush, SignWith};
    use crate::command::rollout::store::{explain, of};
    use crate::command::sign::password;
    use crate::report::{io, report};
    use crate::text::{print_json, print_line, size};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// `cbus publish`
    pub async fn publish(args: Publish) -> Result<()> {
        let (key, id) = key(&args.key).await?;
        let store = of(&args.store, &args.to).await?;
        let publisher = Publisher::new(&store, key).lasting(DAY * args.days).above(args.above);
        let release = publisher.publish(&args.files).await.map_err(explain)?;
        let artifacts = release.artifacts.iter().map(|file| PublishedFile {
            target: file.target.clone(),
            blake3: file.blake3.clone(),
            size: file.size,
        });
        let published = Published {
            plugin: release.plugin.clone(),
            version: release.version.to_string(),
            sequence: release.sequence,
            expires_ms: release.expires_ms,
            store: store.url().to_owned(),
            key: id,
            artifacts: artifacts.collect(),
        };
        if args.json {
            print_json(&published, false);
            return Ok(());
        }
        let Published { plugin, version, sequence, store, key, .. } = &published;
        print_line(&format!("{plugin} {version} is release {sequence} in {store}, signed by key {key}"));
        for file in &published.artifacts {
            print_line(&format!("  {}  {}  {}", file.target, size(file.size), &file.blake3[..16]));
        }
        print_line(&format!("Nothing runs it yet: cbus rollout start {plugin}@{version} --store {store}"));
        Ok(())
    }

    /// `cbus sets`
    pub async fn sets(command: Sets) -> Result<()> {
        let Sets::Push(args) = command;
        push(args).await
    }

    async fn push(args: SetsPush) -> Result<()> {
        let stem = || args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let Some(set) = args.name.clone().or_else(stem) else {
            return Err(report(format!("{} names no file", args.file.display()), "name the set with --name"));
        };
        let text = std::fs::read_to_string(&args.file).map_err(io("reading the set", &args.file))?;
        let (key, id) = key(&args.key).await?;
        let store = of(&args.store, &args.to).await?;
        let number = SetPublisher::new(&store, key).publish(&set, &text).await.map_err(explain)?;
        let pushed = Pushed { set, number, store: store.url().to_owned(), key: id };
        if args.json {
            print_json(&pushed, false);
        } else {
            let Pushed { set, number, store, key } = &pushed;
            print_line(&format!("The set {set} is number {number} in {store}, signed by key {key}"));
        }
        Ok(())
    }

    /// The key, and its id.
    async fn key(with: &SignWith) -> Result<(SecretKey, String)> {
        let (path, password) = (with.sign.clone(), password(with.password_file.as_deref())?);
        let read = tokio::task::spawn_blocking(move || SecretKey::read(&path, password.as_deref()));
        let read = read.await.map_err(|error| report(error.to_string(), ""))?;
        let key = read.map_err(crate::report::explain)?;
        let id = key.id().to_string();
        Ok((key, id))
    }
}

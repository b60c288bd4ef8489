//! `cbus verify`, `cbus sign` and `cbus keygen`.

use std::path::{Path, PathBuf};

use controllerbus::Schema;
use hot_runtime::Trust;
use hot_runtime::artifact::Checks;
use hot_runtime::sign::{self, PublicKey, SecretKey};
use miette::Result;
use serde::Serialize;

use crate::cli::{Keygen, Sign, Verify};
use crate::report::{explain, io, report};
use crate::text::{print_json, print_line};

/// A plugin file that was verified.
#[derive(Serialize, Schema)]
pub struct Verified {
    /// The file.
    file: PathBuf,
    /// The plugin's id.
    id: String,
    /// The plugin's version.
    version: String,
    /// The hash of its content (BLAKE3).
    hash: String,
    /// The key that signed it; none if no key was given.
    signed_by: Option<String>,
}

/// A signature that was written.
#[derive(Serialize, Schema)]
pub struct Signed {
    /// The plugin file.
    file: PathBuf,
    /// The file with the signature.
    signature: PathBuf,
    /// The id of the key.
    key: String,
}

/// Keys that were generated.
#[derive(Serialize, Schema)]
pub struct Keys {
    /// Their id.
    key: String,
    /// The secret key's file.
    secret: PathBuf,
    /// The public key's file.
    public: PathBuf,
}

/// `cbus verify`
pub async fn verify(args: Verify) -> Result<()> {
    let file = args.file.clone();
    let found = blocking(move || {
        let keys = args.key.iter().map(|key| PublicKey::read(key)).collect::<hot_runtime::Result<Vec<_>>>()?;
        let trust = if keys.is_empty() { Trust::anyone() } else { Trust::keys(keys) };
        // The check is about the file itself: it is not loaded from where it is now.
        let artifact = Checks::new(trust).allow_world_writable(true).verify(&args.file)?;
        Ok(Verified {
            file: args.file,
            id: artifact.bundle.id.clone(),
            version: artifact.bundle.version.to_string(),
            hash: artifact.hash.clone(),
            signed_by: artifact.signed_by().map(str::to_owned),
        })
    })
    .await?;
    if args.json {
        print_json(&found, false);
        return Ok(());
    }
    let signed = match &found.signed_by {
        Some(key) => format!("signed by key {key}"),
        None => "its signature was not checked (no --key)".to_owned(),
    };
    print_line(&format!(
        "{}: {} {} is intact and can be loaded here; {signed}",
        file.display(),
        found.id,
        found.version
    ));
    Ok(())
}

/// `cbus sign`
pub async fn sign(args: Sign) -> Result<()> {
    let password = password(args.password_file.as_deref())?;
    let signed = blocking(move || {
        let key = SecretKey::read(&args.key, password.as_deref())?;
        let signature = sign::sign(&args.file, &key)?;
        Ok(Signed { file: args.file, signature, key: key.id().to_string() })
    })
    .await?;
    if args.json {
        print_json(&signed, false);
    } else {
        print_line(&format!("{}  signed by key {}", signed.signature.display(), signed.key));
    }
    Ok(())
}

/// `cbus keygen`
pub async fn keygen(args: Keygen) -> Result<()> {
    let password = password(args.password_file.as_deref())?;
    let (secret, public) = (args.secret.clone(), args.public.clone());
    let key = blocking(move || sign::generate(&args.secret, &args.public, password.as_deref())).await?;
    if args.json {
        print_json(&Keys { key: key.id().to_string(), secret, public }, false);
        return Ok(());
    }
    print_line(&format!("Generated key {}", key.id()));
    print_line(&format!("  {}    keep it secret: `cbus sign FILE --key {0}`", secret.display()));
    print_line(&format!("  {}    share it: `cbus run --trust-key {0} --require-signature`", public.display()));
    Ok(())
}

pub fn password(file: Option<&Path>) -> Result<Option<String>> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(io("reading the password", file))?;
    let password = text.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        return Err(report(format!("the password in {} is empty", file.display()), ""));
    }
    Ok(Some(password))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> hot_runtime::Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(explain),
        Err(error) => Err(report(error.to_string(), "")),
    }
}

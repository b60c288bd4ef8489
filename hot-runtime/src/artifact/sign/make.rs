//! Makes keys and signatures.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use super::{PublicKey, id_text, signature_path};
use crate::artifact;
use crate::error::{Error, Result};
use crate::sys::files::{create_private, make_readable};

/// A key to sign artifacts with.
pub struct SecretKey {
    key: minisign::SecretKey,
}

impl SecretKey {
    /// Reads a key from a file, with the password if one protects it. Deriving a key from a password is deliberately
    /// slow: about a second.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Key`] if it is not a minisign secret key, or the password is
    /// missing or wrong.
    pub fn read(path: &Path, password: Option<&str>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading a secret key", path))?;
        let refuse = |error: minisign::PError| Error::Key { path: path.to_owned(), reason: error.to_string() };
        let boxed = minisign::SecretKeyBox::from_string(&text).map_err(refuse)?;
        let key = match password {
            Some(password) => boxed.into_secret_key(Some(password.to_owned())),
            // Never prompts on the terminal.
            None => boxed.into_unencrypted_secret_key(),
        };
        Ok(Self { key: key.map_err(refuse)? })
    }

    /// The id of its public key.
    pub fn id(&self) -> String {
        id_text(self.key.keynum())
    }
}

// The library's own implementation would print the key.
impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretKey").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Generates a key pair and writes it to two new files, the secret one readable only by its owner. A password encrypts
/// the secret key.
///
/// # Errors
/// [`Error::Io`] when a file exists already or cannot be written.
pub fn generate(secret: &Path, public: &Path, password: Option<&str>) -> Result<PublicKey> {
    let refuse = |error: minisign::PError| Error::Key { path: secret.to_owned(), reason: error.to_string() };
    let pair = match password {
        Some(password) => minisign::KeyPair::generate_encrypted_keypair(Some(password.to_owned())),
        None => minisign::KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.map_err(refuse)?;
    let secret_text = pair.sk.to_box(None).map_err(refuse)?.to_string();
    let public_text = pair.pk.to_box().map_err(refuse)?.to_string();
    write_new(secret, &secret_text, true)?;
    if let Err(error) = write_new(public, &public_text, false) {
        let _ = std::fs::remove_file(secret);
        return Err(error);
    }
    PublicKey::parse_from(&public_text, public)
}

fn write_new(path: &Path, text: &str, private: bool) -> Result<()> {
    let write = || {
        let mut file = if private { create_private(path)? } else { File::create_new(path)? };
        file.write_all(text.as_bytes())
    };
    write().map_err(Error::io("writing a key (an existing file is never overwritten)", path))
}

/// Signs an artifact: checks that it is complete, and writes its signature beside it. Returns the signature's path.
/// Blocks.
///
/// # Errors
/// As [`artifact::inspect`], and [`Error::Io`] when the signature cannot be written.
pub fn sign(artifact: &Path, key: &SecretKey) -> Result<PathBuf> {
    // A file of one's own may have any size.
    let read = artifact::Read::file(artifact, u64::MAX)?.inspect()?;
    let about = format!(
        "plugin:{} version:{} build:{} blake3:{}",
        read.bundle.id, read.bundle.version, read.bundle.build_hash, read.hash
    );
    let refuse = |error: minisign::PError| Error::Key { path: artifact.to_owned(), reason: error.to_string() };
    let signed = minisign::sign(None, &key.key, read.file(), Some(&about), None).map_err(refuse)?;
    let path = signature_path(artifact);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(signed.to_string().as_bytes())?;
        make_readable(file.as_file())?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    written().map_err(Error::io("writing a signature", &path))?;
    Ok(path)
}

/// Signs bytes that are no artifact, such as a document about artifacts. `about` is the signature's trusted comment: one line
/// that nobody else can change. Returns the text of the signature.
///
/// # Errors
/// [`Error::Key`] when the key cannot sign it.
pub fn sign_bytes(bytes: &[u8], about: &str, key: &SecretKey) -> Result<String> {
    let refuse = |error: minisign::PError| Error::Key { path: PathBuf::from(about), reason: error.to_string() };
    let signed = minisign::sign(None, &key.key, Cursor::new(bytes), Some(about), None).map_err(refuse)?;
    Ok(signed.to_string())
}

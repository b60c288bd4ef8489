//! Signatures: minisign keys, and signatures in a file beside the artifact. [`crate::artifact::Trust`] decides which
//! count.
//!
//! The signature of `greeter.cbus.so` is `greeter.cbus.so.minisig`. It covers the whole file, in the format of the
//! `minisign` tool (`minisign -Vm greeter.cbus.so -p minisign.pub`).
//!
//! Making keys and signing need the feature `sign`, which is a default one; verifying does not.
//!
#![cfg_attr(feature = "sign", doc = "```")]
#![cfg_attr(not(feature = "sign"), doc = "```ignore")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let (secret_file, public_file) = (directory.path().join("minisign.key"), directory.path().join("minisign.pub"));
//! use hot_runtime::sign::{self, PublicKey, SecretKey};
//!
//! let public = sign::generate(&secret_file, &public_file, None)?;
//! let secret = SecretKey::read(&secret_file, None)?;
//! assert_eq!(PublicKey::read(&public_file)?.id(), public.id());
//! assert_eq!(secret.id(), public.id());
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};

use ct_codecs::{Base64, Decoder};

use crate::error::{Error, Result};
use crate::util::with_ending;

#[cfg(feature = "sign")]
mod make;

#[cfg(feature = "sign")]
pub use make::{SecretKey, generate, sign, sign_bytes};

/// The path of an artifact's signature: its own path with `.minisig` appended.
#[must_use]
pub fn signature_path(artifact: &Path) -> PathBuf {
    with_ending(artifact, ".minisig")
}

/// A key to verify signatures with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub(crate) key: minisign_verify::PublicKey,
    id: String,
}

impl PublicKey {
    /// Parses a key from its base64 text, or from the two lines of a `.pub` file.
    ///
    /// # Errors
    /// [`Error::Key`] when it is not a minisign public key.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_from(text, Path::new("the given text"))
    }

    /// Reads a key from a `.pub` file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Key`] when it is not a minisign public key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading a public key", path))?;
        Self::parse_from(&text, path)
    }

    fn parse_from(text: &str, path: &Path) -> Result<Self> {
        let encoded = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let refuse = |reason: String| Error::Key { path: path.to_owned(), reason };
        let key = minisign_verify::PublicKey::from_base64(encoded)
            .map_err(|error| refuse(format!("it is not a minisign public key: {error}")))?;
        // What was parsed is two bytes for the algorithm, eight for the id, and the key.
        let parsed = Base64::decode_to_vec(encoded, None).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { key, id: id_text(&parsed[2..10]) })
    }

    /// The key's id, as the `minisign` tool shows it: 16 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl std::str::FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Verifies the signature of bytes that are no artifact, such as a document about artifacts, by one of these keys. Returns that
/// key's id. `what` names the bytes in messages.
///
/// # Errors
/// [`Error::Key`] when it is not a signature, none of the keys has made it, or it is not of these bytes.
pub fn verify_bytes(what: &Path, bytes: &[u8], signature: &str, keys: &[PublicKey]) -> Result<String> {
    let refuse = |reason: String| Error::Key { path: what.to_owned(), reason };
    let signature = minisign_verify::Signature::decode(signature)
        .map_err(|error| refuse(format!("this is not a minisign signature: {error}")))?;
    for key in keys {
        match key.key.verify(bytes, &signature, false) {
            Ok(()) => return Ok(key.id.clone()),
            Err(minisign_verify::Error::UnexpectedKeyId) => {}
            Err(error) => return Err(refuse(format!("the signature by key {} is not valid: {error}", key.id))),
        }
    }
    let known: Vec<_> = keys.iter().map(PublicKey::id).collect();
    Err(refuse(format!("it is signed with none of the accepted keys ({})", known.join(", "))))
}

fn id_text(keynum: &[u8]) -> String {
    keynum.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(all(test, feature = "sign"))]
mod tests {
    use super::*;
    use crate::artifact::{Checks, Trust};
    use crate::tiny::Tiny;

    struct Signed {
        folder: tempfile::TempDir,
        artifact: PathBuf,
        key: PublicKey,
    }

    fn keys(folder: &Path, name: &str) -> (SecretKey, PublicKey) {
        let (secret, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
        let key = generate(&secret, &public, None).expect("keys");
        assert_eq!(PublicKey::read(&public).expect("the public key"), key);
        (SecretKey::read(&secret, None).expect("the secret key"), key)
    }

    fn signed() -> Signed {
        let folder = tempfile::tempdir().expect("a folder");
        let artifact = folder.path().join("tiny.cbus.so");
        Tiny::default().seal(&artifact);
        let (secret, key) = keys(folder.path(), "mine");
        let signature = sign(&artifact, &secret).expect("signing");
        assert_eq!(signature, signature_path(&artifact));
        Signed { folder, artifact, key }
    }

    fn check(trust: &Trust, artifact: &Path) -> Result<Option<String>> {
        let verified = Checks::new(trust.clone()).verify(artifact)?;
        Ok(verified.signed_by().map(str::to_owned))
    }

    #[test]
    fn a_signature_by_an_accepted_key_is_accepted_and_by_another_is_not() {
        let Signed { folder, artifact, key } = signed();
        let (_, other) = keys(folder.path(), "other");
        let both = Trust::keys([other.clone(), key.clone()]);
        assert_eq!(check(&both, &artifact).expect("accepted"), Some(key.id().to_owned()));
        let error = check(&Trust::keys([other.clone()]), &artifact).expect_err("refused").to_string();
        assert!(error.contains("none of the accepted keys") && error.contains(other.id()), "{error}");
        assert_eq!(check(&Trust::keys([other]).or_unsigned(), &artifact).expect("need not be signed"), None);
    }

    #[test]
    fn what_is_not_signed_is_refused_only_where_a_signature_is_required() {
        let Signed { folder: _folder, artifact, key } = signed();
        std::fs::remove_file(signature_path(&artifact)).expect("removing");
        let trust = Trust::keys([key]);
        assert_eq!(check(&trust.clone().or_unsigned(), &artifact).expect("accepted"), None);
        let error = check(&trust, &artifact).expect_err("refused").to_string();
        assert!(error.contains("it is not signed"), "{error}");
    }

    #[test]
    fn a_file_that_changed_after_it_was_signed_is_refused_in_any_case() {
        let Signed { folder: _folder, artifact, key } = signed();
        // Whole and plausible, but not what was signed.
        Tiny { min_runtime: "0.0.9", ..Tiny::default() }.seal(&artifact);
        let error = check(&Trust::keys([key]).or_unsigned(), &artifact).expect_err("refused").to_string();
        assert!(error.contains("is not valid"), "{error}");
    }

    #[test]
    fn a_damaged_signature_is_refused_with_a_reason() {
        let Signed { folder: _folder, artifact, key } = signed();
        let path = signature_path(&artifact);
        let whole = std::fs::read(&path).expect("the signature");
        let trust = Trust::keys([key]);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).expect("writing");
            let end_of_comment = whole.iter().position(|byte| *byte == b'\n').expect("a line");
            // The first line is nobody's claim.
            if at < end_of_comment {
                continue;
            }
            assert!(check(&trust, &artifact).is_err(), "a flip at byte {at} went unnoticed");
        }
        for bad in ["", "hello", &"x".repeat(100_000)] {
            std::fs::write(&path, bad).expect("writing");
            assert!(check(&trust, &artifact).is_err());
        }
    }

    #[test]
    fn a_key_that_is_none_says_so_and_an_existing_key_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = PublicKey::parse("not a key").expect_err("refused").to_string();
        assert!(error.contains("not a minisign public key"), "{error}");
        let (secret, public) = (folder.path().join("a.key"), folder.path().join("a.pub"));
        generate(&secret, &public, None).expect("keys");
        let before = std::fs::read(&secret).expect("the key");
        assert!(generate(&secret, &folder.path().join("b.pub"), None).is_err());
        assert_eq!(std::fs::read(&secret).expect("the key"), before);
        assert!(SecretKey::read(&public, None).is_err());
    }

    #[test]
    fn a_document_is_accepted_with_its_signature_by_an_accepted_key_and_only_then() {
        let folder = tempfile::tempdir().expect("a folder");
        let (secret, key) = keys(folder.path(), "mine");
        let (_, other) = keys(folder.path(), "other");
        let signature = sign_bytes(b"a document", "release of a plugin", &secret).expect("signing");
        let what = Path::new("1.json");
        let both = [other.clone(), key.clone()];
        assert_eq!(verify_bytes(what, b"a document", &signature, &both).expect("accepted"), key.id());
        let changed = signature.replace("release of", "release for");
        for (bytes, signature, keys, why) in [
            (&b"another document"[..], &signature, &both[..], "is not valid"),
            (b"a document", &signature, &both[..1], "none of the accepted keys"),
            (b"a document", &changed, &both, "is not valid"),
            (b"a document", &"hello".to_owned(), &both, "not a minisign signature"),
        ] {
            let error = verify_bytes(what, bytes, signature, keys).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_key_with_a_password_needs_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (secret, public) = (folder.path().join("a.key"), folder.path().join("a.pub"));
        let key = generate(&secret, &public, Some("secret")).expect("keys");
        assert!(SecretKey::read(&secret, None).is_err());
        assert!(SecretKey::read(&secret, Some("wrong")).is_err());
        assert_eq!(SecretKey::read(&secret, Some("secret")).expect("the key").id(), key.id());
    }
}

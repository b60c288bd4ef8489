//! Whose artifacts a host loads.

use std::path::Path;

use controllerbus::error::Code;
use minisign_verify::{Signature, StreamVerifier};

use super::io::read_bounded;
use super::{Refusal, refused};
use crate::artifact::sign::{PublicKey, signature_path};
use crate::error::{Error, Result};

/// Signatures have a few hundred bytes.
const LARGEST_SIGNATURE: u64 = 64 * 1024;

/// Whose artifacts a host loads. A plugin is native code that can do whatever its host can, so the host has to decide.
///
/// ```no_run
/// # fn example() -> hot_runtime::Result<()> {
/// use hot_runtime::Trust;
/// use hot_runtime::sign::PublicKey;
///
/// // Only what is signed with one of these keys:
/// let signed = Trust::keys([PublicKey::read("minisign.pub".as_ref())?]);
/// // Every file to which only this user, or the administrator, can write:
/// let mine = Trust::anyone();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Trust {
    keys: Vec<PublicKey>,
    unsigned: Unsigned,
}

/// What to do with a file that no accepted key has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsigned {
    Accepted,
    Refused,
    /// The host has not decided.
    Undecided,
}

impl Trust {
    /// Accepts only what is signed with one of these keys. Without keys it accepts nothing.
    #[must_use]
    pub fn keys(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self { keys: keys.into_iter().collect(), unsigned: Unsigned::Refused }
    }

    /// Accepts every plugin file to which only this user or the administrator can write, whoever made it.
    #[must_use]
    pub fn anyone() -> Self {
        Self { keys: Vec::new(), unsigned: Unsigned::Accepted }
    }

    /// Also accepts what is not signed with one of the keys. An invalid signature by one of them is still refused.
    #[must_use]
    pub fn or_unsigned(mut self) -> Self {
        self.unsigned = Unsigned::Accepted;
        self
    }

    /// Refuses all files until the host decides.
    pub(crate) fn undecided() -> Self {
        Self { keys: Vec::new(), unsigned: Unsigned::Undecided }
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.unsigned == Unsigned::Undecided
    }

    /// Whether nothing can ever be accepted: a signature is required and there is no key.
    pub fn accepts_nothing(&self) -> bool {
        self.keys.is_empty() && self.unsigned == Unsigned::Refused
    }

    /// Reads the signature of an artifact, before anything of the artifact is read.
    ///
    /// # Errors
    /// A signature is required, and there is none by an accepted key.
    pub(super) fn claim(&self, artifact: &Path) -> Result<Claim<'_>> {
        let refuse = |refusal: Refusal| refused(artifact, refusal);
        if self.unsigned == Unsigned::Undecided {
            let reason = "the host has not set whose plugin files it loads".to_owned();
            return Err(refuse((
                Code::TRUST_UNDECIDED,
                reason,
                "pass `Trust::keys(..)` or `Trust::anyone()` to its builder",
            )));
        }
        let unsigned = Claim { key: None, signature: None };
        if self.keys.is_empty() && self.unsigned == Unsigned::Accepted {
            return Ok(unsigned);
        }
        let path = signature_path(artifact);
        let text = match read_bounded(&path, LARGEST_SIGNATURE, "reading a signature") {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if self.unsigned == Unsigned::Accepted {
                    return Ok(unsigned);
                }
                let reason = format!("it is not signed: {} does not exist", path.display());
                return Err(refuse((Code::NOT_SIGNED, reason, "sign it with a key that this host accepts")));
            }
            Err(error) => return Err(error),
        };
        let signature = Signature::decode(&String::from_utf8_lossy(&text)).map_err(|error| {
            refuse((
                Code::BAD_SIGNATURE,
                format!("{} is not a minisign signature: {error}", path.display()),
                "sign it again",
            ))
        })?;
        let made = |key: &&PublicKey| {
            !matches!(key.key.verify_stream(&signature), Err(minisign_verify::Error::UnexpectedKeyId))
        };
        let key = self.keys.iter().find(made);
        if key.is_none() && self.unsigned == Unsigned::Refused {
            let known: Vec<_> = self.keys.iter().map(PublicKey::id).collect();
            let reason = format!("it is signed, but with none of the accepted keys ({})", known.join(", "));
            return Err(refuse((Code::OTHER_KEY, reason, "sign it with one of them, or have the host accept the key")));
        }
        Ok(Claim { key, signature: Some(signature) })
    }
}

/// A signature that is yet to be verified, if there is one by an accepted key.
pub(super) struct Claim<'a> {
    key: Option<&'a PublicKey>,
    signature: Option<Signature>,
}

impl<'a> Claim<'a> {
    /// Verifies the bytes as they are read; `None` if there is no signature.
    pub(super) fn verifier(&self, artifact: &Path) -> Result<Option<Verifier<'_>>> {
        let (Some(key), Some(signature)) = (self.key, &self.signature) else { return Ok(None) };
        let stream = key.key.verify_stream(signature).map_err(|error| unfit(artifact, key, &error))?;
        Ok(Some(Verifier { key, stream }))
    }

    /// The key that it claims.
    pub(super) fn key(&self) -> Option<&'a PublicKey> {
        self.key
    }
}

/// A signature that is being verified.
pub(super) struct Verifier<'a> {
    key: &'a PublicKey,
    stream: StreamVerifier<'a>,
}

impl Verifier<'_> {
    pub(super) fn update(&mut self, part: &[u8]) {
        self.stream.update(part);
    }

    /// Checks the signature against all that was read.
    pub(super) fn finish(mut self, artifact: &Path) -> Result<()> {
        self.stream.finalize().map_err(|error| unfit(artifact, self.key, &error))
    }
}

fn unfit(artifact: &Path, key: &PublicKey, error: &minisign_verify::Error) -> Error {
    let reason = format!("its signature by key {} is not valid: {error}", key.id());
    refused(artifact, (Code::BAD_SIGNATURE, reason, "it was changed after it was signed; rebuild and sign it again"))
}

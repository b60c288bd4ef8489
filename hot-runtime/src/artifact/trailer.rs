//! The last bytes of every artifact: the BLAKE3 hash of what comes before them, its length, and a magic word.

use controllerbus::error::Code;

use super::Refusal;

const MAGIC: &[u8; 8] = b"CBUSART1";

/// Hash, body length, magic.
pub(super) const TRAILER: usize = 32 + 8 + 8;

/// The trailer of a library of this hash and length.
pub(super) fn trailer(hash: &blake3::Hash, length: usize) -> [u8; TRAILER] {
    let mut trailer = [0; TRAILER];
    trailer[..32].copy_from_slice(hash.as_bytes());
    trailer[32..40].copy_from_slice(&(length as u64).to_le_bytes());
    trailer[40..].copy_from_slice(MAGIC);
    trailer
}

/// Adds the trailer to a library.
#[must_use]
pub fn with_trailer(mut library: Vec<u8>) -> Vec<u8> {
    let trailer = trailer(&blake3::hash(&library), library.len());
    library.extend_from_slice(&trailer);
    library
}

/// Checks the trailer of a file whose body has this hash.
pub(super) fn check(file: &[u8], hash: &blake3::Hash) -> Result<(), Refusal> {
    const REPLACE: &str = "copy or build it again; it is damaged or incomplete";
    let Some(length) = file.len().checked_sub(TRAILER) else {
        return Err((Code::DAMAGED, format!("it has {} bytes, too few for an artifact", file.len()), REPLACE));
    };
    let trailer = &file[length..];
    if &trailer[40..] != MAGIC {
        return Err((
            Code::NOT_A_PLUGIN,
            "it has no artifact trailer".to_owned(),
            "only files built by hot-runtime can be loaded; build the plugin with it, or copy the file again",
        ));
    }
    if trailer[32..40] != (length as u64).to_le_bytes() {
        return Err((Code::DAMAGED, "its length differs from the one in its trailer".to_owned(), REPLACE));
    }
    if trailer[..32] != *hash.as_bytes() {
        return Err((Code::DAMAGED, "its hash differs from the one in its trailer".to_owned(), REPLACE));
    }
    Ok(())
}

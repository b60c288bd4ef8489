//! Whatever bytes an artifact has, reading it ends with an artifact or an error.
//!
//! The trailer is made to fit, because no fuzzer finds a BLAKE3 hash: so the reader of the library is reached. Every
//! eighth input goes in as it is, for the trailer itself.
#![no_main]

use std::path::Path;

use hot_runtime::artifact::Artifact;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    if data.len() % 8 != 0 {
        bytes.extend_from_slice(blake3::hash(data).as_bytes());
        bytes.extend_from_slice(&(data.len() as u64).to_le_bytes());
        bytes.extend_from_slice(b"CBUSART1");
    }
    if let Ok(artifact) = Artifact::from_bytes(Path::new("fuzz"), bytes) {
        assert!(!artifact.factories.is_empty());
        let _ = artifact.check_compatible();
    }
});

//! Whatever bytes an artifact has, inspecting it ends with an artifact or an error.
//!
//! The trailer is made to fit, because no fuzzer finds a BLAKE3 hash: so the reader of the library is reached. Every
//! eighth input goes in as it is, for the trailer itself.
#![no_main]

use std::path::Path;

use hot_runtime::artifact::{Read, with_trailer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = if data.len() % 8 == 0 { data.to_vec() } else { with_trailer(data.to_vec()) };
    if let Ok(artifact) = Read::bytes(Path::new("fuzz"), bytes).inspect() {
        assert!(!artifact.factories.is_empty());
        let _ = artifact.check_compatible();
    }
});

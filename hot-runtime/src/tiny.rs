//! For tests only: artifacts of a kilobyte with any manifest that a test needs. They can be read, not run.

use std::path::Path;

use controllerbus::plugin::manifest::{ABI_HEX, BOUNDARY_VERSION, MIN_RUNTIME, VERSION};
use object::write::{Object, StandardSegment};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};

/// The contents of a tiny artifact.
pub(crate) struct Tiny {
    pub(crate) architecture: Architecture,
    pub(crate) target: &'static str,
    pub(crate) boundary: u32,
    pub(crate) abi: String,
    pub(crate) controllerbus: &'static str,
    pub(crate) panic: &'static str,
    pub(crate) min_runtime: &'static str,
    pub(crate) factories: Vec<&'static str>,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            architecture: match std::env::consts::ARCH {
                "aarch64" => Architecture::Aarch64,
                _ => Architecture::X86_64,
            },
            target: env!("CBUS_TARGET"),
            boundary: BOUNDARY_VERSION,
            abi: ABI_HEX.to_owned(),
            controllerbus: VERSION,
            panic: "unwind",
            min_runtime: MIN_RUNTIME,
            factories: vec!["tiny"],
        }
    }
}

impl Tiny {
    /// The unsealed library.
    pub(crate) fn library(&self) -> Vec<u8> {
        let Self { architecture, target, boundary, abi, controllerbus, panic, min_runtime, factories } = self;
        let mut manifest = format!(
            "{{\"record\":\"bundle\",\"id\":\"tiny\",\"version\":\"1.0.0\",\"build_hash\":\"0123456789abcdef\",\
             \"target\":\"{target}\",\"toolchain\":\"none\",\"profile\":\"dev\",\"entry\":\"entry\",\"abi\":\"{abi}\",\
             \"boundary\":{boundary},\"controllerbus\":\"{controllerbus}\",\"panic\":\"{panic}\",\"min_runtime\":\"{min_runtime}\"}}\n"
        );
        for factory in factories {
            manifest.push_str(&format!(
                "{{\"record\":\"factory\",\"plugin\":\"{factory}\",\"version\":\"1.0.0\",\"crate\":\"tiny\",\
                 \"crate_version\":\"0.1.0\",\"description\":\"\",\"entry\":\"entry\",\"abi\":\"{abi}\",\
                 \"config\":\"tiny\",\"resolves\":[]}}\n"
            ));
        }
        library(*architecture, manifest.as_bytes())
    }

    /// Writes the sealed artifact.
    pub(crate) fn seal(&self, out: &Path) {
        seal(&self.library(), out);
    }
}

/// Makes a library with this manifest.
pub(crate) fn library(architecture: Architecture, manifest: &[u8]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, architecture, Endianness::Little);
    let segment = object.segment_name(StandardSegment::Data).to_vec();
    let section = object.add_section(segment, b".cbus.manifest".to_vec(), SectionKind::ReadOnlyData);
    object.append_section_data(section, manifest, 1);
    let mut bytes = object.write().expect("an object file");
    // ET_REL becomes ET_DYN: what is linked differs in more, but not in what is read.
    bytes[16] = 3;
    bytes
}

/// Seals some bytes.
pub(crate) fn seal(library: &[u8], out: &Path) {
    let body = out.with_extension("body");
    std::fs::write(&body, library).expect("writing");
    crate::artifact::seal(&body, out).expect("sealing");
    std::fs::remove_file(&body).expect("removing");
}

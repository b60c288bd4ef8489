//! Seals built libraries into artifacts, and reads and verifies artifacts without executing any of them.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use controllerbus::plugin::manifest::{ABI_HEX, BOUNDARY_VERSION};
use object::{Object, ObjectSection};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::overlay::slug;

/// The last bytes of every artifact.
const MAGIC: &[u8; 8] = b"CBUSART1";
/// Hash, body length, magic.
const TRAILER: usize = 32 + 8 + 8;

/// What the overlay says of the whole plugin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BundleRecord {
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: semver::Version,
    /// The hash of what it was built from.
    pub build_hash: String,
    /// The target triple.
    pub target: String,
    /// The compiler.
    pub toolchain: String,
    /// `dev` or `release`.
    pub profile: String,
    /// The entry symbol.
    pub entry: String,
    /// The fingerprint of the types that cross the boundary.
    pub abi: String,
    /// The version of the boundary's meaning.
    pub boundary: u32,
    /// The lowest runtime version that it works with.
    pub min_runtime: semver::Version,
}

/// What one `#[hot_plugin]` says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FactoryRecord {
    /// The id given to the attribute.
    pub plugin: String,
    /// The version given to the attribute.
    pub version: semver::Version,
    /// The crate's name.
    #[serde(rename = "crate")]
    pub crate_name: String,
    /// The crate's version.
    pub crate_version: String,
    /// One line about it.
    pub description: String,
    /// The crate's own entry symbol.
    pub entry: String,
    /// The fingerprint of the types that cross the boundary.
    pub abi: String,
    /// The config ID.
    pub config: String,
    /// The ids of the directives that it resolves.
    pub resolves: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
enum Record {
    Bundle(BundleRecord),
    Factory(FactoryRecord),
}

/// A sealed artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The hash of its body, as hex.
    pub hash: String,
    /// Its size in bytes, with the trailer.
    pub size: u64,
}

/// Copies a built library to `out`, with a trailer that holds its BLAKE3 hash. Readers see the old file or the whole new one.
///
/// # Errors
/// [`Error::Io`] with the file that could not be read or written.
pub fn seal(library: &Path, out: &Path) -> Result<Sealed> {
    let body = std::fs::read(library).map_err(Error::io("reading the built library", library))?;
    let folder = out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("creating the artifact's folder", folder))?;
    let hash = blake3::hash(&body);
    let failed = || Error::io("writing the artifact", out);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed())?;
    file.write_all(&body).map_err(failed())?;
    file.write_all(hash.as_bytes()).map_err(failed())?;
    file.write_all(&(body.len() as u64).to_le_bytes()).map_err(failed())?;
    file.write_all(MAGIC).map_err(failed())?;
    file.persist(out).map_err(|error| failed()(error.error))?;
    Ok(Sealed { hash: hash.to_hex().to_string(), size: (body.len() + TRAILER) as u64 })
}

/// A verified artifact: what was checked is what these bytes are.
pub struct Artifact {
    /// Where it was read from.
    pub path: PathBuf,
    /// The library, without the trailer.
    bytes: Vec<u8>,
    /// The BLAKE3 hash of the library, as hex.
    pub hash: String,
    /// What it says of itself.
    pub bundle: BundleRecord,
    /// What its factories say of themselves.
    pub factories: Vec<FactoryRecord>,
}

impl Artifact {
    /// Reads and verifies a file: trailer, hash, format, architecture, manifest, boundary, target. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Artifact`] with what is wrong and what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("reading the plugin file", path))?;
        Self::verify(path, bytes).map_err(|(reason, help)| Error::Artifact {
            path: path.to_owned(),
            reason,
            help: help.to_owned(),
        })
    }

    fn verify(path: &Path, mut bytes: Vec<u8>) -> std::result::Result<Self, (String, &'static str)> {
        const REBUILD: &str = "build the plugin again";
        const REPLACE: &str = "copy or build it again; it is damaged or was not written to its end";
        let Some(body) = bytes.len().checked_sub(TRAILER) else {
            return Err((format!("it has {} bytes, too few for an artifact", bytes.len()), REPLACE));
        };
        let (hash, rest) = bytes[body..].split_at(32);
        let (length, magic) = rest.split_at(8);
        if magic != MAGIC {
            return Err((
                "it has no artifact trailer".to_owned(),
                "only files built by hot-runtime are loaded; build the plugin with it",
            ));
        }
        if length != (body as u64).to_le_bytes() {
            return Err(("its length is not the one in its trailer".to_owned(), REPLACE));
        }
        let computed = blake3::hash(&bytes[..body]);
        if computed.as_bytes() != hash {
            return Err(("its content does not have the hash in its trailer".to_owned(), REPLACE));
        }
        bytes.truncate(body);
        let (bundle, factories) = {
            let file =
                object::File::parse(&*bytes).map_err(|error| (format!("it is not a library: {error}"), REBUILD))?;
            check_format(&file)?;
            records(&file)?
        };
        let here = crate::workspace::Toolchain::current().map(|toolchain| toolchain.target.clone()).unwrap_or_default();
        if !here.is_empty() && bundle.target != here {
            return Err((
                format!("it was built for {}, and this is {here}", bundle.target),
                "build it for this target",
            ));
        }
        if bundle.boundary != BOUNDARY_VERSION {
            return Err((
                format!("its boundary has version {}, and this runtime's has {BOUNDARY_VERSION}", bundle.boundary),
                "build it against this runtime's version of controllerbus",
            ));
        }
        if bundle.abi != ABI_HEX {
            return Err((
                format!("its boundary types have the fingerprint {}, and this runtime's have {ABI_HEX}", bundle.abi),
                "build it against this runtime's version of controllerbus",
            ));
        }
        let runtime: Option<semver::Version> = env!("CARGO_PKG_VERSION").parse().ok();
        if runtime.is_some_and(|runtime| runtime < bundle.min_runtime) {
            return Err((format!("it needs hot-runtime {} or later", bundle.min_runtime), "update the host"));
        }
        let mut ids = HashSet::new();
        if let Some(twice) = factories.iter().find(|factory| !ids.insert(&factory.plugin)) {
            return Err((
                format!("it has two factories of the id `{}`", twice.plugin),
                "give each #[hot_plugin] an id of its own",
            ));
        }
        Ok(Self { path: path.to_owned(), bytes, hash: computed.to_hex().to_string(), bundle, factories })
    }

    /// The size of the library in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the verified bytes to a file of their own in a folder that only this user can write.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, [`Error::Artifact`] when the folder is not safe.
    pub fn write_private(&self, dir: &Path) -> Result<PathBuf> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        private_folder(dir)?;
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "{}-{}-{sequence}{}",
            slug(&self.bundle.id),
            slug(&self.bundle.build_hash),
            std::env::consts::DLL_SUFFIX
        );
        let path = dir.join(name);
        // Never a path that exists: the loader would hand out the old library for a known one.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io("creating the private copy of a plugin", &path))?;
        if let Err(error) = file.write_all(&self.bytes) {
            let _ = std::fs::remove_file(&path);
            return Err(Error::io("writing the private copy of a plugin (is the disk full?)", &path)(error));
        }
        Ok(path)
    }
}

fn check_format(file: &object::File<'_>) -> std::result::Result<(), (String, &'static str)> {
    const HELP: &str = "build it for this machine";
    let wanted = match std::env::consts::ARCH {
        "x86_64" => object::Architecture::X86_64,
        "aarch64" => object::Architecture::Aarch64,
        "x86" => object::Architecture::I386,
        "arm" => object::Architecture::Arm,
        "riscv64" => object::Architecture::Riscv64,
        _ => file.architecture(),
    };
    if file.architecture() != wanted {
        return Err((format!("it is for {:?}, and this machine is {wanted:?}", file.architecture()), HELP));
    }
    if file.is_little_endian() != cfg!(target_endian = "little") {
        return Err(("its byte order is not this machine's".to_owned(), HELP));
    }
    if file.kind() != object::ObjectKind::Dynamic {
        return Err((format!("it is no dynamic library but {:?}", file.kind()), "build the plugin again"));
    }
    Ok(())
}

fn records(file: &object::File<'_>) -> std::result::Result<(BundleRecord, Vec<FactoryRecord>), (String, &'static str)> {
    const HELP: &str = "build the plugin with hot-runtime";
    let name = match file.format() {
        object::BinaryFormat::MachO => "__cbus_manifest",
        object::BinaryFormat::Coff | object::BinaryFormat::Pe => ".cbusman",
        _ => ".cbus.manifest",
    };
    let section = file
        .section_by_name(name)
        .ok_or_else(|| ("it is a library but no plugin: it has no manifest".to_owned(), HELP))?;
    let data = section.data().map_err(|error| (format!("its manifest cannot be read: {error}"), HELP))?;
    let mut bundle = None;
    let mut factories = Vec::new();
    for line in data.split(|byte| *byte == b'\n' || *byte == 0).filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line)
            .map_err(|error| (format!("its manifest is not understood: {error}"), HELP))?
        {
            Record::Bundle(record) if bundle.is_none() => bundle = Some(record),
            Record::Bundle(_) => return Err(("its manifest has two bundle records".to_owned(), HELP)),
            Record::Factory(record) => factories.push(record),
        }
    }
    let bundle = bundle.ok_or_else(|| ("its manifest has no bundle record".to_owned(), HELP))?;
    if factories.is_empty() {
        return Err(("it has no controllers".to_owned(), "put #[hot_plugin] on an `impl Controller` block"));
    }
    Ok((bundle, factories))
}

#[cfg(unix)]
fn private_folder(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let refuse = |reason: &str| Error::Artifact {
        path: dir.to_owned(),
        reason: reason.to_owned(),
        help: "remove it, or choose another work folder".to_owned(),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::io("creating the folder for private copies", dir))?;
    let found = std::fs::symlink_metadata(dir).map_err(Error::io("checking the folder for private copies", dir))?;
    if !found.is_dir() {
        return Err(refuse("the place for private copies is no folder"));
    }
    if found.permissions().mode() & 0o077 != 0 {
        return Err(refuse("others may enter the folder for private copies"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private_folder(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("creating the folder for private copies", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugin.cbus.so");
        std::fs::write(&path, bytes).expect("writing");
        match Artifact::read(&path) {
            Ok(_) => panic!("a bad file was accepted"),
            Err(error) => error.to_string(),
        }
    }

    /// This test's own executable, sealed: a real object file without a manifest.
    fn sealed() -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("sealed");
        seal(&std::env::current_exe().expect("this executable"), &out).expect("sealing");
        std::fs::read(&out).expect("reading")
    }

    #[test]
    fn an_empty_file_and_a_text_file_are_refused_with_a_reason() {
        assert!(refused(b"").contains("too few"));
        assert!(refused(&b"just a text ".repeat(20)).contains("no artifact trailer"));
    }

    #[test]
    fn every_truncation_and_a_flipped_byte_are_refused() {
        let whole = sealed();
        for step in 0..64 {
            refused(&whole[..whole.len() * step / 64]);
        }
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(refused(&flipped).contains("hash"));
    }

    #[test]
    fn a_sealed_file_that_is_no_plugin_is_refused() {
        let reason = refused(&sealed());
        assert!(reason.contains("manifest") || reason.contains("no dynamic library"), "{reason}");
    }
}

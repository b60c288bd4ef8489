//! Seals built libraries into artifacts, and reads and verifies artifacts without executing any of them.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use controllerbus::plugin::manifest::{ABI_HEX, BOUNDARY_VERSION};
use object::{Object, ObjectSection};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::overlay::slug;
use crate::swap::give_way;

/// The last bytes of every artifact.
const MAGIC: &[u8; 8] = b"CBUSART1";
/// Hash, body length, magic.
const TRAILER: usize = 32 + 8 + 8;

/// The largest file that is read as an artifact. Real ones have a few megabytes.
const LARGEST: u64 = 1 << 30;

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
    /// The config ID.
    pub config: String,
    /// The ids of the directives that it resolves.
    pub resolves: Vec<String>,
    /// The JSON schema of the config.
    #[serde(default)]
    pub schema: serde_json::Value,
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
    let (bytes, sealed) = sealed_bytes(library)?;
    write_sealed(&bytes, out)?;
    Ok(sealed)
}

/// The same; and the artifact, which so need not be read again. A library that is `ours` is made the artifact itself
/// where that is possible. The artifact is `None` if what was built is none. Blocks.
pub(crate) fn seal_and_keep(library: &Path, out: &Path, ours: bool) -> Result<(Sealed, Option<Artifact>)> {
    let (bytes, sealed) = sealed_bytes(library)?;
    if !(ours && make_sealed(library, &bytes, out).is_ok()) {
        write_sealed(&bytes, out)?;
    }
    let described = described(&bytes[..bytes.len() - TRAILER]).ok();
    let artifact = described.filter(|_| sealed.size <= LARGEST).map(|(bundle, factories)| {
        let (path, hash) = (out.to_owned(), sealed.hash.clone());
        Artifact { path, bytes, hash, bundle, factories }
    });
    Ok((sealed, artifact))
}

/// A library with its trailer.
fn sealed_bytes(library: &Path) -> Result<(Vec<u8>, Sealed)> {
    let failed = || Error::io("reading the built library", library);
    let file = std::fs::File::open(library).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len() as usize;
    let mut bytes = room_for(length + TRAILER + 1);
    read_in_steps(file, &mut bytes).map_err(failed())?;
    let hash = hash_in_steps(&bytes);
    add_trailer(&mut bytes, &hash);
    let sealed = Sealed { hash: hash.to_hex().to_string(), size: bytes.len() as u64 };
    Ok((bytes, sealed))
}

fn add_trailer(library: &mut Vec<u8>, hash: &blake3::Hash) {
    let length = library.len() as u64;
    library.extend_from_slice(hash.as_bytes());
    library.extend_from_slice(&length.to_le_bytes());
    library.extend_from_slice(MAGIC);
}

fn write_sealed(bytes: &[u8], out: &Path) -> Result<()> {
    let folder = out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("creating the artifact's folder", folder))?;
    let failed = || Error::io("writing the artifact", out);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed())?;
    write_in_steps(file.as_file_mut(), bytes).map_err(failed())?;
    make_readable(file.as_file()).map_err(failed())?;
    file.persist(out).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// Adds the trailer to the library and moves it to `out`, which fails where that is on another disk.
fn make_sealed(library: &Path, bytes: &[u8], out: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(out.parent().unwrap_or(Path::new(".")))?;
    let mut file = std::fs::OpenOptions::new().append(true).open(library)?;
    file.write_all(&bytes[bytes.len() - TRAILER..])?;
    make_readable(&file)?;
    replace(library, out)
}

/// Gives a file the name of another, which goes. Readers of the name see the one or the other; if the power fails soon
/// after, the file may not be whole, which its hash shows.
fn replace(file: &Path, name: &Path) -> std::io::Result<()> {
    // Ext4 writes a file to the disk when it takes another's name, which takes longer than to hash and open it; not
    // when the two change names.
    #[cfg(target_os = "linux")]
    if std::fs::symlink_metadata(name).is_ok_and(|found| !found.is_dir()) {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, file, CWD, name, RenameFlags::EXCHANGE).is_ok() {
            let _ = std::fs::remove_file(file);
            return Ok(());
        }
    }
    std::fs::rename(file, name)
}

/// An artifact whose bytes were checked: what was checked is what is in memory here, and what is loaded.
pub struct Artifact {
    /// Where it was read from.
    pub path: PathBuf,
    /// The whole file.
    bytes: Vec<u8>,
    /// The BLAKE3 hash of the library, as hex.
    pub hash: String,
    /// What it says of itself.
    pub bundle: BundleRecord,
    /// What its factories say of themselves.
    pub factories: Vec<FactoryRecord>,
}

/// What is wrong, and what to do about it.
type Refusal = (String, &'static str);

impl Artifact {
    /// Reads and verifies a file that is to be loaded: all of [`Artifact::inspect`] and
    /// [`Artifact::check_compatible`]. None of it is executed. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Artifact`] with what is wrong and what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let artifact = Self::inspect(path)?;
        artifact.check_compatible()?;
        Ok(artifact)
    }

    /// Reads a file and verifies that it is whole and what it says of itself: trailer, hash, format, manifest. It may
    /// be for another machine or another version of the boundary. None of it is executed. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Artifact`] with what is wrong and what to do.
    pub fn inspect(path: &Path) -> Result<Self> {
        Self::from_bytes(path, read_bounded(path, LARGEST, "reading the plugin file")?)
    }

    /// The artifact of a private copy, if the copy still has the hash that was verified; `shown` is for messages. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Artifact`] when it is not what it was.
    pub(crate) fn from_private(shown: &Path, private: &Path, hash: &str) -> Result<Self> {
        let mut bytes = read_bounded(private, LARGEST, "reading the private copy of a plugin")?;
        let hash = blake3::Hash::from_hex(hash).map_err(|error| {
            refused(private, (format!("its hash was noted wrongly: {error}"), "load the plugin again"))
        })?;
        add_trailer(&mut bytes, &hash);
        Self::from_bytes(shown, bytes)
    }

    /// [`Artifact::inspect`] of bytes that were read already; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Artifact`] with what is wrong and what to do.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        match verified(&bytes) {
            Ok((hash, bundle, factories)) => Ok(Self { path: path.to_owned(), bytes, hash, bundle, factories }),
            Err(refusal) => Err(refused(path, refusal)),
        }
    }

    /// Checks that this process can load it: architecture, target, boundary, types, runtime version.
    ///
    /// # Errors
    /// [`Error::Artifact`] with what does not fit and what to do.
    pub fn check_compatible(&self) -> Result<()> {
        compatible(self.library(), &self.bundle).map_err(|refusal| refused(&self.path, refusal))
    }

    /// The library alone, without the trailer.
    pub fn library(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - TRAILER]
    }

    /// The whole file, as it was read.
    pub fn file(&self) -> &[u8] {
        &self.bytes
    }

    /// The size of the library in bytes.
    pub fn size(&self) -> usize {
        self.library().len()
    }

    /// Writes the verified bytes to a file of their own in a folder that only this user can write.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, [`Error::Artifact`] when the folder is not safe.
    pub fn write_private(&self, dir: &Path) -> Result<PathBuf> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        private_folder(dir)?;
        // As the system's list of mappings will name it.
        let dir = dir.canonicalize().map_err(Error::io("finding the folder for private copies", dir))?;
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
        if let Err(error) = write_in_steps(&mut file, self.library()) {
            let _ = std::fs::remove_file(&path);
            return Err(Error::io("writing the private copy of a plugin (is the disk full?)", &path)(error));
        }
        Ok(path)
    }
}

fn refused(path: &Path, (reason, help): Refusal) -> Error {
    Error::Artifact { path: path.to_owned(), reason, help: help.to_owned() }
}

/// How many bytes are read, hashed or written before others are given way: less than half a millisecond's work.
const STEP: usize = 512 << 10;

/// Room for a file's bytes, which is given back to the system when it is dropped. Of smaller pieces glibc keeps twice the
/// largest, in each of its arenas; those of more than 32 MiB it maps and unmaps. Room that is not used takes no memory.
fn room_for(length: usize) -> Vec<u8> {
    let small = length < STEP;
    Vec::with_capacity(if small { length } else { length.max(33 << 20) })
}

fn read_in_steps(mut from: impl Read, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    while from.by_ref().take(STEP as u64).read_to_end(bytes)? > 0 {
        give_way();
    }
    Ok(())
}

fn write_in_steps(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    bytes.chunks(STEP).try_for_each(|part| {
        give_way();
        to.write_all(part)
    })
}

fn hash_in_steps(bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in bytes.chunks(STEP) {
        hasher.update(part);
        give_way();
    }
    hasher.finalize()
}

/// Reads a regular file of at most so many bytes. A pipe or a device is not waited for.
pub(crate) fn read_bounded(path: &Path, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    }
    let file = options.open(path).map_err(Error::io(what, path))?;
    // Of the open file, not of the path, which may be another by now.
    let found = file.metadata().map_err(Error::io(what, path))?;
    if !found.is_file() {
        return Err(refused(path, ("it is no regular file".to_owned(), "give the path of a built plugin")));
    }
    let too_large = || {
        refused(path, (format!("it has more than {limit} bytes"), "build the plugin again; real ones are far smaller"))
    };
    if found.len() > limit {
        return Err(too_large());
    }
    let mut bytes = room_for(found.len() as usize + 1);
    read_in_steps(file.take(limit + 1), &mut bytes).map_err(Error::io(what, path))?;
    // It may have grown since.
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// Lets everybody read a file that was made for its owner only, and nobody run it.
pub(crate) fn make_readable(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
    Ok(())
}

/// Trailer, hash, format and manifest of a whole file.
fn verified(bytes: &[u8]) -> std::result::Result<(String, BundleRecord, Vec<FactoryRecord>), Refusal> {
    const REPLACE: &str = "copy or build it again; it is damaged or was not written to its end";
    let Some(length) = bytes.len().checked_sub(TRAILER) else {
        return Err((format!("it has {} bytes, too few for an artifact", bytes.len()), REPLACE));
    };
    let (body, trailer) = bytes.split_at(length);
    let (hash, rest) = trailer.split_at(32);
    let (recorded, magic) = rest.split_at(8);
    if magic != MAGIC {
        return Err((
            "it has no artifact trailer".to_owned(),
            "only files built by hot-runtime are loaded; build the plugin with it, or copy it again if it was",
        ));
    }
    if recorded != (length as u64).to_le_bytes() {
        return Err(("its length is not the one in its trailer".to_owned(), REPLACE));
    }
    let computed = hash_in_steps(body);
    if computed.as_bytes() != hash {
        return Err(("its content does not have the hash in its trailer".to_owned(), REPLACE));
    }
    let (bundle, factories) = described(body)?;
    Ok((computed.to_hex().to_string(), bundle, factories))
}

/// What a library says of itself, if it is a plugin.
fn described(body: &[u8]) -> std::result::Result<(BundleRecord, Vec<FactoryRecord>), Refusal> {
    let file = parse(body)?;
    if file.kind() != object::ObjectKind::Dynamic {
        return Err((format!("it is no dynamic library but {:?}", file.kind()), "build the plugin again"));
    }
    let (bundle, factories) = records(&file)?;
    let mut ids = HashSet::new();
    if let Some(twice) = factories.iter().find(|factory| !ids.insert(&factory.plugin)) {
        return Err((
            format!("it has two factories of the id `{}`", twice.plugin),
            "give each #[hot_plugin] an id of its own",
        ));
    }
    Ok((bundle, factories))
}

fn parse(body: &[u8]) -> std::result::Result<object::File<'_>, Refusal> {
    object::File::parse(body).map_err(|error| (format!("it is not a library: {error}"), "build the plugin again"))
}

fn compatible(library: &[u8], bundle: &BundleRecord) -> std::result::Result<(), Refusal> {
    const REBUILD: &str = "build it against this runtime's version of controllerbus";
    check_machine(&parse(library)?)?;
    let here = env!("CBUS_TARGET");
    if bundle.target != here {
        return Err((format!("it was built for {}, and this is {here}", bundle.target), "build it for this target"));
    }
    if bundle.boundary != BOUNDARY_VERSION {
        let reason = format!("its boundary has version {}, and this runtime's has {BOUNDARY_VERSION}", bundle.boundary);
        return Err((reason, REBUILD));
    }
    if bundle.abi != ABI_HEX {
        let reason =
            format!("its boundary types have the fingerprint {}, and this runtime's have {ABI_HEX}", bundle.abi);
        return Err((reason, REBUILD));
    }
    let runtime: Option<semver::Version> = env!("CARGO_PKG_VERSION").parse().ok();
    if runtime.is_some_and(|runtime| runtime < bundle.min_runtime) {
        return Err((format!("it needs hot-runtime {} or later", bundle.min_runtime), "update the host"));
    }
    Ok(())
}

fn check_machine(file: &object::File<'_>) -> std::result::Result<(), Refusal> {
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
    Ok(())
}

fn records(file: &object::File<'_>) -> std::result::Result<(BundleRecord, Vec<FactoryRecord>), Refusal> {
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
    use crate::tiny::{self, Tiny};

    fn refused(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugin.cbus.so");
        std::fs::write(&path, bytes).expect("writing");
        match Artifact::read(&path) {
            Ok(_) => panic!("a bad file was accepted"),
            Err(error) => error.to_string(),
        }
    }

    fn sealed(tiny: &Tiny) -> Vec<u8> {
        sealed_bytes(&tiny.library())
    }

    fn sealed_bytes(library: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("sealed.so");
        tiny::seal(library, &out);
        std::fs::read(&out).expect("reading")
    }

    #[test]
    fn a_whole_artifact_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugin.cbus.so");
        std::fs::write(&path, sealed(&Tiny::default())).expect("writing");
        let artifact = Artifact::read(&path).expect("an artifact");
        assert_eq!(artifact.bundle.id, "tiny");
        assert_eq!(artifact.factories.len(), 1);
        assert_eq!(artifact.library(), Tiny::default().library());
    }

    #[test]
    fn an_empty_file_and_a_text_file_are_refused_with_a_reason() {
        assert!(refused(b"").contains("too few"));
        assert!(refused(&b"just a text ".repeat(20)).contains("no artifact trailer"));
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_are_refused() {
        let whole = sealed(&Tiny::default());
        let refused = |bytes: &[u8]| match Artifact::from_bytes(Path::new("tiny"), bytes.to_vec()) {
            Ok(_) => panic!("a bad file was accepted"),
            Err(error) => error.to_string(),
        };
        for length in 0..whole.len() {
            refused(&whole[..length]);
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let reason = refused(&flipped);
            assert!(reason.contains("hash") || reason.contains("trailer"), "{reason}");
        }
    }

    #[test]
    fn what_does_not_fit_this_process_can_be_inspected_but_is_refused_with_a_reason() {
        let cases = [
            (Tiny { architecture: object::Architecture::S390x, ..Tiny::default() }, "S390x"),
            (Tiny { architecture: object::Architecture::Riscv64, ..Tiny::default() }, "Riscv64"),
            (Tiny { target: "x86_64-unknown-other", ..Tiny::default() }, "built for x86_64-unknown-other"),
            (Tiny { boundary: BOUNDARY_VERSION - 1, ..Tiny::default() }, "its boundary has version"),
            (Tiny { abi: "0000000000000000".to_owned(), ..Tiny::default() }, "fingerprint"),
            (Tiny { min_runtime: "99.0.0", ..Tiny::default() }, "needs hot-runtime 99.0.0"),
        ];
        for (tiny, reason) in cases {
            let bytes = sealed(&tiny);
            let error = refused(&bytes);
            assert!(error.contains(reason), "{error}");
            Artifact::from_bytes(Path::new("tiny"), bytes).expect("it can be inspected");
        }
    }

    #[test]
    fn a_plugin_without_factories_or_with_two_of_one_id_is_refused() {
        assert!(refused(&sealed(&Tiny { factories: vec![], ..Tiny::default() })).contains("no controllers"));
        let twice = refused(&sealed(&Tiny { factories: vec!["one", "two", "one"], ..Tiny::default() }));
        assert!(twice.contains("two factories of the id `one`"), "{twice}");
    }

    #[test]
    fn a_sealed_library_that_is_no_plugin_is_refused() {
        let library = Tiny::default().library();
        let name = library.windows(13).position(|bytes| bytes == b"cbus.manifest").expect("the section's name");
        let mut other = library.clone();
        other[name] = b'x';
        assert!(refused(&sealed_bytes(&other)).contains("no manifest"));
        let mut relocatable = library;
        relocatable[16] = 1;
        assert!(refused(&sealed_bytes(&relocatable)).contains("no dynamic library"));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_a_device_and_a_pipe_are_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe.cbus.so");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        for path in [folder.path(), Path::new("/dev/zero"), &pipe] {
            let error = Artifact::read(path).err().expect("refused").to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
    }
}

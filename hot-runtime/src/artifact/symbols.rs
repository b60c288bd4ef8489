//! What only debuggers and backtraces read of an optimised library: its symbols and debug information, in a file of its own beside the
//! artifact, so that loading need not read, hash and copy it.
//!
//! The library names that file as debuggers expect it (`.gnu_debuglink`), and has its hash, which the signature of the artifact covers
//! too. A name with the build hash, because the files of several generations are in one directory for private copies.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use object::read::ReadRef;
use object::{Object, ObjectSection};

use super::io::STEP;
use super::seal::check;
use crate::error::{Error, Result};
use crate::sys::files::{make_readable, open_nonblocking};
use crate::util::{Pace, with_ending};

/// The section with the BLAKE3 hash of the file.
const SECTION: &str = ".cbus.symbols";

/// The path of the file of an artifact: its own path with `.debug` appended.
#[must_use]
pub fn symbols_path(artifact: &Path) -> PathBuf {
    with_ending(artifact, ".debug")
}

/// A program that copies parts of libraries: that of GNU or of LLVM.
pub(crate) struct ObjCopy {
    program: PathBuf,
    libraries: Option<PathBuf>,
}

/// A library without what only debuggers read. Dropping it removes it.
pub(crate) struct Stripped {
    pub(crate) library: PathBuf,
    _folder: tempfile::TempDir,
}

/// Writes what only debuggers read of a library to the file of the artifact `out`, and returns the library without it; `None` if there
/// is nothing of that kind. `named` is unique for the build. Blocks.
///
/// # Errors
/// A library that is not to be sealed, a file that cannot be written, and what `objcopy` says.
pub(crate) fn set_apart(library: &Path, out: &Path, named: &str, objcopy: &ObjCopy) -> Result<Option<Stripped>> {
    let bytes = std::fs::read(library).map_err(Error::io("reading the built library", library))?;
    let is_apart = object::read::elf::ElfFile64::<object::Endianness, _>::parse(&*bytes)
        .is_ok_and(|file| file.section_by_name(".symtab").is_some());
    if !is_apart {
        return Ok(None);
    }
    // This needs the symbols.
    check(library, &bytes)?;
    let folder = library.parent().unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(folder).map_err(Error::io("creating a directory", folder))?;
    let (symbols, hash, stripped) =
        (folder.path().join(format!("{named}.debug")), folder.path().join("hash"), folder.path().join("library"));
    objcopy.run(&["--only-keep-debug".as_ref(), library.as_ref(), symbols.as_ref()])?;
    let told = std::fs::read(&symbols).map_err(Error::io("reading the symbols of the built library", &symbols))?;
    std::fs::write(&hash, blake3::hash(&told).as_bytes()).map_err(Error::io("writing", &hash))?;
    let mut section = OsString::from(format!("{SECTION}="));
    section.push(&hash);
    let mut link = OsString::from("--add-gnu-debuglink=");
    link.push(&symbols);
    let arguments = ["--strip-all".as_ref(), "--add-section".as_ref(), &*section, &link];
    objcopy.run(&[&arguments[..], &[library.as_ref(), stripped.as_ref()]].concat())?;
    // Before the artifact, so that whoever sees that finds it.
    write(&told, &symbols_path(out))?;
    Ok(Some(Stripped { library: stripped, _folder: folder }))
}

impl ObjCopy {
    /// A program, and where the libraries are that it needs, unless the system finds them.
    pub(crate) fn new(program: impl Into<PathBuf>, libraries: Option<PathBuf>) -> Self {
        Self { program: program.into(), libraries }
    }

    fn run(&self, arguments: &[&OsStr]) -> Result<()> {
        let mut command = Command::new(&self.program);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(Error::io("running", &self.program))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::io("running", &self.program)(std::io::Error::other(said)))
    }
}

fn write(bytes: &[u8], path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("creating the artifact's directory", folder))?;
    let failed = || Error::io("writing the symbols of the artifact", path);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    make_readable(file.as_file()).map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// The file that belongs to a private copy, which is where debuggers look for it. It is removed with the last copy of its build.
#[derive(Debug)]
pub(super) struct Symbols {
    /// The file beside the artifact.
    beside: PathBuf,
    /// The one beside the private copy.
    path: PathBuf,
    hash: [u8; 32],
    is_provided: Mutex<bool>,
}

impl Symbols {
    /// Those that a verified library names; `None` if it names none.
    pub(super) fn of<'data>(library: impl ReadRef<'data>, artifact: &Path, dir: &Path) -> Option<Arc<Self>> {
        let file = object::read::elf::ElfFile64::<object::Endianness, _>::parse(library).ok()?;
        let hash = file.section_by_name(SECTION)?.data().ok()?.try_into().ok()?;
        let (name, _) = file.gnu_debuglink().ok()??;
        let name = std::str::from_utf8(name).ok()?;
        // A file of that directory, and not one of the copies.
        if !name.ends_with(".debug") || name.contains(['/', '\\']) {
            return None;
        }
        let path = dir.join(name);
        let mut known = known();
        if let Some(same) = known.get(&(path.clone(), hash)).and_then(Weak::upgrade) {
            return Some(same);
        }
        let beside = symbols_path(artifact);
        let symbols = Arc::new(Self { beside, path: path.clone(), hash, is_provided: Mutex::new(false) });
        known.insert((path, hash), Arc::downgrade(&symbols));
        Some(symbols)
    }

    /// Copies the file to where debuggers look for it, if it is there and is the one that the library names. Blocks.
    pub(super) fn provide(&self) {
        let mut is_provided = self.is_provided.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_provided {
            return;
        }
        match self.copy() {
            Ok(copied) => *is_provided = copied,
            Err(error) => {
                tracing::warn!(error = %error.with_causes(), "backtraces will not name functions of a plugin");
            }
        }
    }

    /// False if there is no such file.
    fn copy(&self) -> Result<bool> {
        let reading = || Error::io("reading the symbols of a plugin", &self.beside);
        let from = match open_nonblocking(&self.beside) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(reading()(error)),
        };
        let found = from.metadata().map_err(reading())?;
        if !found.is_file() {
            return Err(reading()(std::io::Error::other("it is not a regular file")));
        }
        let writing = || Error::io("copying the symbols of a plugin (is the disk full?)", &self.path);
        // Under its name once it is whole and verified: a debugger, or a backtrace, may look at any time.
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut to = tempfile::NamedTempFile::new_in(folder).map_err(writing())?;
        // One that is being written may never end.
        let mut from = from.take(found.len());
        let (mut hasher, mut part, mut pace) = (blake3::Hasher::new(), vec![0; STEP / 4], Pace::new());
        loop {
            let read = from.read(&mut part).map_err(reading())?;
            if read == 0 {
                break;
            }
            hasher.update(&part[..read]);
            to.write_all(&part[..read]).map_err(writing())?;
            pace.step();
        }
        if hasher.finalize() != self.hash {
            return Err(reading()(std::io::Error::other(
                "it belongs to another build: copy the one that was built with it",
            )));
        }
        to.persist(&self.path).map_err(|error| writing()(error.error))?;
        Ok(true)
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        let (mut known, key) = (known(), (self.path.clone(), self.hash));
        // Another copy of the build may have come meanwhile.
        if known.get(&key).is_none_or(|symbols| symbols.strong_count() == 0) {
            known.remove(&key);
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The files of private copies that there are, by path and hash.
type Known = HashMap<(PathBuf, [u8; 32]), Weak<Symbols>>;

fn known() -> MutexGuard<'static, Known> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn system() -> ObjCopy {
        ObjCopy::new("objcopy", None)
    }

    /// A library, as the compiler makes it.
    fn made(folder: &Path, source: &str) -> PathBuf {
        std::fs::write(folder.join("made.c"), source).expect("writing");
        let mut cc = Command::new("cc");
        cc.current_dir(folder).args(["-shared", "-fPIC", "-nostdlib", "-g", "made.c", "-o", "made.so"]);
        assert!(cc.status().expect("cc").success());
        folder.join("made.so")
    }

    fn library(of: &Stripped) -> Vec<u8> {
        std::fs::read(&of.library).expect("the library")
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).expect("the folder").count()
    }

    #[test]
    fn what_only_debuggers_read_is_put_beside_each_copy_and_goes_with_the_last_one() {
        let own = tempfile::tempdir().expect("a folder");
        let (out, loaded) = (own.path().join("out/plugin.cbus.so"), own.path().join("loaded"));
        std::fs::create_dir(&loaded).expect("a folder");
        let source = made(
            own.path(),
            "static int hidden(int it) { return it * 7; }\nint answer(int it) { return hidden(it) + hidden(it + 1); }",
        );
        let stripped = set_apart(&source, &out, "plugin-1a2b", &system()).expect("it is possible").expect("symbols");
        let small = library(&stripped);
        assert!(small.len() < std::fs::read(&source).expect("reading").len());
        let apart = std::fs::read(symbols_path(&out)).expect("the symbols");
        assert!(object::File::parse(&*apart).expect("a file").section_by_name(".debug_info").is_some());
        // Once more it is the same.
        let again = set_apart(&source, &out, "plugin-1a2b", &system()).expect("it is possible").expect("symbols");
        assert!(library(&again) == small && std::fs::read(symbols_path(&out)).expect("the symbols") == apart);
        // There is nothing left to be set apart.
        assert!(set_apart(&stripped.library, &out, "plugin-1a2b", &system()).expect("it is possible").is_none());

        let symbols = || Symbols::of(&*small, &out, &loaded).expect("they are named");
        let (one, other) = (symbols(), symbols());
        one.provide();
        other.provide();
        assert_eq!(std::fs::read(loaded.join("plugin-1a2b.debug")).expect("where debuggers look"), apart);
        drop(one);
        assert_eq!(files(&loaded), 1);
        drop(other);
        assert_eq!(files(&loaded), 0);
        // A third one has its own.
        let third = symbols();
        third.provide();
        assert_eq!(files(&loaded), 1);
        drop(third);
        assert_eq!(files(&loaded), 0);
    }

    #[test]
    fn nobody_sees_symbols_that_are_not_whole_and_verified() {
        let own = tempfile::tempdir().expect("a folder");
        let (beside, path) = (own.path().join("large"), own.path().join("loaded.debug"));
        let large = vec![7; 32 << 20];
        std::fs::write(&beside, &large).expect("writing");
        let of = |hash| Symbols { beside: beside.clone(), path: path.clone(), hash, is_provided: Mutex::new(false) };
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                    seen.extend(std::fs::metadata(&path).ok().map(|found| found.len()));
                }
                seen
            });
            of([0; 32]).provide();
            let right = of(*blake3::hash(&large).as_bytes());
            right.provide();
            assert!(path.is_file());
            is_over.store(true, std::sync::atomic::Ordering::Release);
            let seen = looking.join().expect("sizes");
            assert!(seen.iter().all(|size| *size == large.len() as u64), "{seen:?}");
        });
        assert_eq!(files(own.path()), 1, "none is left");
    }

    #[test]
    fn symbols_of_another_build_and_names_of_other_files_are_refused_and_none_are_no_error() {
        let own = tempfile::tempdir().expect("a folder");
        let (out, loaded) = (own.path().join("plugin.cbus.so"), own.path().join("loaded"));
        std::fs::create_dir(&loaded).expect("a folder");
        let source = made(own.path(), "int answer(void) { return 42; }");
        let stripped = set_apart(&source, &out, "plugin-1", &system()).expect("it is possible").expect("symbols");
        let small = library(&stripped);
        let symbols = Symbols::of(&*small, &out, &loaded).expect("they are named");
        let mut changed = std::fs::read(symbols_path(&out)).expect("the symbols");
        *changed.last_mut().expect("a byte") ^= 1;
        for wrong in [&*changed, &changed[..changed.len() / 2], b""] {
            std::fs::write(symbols_path(&out), wrong).expect("writing");
            symbols.provide();
            assert_eq!(files(&loaded), 0);
        }
        let said = symbols.copy().expect_err("another build").with_causes().to_string();
        assert!(said.contains("plugin.cbus.so.debug") && said.contains("belongs to another build"), "{said}");
        std::fs::remove_file(symbols_path(&out)).expect("removing");
        assert!(!symbols.copy().expect("that is no error"));
        std::fs::create_dir(symbols_path(&out)).expect("a folder");
        assert!(symbols.copy().is_err());

        // The name of a private copy would be overwritten.
        let named = own.path().join("plugin-1.so");
        std::fs::write(&named, "it").expect("writing");
        let (hash, other) = (own.path().join("hash"), own.path().join("other.so"));
        std::fs::write(&hash, [7; 32]).expect("writing");
        let section = format!("--add-section={SECTION}={}", hash.display());
        let link = format!("--add-gnu-debuglink={}", named.display());
        system().run(&[section.as_ref(), link.as_ref(), source.as_ref(), other.as_ref()]).expect("another name");
        assert!(Symbols::of(&*std::fs::read(&other).expect("reading"), &out, &loaded).is_none());
        // And a library that names nothing.
        assert!(Symbols::of(&*std::fs::read(&source).expect("reading"), &out, &loaded).is_none());
        let none = ObjCopy::new("there/is/no/objcopy", None);
        assert!(matches!(set_apart(&source, &out, "plugin-1", &none), Err(Error::Io { .. })));
    }
}

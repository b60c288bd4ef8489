//! Prelinks dependencies: links what edits do not change into one object, once, so that linking after an edit is fast.
//!
//! Only what the plugin needs is taken from the dependencies' archives, without debug information and without the
//! standard library's bitcode, which is larger than all its code. An edit that needs more is linked in full once, and
//! the object is made again.
//!
//! GNU ld makes the object, even though lld links the plugin: lld either drops the unwind tables (`.eh_frame`) in such
//! a link, or keeps all code with them. Without them a panic aborts the process.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};

use crate::compile::link::{Linker, chooses_linker, members};

/// Merges sections, so that the final link need not process each of them.
const SCRIPT: &str = "SECTIONS {
    /DISCARD/ : { *(.debug_*) *(.llvmbc) *(.llvmcmd) *(.comment) }
    .text : { *(.text .text.*) }
    .rodata : { *(.rodata .rodata.*) }
    .data.rel.ro : { *(.data.rel.ro .data.rel.ro.*) }
    .eh_frame : { KEEP(*(.eh_frame)) }
    .gcc_except_table : { *(.gcc_except_table .gcc_except_table.*) }
    .data : { *(.data .data.*) }
    .bss : { *(.bss .bss.*) }
}
";

/// The prelinked object, and the archives that it replaces.
#[derive(Clone, Debug)]
pub(crate) struct Prelinked {
    pub(crate) object: PathBuf,
    pub(crate) archives: BTreeSet<PathBuf>,
    /// The hashes of the symbols that these archives define and the object lacks.
    lacks: HashSet<u64>,
}

impl Prelinked {
    /// Makes it in a directory from all archives but those in `kept`, whose `current` versions decide what is needed.
    /// Blocks.
    ///
    /// # Errors
    /// Why it cannot be made, so that each link is a full one.
    pub(crate) fn make(
        linker: &Linker,
        kept: &BTreeSet<PathBuf>,
        current: &BTreeSet<PathBuf>,
        folder: &Path,
        version: usize,
    ) -> Result<Self, String> {
        if !linker.arguments().any(|argument| argument.as_str() == "-fuse-ld=lld") {
            return Err("the plugin is not linked with lld".to_owned());
        }
        let archives: Vec<_> = linker.archives().filter(|archive| !kept.contains(*archive)).cloned().collect();
        let read = |path: &Path| std::fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()));
        let odd = |path: &Path| format!("{} is not understood", path.display());
        let mut needed = BTreeSet::new();
        let mut defined = BTreeSet::new();
        for bytes in linker.overlay() {
            symbols(bytes, &mut needed, &mut defined);
        }
        for archive in current {
            for member in members(&read(archive)?).ok_or_else(|| odd(archive))? {
                symbols(member, &mut needed, &mut defined);
            }
        }
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).map_err(|error| format!("writing {}: {error}", path.display()))
        };
        let script = folder.join("merge.ld");
        write(&script, SCRIPT)?;
        // Other names cannot be passed in a response file.
        let plain = |name: &&String| !name.contains([' ', ',', '"', '\'', '\\', '\n']);
        let wanted =
            needed.difference(&defined).filter(plain).map(|name| format!("-Wl,-u,{name}\n")).collect::<String>();
        let list = folder.join("needed");
        write(&list, &wanted)?;
        let object = folder.join(format!("dependencies-{version}.o"));
        let mut command = Command::new(linker.program());
        let choice = linker.arguments().filter(|argument| chooses_linker(argument) && !is_of_lld(argument));
        command.envs(linker.environment()).args(choice).args(["-fuse-ld=bfd", "-r", "-nostdlib", "-Wl,--gc-sections"]);
        command.arg("-Wl,-z,nostart-stop-gc").arg(format!("-Wl,-T,{}", script.display()));
        command.arg("-o").arg(&object).arg(format!("@{}", list.display()));
        command.arg("-Wl,--start-group").args(&archives).arg("-Wl,--end-group");
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("running {}: {error}", linker.program()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("GNU ld (`ld.bfd`), which prelinks the dependencies, failed: {}", said.trim()));
        }
        let mut taken = BTreeSet::new();
        let mut lacks = HashSet::new();
        symbols(&read(&object)?, &mut BTreeSet::new(), &mut taken);
        for archive in &archives {
            let bytes = read(archive)?;
            let found = ArchiveFile::parse(&*bytes).ok().and_then(|archive| archive.symbols().ok().flatten());
            for symbol in found.ok_or_else(|| odd(archive))? {
                let symbol = symbol.map_err(|_| odd(archive))?;
                lacks.insert(hashed(symbol.name()));
            }
        }
        for name in &taken {
            lacks.remove(&hashed(name.as_bytes()));
        }
        Ok(Self { object, archives: archives.into_iter().collect(), lacks })
    }

    /// The first of these symbols that the object lacks.
    pub(crate) fn lacks<'a>(&self, needed: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
        needed.into_iter().find(|name| self.lacks.contains(&hashed(name.as_bytes())))
    }
}

/// Whether an argument makes a compiler driver choose lld.
fn is_of_lld(argument: &str) -> bool {
    argument.starts_with("-fuse-ld") || argument.ends_with("/gcc-ld")
}

fn hashed(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Collects the symbols that an object needs, and those that it defines for others.
fn symbols(bytes: &[u8], needed: &mut BTreeSet<String>, defined: &mut BTreeSet<String>) {
    let Ok(file) = object::File::parse(bytes) else { return };
    for symbol in file.symbols().filter(ObjectSymbol::is_global) {
        // Rust's symbol names are UTF-8.
        let Ok(name) = symbol.name() else { continue };
        if !name.is_empty() {
            let which = if symbol.is_undefined() { &mut *needed } else { &mut *defined };
            which.insert(name.to_owned());
        }
    }
}

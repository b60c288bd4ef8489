//! Links what an edit leaves alone into one object, once, so that linking after an edit is a fraction of the work.
//!
//! Of the dependencies' archives only what the plugin needs is taken, without debug information and the standard
//! library's bitcode, which is more than all its code. When an edit needs more of them, linking against the object fails,
//! everything is linked in full once, and the object is made anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSymbol};

use crate::build::link::{Linker, chooses_linker, members};

/// What is merged is neither searched nor placed section by section again.
const SCRIPT: &str = "SECTIONS {
    /DISCARD/ : { *(.debug_*) *(.llvmbc) *(.llvmcmd) *(.comment) }
    .text : { *(.text .text.*) }
    .rodata : { *(.rodata .rodata.*) }
    .data.rel.ro : { *(.data.rel.ro .data.rel.ro.*) }
    .gcc_except_table : { *(.gcc_except_table .gcc_except_table.*) }
    .data : { *(.data .data.*) }
    .bss : { *(.bss .bss.*) }
}
";

/// The object, and which archives it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Prelinked {
    pub(crate) object: PathBuf,
    pub(crate) archives: BTreeSet<PathBuf>,
}

impl Prelinked {
    /// Makes it in a folder; what is in `kept` stays out of it, and is needed in the form of `current`. `None` if the
    /// linker is not one that is known to do it well, or does not: then everything is linked in full each time. Blocks.
    pub(crate) fn make(
        linker: &Linker,
        kept: &BTreeSet<PathBuf>,
        current: &BTreeSet<PathBuf>,
        folder: &Path,
        version: usize,
    ) -> Option<Self> {
        if !linker.arguments().any(|argument| argument.as_str() == "-fuse-ld=lld") {
            return None;
        }
        let archives: Vec<_> = linker.archives().filter(|archive| !kept.contains(*archive)).cloned().collect();
        let mut needed = BTreeSet::new();
        let mut defined = BTreeSet::new();
        for bytes in linker.overlay() {
            symbols(bytes, &mut needed, &mut defined)?;
        }
        for archive in current {
            let bytes = std::fs::read(archive).ok()?;
            for member in members(&bytes)? {
                symbols(member, &mut needed, &mut defined)?;
            }
        }
        let script = folder.join("merge.ld");
        std::fs::write(&script, SCRIPT).ok()?;
        let wanted: String = needed.difference(&defined).map(|name| format!("-Wl,-u,{name}\n")).collect();
        let list = folder.join("needed");
        std::fs::write(&list, wanted).ok()?;
        let object = folder.join(format!("dependencies-{version}.o"));
        let mut command = Command::new(linker.program());
        let choice = linker.arguments().filter(|argument| chooses_linker(argument));
        command.args(choice).args(["-r", "-nostdlib", "-Wl,--gc-sections"]);
        command.arg("-Wl,-z,nostart-stop-gc").arg(format!("-Wl,-T,{}", script.display()));
        command.arg("-o").arg(&object).arg(format!("@{}", list.display())).args(&archives);
        let output = command.stdin(Stdio::null()).output().ok()?;
        if !output.status.success() {
            tracing::debug!(said = %String::from_utf8_lossy(&output.stderr), "the dependencies are not linked beforehand");
            return None;
        }
        Some(Self { object, archives: archives.into_iter().collect() })
    }
}

/// Adds the symbols that an object needs, and those that it defines for others.
fn symbols(bytes: &[u8], needed: &mut BTreeSet<String>, defined: &mut BTreeSet<String>) -> Option<()> {
    let Ok(file) = object::File::parse(bytes) else { return Some(()) };
    for symbol in file.symbols().filter(ObjectSymbol::is_global) {
        let name = symbol.name().ok()?;
        // Nothing else can be passed on in a list of arguments.
        if name.is_empty() || name.contains([' ', ',', '"', '\'', '\\', '\n']) {
            continue;
        }
        if symbol.is_undefined() {
            needed.insert(name.to_owned());
        } else {
            defined.insert(name.to_owned());
        }
    }
    Some(())
}

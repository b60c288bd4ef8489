//! The shared libraries that a library needs.

use object::Endianness;
use object::elf::DT_NEEDED;
use object::read::ReadRef;
use object::read::elf::ElfFile64;

/// The names of the shared libraries that the loader opens with a library, as that names them; none if it is not an ELF
/// library.
pub(crate) fn needed<'data>(library: impl ReadRef<'data>) -> Vec<String> {
    let Ok(file) = ElfFile64::<Endianness, _>::parse(library) else { return Vec::new() };
    let Ok(table) = file.elf_dynamic_table() else { return Vec::new() };
    let names = table.iter().filter(|entry| entry.tag == DT_NEEDED).filter_map(|entry| table.string(entry).ok());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

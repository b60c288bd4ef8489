//! What keeps a library from being unmapped, or its memory from being freed: removed where possible, refused where not.

use object::elf::{DF_1_NODELETE, DF_STATIC_TLS, DT_FLAGS, DT_FLAGS_1, Dyn64, STB_GLOBAL, STB_GNU_UNIQUE, Sym64};
use object::{Endianness, LittleEndian, Object, ObjectSection, pod};

/// A change of one byte of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) at: usize,
    pub(crate) byte: u8,
}

/// A section of a library that is a table, and its offset in the file.
fn table<'data, T: pod::Pod>(library: &'data [u8], section: &str) -> Option<(usize, &'data [T])> {
    let file = object::File::parse(library).ok()?;
    if file.format() != object::BinaryFormat::Elf || !file.is_64() || file.endianness() != Endianness::Little {
        return None;
    }
    let section = file.section_by_name(section)?;
    let (at, _) = section.file_range()?;
    let data = section.data().ok()?;
    let (entries, _) = pod::slice_from_bytes(data, data.len() / size_of::<T>()).ok()?;
    Some((usize::try_from(at).ok()?, entries))
}

/// What must be changed in a library so that it is unmapped when it is closed. It may be marked as never to be unmapped
/// (with `-z nodelete`), and the loader marks it so if it has symbols that are to be unique in the process
/// (`STB_GNU_UNIQUE`, of C++): here each generation has its own.
pub(crate) fn to_be_unmapped(library: &[u8]) -> Vec<Patch> {
    let mut patches = Vec::new();
    if let Some((start, entries)) = table::<Dyn64<LittleEndian>>(library, ".dynamic") {
        for (number, entry) in entries.iter().enumerate() {
            let value = entry.d_val.get(LittleEndian);
            if entry.d_tag.get(LittleEndian) == DT_FLAGS_1 && value & DF_1_NODELETE.0 != 0 {
                // The bit is in the first byte of the entry's second half.
                let at = start + number * size_of::<Dyn64<LittleEndian>>() + 8;
                patches.push(Patch { at, byte: (value & !DF_1_NODELETE.0) as u8 });
            }
        }
    }
    if let Some((start, symbols)) = table::<Sym64<LittleEndian>>(library, ".dynsym") {
        for (number, symbol) in symbols.iter().enumerate() {
            if symbol.st_bind() == STB_GNU_UNIQUE {
                let at = start + number * size_of::<Sym64<LittleEndian>>() + 4;
                patches.push(Patch { at, byte: (STB_GLOBAL.0 << 4) | symbol.st_type().0 });
            }
        }
    }
    patches
}

/// Why a library cannot be loaded and closed over and over in one process, if so.
pub(crate) fn wears_out_a_process(library: &[u8]) -> Option<&'static str> {
    let (_, entries) = table::<Dyn64<LittleEndian>>(library, ".dynamic")?;
    let set = |entry: &Dyn64<LittleEndian>| entry.d_val.get(LittleEndian) & DF_STATIC_TLS.0 != 0;
    let wants = entries.iter().any(|entry| entry.d_tag.get(LittleEndian) == DT_FLAGS && set(entry));
    wants.then_some(
        "it needs static thread-local data (a C library in it is compiled with `-ftls-model=initial-exec`), and each version \
         would permanently take some of the little space that a process has for it. Compile that library without it \
         (mimalloc has the feature `local_dynamic_tls`, tikv-jemallocator `disable_initial_exec_tls`), or give the plugin a \
         process of its own",
    )
}

/// Whether a library has its own `malloc`, other than the host's.
pub(crate) fn has_malloc(library: &[u8]) -> bool {
    let find = || {
        let (_, symbols) = table::<Sym64<LittleEndian>>(library, ".symtab")?;
        let (_, names) = table::<u8>(library, ".strtab")?;
        let called = |symbol: &Sym64<LittleEndian>| names.get(symbol.st_name.get(LittleEndian) as usize..);
        let defined = |symbol: &Sym64<LittleEndian>| symbol.st_shndx.get(LittleEndian) != object::elf::SHN_UNDEF;
        let is = |symbol: &Sym64<LittleEndian>| called(symbol).is_some_and(|name| name.starts_with(b"malloc\0"));
        Some(symbols.iter().any(|symbol| is(symbol) && defined(symbol)))
    };
    find().unwrap_or(false)
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// A library of some C++ source.
    fn library(source: &str, flags: &[&str]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("made.c"), source).expect("writing");
        let mut cc = std::process::Command::new("cc");
        cc.current_dir(folder.path()).args(["-shared", "-fPIC", "-nostdlib", "made.c", "-o", "made.so"]).args(flags);
        let output = cc.output().expect("cc");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(folder.path().join("made.so")).expect("the library")
    }

    fn patched(mut library: Vec<u8>) -> Vec<u8> {
        to_be_unmapped(&library).iter().for_each(|patch| library[patch.at] = patch.byte);
        library
    }

    #[test]
    fn what_keeps_a_library_mapped_is_cleared_and_nothing_else() {
        let plain = library("int answer(void) { return 42; }", &[]);
        assert_eq!(to_be_unmapped(&plain), []);
        let marked = library("int answer(void) { return 42; }", &["-Wl,-z,nodelete,-z,now"]);
        assert_eq!(to_be_unmapped(&marked).len(), 1);
        let (_, entries) = table::<Dyn64<LittleEndian>>(&marked, ".dynamic").expect("entries");
        let flags = |entries: &[Dyn64<LittleEndian>]| {
            let found = entries.iter().find(|entry| entry.d_tag.get(LittleEndian) == DT_FLAGS_1);
            found.map(|entry| entry.d_val.get(LittleEndian)).expect("flags")
        };
        let cleared = patched(marked.clone());
        let (_, after) = table::<Dyn64<LittleEndian>>(&cleared, ".dynamic").expect("entries");
        assert_eq!(flags(after), flags(entries) & !DF_1_NODELETE.0);
        assert_ne!(flags(after), 0, "it is still to be bound at once");
        assert_eq!(to_be_unmapped(&cleared), []);

        let unique =
            library("int one = 1; __asm__(\".type one, @gnu_unique_object\"); int answer(void) { return one; }", &[]);
        assert_eq!(to_be_unmapped(&unique).len(), 1);
        let cleared = patched(unique);
        assert_eq!(to_be_unmapped(&cleared), []);
        let (_, symbols) = table::<Sym64<LittleEndian>>(&cleared, ".dynsym").expect("symbols");
        let objects = symbols.iter().filter(|symbol| symbol.st_type() == object::elf::STT_OBJECT);
        assert!(objects.into_iter().all(|symbol| symbol.st_bind() == STB_GLOBAL));
    }

    #[test]
    fn an_allocator_that_takes_the_place_of_the_c_librarys_and_data_for_a_processs_start_are_found() {
        let plain =
            library("__thread int data; int *answer(void) { return &data; }", &["-Wl,--unresolved-symbols=ignore-all"]);
        assert!(!has_malloc(&plain) && wears_out_a_process(&plain).is_none());
        let malloc = library("void *malloc(unsigned long size) { return (void *) size; }", &[]);
        assert!(has_malloc(&malloc));
        let early = library(
            "__thread int data __attribute__((tls_model(\"initial-exec\"))); int *answer(void) { return &data; }",
            &[],
        );
        assert!(wears_out_a_process(&early).is_some_and(|why| why.contains("local_dynamic_tls")));
    }
}

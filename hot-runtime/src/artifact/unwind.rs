//! Finds the functions of a library that a panic cannot unwind through: a panic that reaches one aborts the process.
//!
//! It reads the table that the unwinder itself uses, `.eh_frame_hdr`. On systems with another mechanism it finds
//! nothing.

use std::collections::BTreeSet;
use std::path::Path;

use object::elf::{SHN_UNDEF, STT_FUNC, Sym64};
use object::{Endianness, LittleEndian, Object, ObjectSection, ReadRef};

/// The named functions of a library.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    /// How many there are.
    functions: usize,
    /// Those without an unwind table.
    bare: BTreeSet<String>,
}

impl Tables {
    /// Reads them from a file, as far as needed. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(path: &Path) -> std::io::Result<Self> {
        let cache = object::ReadCache::new(std::fs::File::open(path)?);
        Ok(Self::of(&cache).unwrap_or_default())
    }

    /// Reads them from a library; `None` for a kind of library whose tables are not found this way.
    pub(crate) fn of<'data>(library: impl ReadRef<'data>) -> Option<Self> {
        let file = object::File::parse(library).ok()?;
        if file.format() != object::BinaryFormat::Elf || !file.is_64() || file.endianness() != Endianness::Little {
            return None;
        }
        let data = |name: &str| Some((file.section_by_name(name)?.address(), file.section_by_name(name)?.data().ok()?));
        let starts = match data(".eh_frame_hdr") {
            Some((address, header)) => Starts::of(address, header)?,
            None => Starts { address: 0, entries: &[] },
        };
        let (_, symbols) = data(".symtab")?;
        let (_, names) = data(".strtab")?;
        let (symbols, _) = object::pod::slice_from_bytes::<Sym64<LittleEndian>>(
            symbols,
            symbols.len() / size_of::<Sym64<LittleEndian>>(),
        )
        .ok()?;
        let mut found = Self::default();
        for symbol in symbols {
            let (defined, size) = (symbol.st_shndx.get(LittleEndian) != SHN_UNDEF, symbol.st_size.get(LittleEndian));
            let name = names.get(symbol.st_name.get(LittleEndian) as usize..).unwrap_or_default();
            // Only Rust code: code in other languages may have no tables, and does not panic.
            let rust = name.starts_with(b"_R") || name.starts_with(b"_ZN");
            if symbol.st_type() != STT_FUNC || !defined || size == 0 || !rust {
                continue;
            }
            found.functions += 1;
            if !starts.contain(symbol.st_value.get(LittleEndian)) {
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                found.bare.insert(String::from_utf8_lossy(name).into_owned());
            }
        }
        Some(found)
    }

    /// A function that has no table here, but was not without one `before`.
    pub(crate) fn lost_since(&self, before: &Self) -> Option<&str> {
        self.bare.iter().find(|name| !before.bare.contains(*name)).map(String::as_str)
    }

    /// What is wrong if more than half of the functions have no tables; fewer may be intended (`#[naked]`).
    pub(crate) fn wrong(&self) -> Option<String> {
        let (bare, all) = (self.bare.len(), self.functions);
        let first = self.bare.first().filter(|_| bare * 2 > all)?;
        Some(format!(
            "{bare} of its {all} functions have no unwind tables, such as `{first}`: a panic would abort the host"
        ))
    }
}

/// The start addresses of the functions with tables, in the order of `.eh_frame_hdr`.
struct Starts<'data> {
    /// What the entries are relative to.
    address: u64,
    entries: &'data [[[u8; 4]; 2]],
}

impl<'data> Starts<'data> {
    /// Reads the section; `None` if it is not in the form that all linkers write.
    fn of(address: u64, section: &'data [u8]) -> Option<Self> {
        // Version 1; a 4-byte relative pointer to the frames; a 4-byte count; 4-byte addresses relative to the section.
        let ([1, 0x1b, 0x03, 0x3b, _, _, _, _], rest) = section.split_first_chunk::<8>()? else { return None };
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (entries, _) = object::pod::slice_from_bytes::<[[u8; 4]; 2]>(rest, count).ok()?;
        Some(Self { address, entries })
    }

    fn contain(&self, place: u64) -> bool {
        let start = |entry: &[[u8; 4]; 2]| self.address.wrapping_add_signed(i32::from_le_bytes(entry[0]).into());
        self.entries.binary_search_by_key(&place, start).is_ok()
    }
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::artifact;

    /// A library of functions that are named as Rust's are: some with tables, some without.
    fn library(folder: &Path, with: &str, without: &str, flag: &str) -> std::path::PathBuf {
        let cc = |arguments: &[&str]| {
            let output = std::process::Command::new("cc").current_dir(folder).args(arguments).output().expect("cc");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        for (name, functions, flag) in
            [("with", with, "-fasynchronous-unwind-tables"), ("without", without, "-fno-asynchronous-unwind-tables")]
        {
            let source: String =
                functions.split(' ').map(|name| format!("int {name}(void) {{ return 7; }}\n")).collect();
            std::fs::write(folder.join(format!("{name}.c")), source).expect("writing");
            cc(&["-c", "-fPIC", flag, &format!("{name}.c")]);
        }
        cc(&["-shared", "-nostdlib", flag, "with.o", "without.o", "-o", "made.so"]);
        folder.join("made.so")
    }

    #[test]
    fn functions_without_unwind_tables_are_found_and_a_library_of_them_is_not_sealed() {
        let folder = tempfile::tempdir().expect("a folder");
        let bare = |tables: &Tables| tables.bare.iter().cloned().collect::<Vec<_>>().join(" ");

        let made = library(folder.path(), "_Ra _Rb in_c", "_Rnaked also_in_c", "-Wl,--eh-frame-hdr");
        let some = Tables::read(&made).expect("reading");
        assert_eq!((some.functions, bare(&some).as_str(), some.wrong()), (3, "_Rnaked", None));
        artifact::seal(&made, &folder.path().join("some.cbus.so")).expect("it is sealed");

        let made = library(folder.path(), "_Ra", "_Rb _Rnaked", "-Wl,--eh-frame-hdr");
        let most = Tables::read(&made).expect("reading");
        assert_eq!(most.lost_since(&some), Some("_Rb"));
        assert_eq!(some.lost_since(&most), None);
        let error = artifact::seal(&made, &folder.path().join("most.cbus.so")).expect_err("refused").to_string();
        assert!(error.contains("2 of its 3 functions have no unwind tables, such as `_Rb`"), "{error}");

        // The tables are there, but not what finds them.
        let made = library(folder.path(), "_Ra _Rb", "in_c", "-Wl,--no-eh-frame-hdr");
        assert_eq!(bare(&Tables::read(&made).expect("reading")), "_Ra _Rb");
    }
}

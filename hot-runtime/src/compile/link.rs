//! Relinks a plugin without recompiling its overlay: as rustc linked it, with another build hash.
//!
//! Between builds an overlay differs only in the 16 digits of the build hash, in its record and in symbol names. So its
//! objects are kept, the digits in them are replaced, and the linker is called as rustc called it, with recompiled
//! crates in place of the old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use object::read::archive::ArchiveFile;
use object::{Object, ObjectSection, ObjectSymbol};

use crate::compile::prelink::Prelinked;
use crate::compile::standby::{self, ArgumentFile, Invocation};
use crate::error::{Error, Result};

/// How rustc called the linker.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LinkCall {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl LinkCall {
    /// Parses the output of `--print link-args`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = words(line)?.into_iter().peekable();
        let mut environment = Vec::new();
        while let Some(word) = words.peek() {
            // `K="v"` comes before the program; arguments, which may contain `=` too, come after it.
            match word.split_once('=') {
                Some((name, value)) if !name.is_empty() && !name.contains('/') => {
                    environment.push((name.to_owned(), value.to_owned()));
                    words.next();
                }
                _ => break,
            }
        }
        Some(Self { program: words.next()?, arguments: words.collect(), environment })
    }

    /// The call of the linker that the compiler driver would make: the driver and its helpers take nearly a third of a
    /// link's time. `None` if it is not known, or is not lld. The files must exist. Blocks.
    fn resolve_linker_call(&self) -> Option<Self> {
        let ask = |arguments: &mut dyn Iterator<Item = &str>| {
            let environment = self.environment.iter().map(|(name, value)| (name, value));
            let mut driver = std::process::Command::new(&self.program);
            let asked = driver.args(arguments).envs(environment).stdin(std::process::Stdio::null()).output().ok()?;
            asked.status.success().then_some(asked)
        };
        let given = || self.arguments.iter().map(String::as_str);
        // The last one counts.
        if given().rfind(|argument| argument.starts_with("-fuse-ld=")) != Some("-fuse-ld=lld") {
            return None;
        }
        let shown = String::from_utf8(ask(&mut ["-###"].into_iter().chain(given()))?.stderr).ok()?;
        let mut words = words(shown.lines().rfind(|line| line.starts_with(' '))?)?.into_iter();
        let mut program = words.next()?;
        if program.ends_with("/collect2") {
            // Gcc's wrapper, which finds the linker and runs it.
            let choice = given().filter(|argument| chooses_linker(argument));
            let found = ask(&mut choice.chain(["-print-prog-name=ld.lld"]))?.stdout;
            program = String::from_utf8(found).ok()?.trim().to_owned();
        }
        if !program.ends_with("/ld.lld") {
            return None;
        }
        let mut arguments = Vec::new();
        while let Some(argument) = words.next() {
            // Arguments for collect2, and the plugin for gcc's LTO objects, which lld cannot use.
            let of_gcc = |option: &str| {
                option.ends_with("/lto-wrapper")
                    || option.starts_with("-fresolution=")
                    || option.starts_with("-pass-through=")
            };
            match argument.strip_prefix("-plugin-opt=") {
                Some(option) if of_gcc(option) => {}
                None if argument == "-plugin" => drop(words.next()),
                None if argument.starts_with("-fuse-ld=") => {}
                _ => arguments.push(argument),
            }
        }
        Some(Self { program, arguments, environment: self.environment.clone() })
    }
}

/// Which linker rustc uses, and how it can be called.
#[derive(Debug)]
pub(crate) struct Linking {
    /// What rustc calls.
    pub(crate) driver: String,
    /// The linker that the driver was told to use, such as `lld`; `None` for the driver's own choice.
    pub(crate) chosen: Option<String>,
    /// The linker itself, if it can be called without the driver.
    pub(crate) linker: Option<String>,
    /// What GNU ld, which prelinks dependencies, says of itself; `None` if there is none.
    pub(crate) gnu: Option<String>,
}

impl Linking {
    /// What a line of `--print link-args` shows. The files in it must exist. Blocks.
    pub(crate) fn of(line: &str) -> Option<Self> {
        let call = LinkCall::parse(line)?;
        let chosen = call.arguments.iter().rev().find_map(|argument| argument.strip_prefix("-fuse-ld="));
        let mut gnu = std::process::Command::new(&call.program);
        gnu.args(["-fuse-ld=bfd", "-Wl,--version"]).stdin(std::process::Stdio::null());
        let said = gnu.output().ok().filter(|output| output.status.success());
        let gnu = said.and_then(|output| String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned));
        Some(Self {
            chosen: chosen.map(str::to_owned),
            linker: call.resolve_linker_call().map(|direct| direct.program),
            gnu: gnu.filter(|line| line.starts_with("GNU ld")),
            driver: call.program,
        })
    }
}

/// How a linker is told which format it writes.
const FORMAT: &str = "-m";

impl LinkCall {
    /// Its program and environment, without arguments but those that decide how others are read.
    fn invocation(&self) -> Invocation {
        let changed = self.environment.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let first = self.format().into_iter().flat_map(|format| [FORMAT.into(), format.into()]).collect();
        Invocation {
            program: self.program.clone().into(),
            first,
            arguments: Vec::new(),
            folder: None,
            environment: standby::with(std::env::vars_os().collect(), changed),
            // Without a format, lld reads an argument file twice.
            reads: if self.format().is_some() { ArgumentFile::Words } else { ArgumentFile::None },
        }
    }

    /// The format, if it is set by an argument of its own, as compiler drivers do.
    fn format(&self) -> Option<&String> {
        let at = self.arguments.iter().position(|argument| argument == FORMAT)?;
        self.arguments.get(at + 1)
    }

    /// The arguments that are not in [`LinkCall::invocation`].
    fn rest(&self) -> impl Iterator<Item = &String> {
        let at = self.format().and_then(|_| self.arguments.iter().position(|argument| argument == FORMAT));
        let is_format = move |number: usize| at.is_some_and(|at| number == at || number == at + 1);
        self.arguments.iter().enumerate().filter(move |(number, _)| !is_format(*number)).map(|(_, argument)| argument)
    }
}

/// Whether an argument affects which linker a compiler driver chooses.
pub(crate) fn chooses_linker(argument: &str) -> bool {
    argument.starts_with("-B") || argument.starts_with("-fuse-ld") || argument.starts_with("-m")
}

/// Splits a command as printed by Rust's `Debug`.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.trim().chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '\\' if quoted => {
                let escaped = match chars.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    '0' => '\0',
                    'u' => {
                        let digits: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                    }
                    same => same,
                };
                word.get_or_insert_default().push(escaped);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

/// A file of the overlay, and the positions of the build hash in it.
#[derive(Clone, Debug)]
struct Template {
    /// The path that the linker was given.
    original: String,
    name: String,
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    fn read(path: &str, name: String, hash: &str) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let places = bytes.windows(hash.len()).enumerate().filter(|(_, part)| *part == hash.as_bytes());
        let places = places.map(|(at, _)| at).collect();
        Some(Self { original: path.to_owned(), name, bytes, places })
    }

    fn with(&self, hash: &str) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for place in &self.places {
            bytes[*place..*place + hash.len()].copy_from_slice(hash.as_bytes());
        }
        bytes
    }
}

/// What is needed to relink a plugin.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    call: LinkCall,
    /// The call without the driver, if known.
    direct: Option<LinkCall>,
    hash: String,
    templates: Vec<Template>,
    /// The archives that are linked, as written in the call, with their full paths.
    archives: BTreeMap<String, PathBuf>,
    output: String,
}

impl Linker {
    /// Keeps the linker's inputs, from the line that rustc printed, and removes the temporary files that rustc left for
    /// that. `None` if the line is not understood. Blocks.
    pub(crate) fn keep(line: &str, hash: &str) -> Option<Self> {
        let call = LinkCall::parse(line)?;
        let mut templates = Vec::new();
        let mut output = None;
        let mut archives = BTreeMap::new();
        let mut arguments = call.arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "-o" {
                output = arguments.next().cloned();
            } else if argument.ends_with(".rcgu.o") || argument.ends_with("/symbols.o") {
                let name = format!("overlay-{}.o", templates.len());
                templates.push(Template::read(argument, name, hash)?);
            } else if argument.ends_with(".rlib") {
                archives.insert(argument.clone(), Path::new(argument).canonicalize().ok()?);
            } else if let Some(path) = argument.strip_prefix("-Wl,--version-script=") {
                templates.push(Template::read(path, "exports".to_owned(), hash)?);
            }
        }
        let direct = call.resolve_linker_call();
        let symbols = templates.iter().find(|template| template.original.ends_with("/symbols.o"))?;
        if let Some(folder) = Path::new(&symbols.original).parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
        Some(Self { call, direct, hash: hash.to_owned(), templates, archives, output: output? })
    }

    /// Whether the linker can be called without the compiler driver.
    pub(crate) fn knows_linker(&self) -> bool {
        self.direct.is_some()
    }

    /// The compiler driver.
    pub(crate) fn program(&self) -> &str {
        &self.call.program
    }

    /// The driver's environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.call.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The driver's arguments.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &String> {
        self.call.arguments.iter()
    }

    /// The archives that are linked.
    pub(crate) fn archives(&self) -> impl Iterator<Item = &PathBuf> {
        self.archives.values()
    }

    /// The overlay's own objects.
    pub(crate) fn overlay(&self) -> impl Iterator<Item = &[u8]> {
        self.templates.iter().filter(|template| template.name.ends_with(".o")).map(|template| template.bytes.as_slice())
    }

    /// The linker without the compiler driver and without arguments, if it can be called so.
    pub(crate) fn linker(&self) -> Option<Invocation> {
        self.direct.as_ref().map(LinkCall::invocation)
    }

    /// The call that links into a directory with this build hash and with some archives replaced; `None` if one of
    /// those is not linked. It calls the linker without the compiler driver, if possible and not `by_driver`. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] if the overlay's files cannot be written.
    pub(crate) fn invocation(
        &self,
        hash: &str,
        folder: &Path,
        exchanged: &BTreeMap<PathBuf, PathBuf>,
        prelinked: Option<&Prelinked>,
        by_driver: bool,
    ) -> Result<Option<(Invocation, PathBuf)>> {
        if !exchanged.keys().all(|archive| self.archives.values().any(|linked| linked == archive)) {
            return Ok(None);
        }
        let output = folder.join(Path::new(&self.output).file_name().unwrap_or_default());
        let mut paths = BTreeMap::new();
        for template in &self.templates {
            let path = folder.join(&template.name);
            std::fs::write(&path, template.with(hash)).map_err(Error::io("writing the overlay's objects", &path))?;
            paths.insert(template.original.as_str(), path.to_string_lossy().into_owned());
        }
        let direct = self.direct.as_ref().filter(|_| !by_driver);
        let (call, to_linker) = direct.map_or((&self.call, "-Wl,"), |direct| (direct, ""));
        let script = format!("{to_linker}--version-script=");
        let mut invocation = call.invocation();
        if direct.is_none() {
            // The driver does more with its arguments than pass them on.
            invocation.reads = ArgumentFile::None;
        }
        let mut add = |argument: String| invocation.arguments.push(argument.into());
        let mut object = prelinked.map(|prelinked| &prelinked.object);
        if prelinked.is_some() {
            // A missing symbol must be noticed now, not when the library is opened.
            add(format!("{to_linker}--no-undefined"));
        }
        for argument in call.rest() {
            if let (Some(archive), Some(prelinked)) = (self.archives.get(argument), prelinked)
                && prelinked.archives.contains(archive)
            {
                if let Some(object) = object.take() {
                    add(object.to_string_lossy().into_owned());
                }
                continue;
            }
            let argument = match argument.strip_prefix(&script) {
                Some(path) => paths.get(path).map(|path| format!("{script}{path}")),
                None if *argument == self.output => Some(output.to_string_lossy().into_owned()),
                None => paths.get(argument.as_str()).cloned().or_else(|| {
                    let exchanged = exchanged.get(self.archives.get(argument)?)?;
                    Some(exchanged.to_string_lossy().into_owned())
                }),
            }
            .unwrap_or_else(|| argument.replace(&self.hash, hash));
            add(argument);
        }
        Ok(Some((invocation, output)))
    }
}

/// The properties of an archive that matter to a plugin that links it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The symbols that rustc may name to the linker, or that the linker must keep although nothing refers to them,
    /// with their sections. As long as these are the same, rustc's arguments for the linker are too.
    pub(crate) surface: BTreeSet<(String, String)>,
    /// The undefined symbols.
    pub(crate) needs: BTreeSet<String>,
    /// The hash of everything but debug information.
    pub(crate) code: blake3::Hash,
}

impl Shape {
    /// Reads an archive or object; `None` if that fails.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let mut surface = BTreeSet::new();
        let mut needs = BTreeSet::new();
        let mut code = blake3::Hasher::new();
        for member in members(&bytes)? {
            let Ok(file) = object::File::parse(member) else {
                code.update(member);
                continue;
            };
            for section in file.sections() {
                let name = section.name().unwrap_or_default();
                if !is_for_debuggers(name) {
                    code.update(name.as_bytes()).update(&section.size().to_le_bytes());
                    code.update(section.data().unwrap_or_default());
                }
            }
            for symbol in file.symbols() {
                let Ok(name) = symbol.name() else { continue };
                if symbol.is_undefined() {
                    needs.insert(name.to_owned());
                }
                if !symbol.is_definition() {
                    continue;
                }
                let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
                let section = section.as_ref().and_then(|section| section.name().ok()).unwrap_or_default();
                let mangled = name.starts_with("_R") || name.starts_with("_ZN");
                let ordinary = [".text", ".rodata", ".data", ".bss", ".tdata", ".tbss", ".gcc_except_table"];
                let plain = section.is_empty() || ordinary.iter().any(|start| section.starts_with(start));
                if (symbol.is_global() && !mangled) || (!plain && !name.is_empty()) {
                    surface.insert((name.to_owned(), if plain { String::new() } else { section.to_owned() }));
                }
            }
        }
        Some(Self { surface, needs, code: code.finalize() })
    }
}

/// Whether a section has debug information, or relocations of it. A function may also have the word in its name.
fn is_for_debuggers(section: &str) -> bool {
    [".debug", ".zdebug", ".rela.debug", ".rel.debug"].iter().any(|start| section.starts_with(start))
}

/// The objects in an archive.
pub(crate) fn members(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    if !bytes.starts_with(b"!<arch>\n") {
        return Some(vec![bytes]);
    }
    let archive = ArchiveFile::parse(bytes).ok()?;
    let mut found = Vec::new();
    for member in archive.members() {
        let member = member.ok()?;
        if member.name().ends_with(b".o") {
            found.push(member.data(bytes).ok()?);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_is_read_back() {
        let line = r#"LC_ALL="C" PATH="/a b:/c" "cc" "-m64" "/x/a=\"b\".o" "-Wl,-soname,x" "\u{e9}" "#;
        let call = LinkCall::parse(line).expect("a command");
        assert_eq!(call.program, "cc");
        assert_eq!(call.arguments, ["-m64", "/x/a=\"b\".o", "-Wl,-soname,x", "é"]);
        let set = [("LC_ALL", "C"), ("PATH", "/a b:/c")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(call.environment, set);
        assert!(LinkCall::parse("\"unfinished").is_none());
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn the_linker_without_its_driver_links_the_same() {
        use std::process::Command;
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let run = |program: &str, arguments: &[String]| {
            let output = Command::new(program).args(arguments).output().expect("running it");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let (source, object, script) = (path("a file.c"), path("a file.o"), path("exports"));
        std::fs::write(&source, "int answer(void) { return 42; }").expect("the source");
        std::fs::write(&script, "{ global: answer; local: *; };").expect("the exports");
        run("cc", &["-fPIC", "-c", &source, "-o", &object].map(str::to_owned));
        let libraries = run("rustc", &["--print", "target-libdir"].map(str::to_owned));
        let call = |out: &str| {
            let lld = format!("-B{}/gcc-ld", Path::new(&libraries).with_file_name("bin").display());
            let exports = format!("-Wl,--version-script={script}");
            let arguments =
                [lld.as_str(), "-fuse-ld=lld", "-m64", &exports, &object, "-o", out, "-shared", "-Wl,-z,now"];
            let arguments = arguments.map(str::to_owned).to_vec();
            LinkCall { program: "cc".to_owned(), arguments, environment: Vec::new() }
        };
        let (driver, other) = (call(&path("one.so")), call(&path("two.so")));
        run("cc", &driver.arguments);
        let direct = other.resolve_linker_call().expect("the linker's call");
        assert!(direct.program.ends_with("ld.lld"), "{}", direct.program);
        run(&direct.program, &direct.arguments);
        let read = |name: &str| std::fs::read(path(name)).expect("a library");
        assert!(read("one.so") == read("two.so"), "the libraries differ");
    }

    #[test]
    fn digits_are_exchanged_wherever_they_are() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "a 0123456789abcdef b 0123456789abcdef").expect("writing");
        let path = file.path().to_string_lossy();
        let template = Template::read(&path, "x".to_owned(), "0123456789abcdef").expect("a template");
        assert_eq!(template.with("fedcba9876543210"), b"a fedcba9876543210 b fedcba9876543210");
    }
}

//! A workspace as data, and the files that it is written as.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::random::Random;

/// Which of the two workspaces is written: that of the plugin, or the one that plain cargo builds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flavour<'a> {
    /// The controller crate, with the folder of `controllerbus`.
    Plugin(&'a str),
    /// The same crate as a cdylib that is opened by hand.
    Plain,
}

/// A file, or a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    Text(String),
    Link(String),
}

/// Files by their paths below the root.
pub type Files = BTreeMap<String, Node>;

/// Where a module's text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `name.rs`.
    File,
    /// `name/mod.rs`.
    Folder,
    /// `#[path = "elsewhere/name_at.rs"]`.
    Path,
    /// `name.rs`, a link to a file outside of the crate.
    LinkedFile,
    /// `name`, a link to a folder outside of the crate.
    LinkedFolder,
}

pub const FORMS: [Form; 5] = [Form::File, Form::Folder, Form::Path, Form::LinkedFile, Form::LinkedFolder];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    pub name: String,
    pub form: Form,
    pub value: u64,
    /// Which of two folders a link leads to.
    pub target: u64,
    pub within: Vec<Module>,
}

/// A text that a source includes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Include {
    /// From the crate's `src`.
    pub path: String,
    pub text: u64,
    /// The file is not there.
    pub missing: bool,
}

/// What a build script says that it reads, and what it does with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Nothing: all of its package counts.
    Silent,
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A file outside of the package.
    Outside,
    /// A file, and it writes a source into the output folder.
    Writes,
    /// A file, and it writes a module into `src`.
    IntoSource,
    /// A file, and it sets a cfg.
    Cfg,
    /// Two files, one of which is not there.
    Missing,
}

pub const MANNERS: [Manner; 8] = [
    Manner::Silent,
    Manner::File,
    Manner::Folder,
    Manner::Outside,
    Manner::Writes,
    Manner::IntoSource,
    Manner::Cfg,
    Manner::Missing,
];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    pub manner: Manner,
    pub own: u64,
    pub input: u64,
    /// In a folder that it reads there is one more file.
    pub more: bool,
    /// It uses this crate.
    pub helper: Option<usize>,
}

/// Where a crate is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Member,
    Outside,
    /// A member's folder is a link to where it is.
    Linked,
    Git,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crate {
    /// As it is called in its manifest.
    pub name: String,
    pub place: Place,
    pub is_macro: bool,
    pub edition: u32,
    pub version: u64,
    pub value: u64,
    pub generic: u64,
    pub modules: Vec<Module>,
    pub includes: Vec<Include>,
    pub script: Option<Script>,
    pub extra: bool,
    pub denies: bool,
    /// Those of a higher number that it depends on, and under which name.
    pub needs: Vec<(usize, Option<String>)>,
    /// A mistake in its source.
    pub broken: Option<&'static str>,
    /// The commit that is depended on, if it comes from git.
    pub commit: usize,
}

impl Crate {
    pub fn library(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// Where a cargo config is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigAt {
    Nowhere,
    Root,
    Parent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// The first is the controller crate.
    pub crates: Vec<Crate>,
    pub config: ConfigAt,
    pub config_value: u64,
    pub forced: bool,
    /// The version of cargo's resolver: whether what a script uses has the same features as what it is for.
    pub resolver: u64,
    pub asserting: bool,
    pub patched: Option<u64>,
    /// Files that nobody reads.
    pub noise: u64,
    pub shared: u64,
    /// Where the folder of a crate was moved to.
    pub away: Option<usize>,
}

fn module(random: &mut Random, name: String, deep: bool) -> Module {
    let form = if deep { *random.one(&[Form::File, Form::Folder]) } else { *random.one(&FORMS) };
    let within = if !deep && matches!(form, Form::File | Form::Folder) && random.chance(40) {
        vec![module(random, "inner".to_owned(), true)]
    } else {
        Vec::new()
    };
    Module { name, form, value: random.number() % 1000, target: 0, within }
}

pub fn script(random: &mut Random, helper: Option<usize>) -> Script {
    let helper = helper.filter(|_| random.chance(50));
    Script {
        manner: *random.one(&MANNERS),
        own: random.number() % 1000,
        input: random.number() % 1000,
        more: false,
        helper,
    }
}

/// The crate that a crate's script may use. What a crate depends on under another name is no such: cargo wants one name.
pub fn helper_of(at: usize) -> Option<usize> {
    (at != 1).then_some(3)
}

impl Model {
    /// A random one.
    pub fn new(random: &mut Random) -> Self {
        const NAMES: [&str; 7] = ["control-ler", "word", "shout-er", "names", "target", "deep-er", "from_git"];
        let mut crates = Vec::new();
        for (at, name) in NAMES.iter().enumerate() {
            let is_macro = at == 2;
            let place = match at {
                0 => Place::Member,
                6 => Place::Git,
                _ => *random.one(&[Place::Member, Place::Outside, Place::Linked]),
            };
            let modules = if is_macro || place == Place::Git {
                Vec::new()
            } else {
                (0..1 + random.below(2)).map(|n| module(random, format!("m{n}"), false)).collect()
            };
            let includes = if is_macro || place == Place::Git {
                Vec::new()
            } else {
                let path = *random.one(&["data.txt", "../data/a b.txt", "../../shared.txt"]);
                vec![Include { path: path.to_owned(), text: random.number() % 1000, missing: false }]
            };
            let script = (place != Place::Git && !is_macro && random.chance(45)).then(|| script(random, helper_of(at)));
            crates.push(Crate {
                name: (*name).to_owned(),
                place,
                is_macro,
                edition: *random.one(&[2018, 2021, 2024]),
                version: random.number() % 10,
                value: random.number() % 1000,
                generic: random.number() % 1000,
                modules,
                includes,
                // A crate that a script uses has none: scripts go one deep.
                script: script.filter(|_| at < 3),
                extra: random.chance(50),
                denies: random.chance(30),
                needs: Vec::new(),
                broken: None,
                commit: 0,
            });
        }
        // The controller uses the word, the macro and the git crate; the macro what names are made of; the rest is below.
        crates[0].needs = vec![(1, None), (2, None), (6, None)];
        crates[1].needs = vec![(3, Some("renamed".to_owned())), (4, None)];
        crates[2].needs = vec![(3, None)];
        crates[4].needs = vec![(5, None)];
        if random.chance(50) {
            crates[0].needs.push((3, None));
        }
        Self {
            crates,
            config: *random.one(&[ConfigAt::Nowhere, ConfigAt::Root, ConfigAt::Parent]),
            config_value: random.number() % 1000,
            forced: random.chance(50),
            resolver: 1 + random.number() % 3,
            asserting: true,
            patched: random.chance(50).then(|| random.number() % 1000),
            noise: 0,
            shared: random.number() % 1000,
            away: None,
        }
    }

    /// The folder of a crate, below the root.
    pub fn folder(&self, at: usize) -> String {
        let one = &self.crates[at];
        match one.place {
            Place::Member => format!("work space/{}", one.name),
            Place::Outside => format!("out side/{}", one.name),
            Place::Linked => format!("linked/{}", one.name),
            Place::Git => format!("git/{}", one.name),
        }
    }

    /// The folder by which others find it.
    fn seen_as(&self, at: usize) -> String {
        match self.crates[at].place {
            Place::Linked => format!("work space/{}", self.crates[at].name),
            _ => self.folder(at),
        }
    }

    /// All files.
    pub fn files(&self, flavour: Flavour<'_>, git: &str) -> Files {
        let mut files = Files::new();
        let mut text = |path: String, text: String| drop(files.insert(path, Node::Text(text)));
        text("work space/Cargo.toml".to_owned(), self.workspace_manifest());
        text("work space/.gitignore".to_owned(), "*.log\n/target\nnode_modules\n".to_owned());
        if self.noise > 0 {
            for place in
                ["control-ler/app.log", "control-ler/src/notes.txt", "control-ler/node_modules/x.js", "word/db"]
            {
                // Not where a script counts all of its package.
                let silent =
                    self.crates.iter().any(|it| it.script.as_ref().is_some_and(|it| it.manner == Manner::Silent));
                if !silent && (place.starts_with("control") || self.crates[1].place == Place::Member) {
                    text(format!("work space/{place}"), self.noise.to_string());
                }
            }
        }
        let config = match self.config {
            ConfigAt::Nowhere => None,
            ConfigAt::Root => Some("work space/.cargo/config.toml"),
            ConfigAt::Parent => Some(".cargo/config.toml"),
        };
        if let Some(path) = config {
            let value = format!("value = \"config {}\", force = {}", self.config_value, self.forced);
            text(path.to_owned(), format!("[env]\nAGAINST_CONFIG = {{ {value} }}\n"));
        }
        for at in 0..self.crates.len() {
            if self.crates[at].place != Place::Git && self.away != Some(at) {
                self.add_crate(at, flavour, git, &mut files);
            }
        }
        files
    }

    fn workspace_manifest(&self) -> String {
        let member = |at: &usize| matches!(self.crates[*at].place, Place::Member | Place::Linked);
        let members: Vec<_> = (0..self.crates.len()).filter(member).map(|at| self.crates[at].name.clone()).collect();
        let mut text = format!("[workspace]\nmembers = {members:?}\n");
        let _ = write!(text, "resolver = \"{}\"\n\n[workspace.lints.rust]\n", self.resolver);
        text.push_str("unused_variables = \"deny\"\n\n");
        let _ = write!(text, "[profile.dev.package.word]\ndebug-assertions = {}\n\n", self.asserting);
        if self.patched.is_some() {
            text.push_str("[patch.crates-io]\nunicode-segmentation = { path = \"../patched\" }\n");
        }
        text
    }

    fn add_crate(&self, at: usize, flavour: Flavour<'_>, git: &str, files: &mut Files) {
        let one = &self.crates[at];
        let folder = self.folder(at);
        let mut text =
            |path: &str, text: String| drop(files.insert(normal(&format!("{folder}/{path}")), Node::Text(text)));
        text("Cargo.toml", self.manifest(at, flavour, git));
        text("src/lib.rs", self.source(at, flavour));
        for include in one.includes.iter().filter(|include| !include.missing) {
            text(&format!("src/{}", include.path), format!("included {}", include.text));
        }
        if let Some(script) = &one.script {
            text("build.rs", self.script(script));
            match script.manner {
                Manner::Folder => {
                    text("inputs/one.txt", format!("input {}", script.input));
                    text("inputs/deep/two.txt", format!("deep {}", script.input / 2));
                    if script.more {
                        text("inputs/deep/more.txt", format!("more {}", script.own));
                    }
                }
                Manner::Outside => text("../proto.txt", format!("input {}", self.shared)),
                _ => text("input.txt", format!("input {}", script.input)),
            }
        }
        if at == 0 {
            text("src/glue.rs", glue(flavour));
        }
        if one.place == Place::Linked {
            let link = format!("work space/{}", one.name);
            files.insert(link, Node::Link(format!("../linked/{}", one.name)));
        }
        for module in &one.modules {
            add_module(module, &format!("{folder}/src"), &one.library(), files);
        }
        if at == 0
            && let Some(value) = self.patched
        {
            let manifest =
                "[package]\nname = \"unicode-segmentation\"\nversion = \"1.13.3\"\nedition = \"2021\"\n\n[workspace]\n";
            files.insert("patched/Cargo.toml".to_owned(), Node::Text(manifest.to_owned()));
            files.insert("patched/src/lib.rs".to_owned(), Node::Text(PATCHED.replace("VALUE", &value.to_string())));
        }
    }

    fn manifest(&self, at: usize, flavour: Flavour<'_>, git: &str) -> String {
        let one = &self.crates[at];
        let mut text = format!(
            "[package]\nname = \"{}\"\nversion = \"0.{}.0\"\nedition = \"{}\"\npublish = false\n",
            one.name, one.version, one.edition
        );
        let plain = at == 0 && flavour == Flavour::Plain;
        if one.is_macro {
            text.push_str("\n[lib]\nproc-macro = true\n");
        } else if plain {
            text.push_str("\n[lib]\ncrate-type = [\"cdylib\"]\n");
        }
        let depends = |on: usize, called: Option<&String>, more: &str| {
            let other = &self.crates[on];
            let name = called.unwrap_or(&other.name);
            let package = if called.is_some() { format!("package = \"{}\", ", other.name) } else { String::new() };
            if other.place == Place::Git {
                return format!("{name} = {{ {package}git = \"file://{git}\", tag = \"v{}\" }}\n", other.commit);
            }
            format!("{name} = {{ {package}{more}path = \"../../{}\" }}\n", self.seen_as(on))
        };
        text.push_str("\n[dependencies]\n");
        for (on, called) in &one.needs {
            text.push_str(&depends(*on, called.as_ref(), ""));
        }
        if at == 0 {
            if let Flavour::Plugin(controllerbus) = flavour {
                let _ = writeln!(text, "controllerbus = {{ path = {controllerbus:?} }}");
                text.push_str("serde = { version = \"1\", features = [\"derive\"] }\n");
            }
            if self.patched.is_some() {
                text.push_str("unicode-segmentation = \"1\"\nconvert_case = \"0.10\"\n");
            }
        }
        if let Some(helper) = one.script.as_ref().and_then(|script| script.helper) {
            let depends = depends(helper, None, "features = [\"helps\"], ");
            let _ = write!(text, "\n[build-dependencies]\n{depends}");
        }
        let default = if one.extra { "[\"extra\"]" } else { "[]" };
        let _ = write!(text, "\n[features]\ndefault = {default}\nextra = []\nhelps = []\n");
        match one.place {
            Place::Member if one.denies => text.push_str("\n[lints]\nworkspace = true\n"),
            Place::Outside => text.push_str("\n[workspace]\n"),
            _ => {}
        }
        text
    }

    fn source(&self, at: usize, flavour: Flavour<'_>) -> String {
        let one = &self.crates[at];
        if one.is_macro {
            return self.macro_source(one);
        }
        let library = one.library();
        let mut text = format!("//! The crate {}.\n#![allow(dead_code, unused_macros)]\n", one.name);
        if at == 0 {
            // On one line: what follows has the same line in both.
            text.push_str(if flavour == Flavour::Plain { "mod glue;\n" } else { "mod glue; pub use glue::*;\n" });
        }
        for module in &one.modules {
            if module.form == Form::Path {
                let _ = writeln!(text, "#[path = \"elsewhere/{}_at.rs\"]", module.name);
            }
            let _ = writeln!(text, "mod {};", module.name);
        }
        let script = one.script.as_ref();
        if script.is_some_and(|script| script.manner == Manner::IntoSource) {
            text.push_str("mod generated;\n");
        }
        if script.is_some_and(|script| script.manner == Manner::Writes) {
            text.push_str("mod written {\n    include!(concat!(env!(\"OUT_DIR\"), \"/written.rs\"));\n}\n");
        }
        match one.broken {
            Some("syntax") => text.push_str("fn oops( {\n"),
            Some("type") => text.push_str("pub const OOPS: u32 = \"text\";\n"),
            Some("module") => text.push_str("mod not_there;\n"),
            Some("lint") => text.push_str("pub fn lint() { let unused = 1; }\n"),
            _ => {}
        }
        let _ = writeln!(
            text,
            "pub const CONSTANT: u64 = {};\n#[inline]\npub fn inlined() -> u64 {{ CONSTANT + 1 }}\n\
             pub fn generic<T: std::fmt::Display>(of: T) -> String {{ format!(\"<{} {{}}>\", of) }}\n\
             fn name_of<T>(_: T) -> &'static str {{ std::any::type_name::<T>() }}\n\
             #[macro_export]\nmacro_rules! {library}_expanded {{\n    () => {{ \"expanded {}\" }};\n}}\n\
             pub fn report() -> String {{\n    let mut all: Vec<String> = Vec::new();\n    \
             all.push(format!(\"{}/{{}} {{}}\", env!(\"CARGO_PKG_VERSION\"), CONSTANT));\n    \
             all.push(name_of([1u8].into_iter().next()).to_owned());\n    \
             all.push(format!(\"extra {{}} line {{}}\", cfg!(feature = \"extra\"), line!()));\n    \
             all.push(format!(\"config {{:?}}\", option_env!(\"AGAINST_CONFIG\")));",
            one.value,
            one.generic,
            one.generic / 3,
            one.name,
        );
        text.push_str("    #[cfg(feature = \"helps\")]\n    all.push(\"helps\".to_owned());\n");
        if one.name == "word" {
            text.push_str("    all.push(format!(\"asserting {}\", cfg!(debug_assertions)));\n");
        }
        for module in &one.modules {
            let _ = writeln!(text, "    all.push(format!(\"{0} {{}}\", {0}::value()));", module.name);
        }
        for include in &one.includes {
            let _ = writeln!(text, "    all.push(include_str!({:?}).to_owned());", include.path);
        }
        if let Some(script) = script {
            text.push_str("    all.push(env!(\"FROM_SCRIPT\").to_owned());\n");
            match script.manner {
                Manner::IntoSource => text.push_str("    all.push(format!(\"generated {}\", generated::VALUE));\n"),
                Manner::Writes => text.push_str("    all.push(format!(\"written {}\", written::VALUE));\n"),
                Manner::Cfg => text.push_str("    #[cfg(odd)]\n    all.push(\"odd\".to_owned());\n"),
                _ => {}
            }
        }
        for (on, called) in &one.needs {
            let other = &self.crates[*on];
            let called = called.clone().unwrap_or_else(|| other.library()).replace('-', "_");
            if other.is_macro {
                let _ = writeln!(text, "    all.push({called}::words!().to_owned());");
            } else {
                let _ = writeln!(
                    text,
                    "    all.push({called}::report());\n    all.push({called}::generic({called}::inlined()));\n    \
                     all.push({called}::{}_expanded!().to_owned());",
                    other.library()
                );
            }
        }
        if at == 0 && self.patched.is_some() {
            text.push_str("    all.push(format!(\"patched {}\", unicode_segmentation::patched()));\n");
            text.push_str("    all.push(convert_case::Casing::to_case(&\"HelloWorld\", convert_case::Case::Snake));\n");
        }
        text.push_str("    all.join(\"; \")\n}\n");
        text
    }

    fn macro_source(&self, one: &Crate) -> String {
        let mut helpers = String::new();
        for (on, called) in &one.needs {
            let called = called.clone().unwrap_or_else(|| self.crates[*on].library());
            let _ = writeln!(helpers, "    text.push_str(&{called}::report());");
        }
        let broken = if one.broken.is_some() { "fn oops( {\n" } else { "" };
        format!(
            "//! A macro.\nextern crate proc_macro;\n{broken}#[proc_macro]\npub fn words(_: proc_macro::TokenStream) -> proc_macro::TokenStream {{\n    \
             let mut text = String::from(\"macro {} {} \");\n{helpers}    format!(\"{{text:?}}\").parse().unwrap()\n}}\n",
            one.value, one.generic
        )
    }

    fn script(&self, script: &Script) -> String {
        let (input, told) = match script.manner {
            Manner::Silent => ("input.txt", ""),
            Manner::Folder => ("inputs/one.txt", "inputs"),
            Manner::Outside => ("../proto.txt", "../proto.txt"),
            _ => ("input.txt", "input.txt"),
        };
        let helper = script.helper.map_or(String::new(), |at| {
            let name = self.crates[at].library();
            format!("    text.push_str(&{name}::report());\n")
        });
        let mut text = String::from("fn main() {\n");
        if !told.is_empty() {
            let _ = writeln!(text, "    println!(\"cargo:rerun-if-changed={told}\");");
        }
        if script.manner == Manner::Missing {
            text.push_str("    println!(\"cargo:rerun-if-changed=not-there\");\n");
        }
        let _ = write!(
            text,
            "    let mut text = std::fs::read_to_string({input:?}).unwrap().trim().to_owned();\n{helper}    \
             println!(\"cargo:rustc-check-cfg=cfg(odd)\");\n    \
             let sum: u64 = text.bytes().map(u64::from).sum();\n    \
             println!(\"cargo:rustc-env=FROM_SCRIPT=script {} {{text}} {{sum}}\");\n",
            script.own
        );
        match script.manner {
            Manner::Folder => text.push_str(
                "    let deep = std::fs::read_to_string(\"inputs/deep/two.txt\").unwrap();\n    \
                 let more = std::fs::read_to_string(\"inputs/deep/more.txt\").unwrap_or_default();\n    \
                 println!(\"cargo:rustc-env=FROM_SCRIPT=script {deep} {more} {text}\");\n",
            ),
            Manner::Writes => text.push_str(
                "    let to = std::path::PathBuf::from(std::env::var(\"OUT_DIR\").unwrap()).join(\"written.rs\");\n    \
                 std::fs::write(to, format!(\"pub const VALUE: u64 = {sum};\\n\")).unwrap();\n",
            ),
            Manner::IntoSource => text.push_str(
                "    std::fs::write(\"src/generated.rs\", format!(\"pub const VALUE: u64 = {sum};\\n\")).unwrap();\n",
            ),
            Manner::Cfg => text.push_str("    if sum % 2 == 1 {\n        println!(\"cargo:rustc-cfg=odd\");\n    }\n"),
            _ => {}
        }
        text.push_str("}\n");
        text
    }
}

/// Takes `x/..` out of a path.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            let _ = parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn add_module(module: &Module, folder: &str, library: &str, files: &mut Files) {
    let mut text = String::new();
    for inner in &module.within {
        let _ = writeln!(text, "mod {};", inner.name);
    }
    let inner: String = module.within.iter().map(|inner| format!(" + {}::value()", inner.name)).collect();
    let _ = writeln!(text, "pub fn value() -> u64 {{ {}{inner} }}", module.value);
    let (name, text) = (&module.name, Node::Text(text));
    let away = format!("common/{library}-{name}-{}", module.target);
    let up = "../".repeat(folder.split('/').count());
    match module.form {
        Form::File => drop(files.insert(format!("{folder}/{name}.rs"), text)),
        Form::Folder => drop(files.insert(format!("{folder}/{name}/mod.rs"), text)),
        Form::Path => drop(files.insert(format!("{folder}/elsewhere/{name}_at.rs"), text)),
        Form::LinkedFile => {
            files.insert(format!("{away}.rs"), text);
            files.insert(format!("{folder}/{name}.rs"), Node::Link(format!("{up}{away}.rs")));
        }
        Form::LinkedFolder => {
            files.insert(format!("{away}/mod.rs"), text);
            files.insert(format!("{folder}/{name}"), Node::Link(format!("{up}{away}")));
        }
    }
    for inner in &module.within {
        add_module(inner, &format!("{folder}/{name}"), library, files);
    }
}

/// A crate from the registry as it is patched: what the other crate needs of it, and something to see.
const PATCHED: &str = r#"//! Patched.
pub trait UnicodeSegmentation {
    fn grapheme_indices(&self, extended: bool) -> std::vec::IntoIter<(usize, &str)>;
}
impl UnicodeSegmentation for str {
    fn grapheme_indices(&self, _: bool) -> std::vec::IntoIter<(usize, &str)> {
        let parts = self.char_indices().map(|(at, c)| (at, &self[at..at + c.len_utf8()]));
        parts.collect::<Vec<_>>().into_iter()
    }
}
pub fn patched() -> u64 {
    VALUE
}
"#;

/// How what the crate is made of is asked.
fn glue(flavour: Flavour<'_>) -> String {
    match flavour {
        Flavour::Plain => "//! Asked by hand.\n#[no_mangle]\npub extern \"C\" fn against_cargo(say: extern \"C\" fn(*const u8, usize)) {\n    \
                           let text = crate::report();\n    say(text.as_ptr(), text.len());\n}\n"
            .replace("#[no_mangle]", "#[cfg_attr(all(), unsafe(no_mangle))]"),
        Flavour::Plugin(_) => "//! Asked over the bus.
use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = \"probe/ask\", value = Answer)]
pub struct Ask {
    pub what: String,
    pub nonce: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Answer(pub String);

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = \"against\")]
pub struct AgainstConfig {}

pub struct Against;

#[hot_plugin(id = \"against\", version = \"1.0.0\")]
impl Controller for Against {
    type Config = AgainstConfig;

    async fn construct(_: AgainstConfig, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    #[resolves]
    async fn ask(&self, _: Ask, values: Values<Answer>) -> Result<()> {
        values.add(Answer(crate::report()));
        Ok(())
    }
}
"
        .to_owned(),
    }
}

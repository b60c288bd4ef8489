//! A library's manifest, in a section of its own: read with every length bounded, and compared with this process.

use std::collections::HashSet;

use controllerbus::error::Code;
use controllerbus::plugin::manifest::{ACCEPTED, BOUNDARY, Boundary, SECTION_ELF, SECTION_MACH_O, SECTION_PE, VERSION};
use object::{Object, ObjectSection};
use serde::Deserialize;

use super::Refusal;

/// The longest manifest section. Schemas make up most of it; a large plugin's has some ten KiB.
const LONGEST: usize = 1 << 20;

/// The longest id, version, symbol or name.
const LONGEST_NAME: usize = 256;

/// The longest description.
const LONGEST_TEXT: usize = 4096;

/// How many factories a plugin may have, and how many directives one of them may resolve.
const MOST: usize = 1000;

/// The overlay's record of the whole plugin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BundleRecord {
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: semver::Version,
    /// The hash of the build's inputs.
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
    /// The boundary's version.
    pub boundary: u32,
    /// The version of `controllerbus` that it was built with; empty where it does not say.
    #[serde(default)]
    pub controllerbus: String,
    /// What a panic in it does: anything but `unwind` would abort the host.
    #[serde(default)]
    pub panic: String,
    /// The lowest runtime version that it works with.
    pub min_runtime: semver::Version,
}

/// The record of one `#[hot_plugin]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct FactoryRecord {
    /// The attribute's `id`.
    pub plugin: String,
    /// The attribute's `version`.
    pub version: semver::Version,
    /// The crate's name.
    #[serde(rename = "crate")]
    pub crate_name: String,
    /// The crate's version.
    pub crate_version: String,
    /// A one-line description.
    pub description: String,
    /// The crate's own entry symbol.
    pub entry: String,
    /// The config ID.
    pub config: String,
    /// The ids of the directives that it resolves.
    pub resolves: Vec<String>,
    /// The JSON schemas of those directives, in the same order; `null` for one that cannot be asked from outside the plugin.
    #[serde(default)]
    pub directives: Vec<serde_json::Value>,
    /// Whether each of those directives is a call, which is answered by one controller and once.
    #[serde(default)]
    pub calls: Vec<bool>,
    /// What its code calls those directives and their values, in the same order; `null` for one that was written by hand.
    #[serde(default)]
    pub types: Vec<Option<DirectiveTypes>>,
    /// How its controllers replace others in a swap.
    #[serde(default)]
    pub swap: controllerbus::controller::SwapMode,
    /// The JSON schema of the config.
    #[serde(default)]
    pub schema: serde_json::Value,
    /// The trait whose functions it has, such as `greeter_api::Greeter`, if it has some: it runs as soon as it is loaded.
    #[serde(default)]
    pub functions: Option<String>,
}

/// What a plugin's own code calls a directive and its values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct DirectiveTypes {
    /// The directive's type, with its module.
    pub name: String,
    /// The type of its values, as it is written.
    pub value_name: String,
    /// The JSON schema of its values, as far as it is known.
    pub value: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
enum Record {
    Bundle(BundleRecord),
    Factory(FactoryRecord),
}

/// Reads a library's manifest.
pub(super) fn described(body: &[u8]) -> Result<(BundleRecord, Vec<FactoryRecord>), Refusal> {
    let file = parse(body)?;
    if file.kind() != object::ObjectKind::Dynamic {
        return Err((
            Code::NOT_A_PLUGIN,
            format!("it is not a dynamic library but {:?}", file.kind()),
            "rebuild the plugin",
        ));
    }
    let (bundle, factories) = records(&file)?;
    let mut ids = HashSet::new();
    if let Some(twice) = factories.iter().find(|factory| !ids.insert(&factory.plugin)) {
        return Err((
            Code::MANIFEST,
            format!("it has two factories with the id `{}`", twice.plugin),
            "give each #[hot_plugin] an id of its own",
        ));
    }
    Ok((bundle, factories))
}

fn parse(body: &[u8]) -> Result<object::File<'_>, Refusal> {
    object::File::parse(body)
        .map_err(|error| (Code::NOT_A_PLUGIN, format!("it is not a library: {error}"), "rebuild the plugin"))
}

/// Checks that this process could load a library.
pub(super) fn compatible(library: &[u8], bundle: &BundleRecord) -> Result<(), Refusal> {
    fits(library, bundle, ACCEPTED)
}

/// Whether a host that loads plugins of these boundaries can load a library.
pub(super) fn fits(library: &[u8], bundle: &BundleRecord, accepted: &[Boundary<'_>]) -> Result<(), Refusal> {
    check_machine(&parse(library)?)?;
    let here = env!("CBUS_TARGET");
    if bundle.target != here {
        return Err((
            Code::OTHER_TARGET,
            format!("it was built for {}, but this is {here}", bundle.target),
            "build it for this target",
        ));
    }
    if !accepted.contains(&Boundary { version: bundle.boundary, fingerprint: &bundle.abi }) {
        return Err(other_boundary(bundle));
    }
    if bundle.panic != "unwind" {
        return Err((
            Code::NO_UNWINDING,
            "a panic in it would abort the host".to_owned(),
            "build it with `panic = \"unwind\"`",
        ));
    }
    let ours = env!("CARGO_PKG_VERSION");
    if ours.parse::<semver::Version>().is_ok_and(|ours| ours < bundle.min_runtime) {
        let reason = format!("it needs hot-runtime {} or later, and this is {ours}", bundle.min_runtime);
        return Err((Code::RUNTIME_TOO_OLD, reason, "update the host"));
    }
    Ok(())
}

/// Why a plugin of another boundary is refused, by both sides' versions.
fn other_boundary(bundle: &BundleRecord) -> Refusal {
    let theirs = match bundle.controllerbus.as_str() {
        "" => "an unknown version of controllerbus".to_owned(),
        version => format!("controllerbus {version}"),
    };
    let reason = if bundle.boundary == BOUNDARY.version {
        format!(
            "its boundary has the fingerprint {} (it was built with {theirs}), and this runtime's has {} (controllerbus {VERSION})",
            bundle.abi, BOUNDARY.fingerprint
        )
    } else {
        format!(
            "its boundary has version {} (it was built with {theirs}), and this runtime's has version {} (controllerbus {VERSION})",
            bundle.boundary, BOUNDARY.version
        )
    };
    let help = if bundle.boundary > BOUNDARY.version {
        "update the host to that version, or build the plugin against the host's version of controllerbus"
    } else {
        "rebuild it with this runtime's version of controllerbus"
    };
    (Code::BOUNDARY, reason, help)
}

fn check_machine(file: &object::File<'_>) -> Result<(), Refusal> {
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
        return Err((
            Code::OTHER_TARGET,
            format!("it is for {:?}, but this machine is {wanted:?}", file.architecture()),
            HELP,
        ));
    }
    if file.is_little_endian() != cfg!(target_endian = "little") {
        return Err((Code::OTHER_TARGET, "it has another byte order than this machine".to_owned(), HELP));
    }
    Ok(())
}

fn records(file: &object::File<'_>) -> Result<(BundleRecord, Vec<FactoryRecord>), Refusal> {
    const HELP: &str = "build the plugin with hot-runtime";
    let name = match file.format() {
        object::BinaryFormat::MachO => SECTION_MACH_O,
        object::BinaryFormat::Coff | object::BinaryFormat::Pe => SECTION_PE,
        _ => SECTION_ELF,
    };
    let section = file
        .section_by_name(name)
        .ok_or_else(|| (Code::NOT_A_PLUGIN, "it is a library but not a plugin: it has no manifest".to_owned(), HELP))?;
    let data =
        section.data().map_err(|error| (Code::MANIFEST, format!("its manifest cannot be read: {error}"), HELP))?;
    if data.len() > LONGEST {
        return Err((
            Code::MANIFEST,
            format!("its manifest has {} bytes, and the limit is {LONGEST}", data.len()),
            HELP,
        ));
    }
    let mut bundle = None;
    let mut factories = Vec::new();
    for line in data.split(|byte| *byte == b'\n' || *byte == 0).filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line).map_err(|error| {
            let why = error.to_string();
            (Code::MANIFEST, format!("its manifest is not valid: {}", crate::text::shortened(&why, 300)), HELP)
        })? {
            Record::Bundle(record) if bundle.is_none() => bundle = Some(record),
            Record::Bundle(_) => return Err((Code::MANIFEST, "its manifest has two bundle records".to_owned(), HELP)),
            Record::Factory(mut record) => {
                // They serve messages only, and what is too long for one is left out.
                let is_short =
                    |of: &DirectiveTypes| [&of.name, &of.value_name].iter().all(|name| name.len() <= LONGEST_NAME);
                for types in &mut record.types {
                    types.take_if(|types| !is_short(types));
                }
                factories.push(record);
            }
        }
        if factories.len() > MOST {
            return Err((
                Code::MANIFEST,
                format!("it has more than {MOST} controllers"),
                "split it into several plugins",
            ));
        }
    }
    let bundle: BundleRecord =
        bundle.ok_or_else(|| (Code::MANIFEST, "its manifest has no bundle record".to_owned(), HELP))?;
    let BundleRecord { id, build_hash, target, toolchain, profile, entry, abi, panic, controllerbus, .. } = &bundle;
    let mut names = vec![id, build_hash, target, toolchain, profile, entry, abi, panic, controllerbus];
    for FactoryRecord { plugin, crate_name, crate_version, entry, config, resolves, description, .. } in &factories {
        names.extend([plugin, crate_name, crate_version, entry, config].into_iter().chain(resolves));
        if description.len() > LONGEST_TEXT || resolves.len() > MOST {
            let reason = format!("its description of {} is too long", shortened(plugin));
            return Err((Code::MANIFEST, reason, "shorten the doc comment, or the list of what it resolves"));
        }
    }
    if let Some(name) = names.into_iter().find(|name| name.len() > LONGEST_NAME) {
        let reason =
            format!("it names {}, which has {} bytes; the limit is {LONGEST_NAME}", shortened(name), name.len());
        return Err((Code::MANIFEST, reason, "give it a shorter id"));
    }
    if factories.is_empty() {
        return Err((
            Code::NO_CONTROLLERS,
            "it has no controllers".to_owned(),
            "put #[hot_plugin] on an `impl Controller` block, or on that of a trait with #[hot]",
        ));
    }
    Ok((bundle, factories))
}

/// The beginning of a name that may be long.
fn shortened(name: &str) -> String {
    format!("`{}…`", name.chars().take(40).collect::<String>())
}

//! Says once that a crate lacks serde, which its derives would say for each of them, and without a remedy.

use proc_macro2::Span;
use syn::{DeriveInput, Error, Result};

/// Refuses an item whose crate does not depend on serde, without which it can have neither `Serialize` nor `Deserialize`.
pub fn required(item: &DeriveInput) -> Result<()> {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map(|folder| std::path::Path::new(&folder).join("Cargo.toml"));
    let Some(text) = manifest.and_then(|manifest| std::fs::read_to_string(manifest).ok()) else { return Ok(()) };
    if is_elsewhere(item) || !lacks(&text) {
        return Ok(());
    }
    let what = "this crate does not depend on serde, which `Serialize` and `Deserialize` need: run \
                `cargo add serde --features derive`";
    Err(Error::new(Span::call_site(), what))
}

/// Whether an item says where its crate has serde from: `#[serde(crate = "...")]`.
fn is_elsewhere(item: &DeriveInput) -> bool {
    item.attrs.iter().filter(|attribute| attribute.path().is_ident("serde")).any(|attribute| {
        let mut found = false;
        // What serde's own derives find wrong is theirs to say.
        let _ = attribute.parse_nested_meta(|meta| {
            found |= meta.path.is_ident("crate");
            if meta.input.peek(syn::Token![=]) {
                meta.value()?.parse::<syn::Expr>()?;
            } else if meta.input.peek(syn::token::Paren) {
                meta.input.parse::<proc_macro2::Group>()?;
            }
            Ok(())
        });
        found
    })
}

/// Whether a manifest has dependencies, and serde is not one of them.
fn lacks(manifest: &str) -> bool {
    let mut section = "";
    let mut depends = false;
    for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let plain: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if plain.contains("package=\"serde\"") {
            return false;
        }
        let key = if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default().trim();
            match section.rsplit_once("dependencies.") {
                Some((_, name)) => name,
                None => continue,
            }
        } else {
            plain.split(['=', '.']).next().unwrap_or_default()
        };
        depends |= section.contains("dependencies");
        // `serde_core` has the traits, for those who write them by hand.
        if ["serde", "serde_core"].contains(&key.trim_matches(['"', '\''])) && section.contains("dependencies") {
            return false;
        }
    }
    depends
}

#[cfg(test)]
mod tests {
    use super::{is_elsewhere, lacks};

    #[test]
    fn serde_from_elsewhere_is_seen_wherever_it_is_said() {
        for said in [
            "crate = \"shared::serde\"",
            "deny_unknown_fields, crate = \"shared::serde\"",
            "rename_all(serialize = \"kebab-case\"), default, crate = \"shared::serde\"",
        ] {
            let item = syn::parse_str(&format!("#[serde({said})] struct Item;")).expect("an item");
            assert!(is_elsewhere(&item), "{said}");
        }
        let plain = syn::parse_str("#[serde(default, rename = \"crate\")] struct Item;").expect("an item");
        assert!(!is_elsewhere(&plain));
    }

    #[test]
    fn serde_is_found_in_each_form_of_a_dependency() {
        let bus = "[package]\nname = \"clock\"\n\n[dependencies]\ncontrollerbus = \"0.1\"\n";
        assert!(lacks(bus));
        assert!(lacks(&format!("{bus}# serde = \"1\"\nserde_json = \"1\"\n")));
        assert!(lacks(&format!("{bus}[features]\nserde = []\n")));
        for form in [
            "serde = \"1\"",
            "serde_core = \"1\"",
            "serde.workspace = true",
            "\"serde\" = { version = \"1\" }",
            "other = { package = \"serde\", version = \"1\" }",
            "[dependencies.serde]\nversion = \"1\"",
            "[dev-dependencies]\nserde = \"1\"",
            "[target.'cfg(unix)'.dependencies]\nserde = \"1\"",
            "[target.'cfg(unix)'.dependencies.serde]\nversion = \"1\"",
        ] {
            assert!(!lacks(&format!("{bus}{form}\n")), "{form}");
        }
        assert!(!lacks("[package]\nname = \"clock\"\n"), "its dependencies stand in a form that is not read");
    }
}

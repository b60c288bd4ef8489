//! `cbus new`: creates a controller crate, with a test and a README.

use std::path::{Path, PathBuf};

use miette::Result;
use tokio::process::Command;

use crate::cli::New;
use crate::report::{io, report};
use crate::text;

/// The `controllerbus` crate that this program was built with, if it was built from a checkout that still exists.
const BESIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../controllerbus");

pub async fn run(args: &New) -> Result<()> {
    // Cargo knows which names are valid, and adds the crate to the workspace around it.
    let made = Command::new("cargo")
        .args(["new", "--lib", "--quiet", "--edition", "2024"])
        .arg(&args.path)
        .output()
        .await
        .map_err(|error| {
            report(format!("cargo cannot be run: {error}"), "is Rust installed, and cargo in your PATH?")
        })?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        // Cargo lists the causes below, the root cause last.
        let cause = lines.skip_while(|line| *line != "Caused by:").last().map(|cause| format!(": {cause}"));
        let message = format!("no crate was created: {first}{}", cause.unwrap_or_default());
        return Err(report(message, "choose another name or directory"));
    }
    let manifest = args.path.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(io("reading the new manifest", &manifest))?;
    let name = package_name(&text)
        .unwrap_or_else(|| args.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
    let id = args.id.clone().unwrap_or_else(|| name.clone());
    let root = workspace_root(&manifest).await;
    let shared = root.as_deref().map(workspace_dependencies).unwrap_or_default();
    let bus = match &args.controllerbus {
        Some(dir) => {
            let file = dir.join("Cargo.toml");
            let dir = dir.canonicalize().map_err(io("finding the controllerbus crate", dir))?;
            if !file.is_file() {
                return Err(report(
                    format!("{} is not a crate: it has no Cargo.toml", dir.display()),
                    "pass the directory of the `controllerbus` crate",
                ));
            }
            path_dependency(&dir)
        }
        None if shared.iter().any(|name| name == "controllerbus") => "workspace = true".to_owned(),
        None => match Path::new(BESIDE).canonicalize() {
            Ok(dir) => path_dependency(&dir),
            Err(_) => format!("version = \"{}\"", env!("CARGO_PKG_VERSION")),
        },
    };
    // What a workspace shares has the features that the workspace says. YAML is for the test, which has no host to read it.
    let lean = if bus.starts_with("workspace") { "" } else { ", default-features = false" };
    let dependencies = format!(
        "[dependencies]\ncontrollerbus = {{ {bus}{lean} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n\n\
         [dev-dependencies]\ncontrollerbus = {{ {bus}, features = [\"yaml\"] }}\ntokio = {{ version = \"1\", features = [\"macros\", \"rt\"] }}\n"
    );
    let text = text.replacen("[dependencies]\n", &dependencies, 1);
    let fill = |template: &str| {
        template.replace("@NAME@", &name).replace("@LIB@", &name.replace('-', "_")).replace("@ID@", &id)
    };
    let write = |path: PathBuf, text: String| {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io("creating a directory", folder))?;
        }
        std::fs::write(&path, text).map_err(io("writing the new crate", &path))
    };
    write(manifest, text)?;
    write(args.path.join("src/lib.rs"), fill(include_str!("new/lib.rs.txt")))?;
    write(args.path.join("tests/serves.rs"), fill(include_str!("new/serves.rs.txt")))?;
    write(args.path.join("README.md"), fill(include_str!("new/README.md")))?;
    write(args.path.join("config.yaml"), fill(include_str!("new/config.yaml")))?;
    let at = args.path.display();
    text::print_line(&format!("Created the controller `{id}` in {at}"));
    text::print_line("");
    let steps = [
        (format!("cbus dev {at}"), "build it, run it with its config.yaml, and swap in every save"),
        (format!("cd {at} && cargo test"), "test it as an ordinary crate"),
        (format!("cbus build {at}"), "build it into a plugin file"),
    ];
    let widest = steps.iter().map(|(command, _)| command.chars().count()).max().unwrap_or_default();
    for (command, what) in steps {
        text::print_line(&format!("  {command:<widest$}   {what}"));
    }
    Ok(())
}

fn package_name(manifest: &str) -> Option<String> {
    let manifest: toml::Table = toml::from_str(manifest).ok()?;
    manifest.get("package")?.get("name")?.as_str().map(str::to_owned)
}

fn path_dependency(dir: &Path) -> String {
    format!("path = {}", toml::Value::String(dir.to_string_lossy().into_owned()))
}

/// The manifest of a crate's workspace, which may be the crate's own.
async fn workspace_root(manifest: &Path) -> Option<PathBuf> {
    let found = Command::new("cargo")
        .args(["locate-project", "--workspace", "--message-format", "plain", "--manifest-path"])
        .arg(manifest)
        .output()
        .await
        .ok()?;
    found.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()))
}

/// The names of the workspace's shared dependencies.
fn workspace_dependencies(manifest: &Path) -> Vec<String> {
    let read = || -> Option<Vec<String>> {
        let manifest: toml::Table = toml::from_str(&std::fs::read_to_string(manifest).ok()?).ok()?;
        let shared = manifest.get("workspace")?.get("dependencies")?.as_table()?;
        Some(shared.keys().cloned().collect())
    };
    read().unwrap_or_default()
}

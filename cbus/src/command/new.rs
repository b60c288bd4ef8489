//! `cbus new`: creates crates from a template, with tests and a README.

mod template;

use std::path::{Path, PathBuf};

use controllerbus::Schema;
use miette::Result;
use serde::Serialize;
use tokio::process::Command;

use crate::cli::New;
use crate::report::{io, report};
use crate::schema::of_config_sets;
use crate::text;

use template::Kind;
pub use template::Template;

/// The framework's crates that this program was built with, if it was built from a checkout that still exists.
const BESIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub async fn run(args: &New) -> Result<()> {
    let (name, around) = (name_of(&args.path)?, workspace_around(&args.path).await?);
    let template = match (args.template, &around) {
        (Some(template), Some(root)) if template.kind() == Kind::Workspace => {
            return Err(report(
                format!(
                    "the template `{}` is a workspace, and {} is one around it already",
                    template.name(),
                    root.display()
                ),
                "choose a directory outside, or another template: `cbus new --help` lists them",
            ));
        }
        (Some(template), _) => template,
        // What joins a workspace is one crate.
        (None, Some(_)) => Template::Crate,
        (None, None) => Template::Workspace,
    };
    if template.members().contains(&name.as_str()) {
        return Err(report(
            format!("`{name}` is the name of another crate of this workspace"),
            "choose another name, such as `greeter`",
        ));
    }
    let made = Made { id: args.id.clone().unwrap_or_else(|| name.clone()), name, template, at: &args.path };
    let from = Framework::find(args, around.as_deref())?;
    if let Some(bus) = &from.named
        && template.files().iter().any(|(_, text)| text.contains("@RUNTIME@"))
        && !from.dependency("hot-runtime").starts_with("path")
    {
        return Err(report(
            format!(
                "the template `{}` has a host, and there is no hot-runtime beside {}",
                template.name(),
                bus.display()
            ),
            "put both into one directory, or choose a template without a host: `cbus new --help` lists them",
        ));
    }
    if template.kind() == Kind::Workspace {
        made.write_workspace(&from)?;
    } else {
        made.write_crate(&from).await?;
    }
    if args.json {
        text::print_json(&made.created(), false);
    } else {
        made.tell();
    }
    Ok(())
}

/// What was created.
#[derive(Serialize, Schema)]
pub struct Created {
    /// The template.
    template: String,
    /// The controller's id.
    id: String,
    /// The directory.
    path: PathBuf,
    /// What to do next, a command each.
    next: Vec<Next>,
}

#[derive(Serialize, Schema)]
struct Next {
    /// The command.
    command: String,
    /// What it does.
    about: String,
}

/// Where the framework's crates are.
struct Framework {
    /// That of `controllerbus`, where it was named.
    named: Option<PathBuf>,
    /// The directory of all of them, unless they come from the registry.
    dir: Option<PathBuf>,
    /// Which of them the workspace around shares.
    shared: Vec<String>,
}

impl Framework {
    fn find(args: &New, around: Option<&Path>) -> Result<Self> {
        let shared = around.map(workspace_dependencies).unwrap_or_default();
        let Some(dir) = &args.controllerbus else {
            let beside =
                Path::new(BESIDE).canonicalize().ok().filter(|dir| dir.join("controllerbus/Cargo.toml").is_file());
            return Ok(Self { named: None, dir: beside, shared });
        };
        let found = dir.canonicalize().map_err(io("finding the controllerbus crate", dir))?;
        if !found.join("Cargo.toml").is_file() {
            return Err(report(
                format!("{} is not a crate: it has no Cargo.toml", found.display()),
                "pass the directory of the `controllerbus` crate",
            ));
        }
        Ok(Self { dir: found.parent().map(Path::to_owned), named: Some(found), shared: Vec::new() })
    }

    /// How a manifest names one of the framework's crates.
    fn dependency(&self, name: &str) -> String {
        if self.shared.iter().any(|shared| shared == name) {
            return "workspace = true".to_owned();
        }
        let named = self.named.clone().filter(|_| name == "controllerbus");
        let beside = || self.dir.as_ref().map(|dir| dir.join(name)).filter(|dir| dir.join("Cargo.toml").is_file());
        match named.or_else(beside) {
            Some(dir) => format!("path = {}", toml::Value::String(dir.to_string_lossy().into_owned())),
            None => format!("version = \"{}\"", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// What is created.
struct Made<'a> {
    name: String,
    id: String,
    template: Template,
    at: &'a Path,
}

impl Made<'_> {
    fn fill(&self, text: &str, from: &Framework) -> String {
        text.replace("@NAME@", &self.name)
            .replace("@LIB@", &self.name.replace('-', "_"))
            .replace("@ID@", &self.id)
            .replace("@BUS@", &from.dependency("controllerbus"))
            .replace("@RUNTIME@", &from.dependency("hot-runtime"))
    }

    fn write_files(&self, from: &Framework) -> Result<()> {
        for (path, text) in self.template.files() {
            write(&self.at.join(path), &self.fill(text, from))?;
        }
        let Some(settings) = self.template.settings() else { return Ok(()) };
        let settings = serde_json::from_str(settings)
            .map_err(|error| report(format!("the template's schema is not JSON: {error}"), ""))?;
        let schema = of_config_sets(&[(self.id.clone(), settings)].into());
        write(&self.at.join("config.schema.json"), &format!("{schema:#}\n"))
    }

    fn write_workspace(&self, from: &Framework) -> Result<()> {
        self.write_files(from)
    }

    async fn write_crate(&self, from: &Framework) -> Result<()> {
        let kind = if self.template.kind() == Kind::Program { "--bin" } else { "--lib" };
        // Cargo adds the crate to the workspace around it.
        let made = cargo(&["new", kind, "--quiet", "--edition", "2024", "--name", &self.name], self.at).await?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr);
            let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
            let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            // Cargo lists the causes below, the root cause last.
            let cause = lines.skip_while(|line| *line != "Caused by:").last().map(|cause| format!(": {cause}"));
            let message = format!("no crate was created: {first}{}", cause.unwrap_or_default());
            return Err(report(message, "choose another name or directory"));
        }
        let manifest = self.at.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).map_err(io("reading the new manifest", &manifest))?;
        let bus = from.dependency("controllerbus");
        // What a workspace shares has the features that the workspace says. YAML is for the test, which has no host to read it.
        let lean = if bus.starts_with("workspace") { "" } else { ", default-features = false" };
        let dependencies = self.fill(self.template.dependencies(), from).replace("@LEAN@", lean);
        write(&manifest, &text.replacen("[dependencies]\n", &dependencies, 1))?;
        self.write_files(from)
    }

    /// What to do next, and what that does.
    fn steps(&self) -> Vec<(String, &'static str)> {
        let at = self.at.display().to_string();
        self.template.steps().iter().map(|(command, what)| (command.replace("@AT@", &at), *what)).collect()
    }

    fn created(&self) -> Created {
        let next = |(command, about): (String, &str)| Next { command, about: about.to_owned() };
        Created {
            template: self.template.name().to_owned(),
            id: self.id.clone(),
            path: self.at.to_owned(),
            next: self.steps().into_iter().map(next).collect(),
        }
    }

    /// Says what was created, and what to do next.
    fn tell(&self) {
        let at = self.at.display();
        text::print_line(&format!("Created {} `{}` in {at}", self.template.what(), self.id));
        text::print_line("");
        let steps = self.steps();
        let widest = steps.iter().map(|(command, _)| command.chars().count()).max().unwrap_or_default();
        for (command, what) in steps {
            text::print_line(&format!("  {command:<widest$}   {what}"));
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io("creating a directory", folder))?;
    }
    std::fs::write(path, text).map_err(io("writing the new crate", path))
}

/// Words that cannot be the name of a crate.
const KEYWORDS: &str = "abstract as async await become box break const continue crate do dyn else enum extern false final fn for gen if \
                        impl in let loop macro match mod move mut override priv pub ref return self static struct super trait true \
                        try type typeof unsafe unsized use virtual where while yield";

/// Crates that every crate has, or that what is created depends on.
const TAKEN: &str =
    "std core alloc proc_macro test controllerbus hot_runtime serde tokio tracing axum hyper hyper_util tempfile";

/// Whether a word is in a list of words.
fn is_in(words: &str, name: &str) -> bool {
    words.split_whitespace().any(|word| word == name)
}

/// The crate's name, which is that of the directory.
fn name_of(path: &Path) -> Result<String> {
    let help = "choose a name such as `greeter`: the last part of the path is the crate's name";
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let module = name.replace('-', "_");
    let odd = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_".contains(*c));
    let what = if name.is_empty() {
        format!("{} has no name", path.display())
    } else if let Some(odd) = odd {
        format!("a crate's name consists of letters, digits, `-` and `_`, and `{name}` has a `{odd}`")
    } else if name.starts_with(|c: char| c.is_ascii_digit()) {
        format!("a crate's name cannot start with a digit, as `{name}` does")
    } else if name.starts_with('-') {
        format!("a crate's name cannot start with a `-`, as `{name}` does")
    } else if module.chars().all(|c| c == '_') {
        format!("a crate's name needs a letter, and `{name}` has none")
    } else if is_in(KEYWORDS, &module) {
        format!("`{name}` is a word of the language, and cannot be a crate's name")
    } else if is_in(TAKEN, &module) {
        format!("`{name}` is the name of a crate that yours depends on")
    } else if std::fs::symlink_metadata(path).is_ok() {
        return Err(report(format!("{} exists already", path.display()), "choose another name or directory"));
    } else {
        return Ok(name);
    };
    Err(report(what, help))
}

async fn cargo(arguments: &[&str], path: &Path) -> Result<std::process::Output> {
    Command::new("cargo")
        .args(arguments)
        .arg(path)
        .output()
        .await
        .map_err(|error| report(format!("cargo cannot be run: {error}"), "is Rust installed, and cargo in your PATH?"))
}

/// The manifest of the workspace that a new crate there would belong to, or that of the crate around it.
async fn workspace_around(path: &Path) -> Result<Option<PathBuf>> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let manifest = path.ancestors().skip(1).map(|folder| folder.join("Cargo.toml")).find(|manifest| manifest.is_file());
    let asked = ["locate-project", "--workspace", "--message-format", "plain", "--manifest-path"];
    let Some(manifest) = manifest else {
        // Whether there is a cargo at all shows now, and not in the middle.
        return cargo(&["--version"], Path::new("--quiet")).await.map(|_| None);
    };
    let found = cargo(&asked, &manifest).await?;
    Ok(found.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&found.stdout).trim())))
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

//! What `cbus new` creates: the files beside this one. `@NAME@` and the like stand for what differs.

use clap::ValueEnum;

/// A template, and what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// A workspace of three crates: types, controller and host, with a test that swaps
    Workspace,
    /// One controller crate
    Crate,
    /// A workspace of plain functions: a trait, the plugin that implements it, and the program that calls it
    Functions,
    /// A controller crate that keeps its state when it is swapped
    Stateful,
    /// A controller crate whose value has methods, which others call directly
    Interface,
    /// A controller crate that asks what another one answers
    Client,
    /// A program that builds controller crates, runs them, and swaps in every save
    Host,
    /// A controller crate with a web server, on a socket that outlasts it
    Web,
}

/// What kind of thing a template is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Several crates, in a workspace of their own.
    Workspace,
    /// One library crate.
    Crate,
    /// One program.
    Program,
}

/// Files by where they go.
type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($($path:literal: $from:literal),* $(,)?) => {
        &[$(($path, include_str!($from))),*]
    };
}

/// What the framework adds to a manifest; `@LEAN@` leaves out what a plugin does not need.
macro_rules! dependencies {
    ($own:literal, $for_tests:literal) => {
        concat!(
            "[dependencies]\ncontrollerbus = { @BUS@@LEAN@ }\n",
            $own,
            "serde = { version = \"1\", features = [\"derive\"] }\n\n",
            "[dev-dependencies]\ncontrollerbus = { @BUS@, features = [\"yaml\"] }\n",
            "tokio = { version = \"1\", features = [",
            $for_tests,
            "] }\n"
        )
    };
}

impl Template {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::Workspace | Self::Functions => Kind::Workspace,
            Self::Host => Kind::Program,
            Self::Crate | Self::Stateful | Self::Interface | Self::Client | Self::Web => Kind::Crate,
        }
    }

    /// What it is called when it was created.
    pub fn what(self) -> &'static str {
        match self {
            Self::Functions => "the functions",
            Self::Host => "the host",
            _ => "the controller",
        }
    }

    /// The names of its other crates that do not depend on its own.
    pub fn members(self) -> &'static [&'static str] {
        if self.kind() == Kind::Workspace { &["host"] } else { &[] }
    }

    pub fn files(self) -> Files {
        match self {
            Self::Workspace => files! {
                "Cargo.toml": "workspace/Cargo.toml.txt",
                "README.md": "workspace/README.md.txt",
                "config.yaml": "workspace/config.yaml.txt",
                "types/Cargo.toml": "workspace/types.toml.txt",
                "types/src/lib.rs": "workspace/types.rs.txt",
                "controller/Cargo.toml": "workspace/controller.toml.txt",
                "controller/src/lib.rs": "workspace/controller.rs.txt",
                "controller/tests/serves.rs": "workspace/serves.rs.txt",
                "host/Cargo.toml": "workspace/host.toml.txt",
                "host/src/main.rs": "workspace/host.rs.txt",
                "host/tests/swaps.rs": "workspace/swaps.rs.txt",
                ".vscode/tasks.json": "workspace/tasks.json.txt",
                ".vscode/launch.json": "common/launch.json.txt",
                ".vscode/extensions.json": "common/extensions.json.txt",
                ".github/workflows/ci.yml": "common/ci.yml.txt",
                ".gitignore": "common/gitignore.txt",
            },
            Self::Functions => files! {
                "Cargo.toml": "functions/Cargo.toml.txt",
                "README.md": "functions/README.md.txt",
                "api/Cargo.toml": "functions/api.toml.txt",
                "api/src/lib.rs": "functions/api.rs.txt",
                "plugin/Cargo.toml": "functions/plugin.toml.txt",
                "plugin/src/lib.rs": "functions/plugin.rs.txt",
                "host/Cargo.toml": "functions/host.toml.txt",
                "host/src/main.rs": "functions/host.rs.txt",
                ".vscode/tasks.json": "functions/tasks.json.txt",
                ".vscode/launch.json": "common/launch.json.txt",
                ".vscode/extensions.json": "common/extensions.json.txt",
                ".github/workflows/ci.yml": "common/ci.yml.txt",
                ".gitignore": "common/gitignore.txt",
            },
            Self::Crate => files! {
                "src/lib.rs": "crate/lib.rs.txt",
                "tests/serves.rs": "crate/serves.rs.txt",
                "README.md": "crate/README.md",
                "config.yaml": "crate/config.yaml",
            },
            Self::Stateful => files! {
                "src/lib.rs": "stateful/lib.rs.txt",
                "tests/serves.rs": "stateful/serves.rs.txt",
                "README.md": "crate/README.md",
                "config.yaml": "stateful/config.yaml.txt",
            },
            Self::Interface => files! {
                "src/lib.rs": "interface/lib.rs.txt",
                "tests/serves.rs": "interface/serves.rs.txt",
                "README.md": "crate/README.md",
                "config.yaml": "stateful/config.yaml.txt",
            },
            Self::Client => files! {
                "src/lib.rs": "client/lib.rs.txt",
                "tests/serves.rs": "client/serves.rs.txt",
                "README.md": "crate/README.md",
                "config.yaml": "client/config.yaml.txt",
            },
            Self::Host => files! {
                "src/main.rs": "host/main.rs.txt",
                "README.md": "host/README.md.txt",
                "config.yaml": "host/config.yaml.txt",
            },
            Self::Web => files! {
                "src/lib.rs": "web/lib.rs.txt",
                "src/serve.rs": "web/serve.rs.txt",
                "tests/serves.rs": "web/serves.rs.txt",
                "README.md": "crate/README.md",
                "config.yaml": "web/config.yaml.txt",
            },
        }
    }

    /// The schema of its config, if an editor gets one.
    pub fn settings(self) -> Option<&'static str> {
        (self == Self::Workspace).then_some(include_str!("workspace/settings.json.txt"))
    }

    /// What stands in the manifest of its only crate.
    pub fn dependencies(self) -> &'static str {
        match self {
            Self::Workspace | Self::Functions => "",
            Self::Crate | Self::Stateful | Self::Interface => dependencies!("", "\"macros\", \"rt\""),
            Self::Client => dependencies!(
                "tokio = { version = \"1\", features = [\"macros\"] }\ntracing = \"0.1\"\n",
                "\"macros\", \"rt\", \"sync\""
            ),
            Self::Web => dependencies!(
                "axum = { version = \"0.8\", default-features = false, features = [\"http1\"] }\n\
                 hyper = { version = \"1\", features = [\"http1\", \"server\"] }\n\
                 hyper-util = { version = \"0.1\", features = [\"service\", \"tokio\"] }\n\
                 tokio = { version = \"1\", features = [\"macros\", \"rt\", \"sync\", \"time\"] }\n",
                "\"io-util\", \"macros\", \"net\", \"rt-multi-thread\""
            ),
            Self::Host => {
                "[dependencies]\ncontrollerbus = { @BUS@ }\nhot-runtime = { @RUNTIME@ }\n\
                 tokio = { version = \"1\", features = [\"full\"] }\n"
            }
        }
    }

    /// What to do next.
    pub fn steps(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Workspace => &[
                ("cd @AT@ && cargo run -p host", "build the controller, run it, and swap in every save"),
                ("cd @AT@ && cargo test", "test it, also that an edit is swapped in"),
                ("cbus dev @AT@/controller @AT@/config.yaml", "run it with a live view instead"),
            ],
            Self::Functions => &[
                ("cd @AT@ && cargo run -p host", "build the plugin, call it, and swap in every save"),
                ("cd @AT@ && cargo test", "test it as an ordinary crate"),
            ],
            Self::Host => {
                &[("cd @AT@ && cargo run -- ../greeter", "build and run a controller crate, and swap in every save")]
            }
            _ => &[
                ("cbus dev @AT@", "build it, run it with its config.yaml, and swap in every save"),
                ("cd @AT@ && cargo test", "test it as an ordinary crate"),
                ("cbus build @AT@", "build it into a plugin file"),
            ],
        }
    }
}

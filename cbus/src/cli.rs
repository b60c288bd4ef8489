//! The command line and its help.

mod fleet;
mod rollout;

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use controllerbus_api::logs::Filter;
use controllerbus_api::{Address, Error, is_name};

use crate::command::new::Template;
use crate::complete;
use crate::daemon::Format;
use crate::settings::When;

pub use fleet::*;
pub use rollout::*;

/// Hot-swappable controllers.
///
/// A controller crate is built into a plugin file, loaded into a running process, and replaced by a newer build without a
/// restart and without dropping a request.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    after_help = "\
First steps:
  cbus new greeter            create a controller and a program that runs it, with tests
  cd greeter                  it has a README, and:
  cargo run -p host           build it, run it, and swap in every save
  cbus dev controller config.yaml          the same with a live view
  cbus plugins                in another terminal: what is loaded, and how long each swap took

Options of commands that build, run or ask can also be set with environment variables: CBUS_PLUGINS for --plugins, CBUS_ALLOW_EXEC=1
for --allow-exec; CBUS_CONFIG is the config file. The daemon's own token file and certificates are
CBUS_API_TOKEN_FILE, CBUS_API_TLS_CERT and so on, because CBUS_TOKEN_FILE and CBUS_TLS_CERT are the client's.

Errors have codes: cbus explain CB0012 says what one means and what to do. cbus doctor looks at what builds depend on.

Output is coloured on a terminal; NO_COLOR, CLICOLOR=0 and CLICOLOR_FORCE=1 override that.
Times are local; set TZ for another zone.

Exit status: 0 success, 1 failure, 2 usage error."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands whose options can be variables.
const WITH_VARIABLES: [&str; 16] = [
    "build",
    "watch",
    "dev",
    "run",
    "bus",
    "plugins",
    "controllers",
    "directives",
    "exec",
    "reload",
    "rollback",
    "unload",
    "logs",
    "events",
    "page",
    "top",
];

/// What says what to do now, rather than how, is no variable.
const ACTIONS: [&str; 10] =
    ["file", "attach", "remove", "codegen_only", "build", "print", "follow", "write_config", "last_words", "timings"];

/// What both a daemon and its clients have, each its own.
const OF_THE_API: [&str; 4] = ["token_file", "tls_cert", "tls_key", "tls_client_ca"];

impl Cli {
    /// Reads the arguments and the environment; ends the process if they make no sense.
    pub fn read() -> Self {
        let matches = Self::with_variables().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The command line, in which options can also be set with environment variables: CBUS_NAME for `--name`.
    pub fn with_variables() -> clap::Command {
        Self::command().mut_subcommands(|command| {
            if !WITH_VARIABLES.contains(&command.get_name()) {
                return command;
            }
            let serves = ["run", "dev"].contains(&command.get_name());
            command.mut_args(|arg| with_variable(arg, serves))
        })
    }
}

fn with_variable(arg: clap::Arg, serves: bool) -> clap::Arg {
    let id = arg.get_id().as_str().to_owned();
    if arg.get_long().is_none() || arg.get_env().is_some() || ACTIONS.contains(&&*id) {
        return arg;
    }
    let is_flag = match arg.get_action() {
        ArgAction::SetTrue => true,
        ArgAction::Set | ArgAction::Append => false,
        _ => return arg,
    };
    let api = if serves && OF_THE_API.contains(&&*id) { "API_" } else { "" };
    // Kept for the process, as the other names are: they are made once.
    let name: &'static str = format!("CBUS_{api}{}", id.to_uppercase()).leak();
    let arg = arg.env(name).hide_env(true);
    // 1 and 0 as well as true and false.
    if is_flag { arg.value_parser(FalseyValueParser::new()) } else { arg }
}

#[derive(Subcommand)]
pub enum Command {
    /// Create a controller and what belongs to it, with tests and a README
    New(New),
    /// Build controller crates into one plugin file
    Build(Build),
    /// Build, and rebuild on every change
    Watch(Watch),
    /// Inspect a plugin file without running any of its code
    Inspect(Inspect),
    /// Check that a plugin file is intact, can be loaded here, and is signed by a key
    Verify(Verify),
    /// Sign a plugin file; the signature is written next to it
    Sign(Sign),
    /// Generate a key pair to sign and verify plugin files with
    Keygen(Keygen),
    /// Build, watch and run in one terminal, with a live view
    Dev(Dev),
    /// Run the daemon: load plugins, run the controllers of a config file, and follow both
    Run(Run),
    /// Show an overview of a daemon's bus
    Bus(Show),
    /// Show a daemon's plugins, their generations, and how their last swaps went
    Plugins(Show),
    /// Show a daemon's controllers, and the configs that are not running
    Controllers(Show),
    /// Show the active directives on a daemon's bus
    Directives(Directives),
    /// Run the controllers of a config set on a daemon's bus
    Exec(Exec),
    /// Ask a directive on a daemon's bus, and print its values
    Ask(Ask),
    /// Rebuild a plugin of a daemon and swap it in
    Reload(OnePlugin),
    /// Roll a plugin back to an earlier generation
    Rollback(Rollback),
    /// Take a plugin off a daemon's bus and unload it
    Unload(OnePlugin),
    /// Show the log of a daemon and its plugins
    Logs(Logs),
    /// Show what happens to a daemon's plugins: builds, swaps, rollbacks, unloads
    Events(Events),
    /// Open a daemon's page in a browser
    Page(Page),
    /// Watch a daemon in a live view, as `cbus dev` shows its own
    Top(Top),
    /// Join the buses of several machines, and see who is there
    #[command(subcommand)]
    Fleet(Fleet),
    /// Sign a version of a plugin, and put it into a store from which a fleet gets it
    Publish(Publish),
    /// Roll a published version out to a fleet, step by step, and back
    #[command(subcommand)]
    Rollout(Rollout),
    /// Publish config sets whose entries say on which hosts of a fleet they run
    #[command(subcommand)]
    Sets(Sets),
    /// Check config files, and print a JSON schema of them for editors
    #[command(subcommand)]
    Config(Config),
    /// Print a shell completion script
    Completions(Completions),
    /// Check what builds and reloads depend on, and say what to do about it
    Doctor(Doctor),
    /// Explain the code of an error, such as CB0012
    Explain(Explain),
    /// Print the JSON schema of what a command prints with --json
    Schema(OutputSchema),
    /// Write the manual pages
    Man(Man),
    /// Write the pages of the book that are made from this program
    #[command(hide = true)]
    Reference(Reference),
}

/// `cbus new`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus new greeter                    types, controller and host in ./greeter, with the id `greeter`
  cbus new clock --template crate --id example/clock
  cbus new site --template web

Inside a cargo workspace, the default is one crate, which becomes a member of it.")]
pub struct New {
    /// The directory to create; its last component is the controller's name
    pub path: PathBuf,
    /// What to create [default: workspace, and in a workspace crate]
    #[arg(short, long, value_enum, value_name = "NAME")]
    pub template: Option<Template>,
    /// The controller's id, which configs refer to [default: the crate's name]
    #[arg(long, value_parser = plugin_id)]
    pub id: Option<String>,
    /// The directory of the `controllerbus` crate to depend on [default: the workspace's, or the version of this program]
    #[arg(long, value_name = "DIR")]
    pub controllerbus: Option<PathBuf>,
    /// Print what was created as JSON
    #[arg(long)]
    pub json: bool,
}

/// What is built, for `build` and `watch`
#[derive(Args, Clone)]
pub struct Source {
    /// The directories of the controller crates
    #[arg(required = true, value_name = "CRATE")]
    pub crates: Vec<PathBuf>,
    /// The plugin's id [default: the first crate's name]
    #[arg(long, value_parser = plugin_id)]
    pub id: Option<String>,
    /// The plugin's version; `{buildHash}` in it becomes the build's hash [default: the first crate's version]
    #[arg(long, value_name = "VERSION")]
    pub plugin_version: Option<String>,
    #[command(flatten)]
    pub compiling: Compiling,
    /// Where the generated overlay crate is written [default: inside the work directory]
    #[arg(long, value_name = "DIR")]
    pub codegen_dir: Option<PathBuf>,
    #[command(flatten)]
    pub folders: Folders,
}

/// How crates are compiled
#[derive(Args, Clone, Default)]
pub struct Compiling {
    /// Optimise, as `cargo build --release` does
    #[arg(long)]
    pub release: bool,
    /// Features to enable, separated by commas; CRATE/FEATURE enables it for one crate only
    #[arg(long, value_delimiter = ',', value_name = "FEATURES")]
    pub features: Vec<String>,
    /// Disable the crates' default features
    #[arg(long)]
    pub no_default_features: bool,
}

/// How changes of files are noticed
#[derive(Args, Clone)]
pub struct Polling {
    /// Poll for changes this often [default: 1 s] instead of relying on notifications from the system: for network mounts
    /// and directories shared with a container or a virtual machine
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub poll: Option<Seconds>,
}

/// A number of seconds, at least 0.01
#[derive(Clone, Copy, Debug)]
pub struct Seconds(std::time::Duration);

impl From<Seconds> for std::time::Duration {
    fn from(seconds: Seconds) -> Self {
        seconds.0
    }
}

impl std::str::FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds: f64 = text.parse().map_err(|_| "is not a number of seconds, such as 0.5".to_owned())?;
        if !(0.01..=3600.0).contains(&seconds) {
            return Err("is not between 0.01 and 3600 seconds".to_owned());
        }
        Ok(Self(std::time::Duration::from_secs_f64(seconds)))
    }
}

/// Where things are put
#[derive(Args, Clone)]
pub struct Folders {
    /// The directory for overlays, builds and private copies
    #[arg(long, value_name = "DIR", default_value = "target/controllerbus", env = "CBUS_WORK_DIR")]
    pub work_dir: PathBuf,
    /// Cargo's target directory [default: `target` in the work directory]
    #[arg(long, value_name = "DIR", env = "CBUS_TARGET_DIR")]
    pub target_dir: Option<PathBuf>,
}

/// `cbus build`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus build greeter                                  ./greeter.cbus.so
  cbus build greeter clock --id both -o plugins/both.cbus.so
  cbus build greeter -o 'out/greeter-{buildHash}.cbus.so' --release
  cbus build greeter --codegen-only --codegen-dir overlay && cd overlay && cargo build")]
pub struct Build {
    #[command(flatten)]
    pub source: Source,
    /// The file to write; `{buildHash}` in it becomes the build's hash [default: ID.cbus.so]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Write the overlay crate, print its directory, and stop
    #[arg(long, conflicts_with = "output")]
    pub codegen_only: bool,
    /// Keep the overlay crate after the build
    #[arg(long)]
    pub keep: bool,
    /// Print only the result, warnings and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus watch`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus watch greeter -o plugins/greeter.cbus.so
  cbus watch greeter -o 'plugins/greeter-{buildHash}.cbus.so'     older builds with such a name are removed

A daemon that follows the directory (`cbus run --plugins plugins`) swaps in each build.")]
pub struct Watch {
    #[command(flatten)]
    pub source: Source,
    /// The file to write; `{buildHash}` in it becomes the build's hash
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    #[command(flatten)]
    pub polling: Polling,
    /// Print each build as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus inspect`
#[derive(Args)]
pub struct Inspect {
    /// The plugin file
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus verify`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus verify greeter.cbus.so                    intact, and compatible with this machine and this version
  cbus verify greeter.cbus.so --key cbus.pub     also signed by that key")]
pub struct Verify {
    /// The plugin file
    pub file: PathBuf,
    /// Require a signature by this public key; with several, by any of them
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus sign`
#[derive(Args)]
#[command(after_help = "\
The signature is written to FILE.minisig, in minisign's format. `cbus keygen` generates keys.")]
pub struct Sign {
    /// The plugin file
    pub file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE", default_value = "cbus.key")]
    pub key: PathBuf,
    /// A file containing the key's password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus keygen`
#[derive(Args)]
#[command(after_help = "\
The keys are in minisign's format. Existing files are never overwritten.")]
pub struct Keygen {
    /// The secret key's file; only its owner can read it
    #[arg(long, value_name = "FILE", default_value = "cbus.key")]
    pub secret: PathBuf,
    /// The public key's file
    #[arg(long, value_name = "FILE", default_value = "cbus.pub")]
    pub public: PathBuf,
    /// A file containing a password to encrypt the secret key with
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which plugin files a daemon loads
#[derive(Args)]
#[command(next_help_heading = "Trust")]
pub struct Trust {
    /// Trust signatures by this public key; can be given several times
    #[arg(long, value_name = "FILE")]
    pub trust_key: Vec<PathBuf>,
    /// Refuse plugin files that are not signed by a trusted key
    #[arg(long, requires = "trust_key")]
    pub require_signature: bool,
    /// Load plugin files even from directories that other users can write to
    #[arg(long)]
    pub allow_world_writable: bool,
    /// The largest plugin file to accept
    #[arg(long, value_name = "MIB", default_value_t = hot_runtime::artifact::LARGEST >> 20)]
    pub max_size: u64,
}

/// `cbus run`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus run config.yaml --plugins plugins
  cbus run --plugins plugins --write-config            writes cbus.yaml; from then on `cbus run` is enough
  cbus run config.yaml --watch greeter --watch clock --allow-control
  cbus run --plugins plugins --name second             another daemon next to the first
  cbus run --plugins plugins --listen 0.0.0.0:7411 --token-file tokens --tls-cert cert.pem --tls-key key.pem

It listens on a socket that only this user can connect to; `cbus page` opens its page.
SIGHUP makes it reload its config; SIGTERM or Ctrl-C shuts it down gracefully, within 5 seconds.")]
pub struct Run {
    /// The config set: which controllers to run. Changes to the file are applied [default: cbus.yaml, if it exists]
    #[arg(env = "CBUS_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
    /// Write the config file first, with what --plugins, --watch and --release say; it must not exist yet
    #[arg(long)]
    pub write_config: bool,
    /// Load every *.cbus.so (.dylib, .dll) in this directory, and follow its changes; can be given several times
    #[arg(long, value_name = "DIR")]
    pub plugins: Vec<PathBuf>,
    /// Build this controller crate and watch its sources; can be given several times
    #[arg(long, value_name = "CRATE")]
    pub watch: Vec<PathBuf>,
    #[command(flatten)]
    pub compiling: Compiling,
    /// Keep what clients apply in the work directory, and go on with what they had applied before the daemon was started anew
    #[arg(long)]
    pub resume: bool,
    /// Where plugins run: `none` in the daemon's process, `process` each in a process of its own [default: none, unless a
    /// watched crate sets it]
    #[arg(long, value_name = "WHERE")]
    pub isolation: Option<hot_runtime::Isolation>,
    /// How long a new generation is on probation after it has taken over, in seconds: if it crashes or fails, the previous
    /// one serves again; 0 disables this
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub probation: u64,
    /// At the end, show where the time of the reloads went, and write a picture of it into the work directory
    #[arg(long)]
    pub timings: bool,
    #[command(flatten)]
    pub folders: Folders,
    #[command(flatten)]
    pub polling: Polling,
    #[command(flatten)]
    pub trust: Trust,
    #[command(flatten)]
    pub api: Api,
    #[command(flatten)]
    pub logging: Logging,
}

/// `cbus dev`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus dev greeter                    with greeter/config.yaml, if it exists
  cbus dev greeter clock              with both crates' config.yaml
  cbus dev greeter clock config.yaml
  cbus dev greeter --test=before      code whose tests fail is not swapped in
  cbus dev . | tee dev.log            plain log lines if the output is not a terminal

Saving a source file swaps in the new code. Saving a config applies it. In the live view, ? shows the keys.
A crate can set its own defaults in [package.metadata.cbus] of its Cargo.toml: config, features, default-features, release,
profile, isolation, process, test, locations.
In another terminal: cbus plugins, cbus controllers, cbus directives; in a browser: cbus page")]
pub struct Dev {
    /// Controller crates, and at most one config file (*.yaml, *.yml, *.json)
    #[arg(required = true, value_name = "CRATE|CONFIG")]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub compiling: Compiling,
    /// Where plugins run: `none` in this process, `process` each in a process of its own [default: none, unless a crate sets
    /// it]
    #[arg(long, value_name = "WHERE")]
    pub isolation: Option<hot_runtime::Isolation>,
    /// How long a new generation is on probation after it has taken over, in seconds: if it crashes or fails, the previous
    /// one serves again; 0 disables this, so that you see what you wrote
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub probation: u64,
    /// Run the crates' tests (`cargo test`) at each save: `after` the new code has taken over, or `before`, and then code
    /// whose tests fail does not take over [default: after]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "after")]
    pub test: Option<When>,
    /// Write the places of errors, warnings and failed tests to a file, as bacon does for editors [default: .bacon-locations]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = ".bacon-locations")]
    pub locations: Option<PathBuf>,
    /// Print plain log lines instead of the live view
    #[arg(long)]
    pub plain: bool,
    /// Where this process's own output goes while the view is shown; set by the process that keeps the terminal for the one of the view
    #[arg(long, hide = true)]
    pub last_words: Option<PathBuf>,
    /// At the end, show where the time of the reloads went, and write a picture of it into the work directory
    #[arg(long)]
    pub timings: bool,
    #[command(flatten)]
    pub folders: Folders,
    #[command(flatten)]
    pub polling: Polling,
    #[command(flatten)]
    pub api: Api,
    #[command(flatten)]
    pub logging: Logging,
}

/// `cbus top`
#[derive(Args)]
#[command(after_help = "\
? shows the keys. What changes the daemon needs --allow-control there.")]
pub struct Top {
    #[command(flatten)]
    pub to: Connect,
}

/// `cbus config`
#[derive(Subcommand)]
pub enum Config {
    /// Print a JSON schema of config files, for completion and checks in an editor
    Schema(ConfigSchema),
    /// Check a config file: its syntax, its config ids, and each config against its schema
    Check(ConfigCheck),
    /// Print the configs that a daemon runs as a config file
    Export(ConfigExport),
}

/// Where schemas come from
#[derive(Args)]
pub struct Known {
    /// Use the schemas of this plugin file; can be given several times
    #[arg(long, value_name = "FILE")]
    pub plugin: Vec<PathBuf>,
    /// Use the schemas of all plugin files in this directory
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Use the schemas that a daemon knows: its name, HOST:PORT or unix:PATH
    #[arg(long, value_name = "NAME|ADDR")]
    pub connect: Option<Address>,
    /// A file containing the token that the daemon of --connect requires
    #[arg(long, value_name = "FILE", env = "CBUS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// `cbus config schema`
#[derive(Args)]
#[command(after_help = "\
Example:
  cbus config schema --plugins plugins > config.schema.json
and as the first line of config.yaml, for editors with the YAML language server:
  # yaml-language-server: $schema=config.schema.json")]
pub struct ConfigSchema {
    #[command(flatten)]
    pub known: Known,
}

/// `cbus config check`
#[derive(Args)]
#[command(after_help = "\
Example:
  cbus config check config.yaml --plugins plugins

Without plugin files or a daemon, only built-in config ids are known, so others are not checked.")]
pub struct ConfigCheck {
    /// The config file, YAML or JSON
    pub file: PathBuf,
    #[command(flatten)]
    pub known: Known,
    /// Print the problems as JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus config export`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus config export -o backup.yaml       only you can read the file
  cbus config export --connect main > config.yaml

Secrets are in it as they were given. Over TCP the daemon must have been started with --allow-exec.")]
pub struct ConfigExport {
    /// The file to write, or to replace [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub to: Connect,
}

/// `cbus completions`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus completions bash > ~/.local/share/bash-completion/completions/cbus
  cbus completions zsh > ~/.zfunc/_cbus
  cbus completions fish > ~/.config/fish/completions/cbus.fish
  source <(cbus completions bash --dynamic)    in ~/.bashrc: also completes the ids of plugins, configs and directives")]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
    /// Print a script that asks this program for completions, which then know the plugins, configs and directives of a daemon
    #[arg(long)]
    pub dynamic: bool,
}

/// `cbus doctor`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus doctor                         the toolchain, the linker, the system, and a daemon if one is running
  cbus doctor greeter                 also what this crate needs
  cbus doctor --timings               where the time of the last 20 reloads in this work directory went
  cbus doctor --timings --connect NAME --svg timings.svg

It fails if something keeps plugins from being built or loaded.")]
pub struct Doctor {
    /// Controller crates to look at too
    #[arg(value_name = "CRATE", conflicts_with = "timings")]
    pub crates: Vec<PathBuf>,
    /// Show where the time of the last reloads went instead: those of --connect, or else of the work directory
    #[arg(long)]
    pub timings: bool,
    /// Write the timings as a picture too
    #[arg(long, value_name = "FILE", requires = "timings")]
    pub svg: Option<PathBuf>,
    #[command(flatten)]
    pub folders: Folders,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus explain`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus explain CB0012                 what it means, what causes it, and what to do
  cbus explain                        all codes

An error's code stands above its message, and behind it in logs and tables.")]
pub struct Explain {
    /// The code
    #[arg(add = ArgValueCandidates::new(complete::codes))]
    pub code: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus schema`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus schema plugins                 the schema of what `cbus plugins --json` prints
  cbus schema doctor timings          that of `cbus doctor --timings --json`
  cbus schema                         the commands that print JSON

Where a command prints one line of JSON for each thing, the schema is that of a line.")]
pub struct OutputSchema {
    /// The command, such as `plugins` or `config check`
    #[arg(value_name = "COMMAND", num_args = 0..=3, add = ArgValueCandidates::new(complete::printing))]
    pub command: Vec<String>,
}

/// `cbus man`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus man --out ~/.local/share/man/man1
  cbus man | man -l -                 the page of cbus itself")]
pub struct Man {
    /// The directory to write a page for each command into; without it, the page of cbus itself is printed
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `cbus reference`
#[derive(Args)]
pub struct Reference {
    /// The directory to write the pages into
    pub dir: PathBuf,
}

/// What is logged, and how
#[derive(Args)]
pub struct Logging {
    /// What to log: a level or MODULE=LEVEL, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", env = "CBUS_LOG")]
    pub log: Filter,
    /// The log format: `text` for people, `json` for machines, one object per line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text, env = "CBUS_LOG_FORMAT")]
    pub log_format: Format,
}

/// The bus API of a daemon
#[derive(Args)]
#[command(next_help_heading = "Bus API")]
pub struct Api {
    /// The daemon's name, for --connect [default: `default`; for `cbus dev`, the first crate's name]
    #[arg(long, value_name = "NAME", env = "CBUS_NAME", value_parser = daemon_name)]
    pub name: Option<String>,
    /// Also listen on HOST:PORT, for clients with a token or a certificate; unix:PATH moves the socket, `off` disables the
    /// API
    #[arg(long, value_name = "ADDR", env = "CBUS_LISTEN", value_parser = listen)]
    pub listen: Option<Listen>,
    /// Allow clients to apply and remove configs
    #[arg(long)]
    pub allow_exec: bool,
    /// Allow clients and the page to reload and unload plugins
    #[arg(long)]
    pub allow_control: bool,
    /// A file with the tokens for TCP; each line is a token, or NAME ROLES TOKEN with the roles look, apply and control,
    /// separated by commas
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The API's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The authority that must have signed the clients' certificates (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// Where an API listens
#[derive(Clone, Debug)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address.
    At(Address),
}

fn listen(text: &str) -> Result<Listen, String> {
    if text == "off" { Ok(Listen::Off) } else { text.parse().map(Listen::At).map_err(|error: Error| error.to_string()) }
}

fn daemon_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name consists of up to 32 letters, digits, `-` and `_`".to_owned())
    }
}

/// How to reach a daemon
#[derive(Args, Clone)]
#[command(next_help_heading = "Connection")]
pub struct Connect {
    /// The daemon: its name, HOST:PORT or unix:PATH [default: your only running daemon]
    #[arg(long, value_name = "NAME|ADDR", env = "CBUS_CONNECT", add = ArgValueCandidates::new(complete::daemons))]
    pub connect: Option<Address>,
    /// A file containing the token that the daemon requires over TCP
    #[arg(long, value_name = "FILE", env = "CBUS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The authority that signed the daemon's certificate (PEM); enables TLS
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// `cbus directives`
#[derive(Args)]
pub struct Directives {
    /// Only show what is asked of other hosts of the fleet, and by them
    #[arg(long)]
    pub fleet: bool,
    #[command(flatten)]
    pub show: Show,
}

/// `cbus bus`, `plugins`, `controllers`
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus exec`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus exec -f config.yaml            apply the config set, and report the state of its controllers
  cbus exec -f config.yaml --attach   the same, and remove it again on Ctrl-C
  cbus exec --remove my-greeter       remove a config

It fails unless each controller is running at the end; a config whose plugin is not loaded yet stays, and starts with it.
The daemon must have been started with --allow-exec.")]
pub struct Exec {
    /// The config set, YAML or JSON; `-` reads standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "remove")]
    pub file: Option<PathBuf>,
    /// Stay attached, report every change, and remove the configs at the end
    #[arg(long, requires = "file")]
    pub attach: bool,
    /// Remove the config with this key; can be given several times
    #[arg(long, value_name = "KEY", conflicts_with = "file", add = ArgValueCandidates::new(complete::config_keys))]
    pub remove: Vec<String>,
    #[command(flatten)]
    pub to: Connect,
    /// Print each change as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus ask`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus ask greeter/greet '{\"name\":\"Ada\"}'   print the values as they come, until no controller has more to add
  cbus ask example/count --watch             follow it until Ctrl-C
  cbus ask greeter/greet '{\"name\":\"Ada\"}' --fleet --config shop/edge-7.yaml     ask every host of the fleet that offers it

The daemon must be `cbus dev`, or have been started with --allow-exec. With --fleet no daemon is asked: the command
itself is in the fleet for that time, as the host of the config file.")]
pub struct Ask {
    /// The directive's id; `cbus controllers` shows what they resolve
    #[arg(add = ArgValueCandidates::new(complete::directives))]
    pub directive: String,
    /// Its fields, as JSON; not needed if it has none, or all of them have defaults
    pub fields: Option<String>,
    /// Keep running until Ctrl-C, and also print removed values
    #[arg(long)]
    pub watch: bool,
    /// It is a call (`once` in its declaration): one controller answers it, and only once
    #[arg(long)]
    pub once: bool,
    /// How long to wait for more, in seconds, if a controller is still working
    #[arg(long, value_name = "SECONDS", default_value_t = 5, conflicts_with = "watch")]
    pub within: u64,
    /// Ask the hosts of a fleet that offer it, and print each value with its host
    #[arg(long, conflicts_with_all = ["connect", "token_file", "tls_ca", "tls_cert", "tls_key"])]
    pub fleet: bool,
    /// The config file whose `controllerbus/fleet` says how to join it [default: cbus.yaml]
    #[arg(long, value_name = "FILE", requires = "fleet")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub to: Connect,
    /// Print everything that happens, one line of JSON each
    #[arg(long)]
    pub json: bool,
}

/// `cbus reload`, `cbus unload`
#[derive(Args)]
pub struct OnePlugin {
    /// The plugin's id
    #[arg(add = ArgValueCandidates::new(complete::plugins))]
    pub id: String,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus rollback`
#[derive(Args)]
pub struct Rollback {
    #[command(flatten)]
    pub plugin: OnePlugin,
    /// Roll back to the build whose hash starts with this, instead of the previous generation
    #[arg(long = "to", value_name = "BUILD", add = ArgValueCandidates::new(complete::builds))]
    pub build: Option<String>,
}

const LOCAL_TIMES: &str = "Times are local, with their offset from UTC; set TZ for another zone.";

/// `cbus logs`
#[derive(Args)]
#[command(after_help = LOCAL_TIMES)]
pub struct Logs {
    /// Keep streaming new lines
    #[arg(short, long)]
    pub follow: bool,
    /// How many buffered lines to start with
    #[arg(short = 'n', long, default_value_t = 200, value_name = "LINES")]
    pub tail: u32,
    /// Only show lines of this plugin
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(complete::plugins))]
    pub plugin: Option<String>,
    /// Only show lines of this level or above: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub level: Option<String>,
    #[command(flatten)]
    pub to: Connect,
    /// Print one line of JSON each
    #[arg(long)]
    pub json: bool,
}

/// `cbus events`
#[derive(Args)]
#[command(after_help = LOCAL_TIMES)]
pub struct Events {
    /// Print the buffered events, and end unless --follow is given too
    #[arg(long)]
    pub past: bool,
    /// Keep printing what happens; the default without --past
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub to: Connect,
    /// Print one line of JSON each
    #[arg(long)]
    pub json: bool,
}

/// `cbus page`
#[derive(Args)]
#[command(after_help = "\
The printed link works once, within a minute; after that the browser has its own session.")]
pub struct Page {
    /// Only print the link
    #[arg(long)]
    pub print: bool,
    #[command(flatten)]
    pub to: Connect,
}

/// The id of a plugin or controller: words of letters, digits, `-`, `_` and `.`, separated by slashes.
fn plugin_id(text: &str) -> Result<String, String> {
    let word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if text.split('/').all(word) {
        Ok(text.to_owned())
    } else {
        Err("an id consists of words of letters, digits, `-`, `_` and `.`, separated by slashes, such as `example/greeter`"
            .to_owned())
    }
}

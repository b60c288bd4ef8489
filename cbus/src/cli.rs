//! The command line: what can be asked, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api::{Address, is_name};
use crate::daemon::{Filter, Format};

/// Controllers that are replaced while they run.
///
/// A controller crate is built into a plugin file, loaded into a running process, and swapped for a newer build without
/// a restart and without losing a request.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    after_help = "\
First steps:
  cbus new greeter            a controller crate that builds, with a test
  cbus dev greeter            build it, run it, and swap it in again at each save
  cbus plugins                from another terminal: what is loaded, and how long each swap took

Colours are for terminals; NO_COLOR, CLICOLOR=0 and CLICOLOR_FORCE=1 decide otherwise. Times are local; TZ sets another
zone.

Exit status: 0 fine, 1 failed, 2 wrong usage."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a controller crate that builds, with a test and a README
    New(New),
    /// Build controller crates into one plugin file
    Build(Build),
    /// Build, and build again on each change
    Watch(Watch),
    /// Show what a plugin file is, executing nothing of it
    Inspect(Inspect),
    /// Check that a plugin file is whole, can be loaded here, and is signed by a key
    Verify(Verify),
    /// Sign a plugin file: its signature is written beside it
    Sign(Sign),
    /// Make a pair of keys to sign and verify plugin files with
    Keygen(Keygen),
    /// Build, watch and run in one terminal, with a live view
    Dev(Dev),
    /// Run the daemon: load plugins, run the controllers of a config file, follow both
    Run(Run),
    /// Show a daemon's bus at a glance
    Bus(Show),
    /// Show a daemon's plugins, their generations, and how their last swaps went
    Plugins(Show),
    /// Show a daemon's controllers, and the configs that do not run
    Controllers(Show),
    /// Show the directives that stand on a daemon's bus
    Directives(Show),
    /// Execute the controllers of a config set on a daemon's bus
    Exec(Exec),
    /// Build a daemon's plugin again and swap it in
    Reload(OnePlugin),
    /// Have the generation of a plugin that served before serve again
    Rollback(Rollback),
    /// Take a plugin off a daemon's bus and unload it
    Unload(OnePlugin),
    /// Show a daemon's log lines, and those of its plugins
    Logs(Logs),
    /// Show what happens to a daemon's plugins: builds, swaps, roll-backs, unloads
    Events(Events),
    /// Open a daemon's page in a browser
    Page(Page),
    /// Check config files, and make a JSON schema of them for editors
    #[command(subcommand)]
    Config(Config),
    /// Print a script that completes this command in a shell
    Completions(Completions),
}

/// `cbus new`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus new greeter                    ./greeter, with the id `greeter`
  cbus new controllers/clock --id example/clock

Inside a cargo workspace the crate becomes a member of it.")]
pub struct New {
    /// The folder to make; its last part is the crate's name
    pub path: PathBuf,
    /// The controller's id, by which configs find it [default: the crate's name]
    #[arg(long, value_parser = plugin_id)]
    pub id: Option<String>,
    /// The folder of the `controllerbus` crate to depend on [default: the workspace's, or this program's own version]
    #[arg(long, value_name = "DIR")]
    pub controllerbus: Option<PathBuf>,
}

/// What is built, for `build` and `watch`
#[derive(Args, Clone)]
pub struct Source {
    /// The folders of the controller crates
    #[arg(required = true, value_name = "CRATE")]
    pub crates: Vec<PathBuf>,
    /// The plugin's id [default: the first crate's name]
    #[arg(long, value_parser = plugin_id)]
    pub id: Option<String>,
    /// The plugin's version; `{buildHash}` in it becomes the build's hash [default: the first crate's version]
    #[arg(long, value_name = "VERSION")]
    pub plugin_version: Option<String>,
    /// Optimise, as `cargo build --release` does
    #[arg(long)]
    pub release: bool,
    /// Features of the crates, separated by commas; CRATE/FEATURE for one crate's alone
    #[arg(long, value_delimiter = ',', value_name = "FEATURES")]
    pub features: Vec<String>,
    /// Without the crates' default features
    #[arg(long)]
    pub no_default_features: bool,
    /// Where the generated overlay crate is written [default: below the work folder]
    #[arg(long, value_name = "DIR")]
    pub codegen_dir: Option<PathBuf>,
    #[command(flatten)]
    pub folders: Folders,
}

/// How changes of files are noticed
#[derive(Args, Clone)]
pub struct Polling {
    /// Look for changes this often [default: 1 s], instead of waiting for the system to tell of them: for network mounts
    /// and folders shared with a container or a virtual machine
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub poll: Option<Seconds>,
}

/// A number of seconds, at least a hundredth
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
    /// Where overlays, builds and private copies go
    #[arg(long, value_name = "DIR", default_value = "target/controllerbus", env = "CBUS_WORK_DIR")]
    pub work_dir: PathBuf,
    /// Where cargo compiles [default: `target` in the work folder]
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
    /// Write the overlay crate, print its folder, and stop
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
  cbus watch greeter -o 'plugins/greeter-{buildHash}.cbus.so'     older files of that pattern are removed

A daemon that follows the folder (`cbus run --plugins plugins`) swaps each build in.")]
pub struct Watch {
    #[command(flatten)]
    pub source: Source,
    /// The file to write; `{buildHash}` in it becomes the build's hash
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    #[command(flatten)]
    pub polling: Polling,
    /// Print one line of JSON for each build
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
  cbus verify greeter.cbus.so                    whole, and fit for this machine and this version
  cbus verify greeter.cbus.so --key cbus.pub     the same, and signed by that key")]
pub struct Verify {
    /// The plugin file
    pub file: PathBuf,
    /// A public key that must have signed it; of several, one must
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus sign`
#[derive(Args)]
#[command(after_help = "\
The signature is FILE.minisig, as minisign writes it. `cbus keygen` makes keys.")]
pub struct Sign {
    /// The plugin file
    pub file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE", default_value = "cbus.key")]
    pub key: PathBuf,
    /// A file with the password of the key
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// `cbus keygen`
#[derive(Args)]
#[command(after_help = "\
The keys are minisign's. Existing files are never overwritten.")]
pub struct Keygen {
    /// The secret key's file, which only its owner may read
    #[arg(long, value_name = "FILE", default_value = "cbus.key")]
    pub secret: PathBuf,
    /// The public key's file
    #[arg(long, value_name = "FILE", default_value = "cbus.pub")]
    pub public: PathBuf,
    /// A file with a password to encrypt the secret key with
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Whose plugin files a daemon loads
#[derive(Args)]
#[command(next_help_heading = "Trust")]
pub struct Trust {
    /// Accept signatures of this public key; may be given several times
    #[arg(long, value_name = "FILE")]
    pub trust_key: Vec<PathBuf>,
    /// Refuse plugin files that no trusted key has signed
    #[arg(long, requires = "trust_key")]
    pub require_signature: bool,
    /// Load plugin files even from where other users of this machine may write
    #[arg(long)]
    pub allow_world_writable: bool,
    /// The largest plugin file that is read
    #[arg(long, value_name = "MIB", default_value_t = hot_runtime::artifact::LARGEST >> 20)]
    pub max_size: u64,
}

/// `cbus run`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus run config.yaml --plugins plugins
  cbus run config.yaml --watch greeter --watch clock --allow-control
  cbus run --plugins plugins --name second             another daemon beside the first
  cbus run --plugins plugins --listen 0.0.0.0:7411 --token-file tokens --tls-cert cert.pem --tls-key key.pem

It listens at a socket that only this user can reach; `cbus page` opens its page. SIGHUP has it read its config again,
SIGTERM or Ctrl-C ends it gracefully, within 5 seconds.")]
pub struct Run {
    /// The config set: which controllers run; the file is followed
    pub config: Option<PathBuf>,
    /// Load every *.cbus.so (.dylib, .dll) of this folder, and follow the folder
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Build this controller crate and watch its sources; may be given several times
    #[arg(long, value_name = "CRATE")]
    pub watch: Vec<PathBuf>,
    /// Optimise the watched crates
    #[arg(long)]
    pub release: bool,
    /// Where plugins run: `none` is in the daemon's process, `process` in one of its own each
    #[arg(long, value_name = "WHERE", default_value = "none")]
    pub isolation: hot_runtime::Isolation,
    /// For how many seconds a new generation is judged after it has taken over: one that crashes or fails goes, and the one
    /// before serves again; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub probation: u64,
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
  cbus dev greeter                    with greeter/config.yaml, if it is there
  cbus dev greeter clock config.yaml
  cbus dev . | tee dev.log            plain lines where the output is no terminal

Save a file of a crate, and the new code serves. Save a config, and it is applied.
In another terminal: cbus plugins, cbus controllers, cbus directives; in a browser: cbus page")]
pub struct Dev {
    /// Controller crates, and at most one config file (*.yaml, *.yml, *.json)
    #[arg(required = true, value_name = "CRATE|CONFIG")]
    pub paths: Vec<PathBuf>,
    /// Optimise the crates
    #[arg(long)]
    pub release: bool,
    /// Where plugins run: `none` is in this process, `process` in one of its own each
    #[arg(long, value_name = "WHERE", default_value = "none")]
    pub isolation: hot_runtime::Isolation,
    /// For how many seconds a new generation is judged after it has taken over: one that crashes or fails goes, and the one
    /// before serves again; 0 for never, so that you see what you wrote
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub probation: u64,
    /// Plain lines on a terminal too
    #[arg(long)]
    pub plain: bool,
    /// Where what is printed while the view is shown goes: given to the process of the view by the one that keeps the terminal
    #[arg(long, hide = true)]
    pub last_words: Option<PathBuf>,
    #[command(flatten)]
    pub folders: Folders,
    #[command(flatten)]
    pub polling: Polling,
    #[command(flatten)]
    pub api: Api,
    #[command(flatten)]
    pub logging: Logging,
}

/// `cbus config`
#[derive(Subcommand)]
pub enum Config {
    /// Print the JSON schema of config files, so that an editor completes and checks them
    Schema(ConfigSchema),
    /// Check a config file: its form, its config ids, and each config against its schema
    Check(ConfigCheck),
}

/// Where configs are known from
#[derive(Args)]
pub struct Known {
    /// A plugin file whose configs are known; may be given several times
    #[arg(long, value_name = "FILE")]
    pub plugin: Vec<PathBuf>,
    /// A folder of plugin files whose configs are known
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// A daemon whose configs are known: its name, HOST:PORT or unix:PATH
    #[arg(long, value_name = "NAME|ADDR")]
    pub connect: Option<Address>,
    /// A file with the token that the daemon asks for
    #[arg(long, value_name = "FILE", env = "CBUS_TOKEN_FILE", requires = "connect")]
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

Without plugin files or a daemon, config ids that are not built in cannot be told from mistyped ones.")]
pub struct ConfigCheck {
    /// The config file, YAML or JSON
    pub file: PathBuf,
    #[command(flatten)]
    pub known: Known,
    /// Print the problems as JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus completions`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus completions bash > ~/.local/share/bash-completion/completions/cbus
  cbus completions zsh > ~/.zfunc/_cbus
  cbus completions fish > ~/.config/fish/completions/cbus.fish")]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Which lines are logged
#[derive(Args)]
pub struct Logging {
    /// Which log lines: a level, or MODULE=LEVEL, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", env = "CBUS_LOG")]
    pub log: Filter,
    /// How they are printed: `text` for people, `json` for machines, one object on each line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text, env = "CBUS_LOG_FORMAT")]
    pub log_format: Format,
}

/// The bus API of a daemon
#[derive(Args)]
#[command(next_help_heading = "Bus API")]
pub struct Api {
    /// The daemon's name, by which commands find it with --connect [default: `default`; for `cbus dev` the first crate's]
    #[arg(long, value_name = "NAME", env = "CBUS_NAME", value_parser = daemon_name)]
    pub name: Option<String>,
    /// Listen at HOST:PORT too, for those who have a token or a certificate; unix:PATH is another place for the socket,
    /// `off` is no API at all
    #[arg(long, value_name = "ADDR", env = "CBUS_LISTEN", value_parser = listen)]
    pub listen: Option<Listen>,
    /// Let clients apply and remove configs
    #[arg(long)]
    pub allow_exec: bool,
    /// Let clients, and the page, reload and unload plugins
    #[arg(long)]
    pub allow_control: bool,
    /// The tokens of those who come by TCP; each line is a token, or NAME ROLES TOKEN, with the roles look, apply and
    /// control, separated by commas
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The API's certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Whose certificates clients must show, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

/// Where an API listens, if anywhere
#[derive(Clone, Debug)]
pub enum Listen {
    /// There is none.
    Off,
    /// There.
    At(Address),
}

fn listen(text: &str) -> Result<Listen, String> {
    if text == "off" { Ok(Listen::Off) } else { text.parse().map(Listen::At) }
}

fn daemon_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("a name is up to 32 letters, digits, `-` and `_`".to_owned()) }
}

/// How a daemon is reached
#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub struct Connect {
    /// The daemon: its name, HOST:PORT or unix:PATH [default: the only one of yours that runs]
    #[arg(long, value_name = "NAME|ADDR", env = "CBUS_CONNECT")]
    pub connect: Option<Address>,
    /// A file with the token that the daemon asks for by TCP
    #[arg(long, value_name = "FILE", env = "CBUS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The authority of the daemon's certificate, PEM; the connection is TLS then
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// `cbus bus`, `plugins`, `controllers`, `directives`
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
  cbus exec -f config.yaml            apply the config set, and tell how its controllers do
  cbus exec -f config.yaml --attach   the same, and take it off the bus again at Ctrl-C
  cbus exec --remove my-greeter       take a config off the bus

The daemon must have been started with --allow-exec.")]
pub struct Exec {
    /// The config set, YAML or JSON; `-` is the standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "remove")]
    pub file: Option<PathBuf>,
    /// Stay, tell each change, and take the configs off the bus at the end
    #[arg(long, requires = "file")]
    pub attach: bool,
    /// Take the config of this key off the bus; may be given several times
    #[arg(long, value_name = "KEY", conflicts_with = "file")]
    pub remove: Vec<String>,
    #[command(flatten)]
    pub to: Connect,
    /// Print one line of JSON for each change
    #[arg(long)]
    pub json: bool,
}

/// `cbus reload`, `cbus unload`
#[derive(Args)]
pub struct OnePlugin {
    /// The plugin's id
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
    /// Go back to the build whose hash begins so, instead of the generation before
    #[arg(long = "to", value_name = "BUILD")]
    pub build: Option<String>,
}

const LOCAL_TIMES: &str = "Times are local, with their offset from UTC; TZ sets another zone.";

/// `cbus logs`
#[derive(Args)]
#[command(after_help = LOCAL_TIMES)]
pub struct Logs {
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// How many remembered lines to begin with
    #[arg(short = 'n', long, default_value_t = 200, value_name = "LINES")]
    pub tail: u32,
    /// Only lines of this plugin
    #[arg(long, value_name = "ID")]
    pub plugin: Option<String>,
    /// Only lines of this level or above: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub level: Option<String>,
    #[command(flatten)]
    pub to: Connect,
    /// Print one line of JSON for each
    #[arg(long)]
    pub json: bool,
}

/// `cbus events`
#[derive(Args)]
#[command(after_help = LOCAL_TIMES)]
pub struct Events {
    /// Begin with the events that the daemon remembers
    #[arg(long)]
    pub past: bool,
    #[command(flatten)]
    pub to: Connect,
    /// Print one line of JSON for each
    #[arg(long)]
    pub json: bool,
}

/// `cbus page`
#[derive(Args)]
#[command(after_help = "\
The link that is printed opens the page once, within a minute; the browser then has a session of its own.")]
pub struct Page {
    /// Only print the link
    #[arg(long)]
    pub print: bool,
    #[command(flatten)]
    pub to: Connect,
}

/// A plugin's or controller's id: words of letters, digits, `-`, `_` and `.`, separated by slashes.
fn plugin_id(text: &str) -> Result<String, String> {
    let word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if text.split('/').all(word) {
        Ok(text.to_owned())
    } else {
        Err("an id is words of letters, digits, `-`, `_` and `.`, separated by slashes, such as `example/greeter`"
            .to_owned())
    }
}

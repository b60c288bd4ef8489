//! The words of `cbus publish`, `cbus rollout` and `cbus sets`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Connect;

/// A store.
#[derive(Args, Clone)]
pub struct StoreUrl {
    /// The store: file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX [default: that of the daemon]
    #[arg(long, value_name = "URL", env = "CBUS_STORE")]
    pub store: Option<String>,
}

/// A key that signs what is put into a store.
#[derive(Args, Clone)]
pub struct SignWith {
    /// The secret key with which it is signed
    #[arg(long, value_name = "FILE", default_value = "cbus.key")]
    pub sign: PathBuf,
    /// A file containing the key's password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// `cbus publish`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus publish greeter.cbus.so --store file:///mnt/share/cbus --sign minisign.key
  cbus publish x86/greeter.cbus.so arm/greeter.cbus.so --store s3://shop/cbus --sign minisign.key

Nothing runs it before `cbus rollout start`. Published again, it is a newer release: so one goes back to an older version.")]
pub struct Publish {
    /// The plugin files: one version of one plugin, a file for each kind of host
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub store: StoreUrl,
    #[command(flatten)]
    pub key: SignWith,
    /// For how many days hosts install it; what runs by then runs on
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Give it a number above this one: for a new store in the place of a lost one
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub above: u64,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus rollout`
#[derive(Subcommand)]
pub enum Rollout {
    /// Start a rollout of a published version, or show which hosts would get it in which step
    Start(RolloutStart),
    /// Show rollouts: their hosts, steps and gates
    Status(RolloutStatus),
    /// Stop a rollout where it is
    Pause(RolloutChange),
    /// Go on with a rollout that is paused
    Resume(RolloutChange),
    /// Do not wait until the hosts of this step were watched long enough
    Promote(RolloutChange),
    /// End a rollout: the hosts that have the release go back, and it is not marked
    Abort(RolloutChange),
    /// Take a rollout back, and mark the release, so that it does not come back by itself
    Back(RolloutChange),
    /// Show every change of a plugin's rollouts
    History(RolloutHistory),
}

/// `cbus rollout start`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus rollout start greeter@1.4.0                one host, then 10 %, then all
  cbus rollout start greeter@1.4.0 --plan         which hosts in which step; nothing is changed
  cbus rollout start greeter@1.4.0 -f rollout.yaml --watch

A rollout's file says on which hosts, in which steps, and by what they are judged: see docs/rollouts.md.")]
pub struct RolloutStart {
    /// The plugin and its version; with --file, what the file says unless it is given
    #[arg(value_name = "PLUGIN@VERSION", required_unless_present = "file", value_parser = plugin_at_version)]
    pub what: Option<(String, semver::Version)>,
    /// The rollout, YAML
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only show which hosts would get it in which step
    #[arg(long)]
    pub plan: bool,
    /// Try a release again that has failed before
    #[arg(long)]
    pub despite: bool,
    /// Follow it until it is over; fails unless it is done
    #[arg(short, long, conflicts_with = "plan")]
    pub watch: bool,
    #[command(flatten)]
    pub of: OfRollout,
}

/// Where a rollout is, and how it is shown
#[derive(Args, Clone)]
pub struct OfRollout {
    #[command(flatten)]
    pub store: StoreUrl,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cbus rollout status`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus rollout status                             what the only running daemon of yours follows
  cbus rollout status greeter --watch             until it is over
  cbus rollout status greeter --store file:///mnt/share/cbus     without a daemon: what the store says")]
pub struct RolloutStatus {
    /// The plugin [default: all that have rollouts]
    pub plugin: Option<String>,
    /// Keep running, and print what changes until it is over, or Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    #[command(flatten)]
    pub of: OfRollout,
}

/// `cbus rollout pause`, `resume`, `promote`, `abort` and `back`
#[derive(Args)]
pub struct RolloutChange {
    /// The plugin [default: the only one whose rollout is in progress]
    pub plugin: Option<String>,
    /// Why, for those who look at its history
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    #[command(flatten)]
    pub of: OfRollout,
}

/// `cbus rollout history`
#[derive(Args)]
pub struct RolloutHistory {
    /// The plugin
    pub plugin: String,
    #[command(flatten)]
    pub of: OfRollout,
}

/// `cbus sets`
#[derive(Subcommand)]
pub enum Sets {
    /// Publish a config set whose entries say on which hosts they run
    Push(SetsPush),
}

/// `cbus sets push`
#[derive(Args)]
#[command(after_help = "\
Examples:
  cbus sets push fleet.yaml --store file:///mnt/share/cbus --sign minisign.key

Hosts with an entry of `id: controllerbus/fleet/placement` follow it: see docs/rollouts.md.")]
pub struct SetsPush {
    /// The set, YAML
    pub file: PathBuf,
    /// The set's name [default: the file's, without its ending]
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub store: StoreUrl,
    #[command(flatten)]
    pub key: SignWith,
    #[command(flatten)]
    pub to: Connect,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn plugin_at_version(text: &str) -> Result<(String, semver::Version), String> {
    let Some((plugin, version)) = text.rsplit_once('@').filter(|(plugin, _)| !plugin.is_empty()) else {
        return Err("write a plugin and its version, such as greeter@1.4.0".to_owned());
    };
    let version =
        version.parse().map_err(|error| format!("`{version}` is not a version: {error}; write all of 1.4.0"))?;
    Ok((plugin.to_owned(), version))
}

#[cfg(test)]
mod tests {
    use super::plugin_at_version;

    #[test]
    fn a_plugin_and_its_version_are_read_and_what_is_none_says_what_to_write() {
        let (plugin, version) = plugin_at_version("example/greeter@1.4.0-rc.1").expect("both");
        assert_eq!((plugin.as_str(), version.to_string().as_str()), ("example/greeter", "1.4.0-rc.1"));
        for (text, expected) in
            [("greeter", "greeter@1.4.0"), ("greeter@1.4", "write all of 1.4.0"), ("@1.0.0", "greeter@1.4.0")]
        {
            assert!(plugin_at_version(text).is_err_and(|error| error.contains(expected)), "{text}");
        }
    }
}

//! What completions know beyond the command line itself: what a daemon has, and the codes of errors.

use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use controllerbus::error::Code;
use controllerbus_api::client::Client;
use controllerbus_api::proto::{ListConfigsRequest, ListControllersRequest, ListPluginsRequest};
use controllerbus_api::{Address, Connection, sockets};
use hot_runtime::text::escaped;

/// The variable with which a shell asks for completions.
pub const VARIABLE: &str = "CBUS_COMPLETE";

/// How long a daemon may take: somebody has pressed Tab.
const PATIENCE: Duration = Duration::from_millis(700);

fn candidates(found: impl IntoIterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let mut found: Vec<(String, String)> = found.into_iter().filter(|(value, _)| is_plain(value)).collect();
    found.sort();
    found.dedup();
    let one = |(value, about): (String, String)| {
        let about = Some(escaped(&about).into_owned()).filter(|about| !about.is_empty());
        CompletionCandidate::new(value).help(about.map(Into::into))
    };
    found.into_iter().map(one).collect()
}

/// What a shell takes for one plain word. Anything else, which a daemon may have, is not offered: the shell would run it.
fn is_plain(value: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:@+,=%".contains(c);
    !value.is_empty() && !value.starts_with('-') && value.chars().all(is_plain)
}

/// What is found in time. The thread ends with this process, which ends after the completion.
fn in_time<T: Send + Default + 'static>(find: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(find());
    });
    told.recv_timeout(PATIENCE).unwrap_or_default()
}

/// The codes of errors.
pub fn codes() -> Vec<CompletionCandidate> {
    candidates(Code::all().map(|code| (code.to_string(), code.title().to_owned())))
}

/// The words of the commands that print JSON.
pub fn printing() -> Vec<CompletionCandidate> {
    let words = crate::command::printing().flat_map(|command| command.split(' '));
    candidates(words.map(|word| (word.trim_start_matches('-').to_owned(), String::new())))
}

/// This user's running daemons.
pub fn daemons() -> Vec<CompletionCandidate> {
    let names = in_time(|| sockets::names().unwrap_or_default());
    candidates(names.into_iter().map(|name| (name, String::new())))
}

/// The ids of a daemon's plugins.
pub fn plugins() -> Vec<CompletionCandidate> {
    candidates(asked(async |client| {
        let found = client.list_plugins(ListPluginsRequest {}).await.ok()?.into_inner().plugins;
        Some(found.into_iter().map(|plugin| (plugin.id, format!("{} {}", plugin.state, plugin.version))).collect())
    }))
}

/// The builds of a daemon's plugins.
pub fn builds() -> Vec<CompletionCandidate> {
    candidates(asked(async |client| {
        let found = client.list_plugins(ListPluginsRequest {}).await.ok()?.into_inner().plugins;
        let builds = found.into_iter().flat_map(|plugin| {
            let id = plugin.id;
            plugin.generations.into_iter().map(move |found| (found.build_hash, format!("{id} #{}", found.number)))
        });
        Some(builds.collect())
    }))
}

/// The keys of the configs on a daemon's bus.
pub fn config_keys() -> Vec<CompletionCandidate> {
    candidates(asked(async |client| {
        let found = client.list_configs(ListConfigsRequest {}).await.ok()?.into_inner().configs;
        Some(found.into_iter().map(|config| (config.key, format!("{} {}", config.config_id, config.state))).collect())
    }))
}

/// The ids of the directives that a daemon's controllers resolve.
pub fn directives() -> Vec<CompletionCandidate> {
    candidates(asked(async |client| {
        let found = client.list_controllers(ListControllersRequest {}).await.ok()?.into_inner().controllers;
        let resolved = found.into_iter().flat_map(|controller| {
            let by = controller.name;
            controller.resolves.into_iter().map(move |id| (id, by.clone()))
        });
        Some(resolved.collect())
    }))
}

/// What the daemon of the command line answers; nothing if there is none, or it does not answer soon.
fn asked(
    question: impl AsyncFnOnce(&mut Client) -> Option<Vec<(String, String)>> + Send + 'static,
) -> Vec<(String, String)> {
    in_time(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
        let found = runtime.block_on(async { question(&mut daemon()?.connect().await.ok()?).await });
        runtime.shutdown_background();
        found.unwrap_or_default()
    })
}

/// The daemon that the command line names so far. It is not parsed yet, because it is not complete.
fn daemon() -> Option<Connection> {
    let words: Vec<String> = std::env::args().collect();
    let option = |name: &str, variable: &str| {
        let after =
            words.iter().zip(words.iter().skip(1)).find(|(word, _)| *word == name).map(|(_, value)| value.clone());
        let joined = || words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
        after.or_else(joined).or_else(|| std::env::var(variable).ok()).filter(|value| !value.is_empty())
    };
    // Bash takes `HOST:PORT` and `--connect=NAME` for several words: whom they name is not known then.
    if words.iter().any(|word| word == ":" || word == "=") {
        return None;
    }
    let address: Address = match option("--connect", "CBUS_CONNECT") {
        Some(named) => named.parse().ok()?,
        None => sockets::only().ok()?,
    };
    let to = Connection::to(address).ok()?;
    Some(match option("--token-file", "CBUS_TOKEN_FILE") {
        Some(file) => to.token_file(PathBuf::from(file)),
        None => to,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_words_are_offered_because_a_shell_would_run_the_rest() {
        for plain in ["greeter", "example/greet", "a-b_c.d", "127.0.0.1:7411", "CB0012"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in
            ["", "-f", "--remove", "x;touch${IFS}y", "$(id)", "`id`", "a b", "*", "a\nb", "~root", "a'b", "a&b"]
        {
            assert!(!is_plain(other), "{other}");
        }
    }
}

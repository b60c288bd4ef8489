//! Where the sockets of a user's daemons are: a folder that only this user can enter.

use std::path::{Path, PathBuf};

use miette::Result;

use super::Address;
use crate::report::{io, report};

/// The name of a daemon that was given none.
pub const DEFAULT_NAME: &str = "default";

/// The folder, made if it is not there: `$XDG_RUNTIME_DIR/cbus`, or `cbus-UID` in the folder for temporary files.
///
/// # Errors
/// It is somebody else's, or others can enter it.
#[cfg(unix)]
pub fn folder() -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    let this = rustix::process::geteuid().as_raw();
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = match given {
        Some(folder) => folder.join("cbus"),
        None => std::env::temp_dir().join(format!("cbus-{this}")),
    };
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io("making the folder for the daemons' sockets", &folder)(error));
        }
        _ => {}
    }
    // Of the name itself: a link that somebody else has put there is not it.
    let found =
        std::fs::symlink_metadata(&folder).map_err(io("looking at the folder for the daemons' sockets", &folder))?;
    let help = "remove it, or set XDG_RUNTIME_DIR to a folder of your own";
    if !found.is_dir() || found.uid() != this {
        return Err(report(format!("{} is not a folder of this user's", folder.display()), help));
    }
    if found.permissions().mode() & 0o077 != 0 {
        return Err(report(format!("others can enter {}", folder.display()), help));
    }
    Ok(folder)
}

/// Elsewhere there are no Unix sockets.
#[cfg(not(unix))]
pub fn folder() -> Result<PathBuf> {
    Err(report("there are no Unix sockets here", "give an address: --listen HOST:PORT, --connect HOST:PORT"))
}

/// Where the daemon of this name listens.
pub fn of(name: &str) -> Result<Address> {
    Ok(Address::Unix(folder()?.join(format!("{name}.sock"))))
}

/// The only daemon of this user's that runs.
///
/// # Errors
/// There is none, or there are several.
pub fn only() -> Result<Address> {
    let folder = folder()?;
    let names = running(&folder);
    match names.as_slice() {
        [] => Err(report(
            format!("no daemon of yours runs (there is no socket in {} that answers)", folder.display()),
            "start one with `cbus run` or `cbus dev`, or name one elsewhere with --connect",
        )),
        [name] => of(name),
        several => Err(report(
            format!("several daemons of yours run: {}", several.join(", ")),
            format!("say which with --connect, such as --connect {}", several[0]),
        )),
    }
}

#[cfg(unix)]
fn running(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let answers = |path: &PathBuf| std::os::unix::net::UnixStream::connect(path).is_ok();
    let sockets = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "sock"));
    let names = sockets.filter(answers).filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.filter(|name| super::address::is_name(name)).collect();
    names.sort();
    names
}

#[cfg(not(unix))]
fn running(_: &Path) -> Vec<String> {
    Vec::new()
}

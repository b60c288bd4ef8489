//! Where the sockets of a user's daemons are: a directory that only this user can access.

use std::path::{Path, PathBuf};

use controllerbus::error::Code;

use crate::{Address, Error, Result};

/// The name of a daemon without one.
pub const DEFAULT_NAME: &str = "default";

/// The directory, created if necessary: `$XDG_RUNTIME_DIR/cbus`, or `cbus-UID` in the directory for temporary files.
///
/// # Errors
/// It belongs to another user, or others can access it.
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
            return Err(Error::io("creating the directory for the daemons' sockets", &folder)(error));
        }
        _ => {}
    }
    // Do not follow a link that somebody else may have put there.
    let found = std::fs::symlink_metadata(&folder)
        .map_err(Error::io("checking the directory for the daemons' sockets", &folder))?;
    let help = "remove it, or set XDG_RUNTIME_DIR to a directory of your own";
    if !found.is_dir() || found.uid() != this {
        return Err(Error::new(
            Code::SOCKETS_FOLDER,
            format!("{} is not a directory that belongs to this user", folder.display()),
            help,
        ));
    }
    if found.permissions().mode() & 0o077 != 0 {
        return Err(Error::new(Code::SOCKETS_FOLDER, format!("others can access {}", folder.display()), help));
    }
    Ok(folder)
}

/// Elsewhere there are no Unix sockets.
#[cfg(not(unix))]
pub fn folder() -> Result<PathBuf> {
    Err(Error::new(
        Code::SOCKETS_FOLDER,
        "this system has no Unix sockets",
        "pass an address: --listen HOST:PORT, --connect HOST:PORT",
    ))
}

/// Where the daemon of this name listens.
///
/// # Errors
/// As for [`folder`].
pub fn of(name: &str) -> Result<Address> {
    Ok(Address::Unix(folder()?.join(format!("{name}.sock"))))
}

/// This user's only running daemon.
///
/// # Errors
/// There is none, or there are several.
pub fn only() -> Result<Address> {
    let folder = folder()?;
    let names = running(&folder);
    match names.as_slice() {
        [] => Err(Error::new(
            Code::NO_DAEMON,
            format!("no daemon of yours is running (no socket in {} answers)", folder.display()),
            "start one with `cbus run` or `cbus dev`, or pass the address of another with --connect",
        )),
        [name] => of(name),
        several => Err(Error::new(
            Code::SEVERAL_DAEMONS,
            format!("several daemons of yours are running: {}", several.join(", ")),
            format!("choose one with --connect, such as --connect {}", several[0]),
        )),
    }
}

/// The names of this user's running daemons.
///
/// # Errors
/// As for [`folder`].
pub fn names() -> Result<Vec<String>> {
    Ok(running(&folder()?))
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

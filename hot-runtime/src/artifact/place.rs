//! Who else may change what lies in a place: whoever may write there may run code in this process.

use std::path::Path;

use crate::error::{Error, Result};

/// Checks an open file that is to be loaded, and the folders that lead to it.
#[cfg(unix)]
pub(super) fn check_file(path: &Path, found: &std::fs::Metadata) -> Result<()> {
    if let Some(who) = unix::who_writes(found) {
        return Err(refuse(path, path, &who));
    }
    let real = path.canonicalize().map_err(Error::io("checking who may write to it", path))?;
    match real.parent() {
        Some(folder) => check_folders(path, folder, true),
        None => Ok(()),
    }
}

/// Checks a folder whose files are to be loaded, and the folders that lead to it.
#[cfg(unix)]
pub(crate) fn check_folder(path: &Path) -> Result<()> {
    let real = path.canonicalize().map_err(Error::io("checking who may write to it", path))?;
    check_folders(path, &real, false)
}

/// Whoever may rename a folder on the way can put his own in its place. In a folder with the sticky bit, as `/tmp` has,
/// only the owner of an entry can, so it may be on the way, but files are not loaded from it as from a folder of plugins.
#[cfg(unix)]
fn check_folders(shown: &Path, folder: &Path, sticky: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (at, folder) in folder.ancestors().enumerate() {
        let found = std::fs::metadata(folder).map_err(Error::io("checking who may write to it", folder))?;
        let owner = unix::foreign_owner(&found);
        let shared = found.permissions().mode() & 0o1000 != 0 && (sticky || at > 0);
        let who = owner.or_else(|| if shared { None } else { unix::who_writes(&found) });
        if let Some(who) = who {
            return Err(refuse(shown, folder, &who));
        }
    }
    Ok(())
}

#[cfg(unix)]
fn refuse(shown: &Path, what: &Path, who: &unix::Who) -> Error {
    let it = if shown == what { "it".to_owned() } else { what.display().to_string() };
    let reason = match who {
        unix::Who::Everybody => {
            format!("everybody on this machine may write to {it}, and so run code in this process")
        }
        unix::Who::Group(group) => {
            format!("the group {group} may write to {it}, and so run code in this process")
        }
        unix::Who::Owner(owner) => {
            format!("{it} belongs to user {owner}, who could run code in this process")
        }
    };
    let what = what.display();
    let mend = match who {
        unix::Who::Everybody => format!("`chmod o-w {what}`"),
        unix::Who::Group(_) => format!("`chmod g-w {what}`"),
        unix::Who::Owner(_) => format!("`chown` {what} to the user who runs this, or to root"),
    };
    let help = format!("{mend}, or allow it with `allow_world_writable`");
    Error::Folder { path: shown.to_owned(), reason, help }
}

#[cfg(not(unix))]
pub(super) fn check_file(_: &Path, _: &std::fs::Metadata) -> Result<()> {
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn check_folder(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::fs::Metadata;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// Somebody else who may change a file.
    pub(super) enum Who {
        Owner(u32),
        Group(String),
        Everybody,
    }

    /// The owner, if it is neither this user nor the administrator.
    pub(super) fn foreign_owner(found: &Metadata) -> Option<Who> {
        let this = rustix::process::geteuid().as_raw();
        (found.uid() != this && found.uid() != 0).then(|| Who::Owner(found.uid()))
    }

    /// Who else may write to it.
    pub(super) fn who_writes(found: &Metadata) -> Option<Who> {
        let mode = found.permissions().mode();
        foreign_owner(found).or_else(|| {
            if mode & 0o002 != 0 {
                Some(Who::Everybody)
            } else if mode & 0o020 != 0 {
                shared_group(found.uid(), found.gid()).map(Who::Group)
            } else {
                None
            }
        })
    }

    /// The group, unless it is the owner's private one, as many systems make one for each user, and let it write by default:
    /// it has the user's name, and nobody else is in it. One that the system's files do not tell of is not.
    fn shared_group(owner: u32, group: u32) -> Option<String> {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let (users, groups) = (read("/etc/passwd"), read("/etc/group"));
        let name_of = |text: &str, id: u32| -> Option<String> {
            let line = text.lines().find(|line| line.split(':').nth(2).and_then(|it| it.parse().ok()) == Some(id))?;
            line.split(':').next().map(str::to_owned)
        };
        let Some(name) = name_of(&groups, group) else { return Some(group.to_string()) };
        let alone = name_of(&users, owner).as_deref() == Some(name.as_str())
            && users.lines().all(|line| {
                let mut fields = line.split(':').skip(2).map(|it| it.parse::<u32>().ok());
                let (uid, gid) = (fields.next().flatten(), fields.next().flatten());
                gid != Some(group) || uid == Some(owner)
            })
            && groups.lines().all(|line| {
                let mut fields = line.split(':').skip(2);
                let id = fields.next().and_then(|it| it.parse::<u32>().ok());
                let mut members = fields.next().unwrap_or_default().split(',').filter(|it| !it.is_empty());
                id != Some(group) || members.all(|member| member == name)
            });
        if alone { None } else { Some(name) }
    }
}

//! Checks who else can write to a file or a directory: they could run code in this process.

use std::fs::Metadata;
use std::path::Path;

use controllerbus::error::Code;

use crate::error::{Error, Result};
use crate::sys::access::{Writer, foreign_owner, foreign_writer, is_sticky};

/// Checks an open file that is to be loaded, and the directories above it.
pub(super) fn check_file(path: &Path, found: &Metadata) -> Result<()> {
    if let Some(who) = foreign_writer(found) {
        return Err(refuse(path, path, &who));
    }
    let real = path.canonicalize().map_err(Error::io("checking who may write to it", path))?;
    match real.parent() {
        Some(folder) => check_folders(path, folder, true),
        None => Ok(()),
    }
}

/// Checks a directory whose files are to be loaded, and the directories above it.
pub(crate) fn check_folder(path: &Path) -> Result<()> {
    let real = path.canonicalize().map_err(Error::io("checking who may write to it", path))?;
    check_folders(path, &real, false)
}

/// Whoever can rename a directory on the path can replace it. In a directory with the sticky bit, such as `/tmp`, only the
/// owner of an entry can, so such a directory may be on the path, but it cannot be a plugins directory itself.
fn check_folders(shown: &Path, folder: &Path, sticky: bool) -> Result<()> {
    for (at, folder) in folder.ancestors().enumerate() {
        let found = std::fs::metadata(folder).map_err(Error::io("checking who may write to it", folder))?;
        let owner = foreign_owner(&found);
        let shared = is_sticky(&found) && (sticky || at > 0);
        let who = owner.or_else(|| if shared { None } else { foreign_writer(&found) });
        if let Some(who) = who {
            return Err(refuse(shown, folder, &who));
        }
    }
    Ok(())
}

fn refuse(shown: &Path, what: &Path, who: &Writer) -> Error {
    let it = if shown == what { "it".to_owned() } else { what.display().to_string() };
    let reason = match who {
        Writer::Everybody => {
            format!("everyone on this machine can write to {it}, and so run code in this process")
        }
        Writer::Group(group) => {
            format!("the group {group} can write to {it}, and so run code in this process")
        }
        Writer::Owner(owner) => {
            format!("{it} belongs to user {owner}, who could run code in this process")
        }
    };
    let what = what.display();
    let fix = match who {
        Writer::Everybody => format!("`chmod o-w {what}`"),
        Writer::Group(_) => format!("`chmod g-w {what}`"),
        Writer::Owner(_) => format!("`chown` {what} to the user that runs this, or to root"),
    };
    let help = format!("{fix}, or allow it with `allow_world_writable`");
    Error::Folder { path: shown.to_owned(), code: Code::OPEN_TO_OTHERS, reason, help }
}

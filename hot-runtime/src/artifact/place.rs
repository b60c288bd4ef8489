//! Who else may change what lies in a place: whoever may write there may run code in this process.

use std::fs::Metadata;
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys::access::{Writer, foreign_owner, foreign_writer, is_sticky};

/// Checks an open file that is to be loaded, and the folders that lead to it.
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

/// Checks a folder whose files are to be loaded, and the folders that lead to it.
pub(crate) fn check_folder(path: &Path) -> Result<()> {
    let real = path.canonicalize().map_err(Error::io("checking who may write to it", path))?;
    check_folders(path, &real, false)
}

/// Whoever may rename a folder on the way can put his own in its place. In a folder with the sticky bit, as `/tmp` has,
/// only the owner of an entry can, so it may be on the way, but files are not loaded from it as from a folder of plugins.
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
            format!("everybody on this machine may write to {it}, and so run code in this process")
        }
        Writer::Group(group) => {
            format!("the group {group} may write to {it}, and so run code in this process")
        }
        Writer::Owner(owner) => {
            format!("{it} belongs to user {owner}, who could run code in this process")
        }
    };
    let what = what.display();
    let fix = match who {
        Writer::Everybody => format!("`chmod o-w {what}`"),
        Writer::Group(_) => format!("`chmod g-w {what}`"),
        Writer::Owner(_) => format!("`chown` {what} to the user who runs this, or to root"),
    };
    let help = format!("{fix}, or allow it with `allow_world_writable`");
    Error::Folder { path: shown.to_owned(), reason, help }
}

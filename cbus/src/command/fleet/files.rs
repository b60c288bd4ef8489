//! Files that are written whole or not at all, and never over others by accident.

use std::io::Write;
use std::path::{Path, PathBuf};

use miette::Result;

use crate::report::{io, report};

/// A file that is to be written.
pub struct New {
    pub path: PathBuf,
    pub text: String,
    /// Only this user may read it.
    pub is_secret: bool,
}

/// Writes files, the secret ones first. If one of them is there already, nothing is written, unless it is forced.
pub fn write(files: &[New], force: bool) -> Result<()> {
    if !force && let Some(there) = files.iter().find(|file| file.path.symlink_metadata().is_ok()) {
        return Err(report(
            format!("{} is there already, and nothing was written", there.path.display()),
            "--force makes new keys and certificates, and leaves configs as they are; for another host, use another name",
        ));
    }
    let (secret, public): (Vec<&New>, Vec<&New>) = files.iter().partition(|file| file.is_secret);
    secret.into_iter().chain(public).try_for_each(|file| write_one(file, force))
}

fn write_one(file: &New, force: bool) -> Result<()> {
    let failed = |error| io("writing", &file.path)(error);
    let folder = file.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Nobody else can read it, not even while it is written.
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    new.write_all(file.text.as_bytes()).map_err(failed)?;
    if !file.is_secret {
        readable_by_all(new.as_file()).map_err(failed)?;
    }
    new.as_file().sync_all().map_err(failed)?;
    let kept = if force { new.persist(&file.path) } else { new.persist_noclobber(&file.path) };
    kept.map(drop).map_err(|error| failed(error.error))
}

#[cfg(unix)]
fn readable_by_all(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nothing_is_overwritten_by_accident_and_what_is_secret_is_so_even_where_the_file_before_was_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let new = |name: &str, text: &str, is_secret| New { path: path(name), text: text.to_owned(), is_secret };
        let mode = |name: &str| std::fs::metadata(path(name)).expect("a file").permissions().mode() & 0o777;
        std::fs::write(path("key"), "before").expect("writing");
        std::fs::set_permissions(path("key"), std::fs::Permissions::from_mode(0o644)).expect("its mode");
        let both = [new("cert", "a", false), new("key", "b", true)];
        let error = format!("{:?}", write(&both, false).expect_err("one is there"));
        assert!(error.contains("is there already") && !path("cert").exists(), "{error}");
        write(&both, true).expect("forced");
        assert_eq!((mode("cert"), mode("key")), (0o644, 0o600));
        assert_eq!(std::fs::read_to_string(path("key")).expect("a file"), "b");
        assert!(write(&both, false).is_err());
    }
}

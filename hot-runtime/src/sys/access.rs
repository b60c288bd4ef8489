//! Who can change a file besides this user and the administrator.

use std::fs::Metadata;

/// Another user, or users, who can change a file.
#[cfg_attr(not(unix), expect(dead_code, reason = "no writer is found where there are no mode bits"))]
pub(crate) enum Writer {
    Owner(u32),
    Group(String),
    Everybody,
}

/// The owner of a file, if it is neither this user nor the administrator.
#[cfg(unix)]
pub(crate) fn foreign_owner(found: &Metadata) -> Option<Writer> {
    use std::os::unix::fs::MetadataExt;
    let this = rustix::process::geteuid().as_raw();
    (found.uid() != this && found.uid() != 0).then(|| Writer::Owner(found.uid()))
}

/// Who else can write to a file.
#[cfg(unix)]
pub(crate) fn foreign_writer(found: &Metadata) -> Option<Writer> {
    use std::os::unix::fs::MetadataExt;
    let mode = found.mode();
    foreign_owner(found).or_else(|| {
        if mode & 0o002 != 0 {
            Some(Writer::Everybody)
        } else if mode & 0o020 != 0 {
            shared_group(found.uid(), found.gid()).map(Writer::Group)
        } else {
            None
        }
    })
}

/// Whether only the owner of an entry can rename or remove it in this directory, as in `/tmp`.
#[cfg(unix)]
pub(crate) fn is_sticky(found: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.mode() & 0o1000 != 0
}

/// The group, unless it is the owner's private one, which many systems make for each user and let write by default: it
/// has the user's name, and nobody else is in it. A group that the system's files do not list is not private.
#[cfg(unix)]
fn shared_group(owner: u32, group: u32) -> Option<String> {
    let read = |file: &str| crate::util::text_of(file).unwrap_or_default();
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

/// Without mode bits it is not known who else can write.
#[cfg(not(unix))]
pub(crate) fn foreign_owner(_: &Metadata) -> Option<Writer> {
    None
}

#[cfg(not(unix))]
pub(crate) fn foreign_writer(_: &Metadata) -> Option<Writer> {
    None
}

#[cfg(not(unix))]
pub(crate) fn is_sticky(_: &Metadata) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
pub(crate) mod tests {
    use rustix::thread::CapabilitySet;

    /// From now on this thread, and what it starts, can read and enter only what the modes of files allow, even as root.
    pub(crate) fn give_up_reading_everything() {
        for one in [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH] {
            // Only root can, and has to.
            let _ = rustix::thread::remove_capability_from_bounding_set(one);
        }
        let given_up = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let mut sets = rustix::thread::capabilities(None).expect("this thread's capabilities");
        sets.effective.remove(given_up);
        sets.permitted.remove(given_up);
        sets.inheritable.remove(given_up);
        rustix::thread::set_capabilities(None, sets).expect("to have less");
    }
}

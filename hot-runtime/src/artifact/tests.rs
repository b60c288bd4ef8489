//! What is read, refused and trusted.

use super::*;

use controllerbus::error::Code;
use controllerbus::plugin::manifest::{ACCEPTED, BOUNDARY, BOUNDARY_VERSION, Boundary, VERSION};

use crate::tiny::{self, Tiny};

fn read(path: &Path) -> crate::Result<Verified> {
    Checks::new(Trust::anyone()).verify(path)
}

fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plugin.cbus.so");
    std::fs::write(&path, bytes).expect("writing");
    let error = read(&path).expect_err("a bad file").to_string();
    // The same where its bytes are copied at once, and nothing is left of these.
    let dir = folder.path().join("loaded");
    let arriving = Checks::new(Trust::anyone()).verify_into(&path, &dir).expect_err("a bad file");
    assert_eq!(arriving.to_string(), error);
    assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 0);
    error
}

fn sealed(tiny: &Tiny) -> Vec<u8> {
    sealed_bytes(&tiny.library())
}

fn sealed_bytes(library: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("sealed.so");
    tiny::seal(library, &out);
    std::fs::read(&out).expect("reading")
}

#[test]
fn a_whole_artifact_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plugin.cbus.so");
    std::fs::write(&path, sealed(&Tiny::default())).expect("writing");
    let artifact = read(&path).expect("an artifact");
    assert_eq!(artifact.bundle.id, "tiny");
    assert_eq!(artifact.factories.len(), 1);
    assert_eq!(artifact.library(), Tiny::default().library());
}

#[test]
fn a_file_that_is_written_to_while_it_is_read_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plugin.cbus.so");
    let whole = sealed_bytes(&[Tiny::default().library(), vec![b'x'; 2 << 20]].concat());
    for into in [None, Some(folder.path().join("loaded"))] {
        for (end, is_shorter) in [(whole.len() as u64 + 1, false), (whole.len() as u64 - 1, true)] {
            std::fs::write(&path, &whole).expect("writing");
            let (file, writer) = (std::fs::File::open(&path), std::fs::File::options().write(true).open(&path));
            let (file, writer) = (file.expect("the file"), writer.expect("the file"));
            let change = |_: &[u8]| writer.set_len(end).expect("writing");
            let read = Read::open_file(&path, &file, whole.len() as u64, into.as_deref(), change);
            let error = read.expect_err("it was changed");
            assert_eq!(error.code(), Code::BEING_WRITTEN, "shorter: {is_shorter}, {error}");
        }
    }
}

#[test]
fn an_empty_file_and_a_text_file_are_refused_with_a_reason() {
    assert!(refused(b"").contains("too few"));
    assert!(refused(&b"just a text ".repeat(20)).contains("no artifact trailer"));
}

#[test]
fn every_truncation_and_every_flipped_byte_are_refused() {
    let whole = sealed(&Tiny::default());
    let refused = |bytes: &[u8]| match Read::bytes(Path::new("tiny"), bytes.to_vec()).inspect() {
        Ok(_) => panic!("a bad file was accepted"),
        Err(error) => error.to_string(),
    };
    for length in 0..whole.len() {
        refused(&whole[..length]);
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        let reason = refused(&flipped);
        assert!(reason.contains("hash") || reason.contains("trailer"), "{reason}");
    }
}

#[test]
fn what_does_not_fit_this_process_can_be_inspected_but_is_refused_with_a_reason() {
    let cases = [
        (Tiny { architecture: object::Architecture::S390x, ..Tiny::default() }, "S390x"),
        (Tiny { architecture: object::Architecture::Riscv64, ..Tiny::default() }, "Riscv64"),
        (Tiny { target: "x86_64-unknown-other", ..Tiny::default() }, "built for x86_64-unknown-other"),
        (Tiny { boundary: BOUNDARY_VERSION - 1, ..Tiny::default() }, "its boundary has version"),
        (Tiny { abi: "0000000000000000".to_owned(), ..Tiny::default() }, "fingerprint"),
        (Tiny { panic: "abort", ..Tiny::default() }, "a panic in it would abort the host"),
        (Tiny { min_runtime: "99.0.0", ..Tiny::default() }, "needs hot-runtime 99.0.0"),
    ];
    for (tiny, reason) in cases {
        let bytes = sealed(&tiny);
        let error = refused(&bytes);
        assert!(error.contains(reason), "{error}");
        Read::bytes(Path::new("tiny"), bytes).inspect().expect("it can be inspected");
    }
}

#[test]
fn a_plugin_of_the_boundary_before_is_accepted_where_it_is_listed_and_refused_by_both_versions_where_not() {
    const BEFORE: Boundary<'static> = Boundary { version: BOUNDARY_VERSION - 1, fingerprint: "00112233aabbccdd" };
    let fits = |tiny: &Tiny, accepted: &[Boundary<'_>]| {
        let found = Read::bytes(Path::new("tiny"), sealed(tiny)).inspect().expect("it can be inspected");
        manifest::fits(found.library(), &found.bundle, accepted)
    };
    let before = || Tiny {
        boundary: BEFORE.version,
        abi: BEFORE.fingerprint.to_owned(),
        controllerbus: "0.0.9",
        min_runtime: "0.0.0",
        ..Tiny::default()
    };
    fits(&before(), &[BOUNDARY, BEFORE]).expect("it is listed");
    fits(&Tiny::default(), ACCEPTED).expect("a host's own is");

    let (code, reason, help) = fits(&before(), &[BOUNDARY]).expect_err("it is not listed");
    assert!(reason.contains("controllerbus 0.0.9") && reason.contains(&format!("controllerbus {VERSION}")), "{reason}");
    assert!(help.contains("rebuild it with this runtime's version"), "{help}");
    assert_eq!(code, Code::BOUNDARY);
    // The number alone proves nothing.
    for other in [Tiny { boundary: BOUNDARY_VERSION, ..before() }, Tiny { abi: "0".repeat(16), ..before() }] {
        let (_, reason, _) = fits(&other, &[BOUNDARY, BEFORE]).expect_err("another fingerprint");
        assert!(reason.contains("0.0.9"), "{reason}");
    }
    let newer = Tiny { boundary: BOUNDARY_VERSION + 1, controllerbus: "9.1.0", ..Tiny::default() };
    let (_, reason, help) = fits(&newer, ACCEPTED).expect_err("it is newer");
    assert!(reason.contains("controllerbus 9.1.0") && help.contains("update the host"), "{reason}; {help}");
}

#[test]
fn a_plugin_without_factories_or_with_two_of_one_id_is_refused() {
    assert!(refused(&sealed(&Tiny { factories: vec![], ..Tiny::default() })).contains("no controllers"));
    let twice = refused(&sealed(&Tiny { factories: vec!["one", "two", "one"], ..Tiny::default() }));
    assert!(twice.contains("two factories with the id `one`"), "{twice}");
}

#[test]
fn a_sealed_library_that_is_no_plugin_is_refused() {
    let library = Tiny::default().library();
    let name = library.windows(13).position(|bytes| bytes == b"cbus.manifest").expect("the section's name");
    let mut other = library.clone();
    other[name] = b'x';
    assert!(refused(&sealed_bytes(&other)).contains("no manifest"));
    let mut relocatable = library;
    relocatable[16] = 1;
    assert!(refused(&sealed_bytes(&relocatable)).contains("not a dynamic library"));
}

#[cfg(unix)]
#[test]
fn a_folder_a_device_and_a_pipe_are_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe.cbus.so");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    for path in [folder.path(), Path::new("/dev/zero"), &pipe] {
        let error = read(path).expect_err("refused").to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn whoever_has_not_said_whom_it_trusts_loads_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plugin.cbus.so");
    Tiny::default().seal(&path);
    let error = Checks::new(Trust::undecided()).verify(&path).expect_err("refused").to_string();
    assert!(error.contains("has not set whose plugin files it loads"), "{error}");
    assert!(Checks::new(Trust::keys([])).accept_nothing());
}

#[test]
fn a_file_above_the_limit_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plugin.cbus.so");
    Tiny::default().seal(&path);
    let length = std::fs::metadata(&path).expect("its length").len();
    let checks = Checks::new(Trust::anyone());
    let error = checks.clone().largest(length - 1).verify(&path).expect_err("refused").to_string();
    assert!(error.contains(&format!("it has {length} bytes")), "{error}");
    checks.largest(length).verify(&path).expect("no longer than it may be");
    // A file that says that it has a terabyte is not read to find out.
    let sparse = folder.path().join("sparse.cbus.so");
    std::fs::File::create(&sparse).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    assert!(read(&sparse).expect_err("refused").to_string().contains("raise the limit"));
}

#[test]
fn every_length_in_a_manifest_is_bounded() {
    let long = "x".repeat(300);
    let many: Vec<&str> = (0..1001).map(|number| &*format!("f{number}").leak()).collect();
    let cases: [(Tiny, &str); 3] = [
        (Tiny { abi: long, ..Tiny::default() }, "which has 300 bytes; the limit is 256"),
        (Tiny { factories: many, ..Tiny::default() }, "more than 1000 controllers"),
        (Tiny { abi: "x".repeat(2 << 20), ..Tiny::default() }, "its manifest has"),
    ];
    for (tiny, reason) in cases {
        let error = refused(&sealed(&tiny));
        assert!(error.contains(reason), "{error}");
        assert!(error.len() < 1000, "the error is bounded too: {} bytes", error.len());
    }
}

/// A library whose manifest section is this text.
fn with_manifest(manifest: &[u8]) -> Vec<u8> {
    tiny::library(object::Architecture::X86_64, manifest)
}

#[test]
fn hostile_artifacts_are_refused_with_a_short_reason_or_are_what_they_say() {
    let look = |library: Vec<u8>| {
        let inspected = Read::bytes(Path::new("hostile"), with_trailer(library)).inspect();
        inspected.map(|found| found.bundle.id).map_err(|error| error.to_string())
    };
    let mut tried = 0;
    // Every field of the file's header and of its section headers, all ones and all zeros.
    let whole = Tiny::default().library();
    let sections = u64::from_le_bytes(whole[40..48].try_into().expect("eight bytes")) as usize;
    for at in (16..64).step_by(4).chain((sections..whole.len()).step_by(8)) {
        for filling in [0xff, 0x00, 0x7f] {
            let mut library = whole.clone();
            let end = (at + 4).min(library.len());
            library[at..end].fill(filling);
            match look(library) {
                Ok(id) => assert_eq!(id, "tiny"),
                Err(error) => assert!(error.len() < 600, "{error}"),
            }
            tried += 1;
        }
    }
    // Manifests that say what they should not.
    let bundle = String::from_utf8(whole.clone().into_iter().filter(u8::is_ascii).collect()).expect("ASCII");
    let bundle = &bundle[bundle.find("{\"record\":\"bundle\"").expect("it")..];
    let bundle = &bundle[..=bundle.find('}').expect("its end")];
    let factory = |more: &str| {
        format!(
            "{bundle}\n{{\"record\":\"factory\",\"plugin\":\"f\",\"version\":\"1.0.0\",\"crate\":\"c\",\"crate_version\":\"1\",\
             \"description\":\"\",\"entry\":\"e\",\"config\":\"f\",\"resolves\":[]{more}}}\n"
        )
    };
    assert_eq!(look(with_manifest(factory("").as_bytes())), Ok("tiny".to_owned()));
    let deep = format!(",\"schema\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let manifests: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\n\n\0\0\n".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{\"record\":\"other\"}".to_vec(),
        format!("{{\"record\":\"{}\"}}", "r".repeat(500_000)).into_bytes(),
        vec![0xff; 1000],
        vec![b'{'; 500_000],
        bundle.as_bytes().to_vec(),
        format!("{bundle}\n{bundle}\n").into_bytes(),
        factory("").replacen("\"1.0.0\"", "\"not.a.version\"", 1).into_bytes(),
        factory("").replace("\"boundary\":", "\"boundary\":-").into_bytes(),
        factory("").replace("\"boundary\":", "\"boundary\":99999999999999999999").into_bytes(),
        factory("").replace("\"entry\":\"e\"", &format!("\"entry\":\"{}\"", "e".repeat(500_000))).into_bytes(),
        factory("").replace("\"description\":\"\"", &format!("\"description\":\"{}\"", "d".repeat(5000))).into_bytes(),
        factory("").replace("\"resolves\":[]", &format!("\"resolves\":[{}\"x\"]", "\"x\",".repeat(5000))).into_bytes(),
        factory("").replace("\"resolves\":[]", "\"resolves\":{}").into_bytes(),
        factory("").repeat(2000).into_bytes(),
        factory(&deep).into_bytes(),
        [factory("").into_bytes(), vec![b' '; 2 << 20]].concat(),
    ];
    for manifest in manifests {
        let error = look(with_manifest(&manifest)).expect_err("it is refused");
        assert!(
            error.contains("manifest")
                || error.contains("names `")
                || error.contains("too long")
                || error.contains("controllers"),
            "{error}"
        );
        assert!(error.len() < 600, "{error}");
        tried += 1;
    }
    println!("{tried} hostile artifacts");
    assert!(tried >= 64);
}

/// Whatever is wrong with a file, one that must be signed and is not is refused for that, and nothing of it is parsed.
#[test]
fn where_a_signature_is_required_it_is_asked_for_before_anything_is_parsed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (secret, public) = (folder.path().join("a.key"), folder.path().join("a.pub"));
    let key = crate::artifact::sign::generate(&secret, &public, None).expect("keys");
    let checks = Checks::new(Trust::keys([key]));
    let path = folder.path().join("plugin.cbus.so");
    for bytes in [&b""[..], b"no library at all", &sealed_bytes(b"sealed, but no library")] {
        std::fs::write(&path, bytes).expect("writing");
        let error = checks.verify(&path).expect_err("refused").to_string();
        assert!(error.contains("it is not signed"), "{error}");
    }
}

#[cfg(unix)]
mod places {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::super::place::check_folder;
    use super::*;

    /// How a place is spoilt, and what is said of it.
    struct Spoilt {
        owner: Option<u32>,
        mode: u32,
        said: &'static str,
    }

    fn spoils() -> Vec<Spoilt> {
        let mut spoils = vec![
            Spoilt { owner: None, mode: 0o777, said: "everyone on this machine can write" },
            Spoilt { owner: None, mode: 0o757, said: "everyone on this machine can write" },
            Spoilt { owner: None, mode: 0o702, said: "everyone on this machine can write" },
        ];
        // Only the administrator can give files away.
        if rustix::process::geteuid().is_root() {
            for mode in [0o755, 0o700, 0o1777, 0o1755] {
                spoils.push(Spoilt { owner: Some(12_345), mode, said: "belongs to user 12345" });
            }
        } else {
            println!("not tested, because this user cannot give files away: files and folders of others");
        }
        spoils
    }

    fn spoil(path: &Path, spoilt: &Spoilt, group: Option<u32>) {
        chown(path, spoilt.owner, group).expect("giving it away");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(spoilt.mode)).expect("its mode");
    }

    #[test]
    fn a_file_is_loaded_only_where_nobody_else_may_write_to_it_or_to_a_folder_on_its_way() {
        let mut tried = 0;
        let root = rustix::process::geteuid().is_root();
        for (level, through_a_link) in (0..6).flat_map(|level| [(level, false), (level, true)]) {
            for spoilt in spoils() {
                let outer = tempfile::tempdir().expect("a folder");
                let folder = outer.path().join("a/b/c/d/e");
                std::fs::create_dir_all(&folder).expect("folders");
                let file = folder.join("plugin.cbus.so");
                Tiny::default().seal(&file);
                let link = outer.path().join("link");
                symlink(&folder, &link).expect("a link");
                let shown = if through_a_link { link.join("plugin.cbus.so") } else { file.clone() };
                read(&shown).expect("it is loaded as it is");
                let what = file.ancestors().nth(level).expect("a folder");
                spoil(what, &spoilt, None);
                // A sticky folder on the way is as good as /tmp.
                let error = read(&shown).expect_err("refused").to_string();
                assert!(error.contains(spoilt.said) && error.contains(&*shown.to_string_lossy()), "{error}");
                assert!(error.contains("allow_world_writable"), "it says what to do: {error}");
                let anywhere = Checks::new(Trust::anyone()).allow_world_writable(true);
                anywhere.verify(&shown).expect("where that is allowed it is loaded");
                if level > 0 {
                    check_folder(&folder).expect_err("nor are files of that folder");
                }
                tried += 1;
            }
        }
        println!("{tried} hostile places");
        assert!(tried >= if root { 64 } else { 36 });
    }

    #[test]
    fn a_group_may_write_only_if_it_is_its_owners_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("plugin.cbus.so");
        Tiny::default().seal(&file);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o664)).expect("its mode");
        if !rustix::process::geteuid().is_root() {
            println!("not tested, because this user cannot give files away: groups");
            return;
        }
        // root's own group, as `useradd` makes one for each user.
        read(&file).expect("nobody else is in it");
        for group in [12_345, 100] {
            chown(&file, None, Some(group)).expect("giving it to a group");
            let error = read(&file).expect_err("refused").to_string();
            assert!(error.contains("the group ") && error.contains("chmod g-w"), "{error}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("its mode");
        read(&file).expect("a group that may not write does no harm");
    }
}

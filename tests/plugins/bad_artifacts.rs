//! Files that are no plugins, or not any more: each is refused by name, none of it is executed, and the host serves on.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, RuntimeEvent, Trust};
use tests::load::{built, overwrite, seal};
use tests::{ask, events, mapped_below, verify, wait_for, work_dir};

/// A host that serves the good artifact.
struct Host {
    bus: Bus,
    runtime: HotRuntime,
    work: PathBuf,
    folder: tempfile::TempDir,
}

impl Host {
    async fn new(name: &str) -> Self {
        let bus = Bus::new();
        let config = ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: quiet }\n").expect("a config set");
        bus.apply(config).await.expect("applying");
        let work = work_dir().join(name);
        let builder = HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(&work).grace(Duration::from_secs(20));
        let runtime = builder.start().await.expect("starting");
        runtime.load_file(built().await).await.expect("the good artifact is loaded");
        Self { bus, runtime, work, folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn serves(&self) {
        assert_eq!(ask(&self.bus, "sentence").await.expect("the good one serves on"), "first");
    }

    /// The reason why a file is refused; what served before serves on.
    async fn refused(&self, path: &Path) -> String {
        let error = self.runtime.load_file(path).await.expect_err("it is refused").with_causes().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "the file is not named: {error}");
        self.serves().await;
        error
    }

    async fn refused_bytes(&self, bytes: &[u8]) -> String {
        let path = self.path("bad.cbus.so");
        std::fs::write(&path, bytes).expect("writing");
        self.refused(&path).await
    }

    async fn end(self) {
        self.runtime.shutdown().await;
        assert_eq!(mapped_below(&self.work), 0);
    }
}

async fn library() -> Vec<u8> {
    verify(built().await).expect("the good artifact").library().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_artifact_is_refused_by_name() {
    let host = Host::new("bad-kinds").await;
    let mut refused = 0;
    let mut check = |reason: String, expected: &str| {
        assert!(reason.contains(expected), "{reason}");
        refused += 1;
    };
    check(host.refused_bytes(b"").await, "too few");
    check(host.refused_bytes(&b"This is just a text.\n".repeat(9)).await, "no artifact trailer");
    check(host.refused(Path::new("/dev/zero")).await, "not a regular file");
    check(host.refused(host.folder.path()).await, "not a regular file");
    check(host.refused(&host.path("there-is-none.cbus.so")).await, "No such file");
    let unreadable = host.path("unreadable.cbus.so");
    std::fs::copy(built().await, &unreadable).expect("copying");
    std::fs::set_permissions(&unreadable, std::fs::Permissions::from_mode(0o000)).expect("taking the rights away");
    if std::fs::File::open(&unreadable).is_ok() {
        println!("not tested, because this user may read everything: an unreadable file");
    } else {
        check(host.refused(&unreadable).await, "Permission denied");
    }

    // An ordinary library, as it is and sealed.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the maps");
    let libc =
        maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|path| path.contains("/libc.so"));
    let libc = std::fs::read(libc.expect("the C library")).expect("reading it");
    check(host.refused_bytes(&libc).await, "no artifact trailer");
    seal(&libc, &host.path("libc.cbus.so"));
    check(host.refused(&host.path("libc.cbus.so")).await, "it has no manifest");

    // Whole and sealed, but not for this process.
    let whole = library().await;
    let patched = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut library = whole.clone();
        change(&mut library);
        let path = host.path("patched.cbus.so");
        seal(&library, &path);
        path
    };
    // e_machine, of another architecture than any that this is tested on.
    check(host.refused(&patched(&|library| library[18..20].copy_from_slice(&[22, 0]))).await, "it is for S390x");
    check(
        host.refused(&patched(&|library| overwrite(library, b"\"boundary\":", b"0"))).await,
        "its boundary has version",
    );
    check(
        host.refused(&patched(&|library| overwrite(library, b"\"abi\":\"", b"0000000000000000"))).await,
        "fingerprint",
    );
    check(
        host.refused(&patched(&|library| overwrite(library, b"\"min_runtime\":\"", b"9"))).await,
        "needs hot-runtime 9",
    );
    check(host.refused(&patched(&|library| overwrite(library, b"{\"record\":", b"oops"))).await, "manifest");
    println!("{refused} kinds of files refused");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_truncation_and_a_thousand_flipped_bytes_are_refused() {
    let host = Host::new("bad-damaged").await;
    let whole = std::fs::read(built().await).expect("the good artifact");
    let path = host.path("damaged.cbus.so");
    std::fs::write(&path, &whole).expect("writing");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opening");

    // The same places on every run; a simple generator is random enough.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for flip in 0..1_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (at, bit) = ((random >> 20) as usize % whole.len(), 1 << (random >> 60 & 7));
        file.write_all_at(&[whole[at] ^ bit], at as u64).expect("flipping");
        let error = host.runtime.load_file(&path).await.expect_err("a flipped byte goes unnoticed").to_string();
        assert!(error.contains("hash") || error.contains("trailer"), "byte {at}: {error}");
        file.write_all_at(&[whole[at]], at as u64).expect("flipping back");
        if flip % 50 == 0 {
            host.serves().await;
        }
    }
    for step in (0..64).rev() {
        file.set_len((whole.len() * step / 64) as u64).expect("truncating");
        let error = host.runtime.load_file(&path).await.expect_err("a truncation goes unnoticed").to_string();
        assert!(error.contains("trailer") || error.contains("too few"), "{step}/64: {error}");
    }
    host.serves().await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_over_or_a_link_that_moves_while_it_is_loaded_gives_all_or_nothing() {
    let host = Host::new("bad-racing").await;
    let whole = std::fs::read(built().await).expect("the good artifact");
    let (written, link, text) = (host.path("written.cbus.so"), host.path("link.cbus.so"), host.path("text"));
    std::fs::write(&text, b"no plugin at all").expect("writing");
    let stop = Arc::new(AtomicBool::new(false));
    let racing = {
        let (stop, written, link, text) = (Arc::clone(&stop), written.clone(), link.clone(), text.clone());
        let good = built().await.to_owned();
        std::thread::spawn(move || {
            let next = link.with_extension("next");
            while !stop.load(Ordering::Relaxed) {
                // In place, as a careless copy does; readers meet every state between.
                std::fs::write(&written, &whole[..whole.len() / 2]).expect("writing");
                std::fs::write(&written, &whole).expect("writing");
                for target in [&good, &text] {
                    std::os::unix::fs::symlink(target, &next).expect("a link");
                    std::fs::rename(&next, &link).expect("moving the link");
                }
            }
        })
    };
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..40 {
        for path in [&written, &link] {
            match host.runtime.load_file(path).await {
                Ok(_) => loaded += 1,
                Err(error) => {
                    let error = error.with_causes().to_string();
                    let known = ["trailer", "hash", "too few", "changed while it was being read", "No such file"];
                    assert!(known.iter().any(|reason| error.contains(reason)), "{error}");
                    refused += 1;
                }
            }
            host.serves().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    racing.join().expect("the other thread");
    println!("{loaded} loads of a whole file, {refused} refusals");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_folder_may_be_written_by_its_owner_only_and_may_go_and_come_back() {
    let plugins = tempfile::tempdir().expect("a folder").keep();
    let file = plugins.join("probe.cbus.so");
    std::fs::copy(built().await, &file).expect("copying");
    let bus = Bus::new();
    let config = ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: quiet }\n").expect("a config set");
    bus.apply(config).await.expect("applying");
    let (listener, mut told) = events();
    let work = work_dir().join("bad-folder");
    let builder = || HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(&work).plugins_dir(&plugins);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changing the rights");
    };

    let error =
        HotRuntime::builder(&bus).work_dir(&work).plugins_dir(&plugins).start().await.expect_err("it is refused");
    assert!(error.to_string().contains("Trust::anyone()"), "{error}");
    mode(&plugins, 0o777);
    let error = builder().start().await.expect_err("it is refused").to_string();
    assert!(error.contains("everyone on this machine can write") && error.contains("allow_world_writable"), "{error}");
    let allowed = builder().allow_world_writable(true).start().await.expect("it is allowed");
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "first");
    allowed.shutdown().await;

    mode(&plugins, 0o755);
    let runtime = builder().on_event(listener).start().await.expect("starting");
    assert_eq!(ask(&bus, "sentence").await.expect("an answer"), "first");
    let refused = |wanted: &'static str| {
        move |event: &RuntimeEvent| match event {
            RuntimeEvent::Refused { reason, .. } if reason.contains(wanted) => Some(()),
            _ => None,
        }
    };
    // A second file of the same plugin, one that everybody may write to, a text, and half a plugin.
    std::fs::copy(&file, plugins.join("twice.cbus.so")).expect("copying");
    wait_for(&mut told, refused("remove one of them")).await;
    std::fs::remove_file(plugins.join("twice.cbus.so")).expect("removing");
    std::fs::write(plugins.join("text.cbus.so"), "no plugin").expect("writing");
    wait_for(&mut told, refused("too few")).await;
    let open = plugins.join("open.cbus.so");
    std::fs::copy(&file, plugins.join("open.part")).expect("copying");
    mode(&plugins.join("open.part"), 0o666);
    std::fs::rename(plugins.join("open.part"), &open).expect("renaming");
    wait_for(&mut told, refused("everyone on this machine can write")).await;

    std::fs::remove_dir_all(&plugins).expect("removing the folder");
    wait_for(&mut told, refused("the plugins folder was removed")).await;
    assert_eq!(ask(&bus, "sentence").await.expect("it serves on"), "first");
    std::fs::create_dir(&plugins).expect("making it again");
    let mut other = library().await;
    overwrite(&mut other, b"generation-", b"0000042");
    let part = plugins.join("part");
    seal(&other, &part);
    std::fs::rename(&part, &file).expect("renaming");
    wait_for(&mut told, |event| matches!(event, RuntimeEvent::Swapped { .. }).then_some(())).await;
    assert_eq!(ask(&bus, "number").await.expect("an answer"), "generation-0000042");
    runtime.shutdown().await;
    std::fs::remove_dir_all(&plugins).expect("removing the folder");
    assert_eq!(mapped_below(&work), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_plugins_folder_is_what_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |inside: &str| folder.path().join(inside);
    let library = library().await;
    // A plugin file with a number, written as an installer does.
    let install = |path: &Path, number: &str| {
        let mut numbered = library.clone();
        overwrite(&mut numbered, b"generation-", number.as_bytes());
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        seal(&numbered, &at("part"));
        std::fs::rename(at("part"), path).expect("renaming");
    };
    let plugins = at("deep/plugins");
    install(&plugins.join("a.cbus.so"), "0000001");
    let bus = Bus::new();
    let config = ConfigSet::from_yaml("probe:\n  id: probe\n  config: { mode: quiet }\n").expect("a config set");
    bus.apply(config).await.expect("applying");
    let (listener, mut told) = events();
    let builder =
        HotRuntime::builder(&bus).trust(Trust::anyone()).work_dir(work_dir().join("folder")).plugins_dir(&plugins);
    let runtime = builder.on_event(listener).start().await.expect("starting");
    async fn came(told: &mut tokio::sync::mpsc::UnboundedReceiver<RuntimeEvent>) {
        wait_for(told, |event| matches!(event, RuntimeEvent::Swapped { .. }).then_some(())).await;
    }
    async fn went(told: &mut tokio::sync::mpsc::UnboundedReceiver<RuntimeEvent>) {
        wait_for(told, |event| matches!(event, RuntimeEvent::Unloaded { .. }).then_some(())).await;
    }
    let number = async || ask(&bus, "number").await.expect("an answer");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000001");

    // The same bytes written again after an unload are loaded again, whether copied or moved there.
    runtime.unload("probe").await.expect("unloading");
    went(&mut told).await;
    install(&plugins.join("a.cbus.so"), "0000001");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000001");

    // A new version beside the old one, then the old one goes: the new one takes over, without a gap.
    install(&plugins.join("b.cbus.so"), "0000002");
    wait_for(&mut told, |event| match event {
        RuntimeEvent::Refused { reason, .. } if reason.contains("a.cbus.so; remove one of them") => Some(()),
        _ => None,
    })
    .await;
    assert_eq!(number().await, "generation-0000001");
    std::fs::remove_file(plugins.join("a.cbus.so")).expect("removing");
    let swapped = wait_for(&mut told, |event| match event {
        RuntimeEvent::Swapped { from, .. } => Some(from.is_some()),
        _ => None,
    });
    assert!(swapped.await, "there was no gap");
    assert_eq!(number().await, "generation-0000002");

    // A file that goes takes its plugin with it.
    std::fs::remove_file(plugins.join("b.cbus.so")).expect("removing");
    wait_for(&mut told, |event| match event {
        RuntimeEvent::Unloaded { generation, .. } => Some(*generation),
        _ => None,
    })
    .await;
    while runtime.generations().iter().any(|found| found.state == hot_runtime::GenerationState::Serving) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    install(&plugins.join("c.cbus.so"), "0000003");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000003");

    // The folder goes with its parents, and all of it comes back.
    std::fs::remove_dir_all(at("deep")).expect("removing");
    wait_for(&mut told, |event| match event {
        RuntimeEvent::Refused { reason, .. } if reason.contains("the plugins folder was removed") => Some(()),
        _ => None,
    })
    .await;
    install(&plugins.join("c.cbus.so"), "0000004");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000004");

    // A link to a file that is replaced where it is, and then leads elsewhere.
    std::fs::remove_file(plugins.join("c.cbus.so")).expect("removing");
    install(&at("releases/1.cbus.so"), "0000005");
    std::os::unix::fs::symlink("../../releases/1.cbus.so", plugins.join("c.cbus.so")).expect("a link");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000005");
    install(&at("releases/1.cbus.so"), "0000006");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000006");
    install(&at("releases/2.cbus.so"), "0000007");
    std::os::unix::fs::symlink("../../releases/2.cbus.so", plugins.join("next")).expect("a link");
    std::fs::rename(plugins.join("next"), plugins.join("c.cbus.so")).expect("renaming");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000007");

    // A link in the way to the folder, as a deployment switches it.
    install(&at("next/plugins/c.cbus.so"), "0000008");
    std::fs::rename(at("deep"), at("before")).expect("moving");
    std::os::unix::fs::symlink("next", at("deep")).expect("a link");
    came(&mut told).await;
    assert_eq!(number().await, "generation-0000008");
    runtime.shutdown().await;
}

/// The limit is the whole process's, so this test runs again as a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_that_says_so_and_what_serves_serves_on() {
    const CHILD: &str = "CONTROLLERBUS_TEST_FULL_DISK";
    if std::process::Command::new("prlimit").arg("--version").output().is_err() {
        println!("not tested, because there is no prlimit here: a full disk");
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        built().await;
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        // The signal that comes with the error is ignored, as it is where a disk is full.
        let output = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" --exact --nocapture \"$1\""])
            .arg(std::env::current_exe().expect("this executable"))
            .arg(name)
            .env(CHILD, "1")
            .output()
            .expect("running the child");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("is the disk full?"), "{text}");
        return;
    }
    let host = Host::new("bad-full").await;
    let limit = |bytes: &str| {
        let pid = std::process::id().to_string();
        let set = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
        assert!(set.expect("prlimit").success());
    };
    limit("1000000");
    let error = host.runtime.load_file(built().await).await.expect_err("the disk is full");
    println!("{}", error.with_causes());
    host.serves().await;
    let copies = std::fs::read_dir(&host.work).expect("the work folder").filter_map(std::result::Result::ok);
    let copies: usize = copies
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("loaded-"))
        .map(|entry| std::fs::read_dir(entry.path()).map_or(0, Iterator::count))
        .sum();
    assert_eq!(copies, 1, "the half-written copy stays");
    limit("unlimited");
    host.runtime.load_file(built().await).await.expect("there is room again");
    host.serves().await;
    host.end().await;
}

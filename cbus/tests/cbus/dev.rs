//! `cbus dev` without its view: where it prints, what crates set of themselves, and tests at each save.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use tests::Scratch;

use crate::process::Daemon;
use crate::{cbus, fails, terminate};

fn configure(scratch: &Scratch, name: &str, key: &str) {
    std::fs::write(scratch.path(name).join("config.yaml"), format!("{key}: {{ id: {name} }}\n")).expect("writing");
}

#[test]
fn the_log_is_on_standard_output_with_warnings_and_without_colours_where_they_are_not_wanted() {
    let scratch = Scratch::new(&["second"]);
    configure(&scratch, "second", "one");
    scratch.edit("second", "Ok(Self)", "let unused = 1;\n        Ok(Self)");
    let mut command = cbus(scratch.folder());
    command.args(["dev", "second", "--name", "printed"]).env("CBUS_WORK_DIR", scratch.folder().join("work"));
    // NO_COLOR comes before what forces colours.
    command.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1");
    let mut dev = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("running cbus");
    let mut printed = String::new();
    // Read to its end: if nobody did, it would end by itself.
    let mut lines = BufReader::new(dev.stdout.take().expect("its output")).lines();
    for line in lines.by_ref() {
        printed += &(line.expect("text") + "\n");
        if printed.contains("ready: saved changes") {
            break;
        }
    }
    assert!(printed.contains("warning: unused variable: `unused`"), "{printed}");
    assert!(!printed.contains('\u{1b}'), "{printed}");
    terminate(&dev);
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).count());
    let said = crate::said(dev.wait_with_output().expect("its end"));
    rest.join().expect("reading the rest");
    assert_eq!(said.code, Some(0));
    assert!(said.err.starts_with("Shutting down"), "only messages are here: {}", said.err);
}

#[test]
fn where_nobody_reads_the_log_any_more_all_is_shut_down_in_order() {
    let scratch = Scratch::new(&["second"]);
    configure(&scratch, "second", "one");
    let mut command = cbus(scratch.folder());
    command.args(["dev", "second", "--name", "unread"]).env("CBUS_WORK_DIR", scratch.folder().join("work"));
    let mut dev = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("running cbus");
    let mut lines = BufReader::new(dev.stdout.take().expect("its output")).lines();
    assert!(lines.by_ref().any(|line| line.expect("text").contains("ready: saved changes")));
    drop(lines);
    // Something that is logged.
    scratch.edit("second", "\"from the second\"", "\"from the other\"");
    let said = crate::said(dev.wait_with_output().expect("its end"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("Shutting down: nobody reads the output any more"), "{}", said.err);
}

#[test]
fn what_a_crate_sets_wrongly_and_a_key_that_two_crates_configure_are_errors_before_anything_begins() {
    let scratch = Scratch::new(&["second", "keeps"]);
    let at = scratch.folder();
    configure(&scratch, "second", "one");
    configure(&scratch, "keeps", "one");
    let said =
        fails(at, &["dev", "second", "keeps"], 1, "both second/config.yaml and keeps/config.yaml have the key `one`");
    assert!(said.contains("rename one of them"), "{said}");
    fails(at, &["dev", "second", "--features", "nowhere"], 1, "no crate has the feature `nowhere`");

    let manifest = at.join("second/Cargo.toml");
    let before = std::fs::read_to_string(&manifest).expect("the manifest");
    let set = |text: &str| {
        std::fs::write(&manifest, format!("{before}\n[package.metadata.cbus]\n{text}\n")).expect("writing");
    };
    set("featurs = []\nspeed = 3");
    for command in [&["dev", "second"][..], &["build", "second"], &["run", "--watch", "second"]] {
        let said = fails(at, command, 1, "[package.metadata.cbus]: there is no `featurs`, `speed`");
        assert!(said.contains("did you mean `features`?") && said.contains("second/Cargo.toml"), "{said}");
    }
    set("config = \"dev.yaml\"");
    let said = fails(at, &["dev", "second"], 1, "there is no second/dev.yaml");
    assert!(said.contains("[package.metadata.cbus]"), "{said}");
}

/// A `cargo` whose tests pass if there is a file `pass`, and which is the real one for anything else.
fn cargo_with_tests(folder: &Path) -> String {
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = test ]; then\n  if [ -e {0}/pass ]; then echo 'test result: ok. 3 passed; 0 failed'; exit 0; fi\n  \
         printf 'test works ... FAILED\\n\\n---- works stdout ----\\nthread panicked at tests/a.rs:4:9:\\nit does not\\n\\n'\n  \
         printf '\\nfailures:\\n    works\\n\\ntest result: FAILED. 2 passed; 1 failed\\n'\n  exit 101\nfi\n\
         PATH=\"${{PATH#*:}}\" exec cargo \"$@\"\n",
        folder.display()
    );
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::write(bin.join("cargo"), script).expect("a script");
    std::fs::set_permissions(bin.join("cargo"), std::fs::Permissions::from_mode(0o755)).expect("it can be run");
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn code_whose_tests_fail_does_not_take_over_until_they_pass() {
    let scratch = Scratch::new(&["second"]);
    let at = scratch.folder();
    configure(&scratch, "second", "one");
    let metadata = "[package.metadata.cbus]\ntest = \"before\"\nlocations = \"places\"\n\n[workspace]";
    scratch.amend("second", "[workspace]", metadata);
    std::fs::create_dir(at.join("second/tests")).expect("a folder");
    let pass = at.join("pass");
    std::fs::write(&pass, "").expect("writing");
    let path = cargo_with_tests(at);
    let mut dev = Daemon::start_with(at, "dev", &["second", "--plain"], |command| {
        command.env("PATH", path);
    });
    dev.wait("3 tests pass");
    dev.wait("generation 1 serves");

    std::fs::remove_file(&pass).expect("removing");
    scratch.edit("second", "\"from the second\"", "\"from another\"");
    dev.wait("1 of 3 tests fails: works");
    let refused = dev.wait("not swapped; generation 1 is still serving");
    assert!(refused.contains("1 of 3 tests fails: works"), "{refused}");
    assert_eq!(dev.fine(&["ask", "second/ask", "{\"nonce\":1}"]), "\"from the second\"\n");
    let places = std::fs::read_to_string(at.join("second/places")).expect("the places");
    assert!(places.starts_with("test ") && places.ends_with("/second/tests/a.rs:4:9 it does not\n"), "{places}");

    // Only the test is mended.
    std::fs::write(&pass, "").expect("writing");
    std::fs::write(at.join("second/tests/a.rs"), "// now\n").expect("writing");
    dev.wait("generation 2 serves");
    assert_eq!(dev.fine(&["ask", "second/ask", "{\"nonce\":1}"]), "\"from another\"\n");
    let places = std::fs::read_to_string(at.join("second/places")).expect("the places");
    assert_eq!(places, "");
    dev.end();
}

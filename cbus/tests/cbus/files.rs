//! Commands that make and look at files: `new`, `build`, `watch`, `inspect`, `sign`, `verify`, `keygen`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use tests::{Scratch, target_dir, with_tokio, work_dir};

use crate::process::Daemon;
use crate::{SECRET, built, cbus, fails, fine, json, said};

/// Cargo as a user would run it, with the profile that plugins are built with, so that nothing is compiled twice.
fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder).env("CARGO_TARGET_DIR", target_dir()).args([
        "--config",
        "profile.dev.debug=\"line-tables-only\"",
        "--config",
        "profile.dev.package.\"*\".debug=false",
    ]);
    command
}

/// Gives a crate the fixtures' features of tokio too, so that what it depends on is compiled once for all tests.
fn as_fixtures(manifest: &Path) {
    let text = std::fs::read_to_string(manifest).expect("the manifest");
    std::fs::write(manifest, with_tokio(&text)).expect("writing the manifest");
}

fn lock_file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock")
}

#[test]
fn a_new_crate_passes_its_own_test_and_becomes_a_plugin() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let told = fine(at, &["new", "clock", "--template", "crate", "--id", "example/clock"]);
    assert!(told.contains("cbus dev clock"), "{told}");
    // The workspace's own versions, so that nothing new has to be resolved or fetched.
    std::fs::copy(lock_file(), at.join("clock/Cargo.lock")).expect("copying the lock file");
    as_fixtures(&at.join("clock/Cargo.toml"));
    let tested = said(cargo(&at.join("clock")).args(["test", "--quiet"]).output().expect("running cargo"));
    assert_eq!(tested.code, Some(0), "{}{}", tested.out, tested.err);

    // The default file, and the overlay that is kept builds by itself.
    let work = work_dir().join("cbus-new");
    let mut build = cbus(at);
    build.args(["build", "clock", "--codegen-only"]).env("CBUS_WORK_DIR", &work);
    let overlay = said(build.output().expect("running cbus"));
    assert_eq!(overlay.code, Some(0), "{}", overlay.err);
    let overlay = overlay.out.trim();
    let text = std::fs::read_to_string(Path::new(overlay).join("src/lib.rs")).expect("the overlay");
    assert!(text.contains("extern crate clock as _;"), "{text}");
    let plain = Command::new("cargo")
        .args(["build", "--quiet"])
        .current_dir(overlay)
        .env("CARGO_TARGET_DIR", target_dir())
        // As it is for plugins that are watched.
        .env("CARGO_INCREMENTAL", "1")
        .output()
        .expect("running cargo");
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));

    // What is optimised is built once, and says so to cargo; the rest is as what is edited.
    let mut optimised = cbus(at);
    optimised.args(["build", "clock", "--codegen-only", "--release"]).env("CBUS_WORK_DIR", &work);
    assert_eq!(said(optimised.output().expect("running cbus")).code, Some(0));
    let manifest = std::fs::read_to_string(Path::new(overlay).join("Cargo.toml")).expect("the overlay's manifest");
    assert!(manifest.contains("[profile.release.package.clock]"), "{manifest}");
    assert!(manifest.contains("[profile.release]\nlto = \"fat\"\n"), "{manifest}");

    fails(at, &["new", "clock"], 1, "exists");
    fails(at, &["new", "9lives"], 1, "digit");
    fails(at, &["new", "other", "--controllerbus", "nowhere"], 1, "nowhere");
}

#[test]
#[ignore = "compiles the framework optimised, for a minute: cargo test -p cbus --test cbus -- --ignored an_optimised_build"]
fn an_optimised_build_does_not_depend_on_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let [one, other] = ["one", "other"].map(|place| {
        let at = folder.path().join(place);
        std::fs::create_dir_all(&at).expect("a folder");
        fine(&at, &["new", "clock", "--template", "crate"]);
        std::fs::copy(lock_file(), at.join("clock/Cargo.lock")).expect("copying the lock file");
        as_fixtures(&at.join("clock/Cargo.toml"));
        let mut build = cbus(&at);
        build.args(["build", "clock", "--release", "-o", "clock.cbus.so"]).env("CBUS_WORK_DIR", at.join("work"));
        let built = said(build.output().expect("running cbus"));
        assert_eq!(built.code, Some(0), "{}", built.err);
        std::fs::read(at.join("clock.cbus.so")).expect("the file")
    });
    assert!(one == other, "the files differ");
}

/// What a template made compiles, is formatted, and has a lock file that names nothing new.
fn compiles(folder: &Path) {
    std::fs::copy(lock_file(), folder.join("Cargo.lock")).expect("copying the lock file");
    for arguments in [&["check", "--quiet", "--workspace", "--all-targets"][..], &["fmt", "--check"]] {
        let checked = said(cargo(folder).args(arguments).output().expect("running cargo"));
        assert_eq!(checked.code, Some(0), "{arguments:?}: {}{}", checked.out, checked.err);
        assert!(!checked.err.contains("warning"), "{}", checked.err);
    }
}

/// Adds a crate to a workspace that depends on what one elsewhere does, and has nothing in it: then what both depend on has the same
/// features, and is checked once.
fn depends_on_what(workspace: &Path, elsewhere: &Path, name: &str) {
    let of = std::fs::read_to_string(elsewhere.join(name).join("Cargo.toml")).expect("the manifest");
    std::fs::create_dir_all(workspace.join(name).join("src")).expect("a folder");
    std::fs::write(workspace.join(name).join("Cargo.toml"), of).expect("writing");
    std::fs::write(workspace.join(name).join("src/lib.rs"), "//! Nothing.\n").expect("writing");
    let manifest = std::fs::read_to_string(workspace.join("Cargo.toml")).expect("the manifest");
    let manifest = manifest.replace("members = [", &format!("members = [{name:?}, "));
    std::fs::write(workspace.join("Cargo.toml"), manifest).expect("writing");
}

#[test]
fn what_every_template_makes_compiles_without_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    // Those of one crate join a workspace.
    let manifest = "[workspace]\nresolver = \"3\"\nmembers = []\n";
    let together = at.join("together");
    std::fs::create_dir(&together).expect("a folder");
    std::fs::write(together.join("Cargo.toml"), manifest).expect("writing");
    for template in ["stateful", "interface", "client", "host", "web"] {
        fine(&together, &["new", &format!("a-{template}"), "--template", template]);
    }
    fails(&together, &["new", "other", "--template", "functions"], 1, "is one around it already");
    compiles(&together);

    let told = fine(at, &["new", "clock"]);
    assert!(told.contains("cargo run -p host"), "{told}");
    fine(at, &["new", "shop", "--template", "functions", "--id", "example/shop"]);
    for workspace in ["clock", "shop"] {
        for name in ["a-client", "a-web"] {
            depends_on_what(&at.join(workspace), &together, name);
        }
        compiles(&at.join(workspace));
    }
}

#[test]
fn the_schema_of_a_new_workspace_is_that_of_its_controller() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fine(at, &["new", "clock"]);
    std::fs::copy(lock_file(), at.join("clock/Cargo.lock")).expect("copying the lock file");
    as_fixtures(&at.join("clock/controller/Cargo.toml"));
    let mut build = cbus(at);
    build
        .args(["build", "clock/controller", "-o", "clock.cbus.so"])
        .env("CBUS_WORK_DIR", work_dir().join("cbus-schema"));
    let built = said(build.output().expect("running cbus"));
    assert_eq!(built.code, Some(0), "{}", built.err);
    let of = |schema: &serde_json::Value| {
        let each = schema["additionalProperties"]["allOf"].as_array().expect("the ids").clone();
        each.into_iter().find(|one| one["if"]["properties"]["id"]["const"] == "clock").expect("the controller's")
    };
    let known = json(at, &["config", "schema", "--plugin", "clock.cbus.so"]);
    let written = std::fs::read_to_string(at.join("clock/config.schema.json")).expect("the schema");
    assert_eq!(of(&serde_json::from_str(&written).expect("JSON")), of(&known));
    let told = fine(at, &["config", "check", "clock/config.yaml", "--plugin", "clock.cbus.so"]);
    assert!(told.contains("1 config is valid"), "{told}");
}

#[test]
fn names_that_cannot_be_those_of_crates_are_refused_with_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    std::fs::create_dir(at.join("taken")).expect("a folder");
    for (name, why) in [
        ("my clock", "has a ` `"),
        ("w\u{e9}b", "has a `\u{e9}`"),
        ("9lives", "cannot start with a digit"),
        ("--", "cannot start with a `-`"),
        ("__", "needs a letter"),
        ("match", "is a word of the language"),
        ("std", "is the name of a crate that yours depends on"),
        ("hot-runtime", "is the name of a crate that yours depends on"),
        ("host", "is the name of another crate of this workspace"),
        ("taken", "taken exists already"),
        ("..", "has no name"),
    ] {
        fails(at, &["new", "--", name], 1, why);
    }
    fails(at, &["new", "clock", "--template", "wbe"], 2, "[possible values: workspace, crate, functions");
    let help = fine(at, &["new", "--help"]);
    assert!(help.contains("web:") && help.contains("on a socket that outlasts it"), "{help}");
    assert_eq!(std::fs::read_dir(at).expect("the folder").count(), 1, "nothing was created");
}

#[test]
fn a_new_crate_in_a_workspace_joins_it_and_uses_its_dependencies() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = "[workspace]\nresolver = \"3\"\nmembers = []\n\n[workspace.dependencies]\n\
                    controllerbus = { path = \"/somewhere/controllerbus\" }\n";
    std::fs::write(folder.path().join("Cargo.toml"), manifest).expect("writing");
    fine(folder.path(), &["new", "clock"]);
    let workspace = std::fs::read_to_string(folder.path().join("Cargo.toml")).expect("reading");
    assert!(workspace.contains("members = [\"clock\"]") || workspace.contains("\"clock\""), "{workspace}");
    let own = std::fs::read_to_string(folder.path().join("clock/Cargo.toml")).expect("reading");
    assert!(own.contains("controllerbus = { workspace = true }"), "{own}");
}

#[test]
fn a_built_file_is_inspected_without_being_executed() {
    let (scratch, file, told) = built();
    assert!(file.is_file());
    assert_eq!(told["id"], "second");
    assert_eq!(told["version"], "1.2.3");
    let found = json(scratch.folder(), &["inspect", "second.cbus.so", "--json"]);
    for key in ["id", "version", "build_hash", "hash"] {
        assert_eq!(found[key], told[key], "{key}");
    }
    assert_eq!(found["factories"][0]["config"], "second");
    assert_eq!(found["factories"][0]["resolves"][0], "second/ask");
    assert_eq!(found["factories"][0]["directives"][0]["properties"]["nonce"]["description"], "Makes requests differ.");
    let schema = &found["factories"][0]["schema"]["properties"];
    assert_eq!(schema["guests"]["items"]["properties"]["tone"]["anyOf"][0]["const"], "polite", "{schema}");
    assert_eq!(found["unfit"], serde_json::Value::Null);
    assert_eq!(found["signature"], serde_json::Value::Null);
    assert!(found["size"].as_u64().is_some_and(|size| size > 100_000), "{found}");
    let text = fine(scratch.folder(), &["inspect", "second.cbus.so"]);
    for line in [
        "resolves   second/ask".to_owned(),
        format!("fingerprint {}", found["abi"].as_str().expect("a fingerprint")),
        format!("toolchain  {}", found["toolchain"].as_str().expect("a toolchain")),
        "loudness        whole number: How loud it answers.".to_owned(),
        "guests          list of map: Who may ask.".to_owned(),
        "guests[].name   text, required: As on the list.".to_owned(),
        "guests[].tone   polite | short: How they are greeted.".to_owned(),
    ] {
        assert!(text.contains(&line), "no `{line}` in {text}");
    }

    let at = scratch.folder();
    fails(at, &["inspect", "missing.cbus.so"], 1, "missing.cbus.so");
    fails(at, &["inspect", "second/Cargo.toml"], 1, "was refused");
    let mut broken = std::fs::read(file).expect("reading");
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(at.join("broken.cbus.so"), broken).expect("writing");
    fails(at, &["inspect", "broken.cbus.so"], 1, "hash");
    fails(at, &["verify", "broken.cbus.so"], 1, "hash");
}

#[test]
fn a_signed_file_is_verified_by_its_key_and_by_no_other() {
    let (scratch, file, _) = built();
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let copy = at.join("second.cbus.so");
    std::fs::copy(file, &copy).expect("copying");
    assert!(scratch.folder().is_dir());

    fine(at, &["verify", "second.cbus.so"]);
    fine(at, &["keygen"]);
    fails(at, &["keygen"], 1, "cbus.key");
    fails(at, &["verify", "second.cbus.so", "--key", "cbus.pub"], 1, "not signed");
    fine(at, &["sign", "second.cbus.so"]);
    let told = fine(at, &["verify", "second.cbus.so", "--key", "cbus.pub"]);
    assert!(told.contains("signed by key"), "{told}");
    let found = json(at, &["inspect", "second.cbus.so", "--json"]);
    assert!(found["signature"]["comment"].as_str().is_some_and(|text| text.contains("plugin:second")), "{found}");

    fine(at, &["keygen", "--secret", "other.key", "--public", "other.pub"]);
    fails(at, &["verify", "second.cbus.so", "--key", "other.pub"], 1, "refused");
    fails(at, &["sign", "second.cbus.so", "--key", "missing.key"], 1, "missing.key");
    fails(at, &["sign", "missing.cbus.so"], 1, "missing.cbus.so");
    fails(at, &["verify", "second.cbus.so", "--key", "cbus.key"], 1, "cannot be used");
}

#[test]
fn bad_crates_are_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fails(at, &["build", "nowhere"], 1, "nowhere");
    std::fs::create_dir(at.join("empty")).expect("a folder");
    fails(at, &["build", "empty"], 1, "it has no Cargo.toml");
    let mut without = cbus(at);
    let said = said(without.args(["new", "clock"]).env("PATH", at).output().expect("running cbus"));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("cargo cannot be run"), "{}", said.err);
    let plain = Command::new("cargo").args(["new", "--quiet", "--lib", "plain"]).current_dir(at).status();
    assert!(plain.expect("running cargo").success());
    fails(at, &["build", "plain"], 1, "controllerbus");
    fails(at, &["build", "plain", "--plugin-version", "one"], 1, "");
}

#[test]
fn watch_builds_again_at_a_save_tells_compiler_errors_and_removes_older_files() {
    let scratch = Scratch::new(&["second"]);
    // What an earlier session has left, with its signature; and what only looks like it.
    let out = scratch.folder().join("out");
    std::fs::create_dir(&out).expect("a folder");
    let (left, signature) =
        (out.join("second-0123456789abcdef.cbus.so"), out.join("second-0123456789abcdef.cbus.so.minisig"));
    let others =
        [out.join("second-abcdef.cbus.so"), out.join("second-special.cbus.so"), out.join("other-0123.cbus.so")];
    std::fs::copy(&built().1, &left).expect("copying");
    std::fs::write(&signature, "a signature").expect("writing");
    std::fs::write(&others[0], "no plugin").expect("writing");
    std::fs::copy(&built().1, &others[1]).expect("copying");
    std::fs::copy(&built().1, &others[2]).expect("copying");
    let mut command = cbus(scratch.folder());
    command.args(["watch", "second", "-o", "out/second-{buildHash}.cbus.so", "--json"]);
    command.env("CBUS_WORK_DIR", work_dir().join("cbus-watch"));
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("running cbus");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    let mut errors = BufReader::new(watching.stderr.take().expect("its errors")).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    let first = next();
    let first_file = scratch.folder().join(first["path"].as_str().expect("a path"));
    assert!(first_file.is_file());
    assert!(!left.exists() && !signature.exists(), "what an earlier session has left is removed");
    for other in others {
        assert!(other.is_file(), "{} is not such a build", other.display());
        std::fs::remove_file(other).expect("removing");
    }

    scratch.edit("second", "\"from the second\"", "\"from the second\" oops");
    let told = errors.find(|line| line.as_ref().is_ok_and(|line| line.contains("does not build")));
    assert!(told.is_some(), "the compiler's errors are told");
    assert!(first_file.is_file(), "what was built before stays");

    scratch.edit("second", "\"from the second\" oops", "\"from the other\"");
    let second = next();
    assert_ne!(first["build_hash"], second["build_hash"]);
    assert!(scratch.folder().join(second["path"].as_str().expect("a path")).is_file());
    assert!(!first_file.is_file(), "the older file is removed");

    // What was built after an edit may panic, as what cargo builds may.
    scratch.edit("second", "Ok(Self)", "panic!(\"construct panics\")");
    next();
    watching.kill().expect("ending it");
    watching.wait().expect("its end");
    std::fs::write(scratch.folder().join("config.yaml"), "one:\n  id: second\n").expect("writing");
    let mut daemon = Daemon::start(scratch.folder(), &["config.yaml", "--plugins", "out"]);
    daemon.wait("construct panics");
    // It is tried again by a daemon that goes on.
    daemon.wait("construct panics");
    daemon.end();
}

#[test]
fn files_that_cannot_be_read_or_written_are_told() {
    let (_, file, _) = built();
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    std::fs::create_dir(at.join("taken.cbus.so")).expect("a folder");
    fails(at, &["inspect", "taken.cbus.so"], 1, "taken.cbus.so");
    std::fs::copy(file, at.join("second.cbus.so")).expect("copying");
    fails(at, &["keygen", "--secret", "no/such/folder/key", "--public", "x.pub"], 1, "no/such/folder/key");
    // A path that leads through a file is nobody's to use, whoever runs this.
    for arguments in [
        &["inspect", "second.cbus.so/x"][..],
        &["verify", "second.cbus.so/x"],
        &["sign", "second.cbus.so", "--key", "second.cbus.so/key"],
        &["keygen", "--secret", "second.cbus.so/key", "--public", "x.pub"],
        &["build", "second.cbus.so/x"],
        &["watch", "second.cbus.so/x", "-o", "x"],
        &["config", "check", "second.cbus.so/x"],
        &["config", "schema", "--plugins", "second.cbus.so"],
        &["run", "second.cbus.so/config.yaml"],
        &["dev", "second.cbus.so/x"],
    ] {
        fails(at, arguments, 1, "is a file, not a directory");
    }
    fails(at, &["new", "second.cbus.so/x"], 1, "Not a directory");
    fails(at, &["run", "--plugins", "second.cbus.so"], 1, "second.cbus.so is not a directory");
    fails(at, &["config", "check", "second.cbus.so"], 1, "UTF-8");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(at.join("second.cbus.so"), std::fs::Permissions::from_mode(0o000)).expect("a mode");
        if std::fs::read(at.join("second.cbus.so")).is_err() {
            fails(at, &["inspect", "second.cbus.so"], 1, "you do not have permission");
        } else {
            println!("SKIPPED: the administrator, who runs this, may read every file");
        }
    }
}

#[test]
fn a_config_file_is_checked_against_the_schemas_of_plugin_files() {
    let (_, file, _) = built();
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    std::fs::create_dir(at.join("plugins")).expect("a folder");
    std::fs::copy(file, at.join("plugins/second.cbus.so")).expect("copying");
    let config = "one:\n  id: second\napi:\n  id: controllerbus/bus/api\n  config:\n    listen: 127.0.0.1:1\n";
    std::fs::write(at.join("good.yaml"), config).expect("writing");
    let told = fine(at, &["config", "check", "good.yaml", "--plugins", "plugins"]);
    assert!(told.contains("2 configs are valid"), "{told}");

    let bad = "one:\n  id: secnd\napi:\n  id: controllerbus/bus/api\n  config:\n    listn: x\n    allow_exec: 3\n";
    std::fs::write(at.join("bad.yaml"), bad).expect("writing");
    let told = fails(at, &["config", "check", "bad.yaml", "--plugins", "plugins"], 1, "has 4 problems");
    for problem in [
        "bad.yaml:2:7: one: unknown config id `secnd`; did you mean `second`?",
        "api.listn: unknown key `listn`; did you mean `listen`?",
        "bad.yaml:7:17: api.allow_exec: expected true or false, found 3",
        "`listen` is missing",
    ] {
        assert!(told.contains(problem), "no `{problem}` in {told}");
    }
    let optional = "one:\n  id: second\n  config:\n    luodness: 3\n";
    std::fs::write(at.join("optional.yaml"), optional).expect("writing");
    let told = fails(at, &["config", "check", "optional.yaml", "--plugins", "plugins"], 1, "unknown key");
    assert!(told.contains("optional.yaml:4:"), "{told}");
    assert!(told.contains("one.luodness: unknown key `luodness`; did you mean `loudness`?"), "{told}");
    std::fs::write(at.join("form.yaml"), "one:\n  id: second\n  revison: 1\n").expect("writing");
    fails(at, &["config", "check", "form.yaml"], 1, "form.yaml:3:");
    let told = fine(at, &["config", "check", "good.yaml"]);
    assert!(told.contains("1 config is valid"), "{told}");
    fails(at, &["config", "check", "missing.yaml"], 1, "missing.yaml");
    fails(at, &["config", "check", "good.yaml", "--plugins", "missing"], 1, "missing");
    fails(at, &["config", "schema", "--plugin", "good.yaml"], 1, "was refused");
    fails(at, &["config", "schema", "--connect", "127.0.0.1:1"], 1, "no daemon answers");

    let schema = json(at, &["config", "schema", "--plugins", "plugins"]);
    let ids = schema["additionalProperties"]["properties"]["id"]["anyOf"][0]["enum"].to_string();
    let rollouts = ["agent", "placement", "rollout"].map(|name| format!("\"controllerbus/fleet/{name}\"")).join(",");
    let loaders = "\"hot-runtime/crate\",\"hot-runtime/folder\",\"hot-runtime/plugin\"";
    assert_eq!(ids, format!("[\"controllerbus/bus/api\",\"controllerbus/fleet\",{rollouts},{loaders},\"second\"]"));
}

#[test]
fn every_shell_gets_a_completion_script() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = fine(folder.path(), &["completions", shell]);
        assert!(script.contains("cbus") && script.contains("inspect"), "{shell}");
    }
    fails(folder.path(), &["completions", "command.com"], 2, "possible values");
}

#[cfg(unix)]
#[test]
fn a_build_leaves_nothing_of_the_callers_environment_behind() {
    use std::os::unix::fs::PermissionsExt;
    built();
    let calls = target_dir().join("cbus/calls");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&calls), 0o700);
    let mut recorded = 0;
    for entry in std::fs::read_dir(&calls).expect("the records").flatten() {
        // Others that are being made go meanwhile.
        let Ok(text) = std::fs::read(entry.path()) else { continue };
        assert!(!text.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{}", entry.path().display());
        assert_eq!(mode(&entry.path()), 0o600);
        recorded += 1;
    }
    assert!(recorded > 0, "calls are recorded");
}

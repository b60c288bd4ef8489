//! Tokens of each role against each call, calls without a rule, tokens that go, and tokens that are guessed.

use std::path::Path;

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::process::{Daemon, daemon_folder, http, write_secret};
use crate::rules;

/// Every call that a daemon answers, as `/package.Service/Method`, from the proto files that it serves.
pub fn calls() -> Vec<String> {
    let ours = FileDescriptorSet::decode(controllerbus_api::DESCRIPTORS);
    let health = FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection = FileDescriptorSet::decode(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET);
    let mut calls = Vec::new();
    for file in [ours, health, reflection].into_iter().flat_map(|set| set.expect("a proto file").file) {
        for service in &file.service {
            for method in &service.method {
                calls.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert!(calls.len() >= 16, "{calls:?}");
    calls
}

#[test]
fn each_call_of_the_proto_has_a_rule() {
    for call in calls() {
        assert!(rules::need("POST", &call).is_some(), "{call} has no rule: say in auth/rules.rs what it needs");
        assert!(rules::is_grpc(&call));
        assert!(rules::need("GET", &call).is_none(), "{call}");
    }
    assert!(rules::need("POST", "/controllerbus.api.v1.BusApi/Unheard").is_none());
}

/// Calls with an empty message; the first answer's status.
async fn call(channel: &Channel, path: &str, token: Option<&str>) -> Code {
    let mut request = Request::new(tokio_stream::iter([()]));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    }
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let path = path.parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = client.streaming(request, path, codec).await;
    let code = |status: Status| status.code();
    match answer {
        Err(status) => code(status),
        Ok(mut answers) => {
            let first = tokio::time::timeout(std::time::Duration::from_millis(500), answers.get_mut().message()).await;
            // Streams that have nothing to say yet are open.
            first.map_or(Code::Ok, |first| first.map_or_else(code, |_| Code::Ok))
        }
    }
}

const LOOK: &str = "look-token-of-some-length";
const APPLY: &str = "apply-token-of-some-length";
const CONTROL: &str = "control-token-of-some-length";
const ALL: &str = "all-token-of-some-length";

fn token_file(at: &Path, lines: &[(&str, &str, &str)]) {
    let text: String = lines.iter().map(|(name, roles, token)| format!("{name} {roles} {token}\n")).collect();
    write_secret(&at.join("tokens.new"), &format!("# who  roles  token\n{text}"));
    std::fs::rename(at.join("tokens.new"), at.join("tokens")).expect("renaming");
}

fn daemon(at: &Path) -> Daemon {
    let lines = [("viewer", "look", LOOK), ("deployer", "apply", APPLY), ("operator", "control", CONTROL)];
    token_file(at, &[&lines[..], &[("admin", "look,apply,control", ALL)]].concat());
    let arguments = ["--plugins", "plugins", "--listen", "127.0.0.1:0", "--token-file", "tokens"];
    Daemon::start(at, &[&arguments[..], &["--allow-exec", "--allow-control"]].concat())
}

async fn channel(daemon: &Daemon) -> Channel {
    Endpoint::from_shared(format!("http://{}", daemon.address))
        .expect("an address")
        .connect()
        .await
        .expect("connecting")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_each_role_may_call_what_its_role_allows_and_nothing_else() {
    let folder = daemon_folder();
    let mut daemon = daemon(folder.path());
    let channel = channel(&daemon).await;
    let mut tried = 0;
    for path in calls() {
        let need = format!("{:?}", rules::need("POST", &path).expect("a rule"));
        for (token, may) in
            [(LOOK, "Look"), (APPLY, "Look Apply"), (CONTROL, "Look Control"), (ALL, "Look Apply Control")]
        {
            let code = call(&channel, &path, Some(token)).await;
            assert_eq!(
                code != Code::PermissionDenied,
                may.contains(&need),
                "{path} with the token for {may}: {code:?}"
            );
            assert_ne!(code, Code::Unauthenticated, "{path} with the token for {may}");
            tried += 1;
        }
        assert_eq!(call(&channel, &path, None).await, Code::Unauthenticated, "{path} without a token");
    }
    assert_eq!(call(&channel, &calls()[0], Some("not-a-token-of-anybody")).await, Code::Unauthenticated);
    assert_eq!(call(&channel, "/controllerbus.api.v1.BusApi/Unheard", Some(ALL)).await, Code::Unimplemented);
    assert_eq!(call(&channel, "/unheard.of.Service/Call", Some(ALL)).await, Code::Unimplemented);
    println!("{tried} calls with tokens");
    // Who has changed, or wanted to change, something is written down.
    daemon.wait("admin from 127.0.0.1");
    assert!(
        daemon.said.iter().any(|line| line.contains("viewer from 127.0.0.1 was refused") && line.contains("audit"))
    );
    daemon.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_goes_from_the_file_lets_nobody_in_and_who_has_come_in_by_it_is_let_go() {
    let folder = daemon_folder();
    let mut daemon = daemon(folder.path());
    let channel = channel(&daemon).await;
    let info = "/controllerbus.api.v1.BusApi/GetInfo";
    let unload = "/controllerbus.api.v1.BusApi/UnloadPlugin";
    assert_eq!(call(&channel, info, Some(LOOK)).await, Code::Ok);
    // Follows the log until it is let go.
    let mut following = std::process::Command::new(env!("CARGO_BIN_EXE_cbus"));
    write_secret(&folder.path().join("own"), LOOK);
    following.args(["logs", "-f", "--connect", &daemon.address, "--token-file"]).arg(folder.path().join("own"));
    let mut following =
        following.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("cbus");

    token_file(folder.path(), &[("operator", "look", CONTROL), ("admin", "look,apply,control", ALL)]);
    daemon.wait("tokens was reloaded");
    assert_eq!(call(&channel, info, Some(LOOK)).await, Code::Unauthenticated);
    assert_eq!(call(&channel, unload, Some(CONTROL)).await, Code::PermissionDenied, "it has another role now");
    let ended = tokio::task::spawn_blocking(move || following.wait()).await.expect("waiting").expect("its end");
    assert!(!ended.success(), "who follows is told that it is over");

    // A file that is not understood changes nothing, one that is gone lets nobody in.
    write_secret(&folder.path().join("tokens"), "short\n");
    daemon.wait("the accepted tokens are unchanged");
    assert_eq!(call(&channel, info, Some(ALL)).await, Code::Ok);
    std::fs::remove_file(folder.path().join("tokens")).expect("removing");
    daemon.wait("no token is accepted until it is back");
    assert_eq!(call(&channel, info, Some(ALL)).await, Code::Unauthenticated);
    // This user needs no token.
    crate::fine(folder.path(), &["bus", "--connect", &daemon.socket()]);
    daemon.end();
}

#[test]
fn whoever_shows_many_wrong_tokens_is_slowed_and_then_turned_away() {
    let folder = daemon_folder();
    let daemon = daemon(folder.path());
    let address = &daemon.address;
    let wrong = |number: usize| {
        http(address, "GET", "/metrics", &format!("Authorization: Bearer wrong-token-number-{number}\r\n")).0
    };
    assert_eq!(wrong(0), 401);
    // At once, and more than may wait.
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let asked: Vec<_> = (1..40).map(|number| scope.spawn(move || wrong(number))).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    assert!(answers.iter().all(|answer| matches!(answer, 401 | 429)), "{answers:?}");
    assert!(answers.iter().filter(|answer| **answer == 429).count() >= 20, "{answers:?}");
    // The right one is let in all the same, in its turn.
    let (status, _) = http(address, "GET", "/metrics", &format!("Authorization: Bearer {LOOK}\r\n"));
    assert_eq!(status, 200);
    daemon.end();
}

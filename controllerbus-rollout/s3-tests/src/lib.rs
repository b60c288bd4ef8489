//! An S3 in this process: `s3s-fs` over a folder, which answers conditional writes as S3 does at its worst.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};

/// What becomes of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and answered as it is.
    AsItIs,
    /// It is not done, and answered with this, as S3 does where writers collide.
    Instead(u16),
    /// It is done, and answered with this all the same.
    DoneAnd(u16),
}

/// The server, as long as it is not dropped. Its buckets are folders in `root`.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
}

struct Shared {
    service: S3Service,
    /// What comes of the next ones.
    answers: Mutex<VecDeque<Answer>>,
    /// How many of a hundred conditional writes, of those that are not in `answers`, are answered badly.
    percent: Mutex<u64>,
    /// What was asked, in its order: method, path, and the status of the answer.
    log: Mutex<Vec<(Method, String, u16)>>,
    /// S3 decides one conditional write of an object after the other; `s3s-fs` looks first and writes then.
    one_at_a_time: tokio::sync::Mutex<u64>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("answers", &self.answers).finish_non_exhaustive()
    }
}

const KEY: &str = "an-access-key";
const SECRET: &str = "a-secret-key";

impl Server {
    /// Starts one with an empty bucket `shop`. Call it inside of tokio.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("shop")).expect("a bucket");
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).expect("a file system"));
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let shared = Arc::new(Shared {
            service: builder.build(),
            answers: Mutex::default(),
            percent: Mutex::new(0),
            log: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared, task, folder }
    }

    /// The bucket's folder.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("shop")
    }

    /// What a host has in its environment, to reach it.
    pub fn variables(&self) -> Vec<(String, String)> {
        self.variables_of(KEY, SECRET)
    }

    /// The same with another key.
    pub fn variables_of(&self, key: &str, secret: &str) -> Vec<(String, String)> {
        let all = [
            ("AWS_ACCESS_KEY_ID", key),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true"),
            // Of the host, and none of the store's business.
            ("TOKEN", "of something else"),
            ("TIMEOUT", "soon"),
        ];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Has the next conditional writes answered so.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.answers.lock().expect("answers").extend(answers);
    }

    /// Has so many of a hundred conditional writes answered badly, each way in turn.
    pub fn answer_badly(&self, percent: u64) {
        *self.shared.percent.lock().expect("percent") = percent;
    }

    /// What was asked since the last look: method, path, and the status of the answer.
    pub fn log(&self) -> Vec<(Method, String, u16)> {
        std::mem::take(&mut *self.shared.log.lock().expect("log"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answered(&shared, request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

async fn answered(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = if method == Method::PUT && request.headers().contains_key("if-none-match") {
        conditional(shared, request).await
    } else {
        let (parts, body) = request.into_parts();
        forward(shared, Request::from_parts(parts, Body::from(body))).await
    };
    shared.log.lock().expect("log").push((method, path, response.status().as_u16()));
    response
}

async fn forward(shared: &Shared, request: Request<Body>) -> Response<Body> {
    match shared.service.call(request).await {
        Ok(response) => response,
        Err(error) => panic!("the server failed: {error:?}"),
    }
}

async fn conditional(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes: Bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut number = shared.one_at_a_time.lock().await;
    let percent = *shared.percent.lock().expect("percent");
    let next = shared.answers.lock().expect("answers").pop_front();
    let answer = next.unwrap_or_else(|| {
        *number += 1;
        const BAD: [Answer; 4] =
            [Answer::Instead(409), Answer::DoneAnd(409), Answer::DoneAnd(412), Answer::DoneAnd(500)];
        let is_bad = *number * percent / 100 > (*number - 1) * percent / 100;
        if is_bad { BAD[(*number * percent / 100) as usize % BAD.len()] } else { Answer::AsItIs }
    });
    match answer {
        Answer::AsItIs => forward(shared, Request::from_parts(parts, Body::from(bytes))).await,
        Answer::Instead(status) => refusal(status),
        Answer::DoneAnd(status) => {
            let done = forward(shared, Request::from_parts(parts, Body::from(bytes))).await;
            if done.status().is_success() { refusal(status) } else { done }
        }
    }
}

fn refusal(status: u16) -> Response<Body> {
    let code = match status {
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        _ => "InternalError",
    };
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// Waits until something is so, for at most half a minute.
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within half a minute: {what}");
}

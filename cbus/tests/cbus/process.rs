//! A daemon, and what is asked of it over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::{cbus, fails, fine, json, terminate};

pub const LIMIT: Duration = Duration::from_secs(300);

/// A running daemon. Ended, if need be by force, when it is dropped.
pub struct Daemon {
    pub process: Child,
    lines: Receiver<String>,
    /// Everything that it has said.
    pub said: Vec<String>,
    /// Where its API listens.
    pub address: String,
}

impl Daemon {
    /// Starts a daemon and waits until it is ready. It listens at a socket of its own, and where it is told to.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_as(folder, "run", arguments)
    }

    /// The same, by another command.
    pub fn start_as(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::start_with(folder, name, arguments, |_| {})
    }

    /// The same, with more said of how it is run.
    pub fn start_with(folder: &Path, name: &str, arguments: &[&str], more: impl FnOnce(&mut Command)) -> Self {
        let mut command = cbus(folder);
        command.arg(name).args(arguments).env("CBUS_WORK_DIR", folder.join("work")).env("CBUS_LOG", "debug,h2=warn");
        static DAEMONS: AtomicU32 = AtomicU32::new(0);
        command.env("CBUS_NAME", format!("daemon-{}", DAEMONS.fetch_add(1, Ordering::Relaxed)));
        more(&mut command);
        // The log of `cbus dev` is what it was asked for.
        let stdout = if name == "dev" { Stdio::piped() } else { Stdio::null() };
        let mut process = command.stderr(Stdio::piped()).stdout(stdout).spawn().expect("running cbus");
        let (sender, lines) = channel();
        let stderr: Box<dyn Read + Send> = Box::new(process.stderr.take().expect("its errors"));
        let stdout = process.stdout.take().map(|stdout| Box::new(stdout) as Box<dyn Read + Send>);
        for output in [Some(stderr), stdout].into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let mut daemon = Self { process, lines, said: Vec::new(), address: String::new() };
        let mut at = daemon.wait("the bus API is at");
        let listen = arguments.iter().position(|argument| *argument == "--listen").map(|at| arguments[at + 1]);
        if listen.is_some_and(|listen| !listen.starts_with("unix:")) {
            // The socket's comes first.
            at = daemon.wait("the bus API is at");
        }
        let at = at.split("API is at ").nth(1).expect("an address").split(['"', ' ']).next().expect("an address");
        daemon.address = at.trim_start_matches("http://").to_owned();
        if name == "run" {
            daemon.wait("ready");
        }
        daemon
    }

    /// Waits for a line that contains a text.
    pub fn wait(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(begun.elapsed());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the daemon does not say `{text}`, but:\n{}", self.said.join("\n"));
            };
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// What it has said by now and that nobody has waited for.
    pub fn rest(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        self.said.join("\n")
    }

    /// Runs a command against it that must succeed.
    pub fn fine(&self, arguments: &[&str]) -> String {
        fine(Path::new("."), &[arguments, &["--connect", &self.address]].concat())
    }

    /// Runs a command against it and reads JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        json(Path::new("."), &[arguments, &["--json", "--connect", &self.address]].concat())
    }

    /// Runs a command against it that must fail.
    pub fn fails(&self, arguments: &[&str], message: &str) {
        fails(Path::new("."), &[arguments, &["--connect", &self.address]].concat(), 1, message);
    }

    /// Where its own user reaches it.
    pub fn socket(&self) -> String {
        let told =
            self.said.iter().find_map(|line| line.split("API is at ").nth(1).filter(|at| at.starts_with("unix:")));
        told.expect("the socket").to_owned()
    }

    /// Asks it to end, as a service manager would; how long that took.
    pub fn end(mut self) -> Duration {
        let begun = Instant::now();
        terminate(&self.process);
        let status = self.process.wait().expect("its end");
        assert!(status.success(), "{status}");
        begun.elapsed()
    }

    /// The same, and returns all that it has said.
    pub fn said_until_end(mut self) -> String {
        terminate(&self.process);
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.said.push(line);
        }
        let status = self.process.wait().expect("its end");
        assert!(status.success(), "{status}");
        self.said.join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request over HTTP/1.1; the status and the body.
pub fn http(address: &str, method: &str, path: &str, headers: &str) -> (u16, String) {
    http_with(address, method, path, headers, "")
}

/// The same with a body.
pub fn http_with(address: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let (status, _, body) = http_whole(address, method, path, headers, body.as_bytes());
    (status, body)
}

/// What requests go over.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The same with the head of the answer. The address is that of a Unix socket too.
pub fn http_whole(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
    let (stream, host): (Box<dyn Stream>, _) = match address.strip_prefix("unix:") {
        Some(path) => {
            let stream = std::os::unix::net::UnixStream::connect(path).expect("connecting");
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
            (Box::new(stream), "localhost")
        }
        None => {
            let stream = TcpStream::connect(address).expect("connecting");
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
            (Box::new(stream), address)
        }
    };
    let mut stream = stream;
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {host}\r\n") };
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[request.as_bytes(), body].concat()).expect("asking");
    let mut answer = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), None);
    while !head.ends_with("\r\n\r\n") {
        assert!(answer.read_line(&mut head).expect("a head") > 0, "no end of the head: {head}");
    }
    for line in head.to_ascii_lowercase().lines() {
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().ok();
        }
    }
    let mut body = Vec::new();
    match length {
        // Not every server closes the connection when it is asked to.
        Some(length) => drop(answer.take(length).read_to_end(&mut body).expect("a body")),
        None => drop(answer.read_to_end(&mut body).expect("a body")),
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head, String::from_utf8_lossy(&body).into_owned())
}

/// A page that a browser has opened.
pub struct Session {
    /// The page's address, without a scheme.
    pub address: String,
    /// What the browser sends by itself.
    pub cookie: String,
    /// What the page's scripts add.
    pub key: String,
}

impl Session {
    /// Follows the link that `cbus page` prints.
    pub fn open(daemon: &Daemon) -> Self {
        Self::open_at(&daemon.address)
    }

    /// The same, of the daemon at a socket.
    pub fn open_at(socket: &str) -> Self {
        let link = fine(Path::new("."), &["page", "--print", "--connect", socket]);
        let (address, path) = link.trim().trim_start_matches("http://").split_once('/').expect("a link");
        Self::of(address, http_whole(address, "GET", &format!("/{path}"), "", b""))
    }

    /// From the answer to a login.
    pub fn of(address: &str, (status, head, body): (u16, String, String)) -> Self {
        assert_eq!(status, 200, "{head}{body}");
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        assert!(cookie.contains("HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
        let port = address.rsplit(':').next().expect("a port");
        assert!(cookie.starts_with(&format!("cbus-{port}=")), "the cookie is this port's: {cookie}");
        let key = body.split("\"cbus-key\", \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a key");
        let cookie = cookie.split(';').next().expect("a cookie");
        Self { address: address.to_owned(), cookie: cookie.to_owned(), key: key.to_owned() }
    }

    /// What the page is told of the state, until the daemon ends.
    pub fn states(&self) -> impl Iterator<Item = serde_json::Value> + use<> {
        let mut stream = TcpStream::connect(&self.address).expect("connecting");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let (host, cookie, key) = (&self.address, &self.cookie, &self.key);
        let head = format!("GET /api/events HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nx-cbus-key: {key}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("asking");
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        std::iter::from_fn(move || {
            lines.by_ref().find(|line| line == "event: state")?;
            // A long one comes in several chunks, between which stand their lengths.
            let mut data = lines.next()?.strip_prefix("data: ")?.to_owned();
            loop {
                if let Ok(state) = serde_json::from_str(&data) {
                    return Some(state);
                }
                lines.next()?;
                data += &lines.next()?;
            }
        })
    }

    /// Asks a directive as the page's form does; it stands as long as what is returned.
    pub fn hold_ask(&self, directive: &str, json: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connecting");
        let (host, cookie, key) = (&self.address, &self.cookie, &self.key);
        let body = serde_json::json!({ "directive": directive, "json": json }).to_string();
        let head = format!(
            "POST /api/ask HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nx-cbus-key: {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("asking");
        stream
    }

    /// A request as the page's scripts make it.
    pub fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let headers = format!("Cookie: {}\r\nx-cbus-key: {}\r\nSec-Fetch-Site: same-origin\r\n", self.cookie, self.key);
        http(&self.address, method, path, &headers)
    }
}

/// Writes a file that only its owner reads.
pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("writing");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// A folder with a plugins folder and a config that runs what is in it.
pub fn daemon_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("plugins")).expect("a folder");
    std::fs::write(folder.path().join("config.yaml"), "one:\n  id: second\n").expect("writing");
    folder
}

impl Daemon {
    /// How many folders it has the system watch.
    #[cfg(target_os = "linux")]
    pub fn watches(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fdinfo", self.process.id())).expect("its files").flatten();
        let infos = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        infos.map(|info| info.lines().filter(|line| line.starts_with("inotify wd")).count()).sum()
    }

    /// Runs a command against it and reads lines of JSON.
    pub fn json_lines(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let text = fine(Path::new("."), &[arguments, &["--json", "--connect", &self.address]].concat());
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

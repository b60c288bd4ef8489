//! Hand-written clients that tell apart the ways in which a connection can fail.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The client could not connect.
    Refused,
    /// The connection was closed without notice before a response began.
    Reset,
    /// A response was cut off.
    Cut,
}

/// A response.
pub struct Answer {
    /// The version of the code that gave it.
    pub version: String,
    /// Whether the server closes the connection after it.
    pub is_last: bool,
}

/// An HTTP connection.
pub struct Http(BufReader<TcpStream>);

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// Fails with [`Broken::Refused`].
    pub async fn connect(at: SocketAddr) -> Result<Self, Broken> {
        let stream = TcpStream::connect(at).await.map_err(|_| Broken::Refused)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Requests the page.
    ///
    /// # Errors
    /// Fails if the connection is closed or the response is cut off.
    pub async fn get(&mut self, keep: bool) -> Result<Answer, Broken> {
        let connection = if keep { "keep-alive" } else { "close" };
        let request = format!("GET / HTTP/1.1\r\nhost: web\r\nconnection: {connection}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.map_err(|_| Broken::Reset)?;
        if self.0.fill_buf().await.map_err(|_| Broken::Reset)?.is_empty() {
            return Err(Broken::Reset);
        }
        self.answer().await.map_err(|_| Broken::Cut)
    }

    async fn answer(&mut self) -> Result<Answer, Error> {
        let head = self.head().await?;
        let field = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = field("content-length:").and_then(|length| length.parse().ok());
        let length: usize = length.filter(|_| head[0].contains(" 200 ")).ok_or(ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        let version = field("x-version:").filter(|version| body.starts_with(version.as_bytes()));
        let version = version.ok_or(ErrorKind::InvalidData)?.to_owned();
        Ok(Answer { version, is_last: field("connection:") == Some("close") })
    }

    /// The lines of the head, in lower case.
    async fn head(&mut self) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" if lines.is_empty() => return Err(ErrorKind::InvalidData.into()),
                "" => return Ok(lines),
                line => lines.push(line.to_lowercase()),
            }
        }
    }
}

/// A WebSocket whose server echoes each text, with its version.
pub struct Echo(Http);

impl Echo {
    /// Connects.
    ///
    /// # Errors
    /// Fails if the connection is refused or closed.
    pub async fn connect(at: SocketAddr) -> Result<Self, Broken> {
        const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut http = Http::connect(at).await?;
        http.0.write_all(REQUEST).await.map_err(|_| Broken::Reset)?;
        let head = http.head().await.map_err(|_| Broken::Reset)?;
        if head[0].contains(" 101 ") { Ok(Self(http)) } else { Err(Broken::Refused) }
    }

    /// Sends a short text, and returns the version that echoed it.
    ///
    /// # Errors
    /// Fails if the connection is cut off.
    pub async fn say(&mut self, text: &str) -> Result<String, Broken> {
        let again = self.exchange(text).await.map_err(|_| Broken::Cut)?;
        let version = again.strip_suffix(text).ok_or(Broken::Cut)?;
        Ok(version.trim_end().to_owned())
    }

    async fn exchange(&mut self, text: &str) -> Result<String, Error> {
        // A final text frame, masked with zeros because clients have to mask.
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).ok_or(ErrorKind::InvalidInput)?;
        let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
        self.0.0.write_all(&frame).await?;
        let mut head = [0; 2];
        self.0.0.read_exact(&mut head).await?;
        if head[0] != 0x81 || head[1] >= 126 {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut text = vec![0; usize::from(head[1])];
        self.0.0.read_exact(&mut text).await?;
        String::from_utf8(text).map_err(|_| ErrorKind::InvalidData.into())
    }
}

//! One run of rustc: its messages as they come, and when the library that it writes can be used.

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitStatus;

use cargo_metadata::diagnostic::Diagnostic;
use tokio::sync::mpsc;

use crate::compile::progress::Progress;
use crate::error::{Error, Result};
use crate::message::CompilerMessage;

/// A compiler's messages, and how it ended.
pub(crate) struct Heard {
    pub(crate) status: ExitStatus,
    pub(crate) messages: Vec<CompilerMessage>,
    /// Output that is not a message.
    pub(crate) other: Vec<u8>,
}

/// A running compiler.
pub(crate) struct Compiler<'a> {
    /// The file name of the expected library.
    wanted: OsString,
    running: Pin<Box<dyn Future<Output = Result<ExitStatus>> + Send + 'a>>,
    lines: mpsc::UnboundedReceiver<Vec<u8>>,
    ended: Option<Result<ExitStatus>>,
    messages: Vec<CompilerMessage>,
    /// Output that is not a message.
    other: Vec<u8>,
}

impl<'a> Compiler<'a> {
    /// Takes over a run that sends each line of output and drops the sender at its end. It may write several libraries;
    /// `wanted` is the name of the one that matters.
    pub(crate) fn new(
        wanted: OsString,
        running: impl Future<Output = Result<ExitStatus>> + Send + 'a,
        lines: mpsc::UnboundedReceiver<Vec<u8>>,
    ) -> Self {
        Self { wanted, running: Box::pin(running), lines, ended: None, messages: Vec::new(), other: Vec::new() }
    }

    /// Waits until the library is written, or the compiler has ended without it. After that the compiler only frees its
    /// memory, which takes a tenth of its time.
    pub(crate) async fn library(&mut self, progress: &mut Progress<'_>) {
        loop {
            tokio::select! {
                biased;
                said = self.lines.recv() => match said {
                    Some(said) if self.hear(&said, progress) => return,
                    Some(_) => {}
                    None if self.ended.is_some() => return,
                    None => self.end().await,
                },
                ended = &mut self.running, if self.ended.is_none() => self.ended = Some(ended),
            }
        }
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) {
        if self.ended.is_none() {
            self.ended = Some(self.running.as_mut().await);
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Waits for its end; returns its status and messages.
    ///
    /// # Errors
    /// The run's errors.
    pub(crate) async fn heard(mut self, progress: &mut Progress<'_>) -> Result<Heard> {
        self.end().await;
        while let Ok(said) = self.lines.try_recv() {
            self.hear(&said, progress);
        }
        match self.ended {
            Some(ended) => Ok(Heard { status: ended?, messages: self.messages, other: self.other }),
            None => Err(Error::Closed),
        }
    }

    /// Processes a line; true if it says that the library is written.
    fn hear(&mut self, line: &[u8], progress: &mut Progress<'_>) -> bool {
        /// A notification that a file is written.
        #[derive(serde::Deserialize)]
        struct Notice {
            artifact: PathBuf,
        }
        if let Ok(diagnostic) = serde_json::from_slice::<Diagnostic>(line) {
            if let Some(message) = CompilerMessage::of(diagnostic) {
                progress.message(&message);
                self.messages.push(message);
            }
            return false;
        }
        if !line.starts_with(b"{\"$message_type\"") {
            self.other.extend_from_slice(line);
            return false;
        }
        serde_json::from_slice::<Notice>(line).is_ok_and(|notice| notice.artifact.file_name() == Some(&self.wanted))
    }
}

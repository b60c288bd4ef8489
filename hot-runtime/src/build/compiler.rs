//! One run of rustc: what it says, as it says it, and when the library that it makes can be used.

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitStatus;

use cargo_metadata::diagnostic::Diagnostic;
use tokio::sync::mpsc;

use crate::build::cargo::failed;
use crate::build::message::CompilerMessage;
use crate::build::progress::Progress;
use crate::error::Result;
use crate::overlay::PluginSpec;

/// A compiler at work.
pub(crate) struct Compiler<'a> {
    /// The file name of the library that is waited for.
    wanted: OsString,
    running: Pin<Box<dyn Future<Output = Result<ExitStatus>> + Send + 'a>>,
    lines: mpsc::UnboundedReceiver<Vec<u8>>,
    ended: Option<Result<ExitStatus>>,
    messages: Vec<CompilerMessage>,
    /// Its last words, which are no messages.
    other: Vec<u8>,
}

impl<'a> Compiler<'a> {
    /// Of its run, which passes on each line that it says and lets go of the sender at its end. It may make several
    /// libraries; `wanted` is the name of the one that matters.
    pub(crate) fn new(
        wanted: OsString,
        running: impl Future<Output = Result<ExitStatus>> + Send + 'a,
        lines: mpsc::UnboundedReceiver<Vec<u8>>,
    ) -> Self {
        Self { wanted, running: Box::pin(running), lines, ended: None, messages: Vec::new(), other: Vec::new() }
    }

    /// Waits until the library is written, or the compiler has ended without that. From then to its end the compiler
    /// gives back its memory, which takes a tenth of its time.
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

    /// Says how it ended and adds its messages.
    ///
    /// # Errors
    /// [`crate::Error::Build`] with the messages, and those of its run.
    pub(crate) async fn judge(
        mut self,
        spec: &PluginSpec,
        progress: &mut Progress<'_>,
        messages: &mut Vec<CompilerMessage>,
    ) -> Result<()> {
        self.end().await;
        while let Ok(said) = self.lines.try_recv() {
            self.hear(&said, progress);
        }
        messages.append(&mut self.messages);
        match self.ended {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Err(error)) => Err(error),
            _ => Err(failed(spec, std::mem::take(messages), &String::from_utf8_lossy(&self.other))),
        }
    }

    /// Takes in a line; true if it says that the library is written.
    fn hear(&mut self, line: &[u8], progress: &mut Progress<'_>) -> bool {
        /// A notice of a finished file.
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

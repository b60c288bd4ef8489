//! The compiler's messages, as data and as rendered by it.

use std::path::{Path, PathBuf};

use cargo_metadata::diagnostic::{Diagnostic, DiagnosticLevel, DiagnosticSpan};
use serde::Serialize;

/// How severe a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MessageLevel {
    /// The crate does not compile.
    Error,
    /// The crate compiles, but something is suspicious.
    Warning,
    /// Anything else.
    Note,
}

/// A place in a source file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MessageSpan {
    /// The file: its whole path in what a build reports at its end, where there is such a file.
    pub file: PathBuf,
    /// The first line.
    pub line: usize,
    /// The first column, in characters.
    pub column: usize,
    /// The last line.
    pub end_line: usize,
    /// The column after the last one.
    pub end_column: usize,
    /// What the compiler says about this place.
    pub label: Option<String>,
    /// Whether the message is about this place, rather than merely referring to it.
    pub primary: bool,
}

/// A message from the compiler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompilerMessage {
    /// How severe it is.
    pub level: MessageLevel,
    /// Such as `E0308` or `unused_variables`.
    pub code: Option<String>,
    /// What is wrong, in one line.
    pub text: String,
    /// Where.
    pub spans: Vec<MessageSpan>,
    /// The whole message as cargo shows it in a terminal, with colours.
    pub rendered: String,
}

impl CompilerMessage {
    /// Converts a diagnostic; `None` for the compiler's summary ("aborting due to 1 previous error"), which cargo omits
    /// too.
    pub(crate) fn of(diagnostic: Diagnostic) -> Option<Self> {
        let level = match diagnostic.level {
            DiagnosticLevel::Error | DiagnosticLevel::Ice => MessageLevel::Error,
            DiagnosticLevel::Warning => MessageLevel::Warning,
            _ => MessageLevel::Note,
        };
        let sums_up = diagnostic.spans.is_empty()
            && (diagnostic.message.starts_with("aborting due to")
                || diagnostic.message.starts_with("For more information about")
                || diagnostic.message.starts_with("Some errors have detailed explanations")
                || diagnostic.message.ends_with("warning emitted")
                || diagnostic.message.ends_with("warnings emitted"));
        if sums_up {
            return None;
        }
        let rendered = diagnostic.rendered.unwrap_or_else(|| diagnostic.message.clone());
        Some(Self {
            level,
            code: diagnostic.code.map(|code| code.code),
            text: diagnostic.message,
            spans: diagnostic.spans.into_iter().map(span).collect(),
            rendered,
        })
    }

    /// Gives its files their whole paths: relative ones start at the directory in which the compiler ran.
    pub(crate) fn in_folder(mut self, folder: &Path) -> Self {
        for span in &mut self.spans {
            let file = folder.join(&span.file);
            if file.is_file() {
                span.file = file;
            }
        }
        self
    }

    /// [`CompilerMessage::rendered`] without colours.
    #[must_use]
    pub fn plain(&self) -> String {
        without_colours(&self.rendered)
    }
}

fn span(span: DiagnosticSpan) -> MessageSpan {
    MessageSpan {
        file: span.file_name.into(),
        line: span.line_start,
        column: span.column_start,
        end_line: span.line_end,
        end_column: span.column_end,
        label: span.label,
        primary: span.is_primary,
    }
}

/// A text without its terminal escape sequences (`ESC [ ... letter`, and `ESC ] ... ESC \` of hyperlinks).
#[must_use]
pub fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('[') => drop(chars.by_ref().find(|c| ('@'..='~').contains(c))),
            Some(']') => {
                // An escape that ends it is followed by a backslash.
                let end = chars.by_ref().find(|c| matches!(c, '\u{7}' | '\u{1b}'));
                let _ = end.filter(|end| *end == '\u{1b}').and_then(|_| chars.next());
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::without_colours;

    #[test]
    fn colours_and_links_are_taken_out_and_nothing_else() {
        let text = "\u{1b}[1m\u{1b}[91merror\u{1b}[0m: a [b] \u{1b}]8;;http://x\u{1b}\\E1\u{1b}]8;;\u{7} é";
        assert_eq!(without_colours(text), "error: a [b] E1 é");
    }
}

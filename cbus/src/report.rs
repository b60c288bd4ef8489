//! Errors, for people: what went wrong, where, and what to do about it.

use std::io::ErrorKind;
use std::process::ExitCode;

use crate::text::has_colours;
use controllerbus::error::Code;
use controllerbus_api::__private::blot;
use hot_runtime::Error;
use hot_runtime::text::{coloured_text, escaped, is_unprintable};
use miette::{LabeledSpan, MietteHandlerOpts, NamedSource, Report, SourceSpan};

/// Sets how reports look.
pub fn set_up() {
    let colours = has_colours(&std::io::stderr());
    let look = move || MietteHandlerOpts::new().color(colours).context_lines(1).wrap_lines(false).build();
    let _ = miette::set_hook(Box::new(move |_| Box::new(look())));
}

/// Prints a report.
pub fn tell(report: &Report) {
    // The colours are miette's: what the report quotes was escaped when it was created.
    eprintln!("{}", coloured_text(&format!("{report:?}"), true));
}

/// Prints a report; the exit status of failure.
pub fn failed(report: &Report) -> ExitCode {
    tell(report);
    ExitCode::FAILURE
}

/// A report with a message and a hint. Whatever they quote cannot control the terminal.
pub fn report(message: impl Into<String>, help: impl Into<String>) -> Report {
    let (message, help) = (harmless(&message.into()), harmless(&help.into()));
    if help.is_empty() {
        return Report::msg(message);
    }
    miette::miette!(help = help, "{message}")
}

/// A report of what has a code, by which `cbus explain` says more.
pub fn refusal(code: Code, message: impl Into<String>, help: impl Into<String>) -> Report {
    let (message, help) = (harmless(&message.into()), harmless(&help.into()));
    let code = format!("error[{code}]");
    if help.is_empty() {
        return miette::miette!(code = code, "{message}");
    }
    miette::miette!(code = code, help = help, "{message}")
}

/// An error of the runtime, with what to do about it.
pub fn explain(error: Error) -> Report {
    let code = error.code();
    let report = |message: String, help: String| refusal(code, message, help);
    match error {
        Error::Io { what, path, source } => {
            let help = match source.kind() {
                ErrorKind::NotFound => "check the path; it is relative to the current directory",
                ErrorKind::PermissionDenied => "you do not have permission; check its owner and mode",
                ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another place",
                ErrorKind::StorageFull => "the disk is full",
                ErrorKind::NotADirectory => "part of the path is a file, not a directory",
                ErrorKind::IsADirectory => "a file is expected here, not a directory",
                ErrorKind::InvalidData => "UTF-8 text is expected here",
                _ => "",
            };
            report(format!("{what}: {}: {source}", path.display()), help.to_owned())
        }
        Error::NoCrate { path, from } => {
            let help = match from {
                Some(from) => format!("check the path; it is relative to the current directory, {}", from.display()),
                None => "check the path; `cbus new NAME` creates a crate".to_owned(),
            };
            report(format!("there is no crate at {}: no such directory", path.display()), help)
        }
        Error::Metadata { message, .. } if message.contains("failed to start") => report(
            format!("cargo cannot be run: {}", message.trim()),
            "is Rust installed, and cargo in your PATH?".to_owned(),
        ),
        Error::Metadata { path, message } => report(
            format!("cargo cannot read the crate at {}: {}", path.display(), message.trim()),
            "fix its Cargo.toml; `cargo metadata` in that directory prints the same error".to_owned(),
        ),
        Error::NotAController { path, message } => report(
            format!("the crate at {} is not a controller crate: {message}", path.display()),
            "`cbus new NAME` creates one".to_owned(),
        ),
        // The compiler's own words come first, as cargo prints them.
        Error::Build { plugin, rendered, .. } => {
            crate::text::tell_compiler(&rendered);
            report(format!("building {plugin} failed"), "fix the compiler errors above".to_owned())
        }
        Error::Key { path, reason } => report(
            format!("the key in {} cannot be used: {reason}", path.display()),
            "`cbus keygen` generates keys; a secret key with a password needs --password-file".to_owned(),
        ),
        Error::Artifact { path, reason, help, .. } | Error::Folder { path, reason, help, .. } => {
            report(format!("{} was refused: {reason}", path.display()), help)
        }
        Error::UnknownPlugin { id, nearest } => {
            let help = match nearest {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "`cbus plugins` lists the loaded plugins".to_owned(),
            };
            report(format!("no plugin `{id}` is loaded"), help)
        }
        other => report(other.with_causes().to_string(), String::new()),
    }
}

/// Why a daemon cannot be reached, or refuses, with what to do about it.
pub fn explain_api(error: controllerbus_api::Error) -> Report {
    match error {
        controllerbus_api::Error::Io { what, path, source, .. } => explain(Error::Io { what, path, source }),
        other => match other.code() {
            Some(code) => refusal(code, other.to_string(), other.help()),
            None => report(other.to_string(), other.help()),
        },
    }
}

/// An error of the bus or of a config set, with the lines around its location if `text` is the source.
pub fn explain_bus(error: &controllerbus::Error, text: Option<&str>) -> Report {
    let message = error.to_string();
    let (Some(place), Some(text)) = (error.location(), text) else {
        return error.code().map_or_else(|| report(&message, ""), |code| refusal(code, &message, ""));
    };
    let message = harmless(&message);
    let line = place.line.saturating_sub(1) as usize;
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let here = text[before.min(text.len())..].lines().next().unwrap_or_default();
    let skip: usize = here.chars().take(place.column.saturating_sub(1) as usize).map(char::len_utf8).sum();
    let length = here[skip..].chars().take_while(|c| !c.is_whitespace() && *c != ':').map(char::len_utf8).sum();
    let name = place.file.clone().unwrap_or_else(|| "config".to_owned());
    let span = SourceSpan::from((before + skip, length));
    let labels = vec![LabeledSpan::new_with_span(Some("here".to_owned()), span)];
    let shown = match error.code() {
        Some(code) => miette::miette!(code = format!("error[{code}]"), labels = labels, "{message}"),
        None => miette::miette!(labels = labels, "{message}"),
    };
    shown.with_source_code(NamedSource::new(escaped(&name), same_length(&blot(text))))
}

/// A message in which only line breaks control the terminal.
fn harmless(text: &str) -> String {
    coloured_text(text, false)
}

/// A source text that cannot control the terminal, with every character at its original offset.
fn same_length(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) && !matches!(c, '\n' | '\r' | '\t') {
            out.extend(std::iter::repeat_n('?', c.len_utf8()));
        } else {
            out.push(c);
        }
    }
    out
}

/// An error of the operating system about a file.
pub fn io(what: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Report {
    let (what, path) = (what.to_owned(), path.to_owned());
    move |source| explain(Error::Io { what, path, source })
}

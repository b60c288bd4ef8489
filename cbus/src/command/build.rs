//! `cbus build`: builds crates into one plugin file.

use std::io::{IsTerminal, Write};

use hot_runtime::Error;
use hot_runtime::compile::BuildEvent;
use miette::Result;
use tokio_util::sync::CancellationToken;

use crate::cli::Build;
use crate::pipeline::{Codegen, Job, Output};
use crate::report::{explain, report};
use crate::text;

pub async fn run(args: Build) -> Result<()> {
    let mut job = Job::new(&args.source, args.output.as_deref(), true).await?;
    if args.codegen_only {
        let overlay = job.builder.generate().await.map_err(explain)?;
        if args.json {
            let made = Codegen { id: job.id, overlay: overlay.dir, build_hash: overlay.build_hash };
            text::print_json(&made, false);
        } else {
            text::print_line(&overlay.dir.to_string_lossy());
        }
        return Ok(());
    }
    let cancel = CancellationToken::new();
    let interrupted = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    if !args.quiet {
        text::tell(&format!("Building {} from {}", job.id, job.crates.join(", ")));
    }
    let progress = Progress { shown: !args.quiet && std::io::stderr().is_terminal() };
    let result = job.builder.build(&|event| progress.tell(event), &cancel).await;
    progress.clear();
    if !args.keep && args.source.codegen_dir.is_none() {
        // The compiled crates stay in the target directory, so the next build is quick anyway.
        let _ = std::fs::remove_dir_all(&job.overlay_dir);
    }
    match result {
        Ok(built) => {
            for message in &built.messages {
                text::tell_compiler(&message.rendered);
            }
            let output = Output::of(&job, built);
            if args.json {
                text::print_json(&output, false);
            } else {
                text::print_line(&line(&output));
            }
            Ok(())
        }
        Err(Error::Build { rendered, .. }) => {
            text::tell_compiler(&rendered);
            Err(report(format!("building {} failed", job.id), "fix the compiler errors above and build again"))
        }
        Err(error) => Err(explain(error)),
    }
}

/// A built file on one line.
pub fn line(output: &Output) -> String {
    let warnings = match output.warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        many => format!(", {many} warnings"),
    };
    let symbols = output.symbols.as_ref().and_then(|path| path.file_name());
    let symbols = symbols.map(|name| format!(", symbols in {}", name.display())).unwrap_or_default();
    format!(
        "{}  {} {}, build {}, {}{symbols}, in {}{warnings}",
        output.path.display(),
        output.id,
        output.version,
        output.build_hash,
        text::size(output.size),
        text::duration(output.build_ms),
    )
}

/// A progress line at the bottom of a terminal.
struct Progress {
    shown: bool,
}

impl Progress {
    fn tell(&self, event: BuildEvent) {
        if !self.shown {
            return;
        }
        let text = match event {
            BuildEvent::Phase { phase, elapsed } => format!("{phase} ({})", text::duration(text::ms(elapsed))),
            BuildEvent::Compiled { package, elapsed } => {
                format!("compiling ({}): {package} done", text::duration(text::ms(elapsed)))
            }
            // The compiler's messages come with the build's end.
            _ => return,
        };
        eprint!("\r\x1b[2K  {}", hot_runtime::text::escaped(&text));
        let _ = std::io::stderr().flush();
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_file_is_told_on_one_line_with_where_its_symbols_are() {
        let mut output = Output {
            id: "greeter".to_owned(),
            version: "1.2.3".to_owned(),
            path: "out/greeter.cbus.so".into(),
            build_hash: "1a2b".to_owned(),
            hash: String::new(),
            size: 3 << 20,
            symbols: None,
            build_ms: 2500.0,
            warnings: 1,
        };
        let without = line(&output);
        assert_eq!(without, "out/greeter.cbus.so  greeter 1.2.3, build 1a2b, 3.0 MiB, in 2.5 s, 1 warning");
        output.symbols = Some("out/greeter.cbus.so.debug".into());
        assert_eq!(line(&output), without.replace("MiB,", "MiB, symbols in greeter.cbus.so.debug,"));
    }
}

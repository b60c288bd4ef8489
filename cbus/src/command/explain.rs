//! `cbus explain`: what the code of an error means, what causes it, and what to do about it.

use controllerbus::Schema;
use controllerbus::error::Code;
use miette::Result;
use serde::Serialize;

use crate::cli::Explain;
use crate::report::report;
use crate::text::{print_json, print_line};

/// A code, explained.
#[derive(Serialize, Schema)]
pub struct Explained {
    /// The code, such as `CB0012`.
    code: Code,
    /// What is refused, in a few words.
    title: String,
    /// What it means, an example that causes it, and what to do, in Markdown.
    text: String,
}

impl Explained {
    fn of(code: Code) -> Self {
        Self { code, title: code.title().to_owned(), text: code.text().to_owned() }
    }
}

pub fn run(args: &Explain) -> Result<()> {
    let codes: Vec<Code> = match &args.code {
        None => Code::all().collect(),
        Some(text) => vec![text.parse().map_err(|error| {
            let hint = match Code::nearest(text) {
                Some(near) => format!("did you mean {near} ({})? `cbus explain` lists all", near.title()),
                None => "`cbus explain` lists all codes".to_owned(),
            };
            report(format!("{error}"), hint)
        })?],
    };
    if args.json {
        print_json(&codes.into_iter().map(Explained::of).collect::<Vec<_>>(), false);
        return Ok(());
    }
    match codes.as_slice() {
        [code] if args.code.is_some() => {
            print_line(&format!("{code}: {}", code.title()));
            for paragraph in code.text().split("\n\n") {
                print_line("");
                // Words that stand out on a page stand by themselves here.
                print_wrapped(&paragraph.replace("**", ""));
            }
        }
        codes => codes.iter().for_each(|code| print_line(&format!("{code}  {}", code.title()))),
    }
    Ok(())
}

/// How wide a text is read best.
const WIDTH: usize = 78;

fn print_wrapped(text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            print_line(&std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    print_line(&line);
}

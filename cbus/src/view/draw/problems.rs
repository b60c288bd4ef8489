//! What is to be mended, the first to mend first.

use std::collections::BTreeSet;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::text::wrapped;
use crate::problems::Kind;
use crate::view::ansi;
use crate::view::model::Shown;

/// How many there are of each kind.
pub fn head(shown: &Shown) -> String {
    let count = |kind: Kind| shown.problems.iter().filter(|problem| problem.kind == kind).count();
    let mut parts = Vec::new();
    let mut say = |many: usize, one: &str, others: &str| {
        if many > 0 {
            parts.push(format!("{many} {}", if many == 1 { one } else { others }));
        }
    };
    say(count(Kind::Error), "error", "errors");
    say(count(Kind::Warning), "warning", "warnings");
    let compiler = if parts.is_empty() { String::new() } else { format!("Compiler: {}", parts.join(", ")) };
    parts = Vec::new();
    let mut say = |many: usize, one: &str, others: &str| {
        if many > 0 {
            parts.push(format!("{many} {}", if many == 1 { one } else { others }));
        }
    };
    say(count(Kind::Failure), "failure", "failures");
    say(count(Kind::Test), "failed test", "failed tests");
    say(count(Kind::Waiting), "waiting", "waiting");
    let all = [compiler, parts.join(", ")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    let whose: BTreeSet<&str> = shown.problems.iter().map(|problem| problem.whose.as_str()).collect();
    match whose.iter().collect::<Vec<_>>().as_slice() {
        [one] => format!("{all} in {one}"),
        _ => all,
    }
}

/// All of them, in so many columns.
pub fn lines(shown: &Shown, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let is_one = shown.problems.windows(2).all(|pair| pair[0].whose == pair[1].whose);
    let mut last: Option<&str> = None;
    for problem in &shown.problems {
        if last.is_some() {
            lines.push(Line::default());
        }
        if !is_one && last != Some(problem.whose.as_str()) {
            let colour = if problem.kind < Kind::Warning { Color::Red } else { Color::Yellow };
            let style = Style::new().fg(colour).add_modifier(Modifier::BOLD);
            lines.push(Line::from(Span::styled(format!("── {} ──", problem.whose), style)));
        }
        last = Some(&problem.whose);
        lines.extend(ansi::lines(&problem.text).into_iter().flat_map(|line| wrapped(line, width, 0)));
    }
    lines
}

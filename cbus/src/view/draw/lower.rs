//! The log, and the directives.

use controllerbus_api::__private::now_ms;
use controllerbus_api::proto::{Directive, LogLine};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::text::{fit, quiet, width_of, wrapped};
use super::{Look, head};
use crate::text::{clock, zone};
use crate::view::ansi;
use crate::view::model::Shown;
use crate::view::ui::{LEVELS, Ui};

/// Draws the log lines that the filter takes, the newest at the bottom.
pub fn log(frame: &mut Frame<'_>, area: Rect, shown: &Shown, ui: &mut Ui, look: Look) {
    let rows = usize::from(area.height.saturating_sub(1));
    let width = usize::from(area.width);
    // From the newest on, as far as is needed.
    let mut lines: Vec<Line<'static>> = Vec::new();
    let mut older = 0;
    for line in shown.lines.iter().rev().filter(|line| ui.filter.takes(line)) {
        if lines.len() >= ui.above + rows {
            older += 1;
            continue;
        }
        lines.extend(log_line(line, width).into_iter().rev());
    }
    ui.above = ui.above.min(lines.len().saturating_sub(rows));
    let rest = lines.len().saturating_sub(ui.above + rows);
    let mut seen: Vec<Line<'static>> = lines.into_iter().skip(ui.above).take(rows).collect();
    seen.reverse();
    let filter = &ui.filter;
    let level = LEVELS[filter.level].to_string().to_lowercase();
    let plugin = filter.plugin.as_ref().map(|plugin| format!(" of {plugin}")).unwrap_or_default();
    let text = if filter.text.is_empty() { String::new() } else { format!(" with `{}`", filter.text) };
    let title = format!("Log ({}): {level}{plugin}{text}", zone(now_ms()));
    // Older lines are what a log is expected to have; newer ones that are not seen are worth a word.
    let above = if ui.above > 0 || look.is_active { older + rest } else { 0 };
    frame.render_widget(Paragraph::new(seen).block(head(&title, above, ui.above, look)), area);
}

/// How many rows a line takes.
pub fn rows_of(line: &LogLine, width: usize) -> usize {
    log_line(line, width).len()
}

fn log_line(line: &LogLine, width: usize) -> Vec<Line<'static>> {
    let colour = match line.level.as_str() {
        "ERROR" => Color::Red,
        "WARN" => Color::Yellow,
        "INFO" => Color::Green,
        _ => Color::DarkGray,
    };
    let who = match (line.plugin.as_str(), line.generation) {
        ("", _) => line.target.clone(),
        (plugin, 0) => plugin.to_owned(),
        (plugin, generation) => format!("{plugin}#{generation}"),
    };
    // What is shown above while it matters needs one line here.
    let is_shown_above = line.generation == 0 && line.target == "cbus";
    let text = match line.message.split_once(":\n") {
        Some(("does not build", rest)) if is_shown_above => {
            format!("does not build: {}", rest.lines().next().unwrap_or_default())
        }
        Some((first, _)) if is_shown_above && (first.starts_with("built in ") || first.contains(" test")) => {
            first.to_owned()
        }
        _ => line.message.clone(),
    };
    let mut message = ansi::lines(&text).into_iter();
    let mut first = vec![
        quiet(format!("{} ", clock(line.at_ms))),
        Span::styled(format!("{:<5} ", line.level), Style::new().fg(colour)),
        Span::styled(format!("{who} "), Style::new().add_modifier(Modifier::BOLD)),
    ];
    first.extend(message.next().unwrap_or_default().spans);
    if !line.fields.is_empty() {
        first.push(quiet(format!("  {}", line.fields.replace('\n', " "))));
    }
    std::iter::once(Line::from(first)).chain(message).flat_map(|line| wrapped(line, width, 2)).collect()
}

/// The directives, a line each.
pub fn directives(shown: &Shown, width: usize) -> Vec<Line<'static>> {
    if shown.directives.is_empty() {
        return vec![Line::from(quiet("none: nobody asks for anything"))];
    }
    let id = shown.directives.iter().map(|found| width_of(&found.id)).max().unwrap_or(0).min(width / 3);
    let line = |found: &Directive| {
        let failed = found.resolvers.iter().find(|resolver| !resolver.error.is_empty());
        let state = match (failed, found.idle) {
            (Some(_), _) => Span::styled("failed ", Style::new().fg(Color::Red)),
            (None, true) => Span::styled("idle   ", Style::new().fg(Color::DarkGray)),
            (None, false) => Span::styled("busy   ", Style::new().fg(Color::Yellow)),
        };
        let values = match found.values.as_slice() {
            [] => "no value".to_owned(),
            [one] => one.json.clone(),
            [first, rest @ ..] => format!("{} and {} more", first.json, rest.len()),
        };
        let why = failed.map(|resolver| format!("{}  ", resolver.error)).unwrap_or_default();
        let rest = format!("{why}{}  {values}", found.about);
        let mut spans = vec![Span::raw(fit(&found.id, id)), Span::raw("  "), state];
        spans.push(quiet(fit(&rest, width.saturating_sub(id + 9))));
        Line::from(spans)
    };
    shown.directives.iter().map(line).collect()
}

//! The plugins and the controllers, a line each.

use controllerbus_api::proto::{Plugin, Timeline};
use controllerbus_api::state;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::text::{fit, quiet, width_of};
use crate::problems::Tested;
use crate::text::{duration, plain};
use crate::view::model::{Shown, is_broken};
use crate::view::ui::Ui;

/// The maximum width of a timeline's bar.
const BAR: usize = 16;

fn tone(state: &str) -> Style {
    Style::new().fg(match state {
        state::SERVING | state::RUNNING => Color::Green,
        state::FAILED | state::STUCK | state::REFUSED => Color::Red,
        state::BUILDING | state::QUEUED | state::CONSTRUCTING | state::DRAINING | state::PENDING => Color::Yellow,
        _ => Color::DarkGray,
    })
}

/// How wide a column is whose widest text is so wide.
fn widest<'a>(texts: impl Iterator<Item = &'a String>, least: usize, most: usize) -> usize {
    texts.map(|text| width_of(text)).max().unwrap_or(0).clamp(least, most)
}

/// The plugins, the broken ones first.
pub fn plugins(shown: &Shown, ui: &Ui, width: usize, chooses: bool) -> Vec<Line<'static>> {
    if shown.plugins.is_empty() {
        let what = if shown.away.is_some() { "" } else { "none yet" };
        return vec![Line::from(quiet(what))];
    }
    let cells: Vec<[String; 4]> = shown
        .plugins
        .iter()
        .map(|plugin| [plugin.id.clone(), words(plugin, shown.now_ms), plugin.version.clone(), generation(plugin)])
        .collect();
    let column = |at: usize| cells.iter().map(move |cells| &cells[at]);
    let id = widest(column(0), 4, (width / 4).max(8));
    let state = widest(column(1), 7, 26);
    // Where there is little room, what is wrong matters more than the version.
    let version = if width < 100 { 0 } else { widest(column(2), 0, 24) };
    let number = widest(column(3), 0, 18);
    let longest = shown.plugins.iter().filter_map(last_timeline).map(|timeline| total(&timeline)).fold(1.0, f64::max);
    let selected = ui.selected_at(shown).filter(|_| chooses);
    let line = |(at, (plugin, cell)): (usize, (&Plugin, &[String; 4]))| {
        let style = match (plugin.building_since_ms, is_broken(plugin, &shown.tests)) {
            (0, true) => tone(state::FAILED),
            (0, false) => tone(&plugin.state),
            _ => tone(state::BUILDING),
        };
        let mut spans = vec![
            Span::styled(fit(&cell[0], id), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw("  "),
            Span::styled(fit(&cell[1], state), style),
        ];
        for (text, width) in [(&cell[2], version), (&cell[3], number)] {
            if width > 0 {
                spans.push(Span::raw(format!("  {}", fit(text, width))));
            }
        }
        spans.push(Span::raw("  "));
        let used: usize = spans.iter().map(|span| width_of(&span.content)).sum();
        spans.extend(detail(plugin, shown, longest, width.saturating_sub(used)));
        let line = Line::from(spans);
        if selected == Some(at) { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
    };
    shown.plugins.iter().zip(&cells).enumerate().map(line).collect()
}

fn words(plugin: &Plugin, now_ms: u64) -> String {
    match (plugin.building_since_ms, plugin.error.is_empty()) {
        (0, false) if plugin.serving().is_some() => "serving (last edit failed)".to_owned(),
        (0, _) => plugin.state.clone(),
        (since, _) => format!("building {}", duration(now_ms.saturating_sub(since) as f64)),
    }
}

/// The serving generation, and how many replaced ones are still loaded.
fn generation(plugin: &Plugin) -> String {
    match (plugin.serving(), plugin.generations.iter().filter(|found| found.is_leaving()).count()) {
        (Some(found), 0) => format!("#{}", found.number),
        (Some(found), held) => format!("#{} (+{held} leaving)", found.number),
        (None, _) => String::new(),
    }
}

/// What is wrong, what the running build is doing, or how the last swap went.
fn detail(plugin: &Plugin, shown: &Shown, longest: f64, width: usize) -> Vec<Span<'static>> {
    if plugin.building_since_ms > 0 {
        let first = if plugin.version.is_empty() { "   (the first build compiles the dependencies too)" } else { "" };
        return vec![quiet(fit(&format!("{}{first}", plugin.building), width))];
    }
    let wrong = shown.problems.iter().find(|problem| problem.whose == plugin.id && is_broken(plugin, &shown.tests));
    if let Some(problem) = wrong {
        return vec![Span::styled(fit(&problem.summary, width), Style::new().fg(Color::Red))];
    }
    if !plugin.error.is_empty() {
        let first = plain(&plugin.error).lines().next().unwrap_or_default().to_owned();
        return vec![Span::styled(fit(&first, width), Style::new().fg(Color::Red))];
    }
    let mut spans = Vec::new();
    let mut left = width;
    let tests = match shown.tests.get(&plugin.id) {
        Some(Tested::Running) => Some(Span::styled("testing  ".to_owned(), Style::new().fg(Color::Yellow))),
        Some(Tested::Passed { count }) => {
            Some(Span::styled(format!("tests pass ({count})  "), Style::new().fg(Color::Green)))
        }
        _ => None,
    };
    if let Some(span) = tests.filter(|span| width_of(&span.content) <= left) {
        left -= width_of(&span.content);
        spans.push(span);
    }
    if let Some(timeline) = last_timeline(plugin) {
        spans.extend(timeline_spans(&timeline, longest, left));
    }
    spans
}

fn last_timeline(plugin: &Plugin) -> Option<Timeline> {
    plugin.serving()?.timeline
}

fn total(timeline: &Timeline) -> f64 {
    timeline.build_ms + timeline.verify_ms + timeline.load_ms + timeline.swap_ms
}

/// The phases in words and, where there is room, as a bar.
fn timeline_spans(timeline: &Timeline, longest: f64, width: usize) -> Vec<Span<'static>> {
    let text = match timeline.edit_to_live_ms {
        Some(ms) => format!("live in {}", duration(ms)),
        None => duration(total(timeline)),
    };
    let parts = [("build", timeline.build_ms), ("verify", timeline.verify_ms), ("load", timeline.load_ms)];
    let mut detail: Vec<String> =
        parts.into_iter().filter(|(_, ms)| *ms > 0.0).map(|(name, ms)| format!("{name} {}", duration(ms))).collect();
    detail.push(format!("swap {}", duration(timeline.swap_ms)));
    let detail = format!(": {}", detail.join(", "));
    let mut spans = Vec::new();
    // The numbers come first: a bar that pushes them out says nothing.
    if width_of(&text) + width_of(&detail) + BAR + 5 <= width {
        let phases = [
            (timeline.build_ms, Color::Blue),
            (timeline.verify_ms, Color::Yellow),
            (timeline.load_ms, Color::Cyan),
            (timeline.swap_ms, Color::Magenta),
        ];
        for (ms, colour) in phases.into_iter().filter(|(ms, _)| *ms > 0.0) {
            let width = ((ms / longest * BAR as f64).round() as usize).max(1);
            spans.push(Span::styled("█".repeat(width), Style::new().fg(colour)));
        }
        spans.push(Span::raw(" "));
    }
    let used: usize = spans.iter().map(|span| width_of(&span.content)).sum();
    let left = width.saturating_sub(used + width_of(&text));
    spans.push(Span::raw(fit(&text, width_of(&text).min(width))));
    spans.push(quiet(fit(&detail, left)));
    spans
}

/// The configs, and the controllers without one; those that do not run first.
pub fn controllers(shown: &Shown, width: usize) -> Vec<Line<'static>> {
    let first_build = shown.is_first_build();
    let mut rows: Vec<[String; 4]> = Vec::new();
    for config in &shown.configs {
        let why = match config.state.as_str() {
            state::QUEUED if first_build => "waiting for the first build",
            _ => &config.error,
        };
        rows.push([config.key.clone(), config.state.clone(), config.config_id.clone(), why.to_owned()]);
    }
    for found in shown.without_config() {
        rows.push([found.name.clone(), found.state.clone(), String::new(), found.error.clone()]);
    }
    if rows.is_empty() {
        return vec![Line::from(quiet("none: no config is applied"))];
    }
    let key = widest(rows.iter().map(|row| &row[0]), 8, (width / 3).max(8));
    let state = widest(rows.iter().map(|row| &row[1]), 7, 13);
    let line = |[name, how, id, why]: &[String; 4]| {
        let left = width.saturating_sub(key + state + 4);
        let id_width = width_of(id).min(left);
        Line::from(vec![
            Span::raw(fit(name, key)),
            Span::raw("  "),
            Span::styled(fit(how, state), tone(how)),
            Span::raw("  "),
            Span::raw(fit(id, id_width)),
            quiet(fit(&format!("  {why}"), left - id_width)),
        ])
    };
    rows.iter().map(line).collect()
}

//! Draws the live view. Nothing moves when nothing happens.

use controllerbus_api::__private::now_ms;
use controllerbus_api::proto::{Config, LogLine, Plugin, Timeline};
use controllerbus_api::state;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table, Wrap};

use super::{LEVELS, Shown, ansi};
use crate::text::{clock, duration, zone};

/// The maximum width of a timeline's bar.
const BAR: usize = 16;

pub fn draw(frame: &mut Frame<'_>, shown: &Shown<'_>) {
    let area = frame.area();
    let errors: Vec<Line<'static>> = shown.plugins.iter().flat_map(error_lines).collect();
    let plugins = shown.plugins.len().clamp(1, 8) as u16 + 2;
    let configs = config_height(&shown.configs);
    let room = area.height.saturating_sub(plugins + configs + 2);
    // Errors get the rows they need, but a few are left for the log.
    let wanted = if errors.is_empty() { 0 } else { errors.len() as u16 + 1 };
    let errors_height = wanted.min(room.saturating_sub(5));
    let [title, plugins, broken, configs, logs, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(plugins),
        Constraint::Length(errors_height),
        Constraint::Length(configs),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_title(frame, title, shown);
    draw_plugins(frame, plugins, &shown.plugins);
    if errors_height > 0 {
        let block = Block::new().borders(Borders::TOP).title(" Compiler ".red().bold());
        frame.render_widget(Paragraph::new(errors).block(block).wrap(Wrap { trim: false }), broken);
    }
    let first_build = shown.plugins.iter().any(|plugin| plugin.building_since_ms > 0 && plugin.version.is_empty());
    draw_configs(frame, configs, &shown.configs, first_build);
    draw_logs(frame, logs, shown);
    draw_keys(frame, keys, shown);
}

fn quiet(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Style::new().fg(Color::DarkGray))
}

fn head(text: &'static str) -> Block<'static> {
    Block::new()
        .borders(Borders::TOP)
        .border_style(Style::new().fg(Color::DarkGray))
        .title(Span::styled(format!(" {text} "), Style::new().add_modifier(Modifier::BOLD)))
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) {
    let running = shown.configs.iter().filter(|config| config.state == state::RUNNING).count();
    let mut spans = vec![Span::styled("cbus dev ", Style::new().add_modifier(Modifier::BOLD))];
    spans.push(Span::raw(shown.title.plugins.join(", ")));
    let counts = [(running, "controller"), (shown.directives, "directive"), (shown.values, "value")];
    let counts = counts.map(|(count, one)| format!("{count} {one}{}", if count == 1 { "" } else { "s" }));
    spans.push(quiet(format!("   {}", counts.join(", "))));
    if let Some(api) = &shown.title.api {
        spans.push(quiet(format!("   {api}")));
    }
    frame.render_widget(Line::from(spans), area);
}

fn tone(state: &str) -> Style {
    Style::new().fg(match state {
        state::SERVING | state::RUNNING => Color::Green,
        state::FAILED | state::STUCK => Color::Red,
        state::BUILDING | state::QUEUED | state::CONSTRUCTING | state::DRAINING => Color::Yellow,
        _ => Color::DarkGray,
    })
}

fn draw_plugins(frame: &mut Frame<'_>, area: Rect, plugins: &[Plugin]) {
    let longest = plugins.iter().filter_map(last_timeline).map(|timeline| total(&timeline)).fold(1.0, f64::max);
    let cells: Vec<[String; 4]> = plugins
        .iter()
        .map(|plugin| [plugin.id.clone(), words(plugin), plugin.version.clone(), generation(plugin)])
        .collect();
    let rows = plugins.iter().zip(&cells).map(|(plugin, [id, state, version, generation])| {
        let style = match (plugin.building_since_ms, plugin.error.is_empty()) {
            (0, true) => tone(&plugin.state),
            (0, false) => tone(state::FAILED),
            _ => tone(state::BUILDING),
        };
        Row::new([
            Line::from(id.clone().bold()),
            Line::from(Span::styled(state.clone(), style)),
            Line::from(version.clone()),
            Line::from(generation.clone()),
            detail(plugin, longest),
        ])
    });
    // Columns fit their contents; the rest is for the timeline.
    let width = |at: usize, least: usize, most: usize| {
        let widest = cells.iter().map(|cells| cells[at].chars().count()).max().unwrap_or(0);
        Constraint::Length(widest.clamp(least, most) as u16)
    };
    let widths = [width(0, 4, 28), width(1, 14, 26), width(2, 0, 24), width(3, 0, 18), Constraint::Min(30)];
    let table = Table::new(rows, widths).column_spacing(2).block(head("Plugins"));
    let table = if plugins.is_empty() { table.footer(Row::new([quiet("building for the first time")])) } else { table };
    frame.render_widget(table, area);
}

fn words(plugin: &Plugin) -> String {
    match (plugin.building_since_ms, plugin.error.is_empty()) {
        (0, false) if plugin.serving().is_some() => "serving (last edit failed)".to_owned(),
        (0, _) => plugin.state.clone(),
        (since, _) => format!("building {}", duration(now_ms().saturating_sub(since) as f64)),
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

/// What the running build is doing, or how the last swap went.
fn detail(plugin: &Plugin, longest: f64) -> Line<'static> {
    if plugin.building_since_ms == 0 {
        return last_timeline(plugin).map(|timeline| timeline_line(&timeline, longest)).unwrap_or_default();
    }
    let first = if plugin.version.is_empty() { "   (the first build compiles the dependencies too)" } else { "" };
    Line::from(vec![Span::raw(plugin.building.clone()), quiet(first)])
}

fn last_timeline(plugin: &Plugin) -> Option<Timeline> {
    plugin.serving()?.timeline
}

fn total(timeline: &Timeline) -> f64 {
    timeline.build_ms + timeline.verify_ms + timeline.load_ms + timeline.swap_ms
}

/// The phases as a bar, and the total in words.
fn timeline_line(timeline: &Timeline, longest: f64) -> Line<'static> {
    let phases = [
        (timeline.build_ms, Color::Blue),
        (timeline.verify_ms, Color::Yellow),
        (timeline.load_ms, Color::Cyan),
        (timeline.swap_ms, Color::Magenta),
    ];
    let mut spans = Vec::new();
    for (ms, colour) in phases.into_iter().filter(|(ms, _)| *ms > 0.0) {
        let width = ((ms / longest * BAR as f64).round() as usize).max(1);
        spans.push(Span::styled("█".repeat(width), Style::new().fg(colour)));
    }
    let text = match timeline.edit_to_live_ms {
        Some(ms) => format!(" live in {}", duration(ms)),
        None => format!(" {}", duration(total(timeline))),
    };
    spans.push(Span::raw(text));
    let parts = [("build", timeline.build_ms), ("verify", timeline.verify_ms), ("load", timeline.load_ms)];
    let mut detail: Vec<String> =
        parts.into_iter().filter(|(_, ms)| *ms > 0.0).map(|(name, ms)| format!("{name} {}", duration(ms))).collect();
    detail.push(format!("swap {}", duration(timeline.swap_ms)));
    spans.push(quiet(format!(": {}", detail.join(", "))));
    Line::from(spans)
}

fn error_lines(plugin: &Plugin) -> Vec<Line<'static>> {
    if plugin.error.is_empty() { Vec::new() } else { ansi::lines(plugin.error.trim_end()) }
}

fn config_height(configs: &[Config]) -> u16 {
    configs.len().clamp(1, 6) as u16 + 1
}

fn draw_configs(frame: &mut Frame<'_>, area: Rect, configs: &[Config], first_build: bool) {
    let rows = configs.iter().map(|config| {
        let why = match config.state.as_str() {
            // The plugin that is being built may well provide its factory.
            state::QUEUED if first_build => "waiting for the first build",
            _ => &config.error,
        };
        Row::new([
            Line::from(config.key.clone()),
            Line::from(Span::styled(config.state.clone(), tone(&config.state))),
            Line::from(vec![Span::raw(config.config_id.clone()), quiet(format!("  {why}"))]),
        ])
    });
    let widest = configs.iter().map(|config| config.key.chars().count()).max().unwrap_or(0).clamp(8, 28) as u16;
    let widths = [Constraint::Length(widest), Constraint::Length(13), Constraint::Min(20)];
    frame.render_widget(Table::new(rows, widths).block(head("Controllers")), area);
}

fn draw_logs(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) {
    let rows = area.height.saturating_sub(1) as usize;
    let taken: Vec<&LogLine> = shown.lines.iter().filter(|line| shown.filter.takes(line)).collect();
    let above = shown.filter.above.min(taken.len().saturating_sub(rows));
    let end = taken.len() - above;
    let lines: Vec<Line<'static>> =
        taken[end.saturating_sub(rows)..end].iter().flat_map(|line| log_line(line)).collect();
    // A message of several lines pushes out older ones, not its own end.
    let skip = lines.len().saturating_sub(rows);
    let lines: Vec<Line<'static>> = lines.into_iter().skip(skip).collect();
    let zone = zone(now_ms());
    let title = match above {
        0 => format!(" Log ({zone}) "),
        above => format!(" Log ({zone}), {above} lines below "),
    };
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(Style::new().fg(Color::DarkGray))
        .title(Span::styled(title, Style::new().add_modifier(Modifier::BOLD)));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn log_line(line: &LogLine) -> Vec<Line<'static>> {
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
    // The compiler's messages are shown above while they matter; here one line is enough.
    let broken = line.message.strip_prefix("does not build:\n").and_then(|rest| rest.lines().next());
    let text = broken.map_or_else(|| line.message.clone(), |first| format!("does not build: {first}"));
    let mut message = ansi::lines(&text).into_iter();
    let mut first = vec![
        quiet(format!("{} ", clock(line.at_ms))),
        Span::styled(format!("{:<5} ", line.level), Style::new().fg(colour)),
        Span::styled(format!("{who} "), Style::new().add_modifier(Modifier::BOLD)),
    ];
    first.extend(message.next().unwrap_or_default().spans);
    if !line.fields.is_empty() {
        first.push(quiet(format!("  {}", line.fields)));
    }
    std::iter::once(Line::from(first)).chain(message).collect()
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) {
    let filter = shown.filter;
    if filter.typing {
        frame.render_widget(Line::from(format!("filter: {}▏   Enter keeps it, Esc clears it", filter.text)), area);
        return;
    }
    let level = LEVELS.get(filter.level - 1).unwrap_or(&"TRACE").to_lowercase();
    let of = filter.plugin.clone().unwrap_or_else(|| "all".to_owned());
    let with = if filter.text.is_empty() { "any text".to_owned() } else { format!("`{}`", filter.text) };
    let key = |key: &'static str| Span::styled(key, Style::new().add_modifier(Modifier::BOLD));
    let line = Line::from(vec![
        key("q"),
        quiet(" quit   "),
        key("l"),
        quiet(format!(" level: {level}   ")),
        key("p"),
        quiet(format!(" plugin: {of}   ")),
        key("/"),
        quiet(format!(" {with}   ")),
        key("↑↓"),
        quiet(" scroll"),
    ]);
    frame.render_widget(line, area);
}

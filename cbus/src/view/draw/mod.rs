//! Draws what is shown. Nothing moves when nothing happens, what is broken comes first, and what has no room can be scrolled to:
//! the head of its part says how much there is.

mod lower;
mod problems;
mod tables;
#[cfg(test)]
mod tests;
mod text;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use controllerbus_api::state;

use super::keys::KEYS;
use super::model::Shown;
use super::ui::{Part, Ui};
use crate::problems::Kind;
use crate::text::duration;
pub use lower::rows_of;
use text::{fit, quiet, width_of};

/// Draws everything, and brings what is scrolled into its limits.
pub fn draw(frame: &mut Frame<'_>, shown: &Shown, ui: &mut Ui) {
    let area = frame.area();
    ui.width = area.width.into();
    let width = usize::from(area.width);
    let active = ui.active(shown);
    let problems = problems::lines(shown, width);
    // Warnings can wait: they leave room for the rest.
    let is_urgent = shown.problems.iter().any(|problem| problem.kind < Kind::Warning) || ui.zoomed;
    let of_problems = if is_urgent { problems.len() } else { problems.len().min(WARNINGS) };
    let plugins = shown.plugins.len().max(1);
    let controllers = (shown.configs.len() + shown.without_config().count()).max(1);
    let asks = [
        Ask { least: problems.len().min(4), wanted: of_problems, is_there: !problems.is_empty() },
        Ask { least: shown.broken().clamp(1, plugins), wanted: plugins, is_there: true },
        Ask {
            least: shown.configs.iter().filter(|found| found.is_bad()).count().clamp(1, 3),
            wanted: controllers,
            is_there: true,
        },
    ];
    let zoomed = ui.zoomed.then_some(active);
    let rows = share(usize::from(area.height).saturating_sub(2), asks, zoomed);
    let mut top = area.y;
    let mut next = |height: usize| {
        let height = u16::try_from(height).unwrap_or(u16::MAX).min(area.bottom().saturating_sub(top));
        let part = Rect { y: top, height, ..area };
        top += height;
        part
    };
    frame.render_widget(title(shown, width), next(1));
    let look = |part| Look { is_active: active == part, is_away: shown.away.is_some() };
    if rows[0] > 0 {
        let head = problems::head(shown);
        scrolled(frame, next(rows[0] + 1), head, problems, &mut ui.problems, look(Part::Problems));
    }
    let area_of_plugins = next(rows[1] + 1);
    keep_selected_in_sight(shown, ui, rows[1]);
    let lines = tables::plugins(shown, ui, width, active == Part::Plugins);
    scrolled(frame, area_of_plugins, "Plugins".to_owned(), lines, &mut ui.plugins, look(Part::Plugins));
    let lines = tables::controllers(shown, width);
    scrolled(frame, next(rows[2] + 1), "Controllers".to_owned(), lines, &mut ui.controllers, look(Part::Controllers));
    let rest = next(rows[3] + 1);
    if ui.shows_directives {
        let head = format!("Directives: {}", shown.directive_count);
        scrolled(frame, rest, head, lower::directives(shown, width), &mut ui.directives, look(Part::Lower));
    } else {
        lower::log(frame, rest, shown, ui, look(Part::Lower));
    }
    frame.render_widget(bottom(shown, ui, width), next(1));
    ui.page = match active {
        Part::Problems => rows[0],
        Part::Plugins => rows[1],
        Part::Controllers => rows[2],
        Part::Lower => rows[3],
    };
    if ui.help {
        help(frame, area);
    }
}

/// How many rows a part asks for, without its head.
#[derive(Clone, Copy)]
struct Ask {
    /// Given before anybody gets more.
    least: usize,
    /// With which all of it is shown.
    wanted: usize,
    is_there: bool,
}

/// How many rows problems have that are only warnings.
const WARNINGS: usize = 5;

/// How many rows the log has, if there is room.
const LOG: usize = 5;

/// Shares the rows out among problems, plugins, controllers and the log, each of which has a head too.
fn share(height: usize, asks: [Ask; 3], zoomed: Option<Part>) -> [usize; 4] {
    let heads = asks.iter().filter(|ask| ask.is_there).count() + 1;
    let mut left = height.saturating_sub(heads);
    let mut rows = [0; 4];
    let mut give = |part: usize, up_to: usize, reserve: usize, rows: &mut [usize; 4]| {
        let more = up_to.saturating_sub(rows[part]).min(left.saturating_sub(reserve));
        rows[part] += more;
        left -= more;
    };
    // What is broken is seen first.
    for part in [1, 0, 2] {
        give(part, if asks[part].is_there { asks[part].least } else { 0 }, 1, &mut rows);
    }
    give(3, 1, 0, &mut rows);
    match zoomed {
        Some(Part::Problems) => give(0, asks[0].wanted, 0, &mut rows),
        Some(Part::Plugins) => give(1, asks[1].wanted, 0, &mut rows),
        Some(Part::Controllers) => give(2, asks[2].wanted, 0, &mut rows),
        Some(Part::Lower) => give(3, usize::MAX, 0, &mut rows),
        None => {}
    }
    give(3, LOG.min(height / 6), 0, &mut rows);
    for (part, most) in [(0, usize::MAX), (1, 8), (2, 6), (1, usize::MAX), (2, usize::MAX)] {
        give(part, asks[part].wanted.min(most), 0, &mut rows);
    }
    give(3, usize::MAX, 0, &mut rows);
    rows
}

/// How a part looks.
#[derive(Clone, Copy)]
struct Look {
    /// Whether keys scroll it.
    is_active: bool,
    /// Whether what it shows may be out of date.
    is_away: bool,
}

/// The head of a part, with how much is not shown.
fn head(title: &str, above: usize, below: usize, look: Look) -> Block<'static> {
    let weight = if look.is_active { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::BOLD };
    let block =
        Block::new().borders(Borders::TOP).border_style(Style::new().fg(Color::DarkGray)).title(Line::from(vec![
            Span::raw(" "),
            Span::styled(title.to_owned(), Style::new().add_modifier(weight)),
            Span::raw(" "),
        ]));
    let more = match (above, below) {
        (0, 0) => return block,
        (above, 0) => format!(" {above} more above "),
        (0, below) => format!(" {below} more below "),
        (above, below) => format!(" {above} more above, {below} below "),
    };
    block.title(Line::from(Span::styled(more, Style::new().fg(Color::Yellow))).right_aligned())
}

/// Draws lines from the one at `top` on, which is brought into its limits.
fn scrolled(frame: &mut Frame<'_>, area: Rect, title: String, lines: Vec<Line<'static>>, top: &mut usize, look: Look) {
    let rows = usize::from(area.height.saturating_sub(1));
    *top = (*top).min(lines.len().saturating_sub(rows));
    let below = lines.len().saturating_sub(*top + rows);
    let block = head(&title, *top, below, look);
    let lines: Vec<Line<'static>> = lines.into_iter().skip(*top).take(rows).collect();
    let mut shown = Paragraph::new(lines).block(block);
    if look.is_away {
        shown = shown.style(Style::new().add_modifier(Modifier::DIM));
    }
    frame.render_widget(shown, area);
}

fn keep_selected_in_sight(shown: &Shown, ui: &mut Ui, rows: usize) {
    let Some(at) = ui.selected_at(shown).filter(|_| ui.active(shown) == Part::Plugins) else {
        // Nobody scrolls here, and what is broken is at the top.
        ui.plugins = 0;
        return;
    };
    ui.plugins = ui.plugins.min(at).max((at + 1).saturating_sub(rows));
}

fn title(shown: &Shown, width: usize) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut spans = vec![Span::styled(format!("{} ", shown.command), bold)];
    let running = shown.configs.iter().filter(|config| config.state == state::RUNNING).count();
    let counts = [(running, "controller"), (shown.directive_count, "directive"), (shown.value_count, "value")];
    let counts = counts.map(|(count, one)| format!("{count} {one}{}", if count == 1 { "" } else { "s" })).join(", ");
    let about = if shown.awaited.len() > 3 { format!("{} plugins", shown.awaited.len()) } else { shown.about.clone() };
    spans.push(Span::raw(about));
    if shown.is_paused {
        spans.push(Span::raw("  "));
        spans.push(Span::styled(
            " PAUSED: space builds what was saved ",
            bold.fg(Color::Yellow).add_modifier(Modifier::REVERSED),
        ));
    }
    let used = |spans: &[Span<'static>]| spans.iter().map(|span| width_of(&span.content)).sum::<usize>();
    if let Some((why, since)) = &shown.away {
        let ago = duration(shown.now_ms.saturating_sub(*since) as f64);
        let text = format!("  the daemon is away ({ago}), reconnecting: {why}");
        // The whole reason is among the problems.
        let text = fit(&text, width.saturating_sub(used(&spans))).trim_end().to_owned();
        spans.push(Span::styled(text, bold.fg(Color::Red)));
        return Line::from(spans);
    }
    // Where there is room; the parts below, and `cbus bus`, have it too.
    for more in [Some(counts), shown.address.clone()].into_iter().flatten() {
        let text = format!("   {more}");
        if used(&spans) + width_of(&text) <= width {
            spans.push(quiet(text));
        }
    }
    Line::from(spans)
}

fn bottom(shown: &Shown, ui: &Ui, width: usize) -> Line<'static> {
    let key = |text: &str| Span::styled(text.to_owned(), Style::new().add_modifier(Modifier::BOLD));
    if ui.filter.typing {
        return Line::from(format!("filter: {}▏   Enter keeps it, Esc clears it", ui.filter.text));
    }
    if let Some(plugin) = &ui.question {
        let text = format!("Roll {plugin} back to the generation before? ");
        return Line::from(vec![
            Span::styled(text, Style::new().fg(Color::Yellow)),
            key("y"),
            quiet(" yes   "),
            key("n"),
            quiet(" no"),
        ]);
    }
    if let Some(notice) = &ui.notice {
        return Line::from(fit(notice, width).trim_end().to_owned());
    }
    let pause = if shown.is_paused { "resume" } else { "pause" };
    let keys = [
        ("?", "help"),
        ("q", "quit"),
        ("r", "rebuild"),
        ("space", pause),
        ("e", "edit"),
        ("o", "page"),
        ("/", "filter"),
        ("l", "level"),
        ("tab", "part"),
        ("↑↓", "scroll"),
        ("enter", "larger"),
        ("d", "directives"),
        ("p", "plugin"),
    ];
    let (mut spans, mut used) = (Vec::new(), 0);
    for (name, what) in keys {
        let more = width_of(name) + width_of(what) + 3;
        if used + more > width + 2 {
            break;
        }
        used += more;
        spans.extend([key(name), quiet(format!(" {what}  "))]);
    }
    Line::from(spans)
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let widest = KEYS.iter().map(|(_, what)| width_of(what)).max().unwrap_or(0) + 16;
    let (width, height) = ((widest as u16).min(area.width), (KEYS.len() as u16 + 2).min(area.height));
    let inside = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let line = |(name, what): &(&str, &str)| {
        let name = Span::styled(fit(&format!(" {name}"), 12), Style::new().add_modifier(Modifier::BOLD));
        Line::from(vec![name, Span::raw((*what).to_owned())])
    };
    let lines: Vec<Line<'static>> = KEYS.iter().map(line).collect();
    let block =
        Block::new().borders(Borders::ALL).title(" Keys ").title(Line::from(" any key closes this ").right_aligned());
    frame.render_widget(Clear, inside);
    frame.render_widget(Paragraph::new(lines).block(block), inside);
}

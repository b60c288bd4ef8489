//! Coloured text of the compiler as styled lines.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// The lines of a text with ANSI colours.
pub fn lines(text: &str) -> Vec<Line<'static>> {
    let mut style = Style::default();
    text.lines().map(|line| styled(line, &mut style)).collect()
}

fn styled(line: &str, style: &mut Style) -> Line<'static> {
    let mut spans = Vec::new();
    let mut push = |text: &str, style: Style| {
        let text = crate::text::plain(text).replace('\t', "    ");
        if !text.is_empty() {
            spans.push(Span::styled(text, style));
        }
    };
    let mut parts = line.split("\x1b[");
    push(parts.next().unwrap_or_default(), *style);
    for part in parts {
        let Some(end) = part.find(|c: char| c.is_ascii_alphabetic()) else { continue };
        if part[end..].starts_with('m') {
            for code in part[..end].split(';') {
                apply(code, style);
            }
        }
        push(&part[end + 1..], *style);
    }
    Line::from(spans)
}

fn apply(code: &str, style: &mut Style) {
    *style = match code {
        "" | "0" => Style::default(),
        "1" => style.add_modifier(Modifier::BOLD),
        "31" | "91" => style.fg(Color::Red),
        "32" | "92" => style.fg(Color::Green),
        "33" | "93" => style.fg(Color::Yellow),
        "34" | "94" => style.fg(Color::Blue),
        "35" | "95" => style.fg(Color::Magenta),
        "36" | "96" => style.fg(Color::Cyan),
        _ => *style,
    };
}

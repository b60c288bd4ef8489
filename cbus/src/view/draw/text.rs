//! Texts in so many columns.

use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How many columns a text takes.
pub fn width_of(text: &str) -> usize {
    text.width()
}

/// A text on one line of exactly so many columns: padded, or cut with `…`.
pub fn fit(text: &str, width: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let own = width_of(&text);
    if own <= width {
        return text + &" ".repeat(width - own);
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let more = c.width().unwrap_or(0);
        if used + more + 1 > width {
            break;
        }
        used += more;
        cut.push(c);
    }
    if used < width {
        cut.push('…');
        used += 1;
    }
    cut + &" ".repeat(width - used)
}

/// A text that matters less.
pub fn quiet(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Style::new().fg(Color::DarkGray))
}

/// A line as one of at most so many columns or, if it is longer, several; these begin with an indent.
pub fn wrapped(line: Line<'static>, width: usize, indent: usize) -> Vec<Line<'static>> {
    if line.width() <= width || width <= indent + 1 {
        return vec![line];
    }
    let mut lines = Vec::new();
    let (mut spans, mut used) = (Vec::new(), 0);
    for span in line.spans {
        let mut text = String::new();
        for c in span.content.chars() {
            let more = c.width().unwrap_or(0);
            if used + more > width {
                spans.push(Span::styled(std::mem::take(&mut text), span.style));
                lines.push(Line::from(std::mem::take(&mut spans)));
                spans.push(Span::raw(" ".repeat(indent)));
                used = indent;
            }
            used += more;
            text.push(c);
        }
        if !text.is_empty() {
            spans.push(Span::styled(text, span.style));
        }
    }
    lines.push(Line::from(spans));
    lines
}

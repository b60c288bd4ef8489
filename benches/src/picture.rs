//! Draws measured times as bars, readable on light and on dark paper.

use std::fmt::Write;

use crate::Measured;

const STYLE: &str = "<style>\n\
    text { font: 13px system-ui, sans-serif; fill: #24292f }\n\
    .title { font-weight: 600 } .faint { fill: #6e7781 }\n\
    .bar { fill: #8c959f } .ours { fill: #1f883d }\n\
    @media (prefers-color-scheme: dark) {\n\
      text { fill: #e6edf3 } .faint { fill: #8d96a0 } .bar { fill: #6e7681 } .ours { fill: #3fb950 }\n\
    }\n</style>\n";

const NAMES: f64 = 150.0;
const WIDTH: f64 = 760.0;
const ROW: f64 = 22.0;

/// The bars of `TOOL/PLUGIN/EDIT`, one group for each plugin, the two edits of a tool side by side.
pub fn reloads(measured: &[Measured], tools: &[&str], plugins: &[&str]) -> String {
    let of = |tool: &str, plugin: &str, edit: &str| {
        let name = format!("{tool}/{plugin}/{edit}");
        measured.iter().find(|found| found.name == name).map(|found| found.median)
    };
    let largest = measured.iter().filter(|found| !found.name.starts_with("load/")).map(|found| found.median);
    let scale = (WIDTH - NAMES - 150.0) / largest.fold(1.0, f64::max);
    let mut body = String::new();
    let mut y = 24.0;
    let _ = writeln!(body, "<text class=\"title\" x=\"8\" y=\"{y}\">From a save to the new code serving, in ms</text>");
    for plugin in plugins {
        y += 32.0;
        let _ = writeln!(
            body,
            "<text class=\"title\" x=\"8\" y=\"{y}\">{plugin} plugin</text>\
             <text class=\"faint\" x=\"{NAMES}\" y=\"{y}\">a changed constant, then an inserted line</text>"
        );
        for tool in tools {
            y += 10.0;
            for (at, edit) in ["constant", "insert-line"].into_iter().enumerate() {
                let Some(ms) = of(tool, plugin, edit) else { continue };
                let class = if *tool == "ours" { "ours" } else { "bar" };
                let (width, top, opacity) = (ms * scale, y + 4.0, if at == 0 { 1.0 } else { 0.7 });
                let base = y + 15.0;
                if at == 0 {
                    let name = if *tool == "ours" { "controllerbus" } else { tool };
                    let _ = writeln!(body, "<text x=\"8\" y=\"{base}\">{name}</text>");
                }
                let end = NAMES + width + 6.0;
                let _ = writeln!(
                    body,
                    "<rect class=\"{class}\" x=\"{NAMES}\" y=\"{top}\" width=\"{width:.1}\" height=\"14\" rx=\"2\" opacity=\"{opacity}\"/>\
                     <text x=\"{end:.1}\" y=\"{base}\">{ms:.0}</text>"
                );
                y += ROW - 4.0;
            }
        }
    }
    let height = y + 16.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"Times from a save to the new code serving\">\n{STYLE}{body}</svg>\n"
    )
}

//! Where the time of reloads went: as a table, and as a picture.

use std::fmt::Write as _;
use std::path::Path;

use controllerbus_api::Host;
use controllerbus_api::proto::Reload;
use hot_runtime::timings::STEPS;

use crate::text::{clock, duration, print_line, table, tell};

/// Prints reloads, where the time of each went, and why cargo built what it built.
pub fn print(reloads: &[Reload]) {
    let rows: Vec<Vec<String>> = reloads.iter().map(row).collect();
    table(&["AT", "PLUGIN", "RESULT", "BY", "TOTAL", "OF WHICH"], &rows);
    for (by, times) in by_builder(reloads) {
        print_line("");
        let middle = times[times.len() / 2];
        let count = if times.len() == 1 { "1 reload".to_owned() } else { format!("{} reloads", times.len()) };
        print_line(&format!(
            "{count} by {by}: {} to {}, median {}",
            duration(times[0]),
            duration(times[times.len() - 1]),
            duration(middle)
        ));
    }
    let reasons = reloads.iter().flat_map(|reload| {
        [("cargo built it", &reload.why_cargo), ("it was linked in full", &reload.why_full_link)]
            .map(|(what, why)| (reload, what, why))
    });
    for (reload, what, why) in reasons.filter(|(.., why)| !why.is_empty()) {
        print_line("");
        print_line(&format!("{} {}: {what}: {why}", clock(reload.at_ms), reload.plugin));
    }
}

fn row(reload: &Reload) -> Vec<String> {
    let result = match (reload.outcome.as_str(), reload.generation) {
        ("swapped", Some(number)) => format!("#{number}"),
        (other, _) => other.replace('_', " "),
    };
    let mut steps: Vec<_> = reload.steps.iter().filter(|step| step.ms * 50.0 >= reload.total_ms).collect();
    steps.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let parts: Vec<String> = steps.iter().map(|step| format!("{} {}", step.name, duration(step.ms))).collect();
    let by = if reload.by.is_empty() { "-" } else { &reload.by };
    vec![clock(reload.at_ms), reload.plugin.clone(), result, by.to_owned(), duration(reload.total_ms), parts.join(", ")]
}

/// The times of what was swapped in, in ascending order, by what built it.
fn by_builder(reloads: &[Reload]) -> Vec<(&'static str, Vec<f64>)> {
    let of = |by: &str| {
        let those = reloads.iter().filter(|reload| reload.outcome == "swapped" && reload.by == by);
        let mut times: Vec<f64> = those.map(|reload| reload.total_ms).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let all = [("rustc", of("rustc")), ("cargo", of("cargo")), ("an earlier build", of("kept"))];
    all.into_iter().filter(|(_, times)| !times.is_empty()).collect()
}

/// At the end of a daemon: prints the reloads that it has made, and writes a picture into the work folder.
pub fn tell_of(host: &Host, work_dir: &Path) {
    let reloads = host.journal.reloads();
    if reloads.is_empty() {
        tell("No reloads, so there are no timings");
        return;
    }
    print(&reloads);
    let file = work_dir.join("timings.svg");
    match std::fs::write(&file, picture(&reloads)) {
        Ok(()) => tell(&format!("The same as a picture: {}", file.display())),
        Err(error) => tell(&format!("{} cannot be written: {error}", file.display())),
    }
}

/// The colours of the steps, in the order of [`STEPS`]: they can be told apart by people who see fewer colours.
const COLOURS: [&str; 9] =
    ["#9aa0a6", "#56b4e9", "#0072b2", "#e69f00", "#cc79a7", "#009e73", "#8c6bb1", "#d55e00", "#c9ccd1"];

const WIDTH: f64 = 960.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 130.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 64.0;

/// A picture of reloads, one bar each, as an SVG file that needs nothing else.
pub fn picture(reloads: &[Reload]) -> String {
    let height = HEAD + ROW * reloads.len().max(1) as f64 + 34.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <style>text {{ fill: #24292f }} .less {{ fill: #57606a }} .page {{ fill: #ffffff }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .less {{ fill: #9198a1 }} .page {{ fill: #0d1117 }} }}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"600\">Where the time of the last {} reloads went</text>\n",
        reloads.len()
    );
    let mut x = 16.0;
    for (step, colour) in STEPS.iter().zip(COLOURS) {
        // Writing to a String does not fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"37\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{colour}\"/><text x=\"{}\" y=\"47\" class=\"less\">{step}</text>",
            x + 16.0
        );
        x += 34.0 + step.len() as f64 * 7.5;
    }
    let scale = scale(reloads);
    for (at, reload) in reloads.iter().enumerate() {
        bar(&mut svg, reload, HEAD + ROW * at as f64, scale);
    }
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"{}\" class=\"less\">The whole width is {}; a longer bar is cut, and its parts keep their shares.</text>\n</svg>",
        height - 12.0,
        duration(scale)
    );
    svg
}

/// The time of the widest bar, in milliseconds: builds by cargo take so much longer that others would not be seen beside them.
fn scale(reloads: &[Reload]) -> f64 {
    let longest = |cargos: bool| {
        let those = reloads.iter().filter(|reload| cargos || reload.by == "rustc");
        those.map(|reload| reload.total_ms).fold(0.0, f64::max)
    };
    let most = longest(false);
    if most > 0.0 { most } else { longest(true).max(1.0) }
}

fn bar(svg: &mut String, reload: &Reload, y: f64, scale: f64) {
    let name = match reload.generation {
        Some(number) => format!("{} #{number}", reload.plugin),
        None => format!("{}, {}", reload.plugin, reload.outcome.replace('_', " ")),
    };
    let (text_y, room) = (y + 15.0, WIDTH - LEFT - RIGHT);
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"{text_y}\"><tspan class=\"less\">{}</tspan> {}</text>",
        clock(reload.at_ms),
        escaped(&crate::text::cut(&name, 18))
    );
    let width = room * (reload.total_ms / scale).min(1.0);
    let sum: f64 = reload.steps.iter().map(|step| step.ms).sum();
    let mut x = LEFT;
    for step in &reload.steps {
        let part = width * step.ms / sum.max(f64::MIN_POSITIVE);
        let colour = STEPS.iter().position(|name| *name == step.name).map_or(COLOURS[8], |at| COLOURS[at]);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{part:.1}\" height=\"18\" fill=\"{colour}\"><title>{} {}</title></rect>",
            y + 2.0,
            escaped(&step.name),
            duration(step.ms)
        );
        x += part;
    }
    let cut = if reload.total_ms > scale { "… " } else { "" };
    let by = if reload.by.is_empty() { String::new() } else { format!(" {}", reload.by) };
    let why = if reload.why_cargo.is_empty() {
        String::new()
    } else {
        format!("<title>{}</title>", escaped(&reload.why_cargo))
    };
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{text_y}\">{why}{cut}{}<tspan class=\"less\">{by}</tspan></text>",
        x + 8.0,
        duration(reload.total_ms)
    );
}

/// Text that stands in XML.
fn escaped(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use controllerbus_api::proto::ReloadStep;

    use super::*;

    fn reload(by: &str, total_ms: f64, steps: &[(&str, f64)]) -> Reload {
        Reload {
            plugin: "a<b>&\"c\"\u{1b}".to_owned(),
            outcome: "swapped".to_owned(),
            generation: Some(3),
            by: by.to_owned(),
            total_ms,
            steps: steps.iter().map(|(name, ms)| ReloadStep { name: (*name).to_owned(), ms: *ms }).collect(),
            ..Reload::default()
        }
    }

    #[test]
    fn the_widest_bar_is_the_longest_reload_that_was_not_cargos_and_bars_have_the_widths_of_their_times() {
        let quick = reload("rustc", 400.0, &[("compile", 300.0), ("link", 100.0)]);
        let quicker = reload("rustc", 100.0, &[("compile", 100.0)]);
        let slow = reload("cargo", 40_000.0, &[("compile", 40_000.0)]);
        let svg = picture(&[slow, quick, quicker]);
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("height=\"18\""))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths, [620.0, 465.0, 155.0, 155.0]);
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;c&quot; #3") && !svg.contains('\u{1b}'), "{svg}");
        assert!(svg.contains("… 40"), "what is cut says so: {svg}");
    }

    #[test]
    fn parts_that_hardly_matter_are_left_out_of_the_table_and_the_longest_comes_first() {
        let row = row(&reload("rustc", 400.0, &[("queue", 1.0), ("compile", 100.0), ("link", 299.0)]));
        assert_eq!(row[5], "link 299 ms, compile 100 ms");
        assert_eq!(by_builder(&[reload("rustc", 3.0, &[]), reload("rustc", 1.0, &[])]), [("rustc", vec![1.0, 3.0])]);
    }
}

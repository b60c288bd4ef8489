//! How an editor is told where to open a file.

use crate::problems::Place;

/// A command that opens an editor.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    pub words: Vec<String>,
    /// Whether the editor has a window of its own, so that the terminal is not given to it.
    pub has_window: bool,
}

/// The editor that the person has chosen, at a place; none if `VISUAL` and `EDITOR` are not set.
pub fn chosen(place: &Place) -> Option<Opening> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    set("VISUAL").or_else(|| set("EDITOR")).map(|editor| opening(&editor, place))
}

/// The command of an editor, which may have options, at a place.
fn opening(editor: &str, place: &Place) -> Opening {
    let mut words: Vec<String> = split(editor);
    let (line, column) = (place.line, place.column);
    let file = place.file.to_string_lossy().into_owned();
    let program = words.first().map(|first| first.rsplit(['/', '\\']).next().unwrap_or(first)).unwrap_or_default();
    let program = program.trim_end_matches(".exe").to_owned();
    let has_no_window = |words: &[String]| words.iter().any(|word| matches!(word.as_str(), "-t" | "-tty" | "-nw"));
    let has_window = match program.as_str() {
        "code" | "code-insiders" | "codium" | "cursor" | "windsurf" | "subl" | "zed" | "zeditor" | "mate" | "kate"
        | "gedit" | "gvim" | "mvim" | "idea" | "clion" | "rustrover" => true,
        "emacsclient" => words.iter().any(|word| matches!(word.as_str(), "-c" | "-n")) && !has_no_window(&words),
        _ => false,
    };
    match program.as_str() {
        "code" | "code-insiders" | "codium" | "cursor" | "windsurf" => {
            words.extend(["-g".to_owned(), format!("{file}:{line}:{column}")]);
        }
        "hx" | "helix" | "subl" | "zed" | "zeditor" | "micro" => words.push(format!("{file}:{line}:{column}")),
        "idea" | "clion" | "rustrover" | "kate" => {
            let at = ["--line".to_owned(), line.to_string(), "--column".to_owned(), column.to_string()];
            words.extend(at.into_iter().chain([file]));
        }
        "mate" => words.extend(["-l".to_owned(), format!("{line}:{column}"), file]),
        "nano" => words.extend([format!("+{line},{column}"), file]),
        "emacs" | "emacsclient" | "kak" | "gedit" => words.extend([format!("+{line}:{column}"), file]),
        "vi" | "vim" | "nvim" | "gvim" | "mvim" | "view" | "ex" | "joe" | "mg" | "ne" | "jed" => {
            words.extend([format!("+{line}"), file]);
        }
        // Whatever it is, it opens a file.
        _ => words.push(file),
    }
    Opening { words, has_window }
}

/// The words of a command, in which quotes hold words together.
fn split(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editors_are_told_the_line_as_each_of_them_wants_it() {
        let place = Place { file: "/x/a b.rs".into(), line: 12, column: 3 };
        let told = |editor: &str| {
            let opening = opening(editor, &place);
            (opening.words.join("|"), opening.has_window)
        };
        assert_eq!(told("vim"), ("vim|+12|/x/a b.rs".to_owned(), false));
        assert_eq!(told("/usr/bin/nvim -u NONE"), ("/usr/bin/nvim|-u|NONE|+12|/x/a b.rs".to_owned(), false));
        assert_eq!(told("code --wait"), ("code|--wait|-g|/x/a b.rs:12:3".to_owned(), true));
        assert_eq!(told("'/opt/my code/hx'"), ("/opt/my code/hx|/x/a b.rs:12:3".to_owned(), false));
        assert_eq!(told("nano"), ("nano|+12,3|/x/a b.rs".to_owned(), false));
        assert_eq!(told("emacs -nw"), ("emacs|-nw|+12:3|/x/a b.rs".to_owned(), false));
        assert!(told("emacsclient -c").1 && !told("emacsclient -t").1);
        assert_eq!(told("rustrover").0, "rustrover|--line|12|--column|3|/x/a b.rs");
        assert_eq!(told("something"), ("something|/x/a b.rs".to_owned(), false));
    }
}

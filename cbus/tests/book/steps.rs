//! The steps of a page: its commands and its diffs.

use std::path::Path;

/// The words of a command, in which single quotes hold words together.
pub fn words(command: &str) -> Vec<String> {
    let parts = command.split('\'').enumerate();
    let words = parts.flat_map(|(number, part)| match number % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

/// Changes a file as a diff says, in which `@@` stands for lines between its parts.
pub fn apply(file: &Path, diff: &str) {
    let mut text = std::fs::read_to_string(file).expect("the file");
    for part in diff.split("@@\n") {
        let side = |other: char| -> String {
            let lines = part.lines().filter(|line| !line.starts_with(other));
            lines.map(|line| format!("{}\n", line.get(1..).unwrap_or_default())).collect()
        };
        let (before, after) = (side('+'), side('-'));
        assert_eq!(text.matches(&before).count(), 1, "{} has this once:\n{before}\nbut is\n{text}", file.display());
        text = text.replace(&before, &after);
    }
    // One save, as an editor makes it.
    let next = file.with_extension("next");
    std::fs::write(&next, text).expect("writing");
    std::fs::rename(&next, file).expect("renaming");
}

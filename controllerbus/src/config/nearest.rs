//! "Did you mean": the known name that is nearest to a wrong one.

/// The candidate that is nearest to `name`, if it is near enough to be what was meant.
///
/// ```
/// let known = ["example/greeter", "clock"];
/// assert_eq!(controllerbus::__private::nearest("example/greter", known), Some("example/greeter"));
/// assert_eq!(controllerbus::__private::nearest("database", known), None);
/// ```
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, best) =
        candidates.into_iter().map(|candidate| (distance(name, candidate), candidate)).min_by_key(|found| found.0)?;
    (distance <= name.chars().count().max(best.chars().count()) / 3).then_some(best)
}

/// How many letters have to be inserted, deleted or replaced to turn one name into the other (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

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

/// How many letters have to be inserted, deleted, replaced or swapped with the next one to turn one name into the other (the
/// optimal string alignment of Damerau and Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (above[j] + usize::from(x != y)).min(row[j] + 1).min(above[j + 1] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn two_letters_that_changed_places_are_one_mistake() {
        assert_eq!(nearest("tmies", ["zone", "times"]), Some("times"));
        for (a, b, apart) in [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("abc", "cab", 2), ("kitten", "sitting", 3)] {
            assert_eq!((distance(a, b), distance(b, a)), (apart, apart), "{a} {b}");
        }
    }
}

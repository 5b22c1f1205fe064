//! "Did you mean …?": the nearest known word to a mistyped one.

/// Longest word that is compared; longer ones are no typing slips of ours.
const LONGEST: usize = 64;

/// `; did you mean "x"?` when a known word is near, else nothing.
pub(crate) fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

/// The known word that the fewest slips lead to, if they are few for its length.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = word.to_lowercase();
    let (slips, near) = known
        .into_iter()
        .filter_map(|known| Some((distance(&lower, &known.to_lowercase())?, known)))
        .min_by_key(|(slips, _)| *slips)?;
    let allowed = (near.chars().count().min(word.chars().count()) / 4).clamp(1, 2);
    (slips <= allowed).then_some(near)
}

/// How many letters were inserted, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LONGEST || b.len() > LONGEST {
        return None;
    }
    let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX);
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = at(&last, j) + usize::from(x != y);
            let inserted = at(&row, j).min(at(&last, j + 1)) + 1;
            let swapped = match (i.checked_sub(1), j.checked_sub(1)) {
                (Some(h), Some(k)) if a.get(h) == Some(y) && b.get(k) == Some(x) => at(&before_last, k) + 1,
                _ => usize::MAX,
            };
            row.push(replaced.min(inserted).min(swapped));
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_slips() {
        check("", "abc", 3);
        check("require", "require", 0);
        check("requier", "require", 1);
        check("requird", "require", 1);
        check("equire", "require", 1);
        check("requiree", "require", 1);
        check("kitten", "sitting", 3);
    }

    #[track_caller]
    fn check(a: &str, b: &str, expected: usize) {
        assert_eq!(distance(a, b), Some(expected), "{a} {b}");
        assert_eq!(distance(b, a), Some(expected), "{b} {a}");
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["networks", "models", "url"];
        assert_eq!(nearest("network", known), Some("networks"));
        assert_eq!(nearest("Models", known), Some("models"));
        assert_eq!(nearest("uri", known), Some("url"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"n".repeat(1000), known), None);
        assert_eq!(did_you_mean("modles", known), "; did you mean \"models\"?");
    }
}

//! Names that are almost right.

/// Letters that may be wrong, missing or too many in a name that is still taken for another.
const MAX_MISTAKES: usize = 2;

/// A name without what is easily mistaken in it: underscores, and upper and lower case.
pub fn folded(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The name that is most like one that was folded, if any is much like it.
pub fn closest<'a>(letters: &str, names: &'a [String]) -> Option<&'a str> {
    let mistakes = |name: &'a String| (distance(letters, &folded(name)), name);
    let (mistakes, name) = names.iter().map(mistakes).min_by_key(|(mistakes, _)| *mistakes)?;
    (mistakes <= MAX_MISTAKES).then_some(name)
}

/// How many letters have to be put in, taken out or replaced.
pub fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_counted() {
        for (one, other, mistakes) in
            [("", "", 0), ("", "ab", 2), ("port", "prot", 2), ("port", "ports", 1), ("a", "b", 1)]
        {
            assert_eq!(distance(one, other), mistakes, "{one} {other}");
            assert_eq!(distance(other, one), mistakes, "{other} {one}");
        }
    }
}

//! Lists in bodies, which are read no further than they may be long.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};

/// A list of at most `MAX`. What the list must hold at least is for others to see; here it is only
/// told.
#[derive(Debug)]
pub struct Limited<T, const MIN: usize, const MAX: usize>(pub Vec<T>);

impl<T, const MIN: usize, const MAX: usize> Default for Limited<T, MIN, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Deserialize<'de>
    for Limited<T, MIN, MAX>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Reader::<T, MIN, MAX>(PhantomData))
    }
}

struct Reader<T, const MIN: usize, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Visitor<'de>
    for Reader<T, MIN, MAX>
{
    type Value = Limited<T, MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while entries.len() < MAX {
            match list.next_element()? {
                Some(entry) => entries.push(entry),
                None => return Ok(Limited(entries)),
            }
        }
        match list.next_element::<IgnoredAny>()? {
            None => Ok(Limited(entries)),
            Some(_) => Err(de::Error::custom(format_args!(
                "must hold {MIN} to {MAX} entries, not {} or more",
                MAX + 1
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_up_to_its_bound() {
        let read = serde_json::from_str::<Limited<u8, 1, 3>>;
        assert!(read("[]").expect("a list").0.is_empty());
        assert_eq!(read("[1,2,3]").expect("a list").0, [1, 2, 3]);
        // What stands behind the bound is not looked at.
        for over in ["[1,2,3,4]", "[1,2,3,4,5]", r#"[1,2,3,{"a":[]},"b""#] {
            let refused = read(over).expect_err("one too many").to_string();
            assert!(refused.starts_with("must hold 1 to 3 entries, not 4 or more"), "{refused}");
        }
        for wrong in ["[1,2,", "[1,\"a\"]", "1", "null", "{}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

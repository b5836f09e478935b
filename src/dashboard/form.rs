//! What a form, or the part of a URL behind the `?`, says.

use axum::extract::Request;
use percent_encoding::percent_decode;

use crate::http::{Gate, read_up_to};

use super::failure::Failure;

/// The most fields of one: a thousand ids of messages, and what is said of them.
const MAX_FIELDS: usize = 1_100;

/// Fields in their order; a name may come again.
#[derive(Clone, Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// What stands behind the `?`, of these fields alone.
    pub(super) fn of_query(query: Option<&str>, known: &[&'static str]) -> Result<Self, Failure> {
        Self::parse(query.unwrap_or_default().as_bytes(), known)
    }

    /// The body of a request, of at most so many bytes.
    pub(super) async fn read(
        request: Request,
        gate: &Gate,
        limit: u64,
        known: &[&'static str],
    ) -> Result<Self, Failure> {
        let text = read_up_to(limit, request, gate).await?;
        let (bytes, known) = (text.len() as u64, known.to_vec());
        gate.cpu_pool.run(bytes, move || Self::parse(&text, &known)).await?
    }

    /// No field is looked at behind the first that cannot be one.
    fn parse(text: &[u8], known: &[&'static str]) -> Result<Self, Failure> {
        let mut fields = Vec::new();
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            if fields.len() == MAX_FIELDS {
                return Err(Failure::invalid(format!(
                    "The form has more than {MAX_FIELDS} fields."
                )));
            }
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let name = decoded(parts.next().unwrap_or_default())?;
            if !known.contains(&&*name) {
                let known = known.join("`, `");
                return Err(Failure::invalid(format!(
                    "There is no field `{name}` here; the fields are `{known}`."
                )));
            }
            fields.push((name, decoded(parts.next().unwrap_or_default())?));
        }
        Ok(Self(fields))
    }

    /// How much it says.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, value)| value.len()).sum()
    }

    /// What a field says; nothing where it is missing or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// The same as it came, white space and all.
    pub(super) fn raw(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// All that a field says that may come again.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.trim())
    }

    /// What a field says, as a type; an error that names it where it makes no sense.
    pub(super) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T::Err: std::fmt::Display,
    {
        let parsed = self.get(name).map(str::parse::<T>).transpose();
        parsed.map_err(|error| Failure::invalid(format!("`{name}` {error}")))
    }
}

/// What is no UTF-8 is refused: it would come to be other text.
fn decoded(part: &[u8]) -> Result<String, Failure> {
    let mut bytes = Vec::with_capacity(part.len());
    for (index, piece) in part.split(|byte| *byte == b'+').enumerate() {
        if index > 0 {
            bytes.push(b' ');
        }
        bytes.extend(percent_decode(piece));
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::invalid("The form cannot be read: it is not as a browser sends one."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, String)>, String> {
        let parsed = Form::parse(text.as_bytes(), &["a", "b"]);
        parsed.map(|form| form.0).map_err(|failure| failure.detail().to_owned())
    }

    #[test]
    fn fields_are_read_as_browsers_write_them() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (text, expected) in [
            ("", vec![]),
            ("&&", vec![]),
            ("a", vec![pair("a", "")]),
            ("a=1&b=2&a=3", vec![pair("a", "1"), pair("b", "2"), pair("a", "3")]),
            ("a=x+y%2B%C3%A9=", vec![pair("a", "x y+é=")]),
            ("%61=%", vec![pair("a", "%")]),
        ] {
            assert_eq!(parsed(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn nothing_is_read_behind_what_cannot_be_a_field() {
        for (text, detail) in [
            ("a=1&c=2&a=%FF", "There is no field `c` here"),
            ("a=%FF&c=2", "The form cannot be read"),
            (&*"a&".repeat(MAX_FIELDS + 1), "The form has more than 1100 fields"),
        ] {
            let refused = parsed(text).expect_err(detail);
            assert!(refused.starts_with(detail), "{refused}");
        }
        assert_eq!(parsed(&"a&".repeat(MAX_FIELDS)).map(|fields| fields.len()), Ok(MAX_FIELDS));
    }
}

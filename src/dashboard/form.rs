//! What a form, or the part of a URL behind the `?`, says.

use axum::extract::Request;
use percent_encoding::percent_decode;

use crate::http::{Gate, read_up_to};

use super::failure::Failure;

/// Fields in their order; a name may come again.
#[derive(Clone, Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// What stands behind the `?`, of these fields alone.
    pub(super) fn of_query(query: Option<&str>, known: &[&str]) -> Result<Self, Failure> {
        Self::parse(query.unwrap_or_default().as_bytes(), known)
    }

    /// The body of a request, of at most so many bytes.
    pub(super) async fn read(
        request: Request,
        gate: &Gate,
        limit: u64,
        known: &[&str],
    ) -> Result<Self, Failure> {
        Self::parse(&read_up_to(limit, request, gate).await?, known)
    }

    fn parse(text: &[u8], known: &[&str]) -> Result<Self, Failure> {
        let unreadable =
            || Failure::invalid("The form cannot be read: it is not as a browser sends one.");
        // What is no UTF-8 would come to be other text.
        percent_decode(text).decode_utf8().map_err(|_| unreadable())?;
        let fields: Vec<(String, String)> =
            serde_urlencoded::from_bytes(text).map_err(|_| unreadable())?;
        if let Some((name, _)) = fields.iter().find(|(name, _)| !known.contains(&&**name)) {
            let known = known.join("`, `");
            return Err(Failure::invalid(format!(
                "There is no field `{name}` here; the fields are `{known}`."
            )));
        }
        Ok(Self(fields))
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

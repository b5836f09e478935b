//! Message attributes: which there can be, and which a stored message has.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Number, value::RawValue};

use crate::domain::{JsonObject, SENDER_HEADER};

use super::{
    error::{Kind, Result, SqsError},
    headers::TRACE,
};

/// The most message attributes.
pub(super) const MAX_ATTRIBUTES: usize = 10;
/// Headers of these kinds are no attributes of the sender's.
const OWN_PREFIXES: [&str; 4] = ["x-pgmq-", "x-dead-letter-", "x-message-", "x-deduplication-"];
/// Nor are these.
const OWN: [&str; 2] = [TRACE, SENDER_HEADER];

/// The value of a message attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct AttributeValue {
    /// `String`, `Number` or `Binary`, and maybe a `.` and a suffix of the sender's own.
    pub(super) data_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) string_value: Option<String>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) binary_value: Option<String>,
}

impl AttributeValue {
    /// The bytes of one that is binary.
    pub(super) fn binary(&self) -> Option<Vec<u8>> {
        let is_binary = self.data_type.split('.').next() == Some("Binary");
        let text = self.binary_value.as_deref().filter(|_| is_binary)?;
        STANDARD.decode(text).ok()
    }

    /// The same without what does not belong to its type.
    pub(super) fn of_its_type(self) -> Self {
        let is_binary = self.data_type.split('.').next() == Some("Binary");
        let (text, binary) = (self.string_value, self.binary_value);
        Self {
            data_type: self.data_type,
            string_value: text.filter(|_| !is_binary),
            binary_value: binary.filter(|_| is_binary),
        }
    }

    /// A text.
    pub(super) fn text(data_type: &str, value: String) -> Self {
        Self { data_type: data_type.to_owned(), string_value: Some(value), binary_value: None }
    }
}

/// The attributes that a message was stored with. Clients of REST and SQL can put anything there: what is no
/// attribute is left out, as clients of SQS may fail at the whole answer.
pub(super) fn stored_attributes(stored: &RawValue) -> BTreeMap<String, AttributeValue> {
    // What is in there is read where it may be an attribute, as it takes many times its text.
    let stored: BTreeMap<String, &RawValue> =
        serde_json::from_str(stored.get()).unwrap_or_default();
    let attribute = |(name, value): (String, &RawValue)| {
        let value = serde_json::from_str::<JsonObject<AttributeValue>>(value.get()).ok()?.0;
        check_attribute(&name, &value).ok()?;
        Some((name, value.of_its_type()))
    };
    stored.into_iter().filter_map(attribute).take(MAX_ATTRIBUTES).collect()
}

/// Headers of REST and SQL clients that have a text or a number in them.
pub(super) fn foreign_attributes(
    headers: &BTreeMap<String, &RawValue>,
) -> BTreeMap<String, AttributeValue> {
    let attribute = |(name, value): (&String, &&RawValue)| {
        let is_own = OWN.contains(&name.as_str())
            || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if is_own || !is_name(name) {
            return None;
        }
        Some((name.clone(), foreign_attribute(value.get())?))
    };
    headers.iter().filter_map(attribute).take(MAX_ATTRIBUTES).collect()
}

fn foreign_attribute(json: &str) -> Option<AttributeValue> {
    match json.as_bytes().first()? {
        b'"' => {
            let text = serde_json::from_str::<String>(json).ok()?;
            let is_fine = !text.is_empty() && text.chars().all(is_legal);
            is_fine.then(|| AttributeValue::text("String", text))
        }
        b'-' | b'0'..=b'9' => {
            let number = serde_json::from_str::<Number>(json).ok()?;
            // A float may have lost digits.
            (!number.is_f64()).then(|| AttributeValue::text("Number", number.to_string()))
        }
        _ => None,
    }
}

/// Refuses what can be no attribute.
pub(super) fn check_attribute(name: &str, value: &AttributeValue) -> Result<()> {
    let refuse = |message: String| Err(SqsError::invalid(message));
    if !is_name(name) {
        return refuse(format!(
            "Message (user) attribute name '{name}' is invalid: it has 1 to 256 letters, digits, underscores, \
             hyphens and single periods, and begins neither with a period nor with AWS. or Amazon."
        ));
    }
    if value.data_type.is_empty() {
        return refuse(format!(
            "The message attribute '{name}' must contain non-empty message attribute type."
        ));
    }
    let kind = value.data_type.split('.').next().unwrap_or_default();
    if !matches!(kind, "String" | "Number" | "Binary") || value.data_type.len() > 256 {
        return refuse(format!(
            "The type of message (user) attribute '{name}' is invalid. You must use only the following supported \
             type prefixes: Binary, Number, String."
        ));
    }
    let text = value.string_value.as_deref().unwrap_or_default();
    let is_empty = match kind {
        "Binary" => value.binary().is_none_or(|bytes| bytes.is_empty()),
        _ => text.is_empty(),
    };
    if is_empty {
        return refuse(format!(
            "Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'."
        ));
    }
    if kind == "Number" && !is_number(text.trim()) {
        return refuse(format!(
            "Can't cast the value of message (user) attribute '{name}' to a number."
        ));
    }
    let is_legal = text.chars().chain(value.data_type.chars()).all(is_legal);
    if is_legal { Ok(()) } else { Err(illegal()) }
}

/// Whether an attribute can have this name.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let lower = name.to_ascii_lowercase();
    (1..=256).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
}

/// Whether a character may stand in a message.
pub(super) fn is_legal(character: char) -> bool {
    matches!(character,
        '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Whether this is a number in digits: neither infinity nor what is no number.
fn is_number(text: &str) -> bool {
    let is_word =
        text.bytes().any(|byte| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E'));
    !is_word && text.parse::<f64>().is_ok()
}

/// What is told of a character that may not stand in a message.
pub(super) fn illegal() -> SqsError {
    SqsError::new(
        Kind::InvalidMessageContents,
        "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to \
         #xFFFD | #x10000 to #x10FFFF",
    )
}

//! Message attributes: which there can be, and which a stored message has.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    error::{Kind, Result, SqsError},
    message::{SENDER, TRACE},
    shapes::AttributeValue,
};

/// The most message attributes.
pub(super) const MAX_ATTRIBUTES: usize = 10;
/// Headers of these kinds are no attributes of the sender's.
const OWN_PREFIXES: [&str; 4] = ["x-pgmq-", "x-dead-letter-", "x-message-", "x-deduplication-"];
/// Nor are these.
const OWN: [&str; 2] = [TRACE, SENDER];

/// The attributes that a message was stored with. Clients of REST and SQL can put anything there: what is no
/// attribute is left out, as clients of SQS may fail at the whole answer.
pub(super) fn stored_attributes(stored: &Value) -> BTreeMap<String, AttributeValue> {
    let attribute = |(name, value): (&String, &Value)| {
        let value = AttributeValue::deserialize(value).ok()?;
        check_attribute(name, &value).ok()?;
        Some((name.clone(), value.of_its_type()))
    };
    stored.as_object().into_iter().flatten().filter_map(attribute).take(MAX_ATTRIBUTES).collect()
}

/// Headers of REST and SQL clients that have a text or a number in them.
pub(super) fn foreign_attributes<'a>(
    headers: impl Iterator<Item = (&'a str, Value)>,
) -> BTreeMap<String, AttributeValue> {
    let attribute = |(name, value): (&str, Value)| {
        let value = match value {
            Value::String(text) if !text.is_empty() && text.chars().all(is_legal) => {
                AttributeValue::text("String", text)
            }
            // A float may have lost digits.
            Value::Number(number) if !number.is_f64() => {
                AttributeValue::text("Number", number.to_string())
            }
            _ => return None,
        };
        let is_own =
            OWN.contains(&name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        (is_name(name) && !is_own).then(|| (name.to_owned(), value))
    };
    headers.filter_map(attribute).take(MAX_ATTRIBUTES).collect()
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

//! The MD5 sums with which SDKs check what was stored and what was delivered.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

use super::message_attributes::AttributeValue;

/// Of a body, in hexadecimal digits.
pub(super) fn of_body(body: &str) -> String {
    hex(&Md5::digest(body.as_bytes()))
}

/// Of attributes, sorted by name; nothing of none, as clients take the MD5 of nothing for a mistake.
pub(super) fn of_attributes(attributes: &BTreeMap<String, AttributeValue>) -> Option<String> {
    if attributes.is_empty() {
        return None;
    }
    let mut sum = Md5::new();
    for (name, value) in attributes {
        sized(&mut sum, name.as_bytes());
        sized(&mut sum, value.data_type.as_bytes());
        if let Some(bytes) = value.binary() {
            sum.update([2]);
            sized(&mut sum, &bytes);
        } else {
            sum.update([1]);
            sized(&mut sum, value.string_value.as_deref().unwrap_or_default().as_bytes());
        }
    }
    Some(hex(&sum.finalize()))
}

fn sized(sum: &mut Md5, bytes: &[u8]) {
    sum.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    sum.update(bytes);
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    fn text(value: &str) -> AttributeValue {
        AttributeValue {
            data_type: "String".to_owned(),
            string_value: Some(value.to_owned()),
            ..AttributeValue::default()
        }
    }

    fn named(pairs: &[(&str, AttributeValue)]) -> BTreeMap<String, AttributeValue> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn bodies_have_the_sums_that_the_service_answers() {
        for (body, sum) in [
            ("Test1", "e1b849f9631ffc1829b2e31402373e3c"),
            ("msg", "6e2baaf3b97dbeef01c0043275f9a0e7"),
            ("foobar", "3858f62230ac3c915f300c664312c63f"),
        ] {
            assert_eq!(of_body(body), sum, "{body}");
        }
    }

    #[test]
    fn attributes_have_the_sums_that_the_service_answers() {
        assert_eq!(of_attributes(&BTreeMap::new()), None);
        let three = named(&[
            ("Help.Me", text("Me")),
            ("Hello", text("There")),
            ("General", text("Kenobi")),
        ]);
        assert_eq!(of_attributes(&three).as_deref(), Some("4c360f3fdafd970e05fae2f149d997f5"));
        let one = named(&[("Foo", text("Bar"))]);
        assert_eq!(of_attributes(&one).as_deref(), Some("ae7155c6026991b6d54b11589678bf9c"));
        let trace = b"traceparent\x1e00-774062d6c37081a5a0b9b5b88e30627c-2d2482211f6489da-01";
        let binary = AttributeValue {
            data_type: "Binary".to_owned(),
            binary_value: Some(STANDARD.encode(trace)),
            ..AttributeValue::default()
        };
        let binary = named(&[("attr1", binary)]);
        assert_eq!(of_attributes(&binary).as_deref(), Some("8cbe4db156db8a94db8b801b7addb984"));
    }
}

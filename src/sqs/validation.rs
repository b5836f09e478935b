//! What can be sent, and what cannot, in the words of the service.

use std::collections::BTreeMap;

use super::{
    error::{Result, SqsError},
    message_attributes::{AttributeValue, MAX_ATTRIBUTES, check_attribute, illegal, is_legal},
    sending_rules::Rules,
    shapes::{SendMessage, required},
};

/// Seconds that a message can be delayed.
const MAX_DELAY: i64 = 900;
/// The system attribute that a message can be sent with.
pub(super) const TRACE_ATTRIBUTE: &str = "AWSTraceHeader";
/// Bytes of its value: an X-Ray header has some dozens.
pub(super) const MAX_TRACE_BYTES: usize = 2_048;
const UNFIT: &str = "The request include parameter that is not valid for this queue type.";

/// Refuses what makes a request invalid, or a batch as a whole.
pub(super) fn check_request(input: &SendMessage, rules: &Rules, is_entry: bool) -> Result<()> {
    required(input.message_body.as_ref(), "MessageBody")?;
    if rules.is_fifo && input.message_group_id.is_none() {
        let missing = SqsError::missing("MessageGroupId");
        return Err(if is_entry { SqsError::invalid(missing.message) } else { missing });
    }
    if rules.is_fifo && !rules.is_content_based && input.message_deduplication_id.is_none() {
        return Err(SqsError::invalid(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId \
             provided explicitly",
        ));
    }
    Ok(())
}

/// Refuses what cannot be a message; in a batch for its entry alone.
pub(super) fn check_message(input: &SendMessage, rules: &Rules) -> Result<()> {
    check_parameters(input, rules)?;
    if bytes(input) > rules.sending.max_bytes {
        return Err(too_large(rules.sending.max_bytes));
    }
    check_contents(input)
}

fn check_parameters(input: &SendMessage, rules: &Rules) -> Result<()> {
    if let Some(group) = &input.message_group_id {
        check_id(group, "MessageGroupId")?;
    }
    if let Some(delay) = input.delay_seconds {
        let value = delay.to_string();
        if rules.is_fifo && delay != 0 {
            return Err(SqsError::value(&value, "DelaySeconds", UNFIT));
        }
        if !(0..=MAX_DELAY).contains(&delay) {
            let reason = format!("DelaySeconds must be >= 0 and <= {MAX_DELAY}.");
            return Err(SqsError::value(&value, "DelaySeconds", &reason));
        }
    }
    match &input.message_deduplication_id {
        Some(id) if rules.is_fifo => check_id(id, "MessageDeduplicationId"),
        Some(id) => Err(SqsError::value(id, "MessageDeduplicationId", UNFIT)),
        None => Ok(()),
    }
}

fn check_id(id: &str, parameter: &str) -> Result<()> {
    if (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let reason = format!(
        "{parameter} can only include alphanumeric and punctuation characters. 1 to 128 in length."
    );
    Err(SqsError::value(id, parameter, &reason))
}

/// Bytes as the service counts them.
pub(super) fn bytes(input: &SendMessage) -> u64 {
    let attributes = input.message_attributes.iter().flatten();
    let attributes = attributes.map(|(name, value)| {
        let binary = value.binary().map_or(0, |bytes| bytes.len());
        let text = value.string_value.as_ref().map_or(0, String::len);
        name.len() + value.data_type.len() + if binary > 0 { binary } else { text }
    });
    let attributes: usize = attributes.sum();
    (input.message_body.as_ref().map_or(0, String::len) + attributes) as u64
}

fn too_large(max_bytes: u64) -> SqsError {
    SqsError::invalid(format!(
        "One or more parameters are invalid. Reason: Message must be shorter than {max_bytes} bytes."
    ))
}

fn check_contents(input: &SendMessage) -> Result<()> {
    if !input.message_body.as_deref().unwrap_or_default().chars().all(is_legal) {
        return Err(illegal());
    }
    let attributes = input.message_attributes.as_ref();
    if let Some(count) = attributes.map(BTreeMap::len).filter(|count| *count > MAX_ATTRIBUTES) {
        return Err(SqsError::invalid(format!(
            "Number of message attributes [{count}] exceeds the allowed maximum [{MAX_ATTRIBUTES}]."
        )));
    }
    for (name, value) in attributes.into_iter().flatten() {
        check_attribute(name, value)?;
    }
    for (name, value) in input.message_system_attributes.iter().flatten() {
        check_system_attribute(name, value)?;
    }
    Ok(())
}

fn check_system_attribute(name: &str, value: &AttributeValue) -> Result<()> {
    if name != TRACE_ATTRIBUTE {
        return Err(SqsError::invalid(format!(
            "Message system attribute name '{name}' is invalid."
        )));
    }
    let text = value.string_value.as_deref().filter(|_| value.data_type == "String");
    let Some(text) = text else {
        return Err(SqsError::invalid(format!(
            "Message system attribute '{name}' must be of type 'String'."
        )));
    };
    if text.is_empty() {
        return Err(SqsError::invalid(format!(
            "Message system attribute '{name}' must contain a non-empty value of type 'String'."
        )));
    }
    // No limit on a message counts it.
    if text.len() > MAX_TRACE_BYTES {
        return Err(SqsError::invalid(format!(
            "Message system attribute '{name}' must have at most {MAX_TRACE_BYTES} bytes."
        )));
    }
    if text.chars().all(is_legal) { Ok(()) } else { Err(illegal()) }
}

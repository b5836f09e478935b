//! SendMessage and SendMessageBatch.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    broker::{QueueAttributes, QueueRules, Sent},
    domain::{Delay, NewMessage, Visibility},
    http::{Caller, QueuePermit, right},
};

use super::{
    batch::{self, Batch},
    call::{Call, Output, internal, queue_of},
    digest,
    error::{Kind, Result, SqsError},
    message::{Envelope, MAX_ATTRIBUTES, is_legal, is_name},
    names::SqsName,
    shapes::{AttributeValue, SendMessage, SendMessageBatch, required},
};

/// Bytes of a batch.
const MAX_BATCH_BYTES: u64 = 1_048_576;
/// Seconds that a message can be delayed.
const MAX_DELAY: i64 = 900;
const TRACE_ATTRIBUTE: &str = "AWSTraceHeader";
const UNFIT: &str = "The request include parameter that is not valid for this queue type.";

/// Leave to store messages.
type Permit = QueuePermit<right::Send>;

/// What holds for the messages of a queue.
struct Rules {
    is_fifo: bool,
    is_content_based: bool,
    in_group: bool,
    sending: QueueRules,
}

impl Rules {
    fn new(name: &SqsName, attributes: &QueueAttributes, sending: QueueRules) -> Self {
        let is = |attribute: &str, value: &str| {
            attributes.attributes.get(attribute).is_some_and(|is| is == value)
        };
        Self {
            is_fifo: name.is_fifo(),
            is_content_based: is("ContentBasedDeduplication", "true"),
            in_group: is("DeduplicationScope", "messageGroup"),
            sending,
        }
    }
}

/// What the sender is told beside the id.
#[derive(Debug)]
struct Receipt {
    id: String,
    body_md5: String,
    attributes_md5: Option<String>,
    system_md5: Option<String>,
}

/// Stores a message.
pub(super) async fn send(call: &Call, caller: Caller, input: SendMessage) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let rules = rules(&permit, &name).await?;
    check(&input, &rules, false)?;
    if bytes(&input) > rules.sending.max_bytes {
        return Err(too_large(rules.sending.max_bytes));
    }
    check_contents(&input)?;
    let names_group = input.message_group_id.is_some();
    let (new, receipt) = seal(call, input, &rules)?;
    let mut sent = store(&permit, &name, vec![new], vec![receipt], &rules.sending).await?;
    let sent = sent.pop().unwrap_or_else(|| Err(internal("The message has no outcome.")))?;
    if names_group {
        heed_groups(call, &permit, &name, &rules);
    }
    Ok(Some(sent))
}

/// As with AWS, tenants that are named on a standard queue take turns.
fn heed_groups(call: &Call, permit: &Permit, name: &SqsName, rules: &Rules) {
    let heeds_groups = rules.is_fifo || rules.sending.fifo || rules.sending.fair;
    if call.fair_queues && !heeds_groups {
        permit.broker.make_fair(&name.queue);
    }
}

/// Stores messages; each is stored or fails alone.
pub(super) async fn send_batch(
    call: &Call,
    caller: Caller,
    input: SendMessageBatch,
) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let entries = input.entries.unwrap_or_default();
    batch::check("SendMessageBatchRequestEntry", entries.iter().map(|entry| entry.id.as_deref()))?;
    let total: u64 = entries.iter().map(bytes).sum();
    if total > MAX_BATCH_BYTES {
        return Err(SqsError::new(
            Kind::BatchRequestTooLong,
            format!(
                "Batch requests cannot be longer than {MAX_BATCH_BYTES} bytes. You have sent {total} bytes."
            ),
        ));
    }
    let rules = rules(&permit, &name).await?;
    for entry in &entries {
        check(entry, &rules, true)?;
    }
    let names_group = entries.iter().any(|entry| entry.message_group_id.is_some());
    let mut batch = Batch::default();
    let (mut ids, mut new, mut receipts) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let id = entry.id.clone().unwrap_or_default();
        match seal_entry(call, entry, &rules) {
            Ok((message, receipt)) => {
                ids.push(id);
                new.push(message);
                receipts.push(receipt);
            }
            Err(error) => batch.failed(&id, &error),
        }
    }
    let outcomes = store(&permit, &name, new, receipts, &rules.sending).await?;
    for (id, outcome) in ids.iter().zip(outcomes) {
        match outcome {
            Ok(output) => batch.done(id, output),
            Err(error) => batch.failed(id, &error),
        }
    }
    if names_group {
        heed_groups(call, &permit, &name, &rules);
    }
    Ok(Some(batch.output()))
}

fn seal_entry(call: &Call, entry: SendMessage, rules: &Rules) -> Result<(NewMessage, Receipt)> {
    if bytes(&entry) > rules.sending.max_bytes {
        return Err(too_large(rules.sending.max_bytes));
    }
    check_contents(&entry)?;
    seal(call, entry, rules)
}

async fn rules(permit: &Permit, name: &SqsName) -> Result<Rules> {
    let attributes = permit.broker.attributes(&permit.call, &name.queue).await?;
    Ok(Rules::new(name, &attributes, permit.broker.queue_rules(&name.queue).await?))
}

/// Stores messages and says of each what became of it.
async fn store(
    permit: &Permit,
    name: &SqsName,
    new: Vec<NewMessage>,
    receipts: Vec<Receipt>,
    rules: &QueueRules,
) -> Result<Vec<Result<Map<String, Value>>>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let again = if name.is_fifo() { new.clone() } else { Vec::new() };
    let sent = permit.broker.send_each(&permit.call, &name.queue, new, rules).await?;
    let known = if sent.iter().flatten().any(|sent| sent.is_duplicate) {
        permit.broker.first_message_ids(&permit.call, &name.queue, again).await?
    } else {
        Vec::new()
    };
    let outcome = |(place, (sent, receipt)): (usize, (_, Receipt))| {
        let sent: Sent = match sent {
            Ok(sent) => sent,
            Err(error) => return Err(SqsError::from(error)),
        };
        let first = known.get(place).cloned().flatten().filter(|_| sent.is_duplicate);
        let mut output = receipt.output(first);
        if name.is_fifo() {
            output.insert("SequenceNumber".to_owned(), json!(sequence_number(sent.msg_id)));
        }
        Ok(output)
    };
    Ok(sent.into_iter().zip(receipts).enumerate().map(outcome).collect())
}

/// As the service writes it: twenty digits that grow.
pub(super) fn sequence_number(msg_id: i64) -> String {
    format!("{msg_id:020}")
}

impl Receipt {
    fn output(self, first_id: Option<String>) -> Map<String, Value> {
        let mut output = Map::new();
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                output.insert(name.to_owned(), Value::String(value));
            }
        };
        put("MessageId", Some(first_id.unwrap_or(self.id)));
        put("MD5OfMessageBody", Some(self.body_md5));
        put("MD5OfMessageAttributes", self.attributes_md5);
        put("MD5OfMessageSystemAttributes", self.system_md5);
        output
    }
}

/// Refuses what makes a request, or the whole batch, invalid.
fn check(input: &SendMessage, rules: &Rules, is_entry: bool) -> Result<()> {
    required(input.message_body.as_ref(), "MessageBody")?;
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
    if !rules.is_fifo {
        return match &input.message_deduplication_id {
            Some(id) => Err(SqsError::value(id, "MessageDeduplicationId", UNFIT)),
            None => Ok(()),
        };
    }
    if input.message_group_id.is_none() {
        let missing = SqsError::missing("MessageGroupId");
        return Err(if is_entry { SqsError::invalid(missing.message) } else { missing });
    }
    match &input.message_deduplication_id {
        Some(id) => check_id(id, "MessageDeduplicationId"),
        None if rules.is_content_based => Ok(()),
        None => Err(SqsError::invalid(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId \
             provided explicitly",
        )),
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
fn bytes(input: &SendMessage) -> u64 {
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

/// Refuses what cannot be in a message; in a batch for its entry alone.
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
        if name != TRACE_ATTRIBUTE {
            return Err(SqsError::invalid(format!(
                "Message system attribute name '{name}' is invalid."
            )));
        }
        if value.data_type != "String" || value.string_value.is_none() {
            return Err(SqsError::invalid(format!(
                "Message system attribute '{name}' must be of type 'String'."
            )));
        }
    }
    Ok(())
}

fn illegal() -> SqsError {
    SqsError::new(
        Kind::InvalidMessageContents,
        "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to \
         #xFFFD | #x10000 to #x10FFFF",
    )
}

/// Whether this is a number in digits: neither infinity nor what is no number.
fn is_number(text: &str) -> bool {
    let is_word =
        text.bytes().any(|byte| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E'));
    !is_word && text.parse::<f64>().is_ok()
}

fn check_attribute(name: &str, value: &AttributeValue) -> Result<()> {
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
    if text.chars().all(is_legal) { Ok(()) } else { Err(illegal()) }
}

/// The message as it is stored, and what its sender is told.
fn seal(call: &Call, input: SendMessage, rules: &Rules) -> Result<(NewMessage, Receipt)> {
    let body = input.message_body.unwrap_or_default();
    let system = input.message_system_attributes.unwrap_or_default();
    // One that is binary and has a text too was never delivered with that text.
    let mut attributes = input.message_attributes.unwrap_or_default();
    for value in attributes.values_mut() {
        if value.binary().is_some() { value.string_value = None } else { value.binary_value = None }
    }
    let id = Uuid::new_v4().to_string();
    let receipt = Receipt {
        id: id.clone(),
        body_md5: digest::of_body(&body),
        attributes_md5: digest::of_attributes(&attributes),
        system_md5: digest::of_attributes(&system),
    };
    let trace = system.get(TRACE_ATTRIBUTE).and_then(|trace| trace.string_value.clone());
    let content_hash = || digest::hex(&Sha256::digest(body.as_bytes()));
    let deduplication_id = match input.message_deduplication_id {
        None if rules.is_fifo => Some(content_hash()),
        given => given,
    };
    let envelope = Envelope {
        id,
        attributes,
        trace: trace.or_else(|| call.trace.clone()),
        sender: call.sender.clone(),
        group: input.message_group_id,
        deduplication_id,
        deduplicate_in_group: rules.in_group,
    };
    // In a FIFO queue 0 means what the queue says.
    let delay = input.delay_seconds.filter(|_| !rules.is_fifo);
    let visible = delay.map(|seconds| Visibility::After(Delay::saturating(seconds)));
    let new = envelope.seal(&body, visible);
    let new = new.map_err(|error| SqsError::new(Kind::InternalFailure, error.to_string()))?;
    Ok((new, receipt))
}

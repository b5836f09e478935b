//! SendMessage and SendMessageBatch.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    broker::{self, QueueRules, Sent},
    domain::{Delay, NewMessage, Visibility},
    http::{Caller, QueuePermit, right},
};

use super::{
    batch::Batch,
    call::{Call, Output, internal, queue_of},
    digest,
    error::{Kind, Result, SqsError},
    message::{Envelope, derived_id},
    names::SqsName,
    sending_rules::Rules,
    shapes::{SendMessage, SendMessageBatch},
    validation::{TRACE_ATTRIBUTE, bytes, check_message, check_request},
};

/// Bytes of a batch.
const MAX_BATCH_BYTES: u64 = 1_048_576;

/// Leave to store messages.
type Permit = QueuePermit<right::Send>;

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
    check_request(&input, &rules, false)?;
    check_message(&input, &rules)?;
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
    let entries = entries.checked("SendMessageBatchRequestEntry", |entry| entry.id.as_deref())?;
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
        check_request(entry, &rules, true)?;
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
    check_message(&entry, rules)?;
    seal(call, entry, rules)
}

async fn rules(permit: &Permit, name: &SqsName) -> Result<Rules> {
    let attributes = permit.broker.attributes(&permit.call, &name.queue).await?;
    let sending = permit.broker.queue_rules(&name.queue).await?;
    // Another gateway may have made it a moment ago.
    if name.is_fifo()
        && !sending.fifo
        && !permit.broker.show_queue(&permit.call, name.queue.clone()).await?.fifo
    {
        let queue = &name.queue;
        let message = format!(
            "The queue {queue} is called as a FIFO queue and is none: it is not read in groups, and takes the same \
             message twice. PATCH /queues/{queue} with {{\"fifo\":true}} makes it one."
        );
        return Err(SqsError::new(Kind::UnsupportedOperation, message));
    }
    Ok(Rules::new(name, &attributes, sending))
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
    let known = first_ids(permit, name, again, &sent).await;
    let outcome = |(place, (sent, receipt)): (usize, (_, Receipt))| {
        let sent: Sent = match sent {
            Ok(sent) => sent,
            Err(error) => return Err(SqsError::from(error)),
        };
        let first = match &known {
            Ok(known) => known.get(place).cloned().flatten(),
            // What can be sent again: its id is all that is not known.
            Err(error) if sent.is_duplicate => return Err(error.clone()),
            Err(_) => None,
        };
        let mut output = receipt.output(first);
        if name.is_fifo() {
            output.insert("SequenceNumber".to_owned(), json!(sequence_number(sent.msg_id)));
        }
        Ok(output)
    };
    Ok(sent.into_iter().zip(receipts).enumerate().map(outcome).collect())
}

/// The ids of the messages that others turned out to be duplicates of, each in the place of its duplicate.
async fn first_ids(
    permit: &Permit,
    name: &SqsName,
    again: Vec<NewMessage>,
    sent: &[broker::Result<Sent>],
) -> Result<Vec<Option<String>>> {
    let duplicates: Vec<Option<i64>> = sent
        .iter()
        .map(|sent| sent.as_ref().ok().filter(|sent| sent.is_duplicate).map(|sent| sent.msg_id))
        .collect();
    if duplicates.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let (broker, call) = (&permit.broker, &permit.call);
    let told = broker.first_message_ids(call, &name.queue, again).await?;
    let told = told.into_iter().chain(std::iter::repeat(None));
    let mut ids: Vec<Option<String>> =
        duplicates.iter().zip(told).map(|(number, told)| number.and(told)).collect();
    // REST and SQL told their senders of none: it is what receivers see.
    if ids.iter().zip(&duplicates).any(|(id, number)| id.is_none() && number.is_some()) {
        let queue = name.queue.to_string();
        let queue_id = broker.queue_ids(call, BTreeSet::from([queue])).await?.into_values().next();
        for (id, number) in ids.iter_mut().zip(duplicates) {
            let derived = queue_id.zip(number).map(|(queue, number)| derived_id(queue, number));
            *id = id.take().or(derived);
        }
    }
    Ok(ids)
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

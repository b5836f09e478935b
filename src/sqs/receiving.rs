//! ReceiveMessage.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::take,
    pin::pin,
};

use serde_json::{Map, Value, json};

use crate::{
    broker::{Delivery, Receive},
    domain::{FifoMode, Message, Quantity, VisibilityTimeout, Wait},
    http::{Caller, QueuePermit, right},
};

use super::{
    attributes::unknown,
    call::{Call, bounded, object, queue_of},
    digest,
    error::Result,
    headers::ORIGIN,
    message::{Opened, open},
    message_attributes::AttributeValue,
    names::SqsName,
    sending::sequence_number,
    shapes::ReceiveMessage,
    xml,
};

type Permit = QueuePermit<right::Receive>;

/// The attributes that a message can have of the service's own.
const SYSTEM: [&str; 9] = [
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
];

/// Messages on their way.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) delivery: Delivery,
    /// What is to be shown of them.
    pub(super) wished: Wished,
    pub(super) name: SqsName,
    origins: Origins,
}

/// What is told of the queues that dead letters come from, as far as it is asked for.
#[derive(Debug, Default)]
struct Origins {
    /// What clients call them.
    aliases: BTreeMap<String, String>,
    /// What the ids of messages that others sent are derived from.
    ids: BTreeMap<String, i64>,
}

/// Which attributes are asked for.
#[derive(Debug)]
pub(super) struct Wished {
    system: Vec<String>,
    user: Vec<String>,
}

impl Wished {
    fn new(input: &mut ReceiveMessage) -> Result<Self> {
        let mut system = input.attribute_names.take().unwrap_or_default();
        system.extend(input.message_system_attribute_names.take().unwrap_or_default());
        let is_known = |name: &String| name == "All" || SYSTEM.contains(&name.as_str());
        if let Some(odd) = system.iter().find(|name| !is_known(name)) {
            return Err(unknown(odd));
        }
        let user = input.message_attribute_names.take().unwrap_or_default();
        Ok(Self { system, user })
    }

    fn wants_system(&self, name: &str) -> bool {
        self.system.iter().any(|wished| wished == "All" || wished == name)
    }

    fn wants_user(&self, name: &str) -> bool {
        self.user.iter().any(|wished| match wished.as_str() {
            "All" | "*" | ".*" => true,
            wished => match wished.strip_suffix(".*") {
                Some(prefix) => name.starts_with(prefix),
                None => name == wished,
            },
        })
    }
}

/// Leases messages.
pub(super) async fn receive(caller: Caller, mut input: ReceiveMessage) -> Result<Received> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let qty = bounded(
        input.max_number_of_messages,
        "MaxNumberOfMessages",
        1..=10,
        1,
        "Must be between 1 and 10, if provided.",
    )?;
    let reason = "Must be >= 0 and <= 43200, if provided.";
    let vt = bounded(input.visibility_timeout, "VisibilityTimeout", 0..=43_200, 0, reason)?;
    let vt = input.visibility_timeout.map(|_| VisibilityTimeout::saturating(vt));
    let reason = "Must be >= 0 and <= 20, if provided.";
    bounded(input.wait_time_seconds, "WaitTimeSeconds", 0..=20, 0, reason)?;
    let wished = Wished::new(&mut input)?;
    let kept = permit.broker.attributes(&permit.call, &name.queue).await?;
    let of_queue = || kept.attributes.get("ReceiveMessageWaitTimeSeconds")?.parse().ok();
    let wait = input.wait_time_seconds.or_else(of_queue).unwrap_or(0);
    let rules = permit.broker.queue_rules(&name.queue).await?;
    let in_groups = name.is_fifo() || rules.fifo;
    let what = Receive {
        queue: name.queue.clone(),
        qty: Quantity::saturating(qty),
        vt,
        wait: Wait::saturating(wait),
        filter: None,
        fifo: in_groups.then_some(FifoMode::Grouped),
    };
    let _place = (wait > 0).then(|| permit.wait()).transpose()?;
    let receive = pin!(permit.broker.receive_by_rules(&permit.call, what, &rules));
    let received = permit.while_authorized(receive).await?;
    let mut delivery = received.transpose()?.unwrap_or_else(Delivery::empty);
    let dead = dead_letters(&permit, &mut delivery).await?;
    let origins = origins(&permit, &wished, &dead).await?;
    Ok(Received { delivery, wished, name, origins })
}

/// What a dead letter says of the queue that it comes from.
struct DeadLetter {
    origin: Option<String>,
    /// Whether its id is derived from its number there.
    is_named_by_origin: bool,
}

/// Reads which messages are dead letters, beside the threads that serve everybody: headers can be long. If the client
/// leaves meanwhile, the lease gives the messages back.
async fn dead_letters(permit: &Permit, delivery: &mut Delivery) -> Result<Vec<DeadLetter>> {
    // Mostly there are none, and headers need not be read to see that.
    let is_dead = |message: &&Message| {
        message.headers.as_ref().is_some_and(|headers| headers.get().contains(ORIGIN))
    };
    let bytes = delivery.messages.iter().filter(is_dead).map(Message::bytes).sum();
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let messages = take(&mut delivery.messages);
    let read = move |message: &Message| {
        let opened = open(message);
        let is_named_by_origin = opened.id.is_none() && opened.former_number.is_some();
        DeadLetter { origin: opened.origin, is_named_by_origin }
    };
    let read = permit.broker.cpu_pool().run(bytes, move || {
        let dead = messages.iter().filter(is_dead).map(read).collect();
        (dead, messages)
    });
    let (dead, messages) = read.await?;
    delivery.messages = messages;
    Ok(dead)
}

/// Looks for what is to be told of the queues that dead letters come from.
async fn origins(permit: &Permit, wished: &Wished, dead: &[DeadLetter]) -> Result<Origins> {
    let mut found = Origins::default();
    if wished.wants_system("DeadLetterQueueSourceArn") {
        let named = dead.iter().filter_map(|dead| dead.origin.clone());
        for origin in named.collect::<BTreeSet<String>>() {
            let alias = permit.broker.alias(&permit.call, &origin).await?;
            found.aliases.insert(origin, alias);
        }
    }
    let of_others = dead.iter().filter(|dead| dead.is_named_by_origin);
    let named: BTreeSet<String> = of_others.filter_map(|dead| dead.origin.clone()).collect();
    if !named.is_empty() {
        found.ids = permit.broker.queue_ids(&permit.call, named).await?;
    }
    Ok(found)
}

impl Received {
    /// The messages as they are answered.
    pub(super) fn output(&self, call: &Call, in_xml: bool) -> Map<String, Value> {
        let show = |message| self.show(call, message, in_xml);
        let messages: Vec<Value> = self.delivery.messages.iter().map(show).collect();
        if messages.is_empty() { Map::new() } else { object([("Messages", messages.into())]) }
    }

    fn show(&self, call: &Call, message: &Message, in_xml: bool) -> Value {
        let mut opened = open(message);
        if in_xml {
            // Clients compare the digest with what they read.
            opened.body = xml::as_read(&opened.body);
        }
        opened.attributes.retain(|name, _| self.wished.wants_user(name));
        let mut shown = object([
            ("MessageId", json!(opened.id(message, &self.origins.ids))),
            ("MD5OfBody", json!(digest::of_body(&opened.body))),
            ("ReceiptHandle", json!(message.receipt)),
        ]);
        if let Some(sum) = digest::of_attributes(&opened.attributes) {
            shown.insert("MD5OfMessageAttributes".to_owned(), sum.into());
            shown.insert("MessageAttributes".to_owned(), values(&opened.attributes));
        }
        let system = self.system(call, message, &opened);
        if !system.is_empty() {
            shown.insert("Attributes".to_owned(), Value::Object(system));
        }
        shown.insert("Body".to_owned(), opened.body.into());
        Value::Object(shown)
    }

    fn system(&self, call: &Call, message: &Message, opened: &Opened) -> Map<String, Value> {
        let milliseconds =
            |time: chrono::DateTime<chrono::Utc>| time.timestamp_millis().to_string();
        // When it was delivered first is not kept: of a later delivery it is known that it was not before it
        // was sent.
        let first = message.last_read_at.filter(|_| message.read_ct <= 1);
        let first = first.unwrap_or(message.enqueued_at);
        let origin = opened.origin.as_ref().and_then(|origin| self.origins.aliases.get(origin));
        let is_fifo = self.name.is_fifo();
        let all: [(&str, Option<String>); SYSTEM.len()] = [
            ("SenderId", Some(call.sender_id(opened.sender.as_deref()).to_owned())),
            ("SentTimestamp", Some(milliseconds(message.enqueued_at))),
            ("ApproximateReceiveCount", Some(message.read_ct.to_string())),
            ("ApproximateFirstReceiveTimestamp", Some(milliseconds(first))),
            ("SequenceNumber", is_fifo.then(|| sequence_number(message.msg_id))),
            ("MessageDeduplicationId", opened.deduplication_id.clone()),
            ("MessageGroupId", opened.group.clone()),
            ("AWSTraceHeader", opened.trace.clone()),
            ("DeadLetterQueueSourceArn", origin.map(|origin| call.place.arn(origin))),
        ];
        let wished = all.into_iter().filter(|(name, _)| self.wished.wants_system(name));
        wished.filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
    }
}

fn values(attributes: &BTreeMap<String, AttributeValue>) -> Value {
    // Texts and names: this cannot fail.
    serde_json::to_value(attributes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wished(user: &[&str], system: &[&str]) -> Result<Wished> {
        let owned = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let mut input = ReceiveMessage {
            message_attribute_names: owned(user),
            attribute_names: owned(system),
            ..ReceiveMessage::default()
        };
        Wished::new(&mut input)
    }

    #[test]
    fn attributes_are_asked_for_by_name_prefix_or_all() {
        let names = ["Hello", "Help.Me", "General"];
        for (filter, shown) in [
            (&["All"][..], &names[..]),
            (&["*"], &names),
            (&[".*"], &names),
            (&["Hel.*"], &["Hello", "Help.Me"]),
            (&["Hello", "Nobody"], &["Hello"]),
            (&[], &[]),
        ] {
            let wished = wished(filter, &[]).expect("fine");
            let found: Vec<&str> =
                names.into_iter().filter(|name| wished.wants_user(name)).collect();
            assert_eq!(found, shown, "{filter:?}");
        }
        assert!(wished(&[], &["SenderId"]).expect("fine").wants_system("SenderId"));
        assert!(wished(&[], &["Colour"]).is_err());
    }
}

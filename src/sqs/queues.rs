//! Making, finding, listing, emptying and dropping queues.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::{
    broker::{AttributesBeside, AttributesChange, Error, NamedQueue, NewQueue},
    domain::{Bounded, Queue, QueueKind, SettingsChange},
    http::{Caller, QueuePermit, ScopePermit, right},
};

use super::{
    attributes::{self, DEFAULT_RETENTION, is_alike},
    call::{Call, Output, bounded, object, queue_of},
    error::{Kind, Result, SqsError},
    names::SqsName,
    queue_attributes,
    shapes::{CreateQueue, GetQueueUrl, ListDeadLetterSourceQueues, ListQueues, OfQueue, required},
    tags,
};

/// Queues of one page of a list.
const MAX_LISTED: i64 = 1_000;
/// Queues that are asked for at a time: a page, and one more that tells of a rest.
const MAX_ROWS: i32 = 1_001;
/// An attribute that belongs to a key.
const REUSE_PERIOD: &str = "KmsDataKeyReusePeriodSeconds";
/// How often it is looked whether a queue is there that others may be making.
const CREATE_ATTEMPTS: u32 = 5;
/// Seconds after which a queue can be emptied again.
const PURGE_PAUSE: i32 = 60;

/// Makes a queue, or finds it there with the same attributes.
pub(super) async fn create(call: &Call, caller: Caller, input: CreateQueue) -> Result<Output> {
    let given = attributes::with_plain_numbers(input.attributes.unwrap_or_default());
    let name = required(input.queue_name.as_ref(), "QueueName")?;
    let fifo = given.get("FifoQueue").is_some_and(|fifo| fifo == "true");
    SqsName::check_creatable(name, fifo)?;
    let name = SqsName::parse(name).ok_or_else(SqsError::no_queue)?;
    let change = attributes::read(&given, &name, true)?;
    let tags = input.tags.unwrap_or_default();
    tags::check(&tags)?;
    let permit = QueuePermit::<right::Manage>::new(caller, name.queue.clone())?;
    permit.caller.authorize_dead_letter_target(&name.queue, &change.settings)?;
    let retention = Some(Some(Bounded::saturating(DEFAULT_RETENTION)));
    let settings = SettingsChange {
        message_retention: change.settings.message_retention.or(retention),
        ..change.settings
    };
    let wished = Wished { given, attributes: change.attributes, tags };
    let new = NewQueue {
        queue: name.queue.clone(),
        kind: QueueKind::Standard,
        partition: None,
        fifo: Some(name.is_fifo()),
        settings,
        beside: Some(AttributesBeside { alias: name.name.clone(), change: wished.change() }),
    };
    for _ in 0..CREATE_ATTEMPTS {
        let is_made = match permit.broker.show_queue(&permit.call, name.queue.clone()).await {
            Ok(queue) if wished.is_kept(call, &permit, &name, &queue).await? => true,
            Ok(_) => wished.keep_first(&permit, &name).await?,
            Err(Error::QueueNotFound(_)) => {
                queue_attributes::check_dead_letters(&permit, &name, &wished.given).await?;
                permit.broker.create_queue(&permit.call, new.clone()).await?.created
            }
            Err(error) => return Err(error.into()),
        };
        // Who comes second at either finds it there, and looks at it as such.
        if is_made {
            return Ok(Some(url(call, &name)));
        }
    }
    let message = "Others make and delete this queue at the same time: try again.";
    Err(SqsError::new(Kind::ServiceUnavailable, message))
}

/// What a new queue is to have, and is kept beside it.
struct Wished {
    /// All attributes as they were given.
    given: BTreeMap<String, String>,
    attributes: BTreeMap<String, Option<String>>,
    tags: BTreeMap<String, String>,
}

impl Wished {
    /// Whether a queue that is there has all of it; false where nothing was kept beside it so far. Refuses one that is
    /// otherwise.
    async fn is_kept(
        &self,
        call: &Call,
        permit: &QueuePermit<right::Manage>,
        name: &SqsName,
        queue: &Queue,
    ) -> Result<bool> {
        // Another one may be read in groups all the same, as REST makes it.
        if name.is_fifo() && !queue.fifo {
            return Err(exists_otherwise("FifoQueue"));
        }
        let mut there = queue_attributes::of(call, permit, name, queue).await?;
        let kept = permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
        // Shown only beside a key, and kept without one.
        let hidden = kept.attributes.get(REUSE_PERIOD).map_or("300", String::as_str);
        there.entry(REUSE_PERIOD.to_owned()).or_insert_with(|| hidden.to_owned());
        let is_kept = kept.modified_at.is_some();
        if !is_kept {
            // Made elsewhere: what is kept beside it is yet to be written.
            let missing = self.given.iter().filter(|(key, _)| self.attributes.contains_key(*key));
            there.extend(missing.map(|(key, value)| (key.clone(), value.clone())));
        }
        check_alike(&self.given, &there)?;
        Ok(is_kept)
    }

    /// Writes it beside a queue that is there; false where somebody else has done so.
    async fn keep_first(
        &self,
        permit: &QueuePermit<right::Manage>,
        name: &SqsName,
    ) -> Result<bool> {
        let (broker, alias) = (&permit.broker, name.name.clone());
        Ok(broker.change_attributes(&permit.call, &name.queue, alias, self.change()).await?)
    }

    /// What is to be written, where nothing is yet.
    fn change(&self) -> AttributesChange {
        let tags =
            self.tags.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let attributes = self.attributes.clone();
        AttributesChange { attributes, tags, first_only: true, ..AttributesChange::default() }
    }
}

fn exists_otherwise(attribute: &str) -> SqsError {
    SqsError::new(
        Kind::QueueNameExists,
        format!(
            "A queue already exists with the same name and a different value for attribute {attribute}"
        ),
    )
}

fn check_alike(given: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Result<()> {
    match given.iter().find(|(name, value)| !is_alike(value, there.get(*name))) {
        Some((name, _)) => Err(exists_otherwise(name)),
        None => Ok(()),
    }
}

fn url(call: &Call, name: &SqsName) -> Map<String, Value> {
    object([("QueueUrl", call.place.url(&name.name).into())])
}

/// The URL of a queue that is there.
pub(super) async fn get_url(call: &Call, caller: Caller, input: GetQueueUrl) -> Result<Output> {
    let name = required(input.queue_name.as_ref(), "QueueName")?;
    let name = SqsName::parse(name).ok_or_else(SqsError::no_queue)?;
    let permit = QueuePermit::<right::Any>::new(caller, name.queue.clone())?;
    permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
    Ok(Some(url(call, &name)))
}

/// Lists queues, by what clients of SQS call them.
pub(super) async fn list(call: &Call, caller: Caller, input: ListQueues) -> Result<Output> {
    let limit = page_size(input.max_results)?;
    let after = token(input.next_token.as_ref())?;
    let permit = ScopePermit::<right::Any>::new(caller)?;
    let prefix = input.queue_name_prefix.unwrap_or_default();
    if prefix.contains('\0') {
        return Err(SqsError::invalid("Value for parameter QueueNamePrefix is invalid."));
    }
    let (broker, scope) = (&permit.broker, &permit.scope);
    let more = |behind| broker.list_aliases(&permit.call, prefix.clone(), behind, scope, MAX_ROWS);
    let page = Page::read(limit, after, |queue| &queue.alias, more).await?;
    Ok(Some(page.output(call, "QueueUrls", input.max_results.is_some(), |queue| &queue.alias)))
}

/// The queues whose dead letters go to a queue.
pub(super) async fn list_sources(
    call: &Call,
    caller: Caller,
    input: ListDeadLetterSourceQueues,
) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let limit = page_size(input.max_results)?;
    let after = token(input.next_token.as_ref())?;
    let permit = QueuePermit::<right::Any>::new(caller, name.queue.clone())?;
    permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
    let scope = permit.caller.scope(None);
    let (broker, queue) = (&permit.broker, &name.queue);
    let more = |behind| broker.dead_letter_sources(&permit.call, queue, behind, &scope, MAX_ROWS);
    let page = Page::read(limit, after, |queue| &queue.queue, more).await?;
    // The model spells this one in another way.
    Ok(Some(page.output(call, "queueUrls", input.max_results.is_some(), |queue| &queue.queue)))
}

fn page_size(wished: Option<i64>) -> Result<usize> {
    let reason = "MaxResults must be an integer between 1 and 1000.";
    let limit = bounded(wished, "MaxResults", 1..=MAX_LISTED, MAX_LISTED, reason)?;
    Ok(usize::try_from(limit).unwrap_or(1))
}

/// The name behind which a page begins.
fn token(token: Option<&String>) -> Result<String> {
    let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(String::new()) };
    let name = URL_SAFE_NO_PAD.decode(token).ok().and_then(|name| String::from_utf8(name).ok());
    let name = name.filter(|name| !name.contains('\0'));
    name.ok_or_else(|| SqsError::invalid("Invalid or expired next token."))
}

/// A page of a list, and one queue more if there is a rest.
struct Page {
    limit: usize,
    queues: Vec<NamedQueue>,
}

impl Page {
    /// Reads it behind a name, which is the `key` of a queue: `more` are those behind another one.
    async fn read<F>(
        limit: usize,
        mut behind: String,
        key: fn(&NamedQueue) -> &str,
        more: impl Fn(String) -> F,
    ) -> Result<Self>
    where
        F: Future<Output = crate::broker::Result<Vec<NamedQueue>>>,
    {
        let mut page = Self { limit, queues: Vec::new() };
        loop {
            let found = more(behind.clone()).await?;
            let is_last = found.len() < usize::try_from(MAX_ROWS).unwrap_or(usize::MAX);
            if let Some(last) = found.last() {
                key(last).clone_into(&mut behind);
            }
            page.add(found);
            if is_last || page.is_full() {
                return Ok(page);
            }
        }
    }

    /// Adds those that an action finds by that name: one of REST or SQL may have a name that stands for another queue
    /// here.
    fn add(&mut self, found: Vec<NamedQueue>) {
        let is_found = |queue: &NamedQueue| {
            SqsName::parse(&queue.alias).is_some_and(|name| name.queue.as_str() == queue.queue)
        };
        self.queues.extend(found.into_iter().filter(is_found));
        self.queues.truncate(self.limit + 1);
    }

    fn is_full(&self) -> bool {
        self.queues.len() > self.limit
    }

    /// The list; who does not say how many queues they want is not told of a rest.
    fn output(
        mut self,
        call: &Call,
        list: &str,
        paged: bool,
        key: fn(&NamedQueue) -> &str,
    ) -> Map<String, Value> {
        let has_rest = self.is_full();
        self.queues.truncate(self.limit);
        let mut output = Map::new();
        let urls: Vec<Value> =
            self.queues.iter().map(|queue| call.place.url(&queue.alias).into()).collect();
        if !urls.is_empty() {
            output.insert(list.to_owned(), urls.into());
        }
        if let Some(last) = self.queues.last().filter(|_| has_rest && paged) {
            output.insert("NextToken".to_owned(), json!(URL_SAFE_NO_PAD.encode(key(last))));
        }
        output
    }
}

/// Drops a queue with its messages.
pub(super) async fn delete(caller: Caller, input: OfQueue) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = QueuePermit::<right::Manage>::new(caller, name.queue.clone())?;
    // As with AWS, also where others name it as their dead-letter queue.
    permit.broker.drop_queue(&permit.call, name.queue, true).await?;
    Ok(None)
}

/// Deletes all messages of a queue; once in a minute, as with the service.
pub(super) async fn purge(caller: Caller, input: OfQueue) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = QueuePermit::<right::Manage>::new(caller, name.queue.clone())?;
    permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
    let (broker, alias) = (&permit.broker, name.name.clone());
    if broker.is_purged(&permit.call, &name.queue, PURGE_PAUSE).await? {
        return Err(SqsError::new(
            Kind::PurgeQueueInProgress,
            format!("Only one PurgeQueue operation on {} is allowed every 60 seconds.", name.name),
        ));
    }
    let purged = broker.purge_queue(&permit.call, name.queue.clone()).await?;
    if let Some(reason) = purged.reason() {
        let message = format!("{} messages were deleted; others stay: {reason}", purged.count);
        let failure = purged.kept.map(SqsError::from).filter(|_| !purged.more);
        let kind = failure.map_or(Kind::ServiceUnavailable, |failure| failure.kind);
        return Err(SqsError::new(kind, message));
    }
    if purged.more {
        // There is no other way to say so, and clients ask again.
        let message =
            format!("{} messages were deleted; the others need another request.", purged.count);
        return Err(SqsError::new(Kind::ServiceUnavailable, message));
    }
    // Behind it: one that failed may be asked for again at once. Without the note it may be, too, and it is done.
    if let Err(error) = broker.note_purge(&permit.call, &name.queue, alias).await {
        warn!(queue = %name.queue, %error, "a queue was emptied, which could not be noted");
    }
    Ok(None)
}

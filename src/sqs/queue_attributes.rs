//! GetQueueAttributes and SetQueueAttributes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    broker::{AttributesBeside, AttributesChange, Error, QueueChange},
    domain::{Queue, SettingsChange},
    http::{Caller, QueuePermit, right},
};

use super::{
    attributes::{self, COMPUTED, current, is_known, unknown},
    call::{Call, Output, queue_of},
    error::{Result, SqsError},
    names::SqsName,
    redrive::redrive,
    shapes::{GetQueueAttributes, SetQueueAttributes},
};

/// The attributes of a queue, but for the numbers of its messages.
pub(super) async fn of<R>(
    call: &Call,
    permit: &QueuePermit<R>,
    name: &SqsName,
    queue: &Queue,
) -> Result<BTreeMap<String, String>> {
    let kept = permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
    let dead_letters = match &queue.settings.dead_letter_queue {
        Some(target) => Some(permit.broker.alias(&permit.call, target.0.as_str()).await?),
        None => None,
    };
    Ok(current(queue, &kept, name, dead_letters.as_deref(), &call.place))
}

/// Answers the attributes that are asked for; those that are not set are absent.
pub(super) async fn get(call: &Call, caller: Caller, input: GetQueueAttributes) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let wished = input.attribute_names.unwrap_or_default();
    if let Some(odd) = wished.iter().find(|name| *name != "All" && !is_known(name)) {
        return Err(unknown(odd));
    }
    let permit = QueuePermit::<right::Any>::new(caller, name.queue.clone())?;
    let queue = permit.broker.show_queue(&permit.call, name.queue.clone()).await?;
    let wants = |name: &str| wished.iter().any(|wished| wished == "All" || wished == name);
    let mut all = BTreeMap::new();
    if !wished.is_empty() {
        all = of(call, &permit, &name, &queue).await?;
    }
    if COMPUTED[..3].iter().any(|name| wants(name)) {
        let counts = permit.broker.message_counts(&permit.call, &name.queue).await?;
        let delayed = counts.length - counts.visible - counts.in_flight;
        let [visible, hidden, in_flight] = [COMPUTED[0], COMPUTED[1], COMPUTED[2]];
        all.insert(visible.to_owned(), counts.visible.to_string());
        all.insert(hidden.to_owned(), delayed.max(0).to_string());
        all.insert(in_flight.to_owned(), counts.in_flight.to_string());
    }
    let shown: Map<String, Value> = all
        .into_iter()
        .filter(|(name, _)| wants(name))
        .map(|(name, value)| (name, value.into()))
        .collect();
    let mut output = Map::new();
    if !shown.is_empty() {
        output.insert("Attributes".to_owned(), Value::Object(shown));
    }
    Ok(Some(output))
}

/// Changes attributes.
pub(super) async fn set(caller: Caller, input: SetQueueAttributes) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let given = attributes::with_plain_numbers(input.attributes.unwrap_or_default());
    if given.is_empty() {
        return Err(SqsError::missing("Attributes"));
    }
    let permit = QueuePermit::<right::Manage>::new(caller, name.queue.clone())?;
    permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
    let change = attributes::read(&given, &name, false)?;
    permit.caller.authorize_dead_letter_target(&name.queue, &change.settings)?;
    check_dead_letters(&permit, &name, &given).await?;
    let kept = AttributesChange { attributes: change.attributes, ..AttributesChange::default() };
    let (broker, call, alias) = (&permit.broker, &permit.call, name.name.clone());
    if change.settings == SettingsChange::default() {
        broker.change_attributes(call, &name.queue, alias, kept).await?;
        return Ok(None);
    }
    let beside = Some(AttributesBeside { alias, change: kept });
    let change = QueueChange { settings: change.settings, fifo: None, beside };
    match broker.change_queue(call, name.queue, change).await {
        // What it is like by then is not told here.
        Ok(_) | Err(Error::ChangedUnseen { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a dead-letter queue that is not there, or that is of another kind.
pub(super) async fn check_dead_letters(
    permit: &QueuePermit<right::Manage>,
    name: &SqsName,
    given: &BTreeMap<String, String>,
) -> Result<()> {
    let Some(policy) = given.get("RedrivePolicy") else { return Ok(()) };
    let Some(redrive) = redrive(policy)? else { return Ok(()) };
    let refuse = |reason: &str| SqsError::value(policy, "RedrivePolicy", reason);
    if redrive.target.is_fifo() != name.is_fifo() {
        return Err(refuse("Dead-letter queue must be same type of queue as the source."));
    }
    if redrive.target.queue == name.queue {
        return Err(refuse("Dead-letter queue must be another queue than the source."));
    }
    match permit.broker.fresh_attributes(&permit.call, &redrive.target.queue).await {
        Ok(_) => Ok(()),
        Err(Error::QueueNotFound(_)) => Err(refuse("Dead letter target does not exist.")),
        Err(error) => Err(error.into()),
    }
}

//! DeleteMessage, ChangeMessageVisibility, and their batches.

use crate::{
    broker::{self, Action, IdOwner, Settle, SettleTarget},
    domain::{Delay, MsgId, Visibility},
    http::{Caller, QueuePermit, right},
};

use super::{
    batch::Batch,
    call::{Output, queue_of},
    error::{Result, SqsError},
    names::SqsName,
    shapes::{
        ChangeMessageVisibility, ChangeMessageVisibilityBatch, DeleteMessage, DeleteMessageBatch,
        required,
    },
};

type Permit = QueuePermit<right::Receive>;

const EXPIRED: &str = "The receipt handle has expired.";
const NOT_AVAILABLE: &str =
    "Message does not exist or is not available for visibility timeout change.";

/// Deletes a message.
pub(super) async fn delete(caller: Caller, input: DeleteMessage) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let handle = required(input.receipt_handle.as_ref(), "ReceiptHandle")?;
    let checked = check_lease(&permit, &name, handle).await;
    if or_no_queue(&permit, &name, checked).await? == Lease::Gone {
        return Ok(None);
    }
    let outcome = permit.broker.delete(&permit.call, name.queue.clone(), target(handle)).await;
    refuse_foreign(&permit, &name, handle, outcome.as_ref().err()).await?;
    deleted(&name, handle, outcome)?;
    Ok(None)
}

/// Deletes messages; each is deleted or fails alone.
pub(super) async fn delete_batch(caller: Caller, input: DeleteMessageBatch) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let entries = input.entries.unwrap_or_default();
    let entries = entries.checked("DeleteMessageBatchRequestEntry", |one| one.id.as_deref())?;
    let mut batch = Batch::default();
    let mut settled = Vec::new();
    for entry in entries {
        let id = entry.id.unwrap_or_default();
        let handle = required(entry.receipt_handle.as_ref(), "ReceiptHandle")?.to_owned();
        match check_lease(&permit, &name, &handle).await {
            Ok(Lease::Mine) => settled.push((id, handle, Action::Delete)),
            Ok(Lease::Gone) => batch.done(&id, serde_json::Map::new()),
            Err(error) => batch.failed(&id, &error),
        }
    }
    settle(&permit, &name, settled, &mut batch, deleted).await?;
    Ok(Some(batch.output()))
}

/// Sets for how long a message stays hidden from now on.
pub(super) async fn change(caller: Caller, input: ChangeMessageVisibility) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let handle = required(input.receipt_handle.as_ref(), "ReceiptHandle")?;
    let visible = visibility(input.visibility_timeout)?;
    or_no_queue(&permit, &name, check_handle(&permit, handle)).await?;
    let outcome = permit.broker.hide(&permit.call, name.queue.clone(), target(handle), visible);
    let outcome = outcome.await;
    refuse_foreign(&permit, &name, handle, outcome.as_ref().err()).await?;
    changed(&name, handle, outcome)?;
    Ok(None)
}

/// The same for several, of which each fails alone.
pub(super) async fn change_batch(
    caller: Caller,
    input: ChangeMessageVisibilityBatch,
) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let entries = input.entries.unwrap_or_default();
    let name_of_entry = "ChangeMessageVisibilityBatchRequestEntry";
    let entries = entries.checked(name_of_entry, |one| one.id.as_deref())?;
    let mut batch = Batch::default();
    let mut settled = Vec::new();
    for entry in entries {
        let id = entry.id.unwrap_or_default();
        let handle = required(entry.receipt_handle.as_ref(), "ReceiptHandle")?.to_owned();
        let visible =
            check_handle(&permit, &handle).and_then(|()| visibility(entry.visibility_timeout));
        match visible {
            Ok(visible) => settled.push((id, handle, Action::Hide(visible))),
            Err(error) => batch.failed(&id, &error),
        }
    }
    settle(&permit, &name, settled, &mut batch, changed).await?;
    Ok(Some(batch.output()))
}

/// Does the same to several messages in one transaction. `read` says what an outcome means.
async fn settle(
    permit: &Permit,
    name: &SqsName,
    entries: Vec<(String, String, Action)>,
    batch: &mut Batch,
    read: fn(&SqsName, &str, broker::Result<()>) -> Result<()>,
) -> Result<()> {
    if entries.is_empty() {
        return must_exist(permit, name).await;
    }
    let what = entries.iter().map(|(_, handle, action)| (action.clone(), target(handle))).collect();
    let what = Settle { entries: what };
    let outcomes = permit.broker.settle(&permit.call, name.queue.clone(), what).await?;
    for ((id, handle, _), outcome) in entries.iter().zip(outcomes) {
        let foreign = refuse_foreign(permit, name, handle, outcome.error.as_ref()).await;
        match foreign.and_then(|()| read(name, handle, outcome.error.map_or(Ok(()), Err))) {
            Ok(()) => batch.done(id, serde_json::Map::new()),
            Err(error) => batch.failed(id, &error),
        }
    }
    Ok(())
}

fn target(handle: &str) -> SettleTarget {
    SettleTarget { msg_id: None, receipt: Some(handle.to_owned()) }
}

fn visibility(seconds: Option<i64>) -> Result<Visibility> {
    let seconds = seconds.ok_or_else(|| SqsError::missing("VisibilityTimeout"))?;
    if (0..=43_200).contains(&seconds) {
        return Ok(Visibility::After(Delay::saturating(seconds)));
    }
    let reason = "Must be >= 0 and <= 43200, if provided.";
    Err(SqsError::value(&seconds.to_string(), "VisibilityTimeout", reason))
}

async fn must_exist(permit: &Permit, name: &SqsName) -> Result<()> {
    permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
    Ok(())
}

/// Passes on what was found of a handle. Of one that is refused, its queue is looked for: that it is gone comes
/// first, as clients make queues on that.
async fn or_no_queue<T>(permit: &Permit, name: &SqsName, checked: Result<T>) -> Result<T> {
    if checked.is_err() {
        must_exist(permit, name).await?;
    }
    checked
}

/// Refuses what is no receipt handle.
fn check_handle(permit: &Permit, handle: &str) -> Result<()> {
    match permit.broker.delivery_of(handle) {
        Some(_) => Ok(()),
        None => Err(SqsError::receipt(handle)),
    }
}

/// What a handle is good for.
#[derive(PartialEq, Eq)]
enum Lease {
    /// To settle a message, as far as is known.
    Mine,
    /// For nothing any more: its message went with a queue that was dropped.
    Gone,
}

/// Refuses what is no receipt handle and, in a FIFO queue, one whose time is over: what stands behind the
/// message may be delivered by then.
async fn check_lease(permit: &Permit, name: &SqsName, handle: &str) -> Result<Lease> {
    let delivered = permit.broker.delivery_of(handle).ok_or_else(|| SqsError::receipt(handle))?;
    if !name.is_fifo() {
        return Ok(Lease::Mine);
    }
    let id = MsgId::saturating(delivered.msg_id);
    let now = permit.broker.now();
    let (broker, call) = (&permit.broker, &permit.call);
    let message = match broker.message(call, name.queue.clone(), id).await {
        Ok(message) => message,
        Err(broker::Error::MessageNotFound { .. }) => return Ok(Lease::Mine),
        Err(error) => return Err(error.into()),
    };
    if message.queue_id != delivered.queue_id {
        match broker.owner_of_receipt(call, &name.queue, handle).await? {
            IdOwner::Own => {}
            IdOwner::Another => return Err(SqsError::receipt(handle)),
            // It has the same number alone.
            IdOwner::Nobody => return Ok(Lease::Gone),
        }
    }
    if message.read_ct == delivered.read_ct && message.vt <= now {
        return Err(SqsError::value(handle, "ReceiptHandle", EXPIRED));
    }
    Ok(Lease::Mine)
}

/// Refuses the handle of another queue: where it means no message here, the one that it means is still there.
async fn refuse_foreign(
    permit: &Permit,
    name: &SqsName,
    handle: &str,
    error: Option<&broker::Error>,
) -> Result<()> {
    use broker::Error as E;
    let Some(E::MessageNotFound { .. } | E::ReceiptStale { .. }) = error else { return Ok(()) };
    let (broker, call) = (&permit.broker, &permit.call);
    match broker.owner_of_receipt(call, &name.queue, handle).await? {
        IdOwner::Another => Err(SqsError::receipt(handle)),
        IdOwner::Own | IdOwner::Nobody => Ok(()),
    }
}

/// A message that is gone is deleted, by whomever; one that was delivered to somebody else since is theirs.
fn deleted(name: &SqsName, handle: &str, outcome: broker::Result<()>) -> Result<()> {
    match outcome {
        Err(broker::Error::ReceiptStale { .. }) if name.is_fifo() => {
            Err(SqsError::value(handle, "ReceiptHandle", EXPIRED))
        }
        Ok(())
        | Err(broker::Error::MessageNotFound { .. } | broker::Error::ReceiptStale { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn changed(_: &SqsName, handle: &str, outcome: broker::Result<()>) -> Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(broker::Error::MessageNotFound { .. } | broker::Error::ReceiptStale { .. }) => {
            Err(SqsError::value(handle, "ReceiptHandle", NOT_AVAILABLE))
        }
        Err(error) => Err(error.into()),
    }
}

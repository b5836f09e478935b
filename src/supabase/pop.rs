//! `pop`, which may wait.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use tokio::time::Instant;

use crate::{
    broker::{self, Delivery, Receive, SettleTarget},
    domain::{Message, Quantity, VisibilityTimeout, Wait},
    http::{
        DeliveryCount, LeasedBody, MemoryPermit, QueuePermit, right, room_of_taken, room_to_take,
    },
};

use super::{
    failure::Failure,
    options::Options,
    reply::{check_single, records, reply, room, waited},
    state::Supabase,
};

/// Seconds for which a message is leased that came while a client waited, until it is deleted.
const LEASE: i64 = 30;

/// Takes a message out of the queue, waiting for one if that is asked for.
pub(super) async fn pop(
    state: &Supabase,
    permit: QueuePermit<right::Receive>,
    options: &Options,
) -> Result<Response, Failure> {
    let one = Quantity::saturating(1);
    let held = room_to_take(state, &permit.call, 1)?;
    let mut messages = permit.broker.pop(&permit.call, permit.queue.clone(), one).await?;
    let mut held = room_of_taken(held, &messages);
    if messages.is_empty() && options.wait.is_some_and(|wait| wait.get() > 0) {
        (messages, held) = wait_for_one(state, &permit, options).await?;
    }
    check_single(options, messages.len())?;
    let (bytes, rows) = (records(options, held, &messages)?, messages.len());
    let delivered =
        DeliveryCount { metrics: Arc::clone(&state.metrics), queue: permit.queue, messages: rows };
    let body = Body::new(LeasedBody::without_lease(bytes, delivered));
    Ok(waited(options, reply(options, rows, body)))
}

/// Leases the first message that comes, and deletes it if there is room for it. One that does not let itself be
/// deleted stays leased, so that it is in nobody's way, and the next one is waited for. A client that leaves before
/// has leased nothing.
async fn wait_for_one(
    state: &Supabase,
    permit: &QueuePermit<right::Receive>,
    options: &Options,
) -> Result<(Vec<Message>, MemoryPermit), Failure> {
    let mut what = Receive {
        queue: permit.queue.clone(),
        qty: Quantity::saturating(1),
        vt: Some(VisibilityTimeout::saturating(LEASE)),
        wait: options.wait.unwrap_or(Wait::saturating(0)),
        filter: None,
        fifo: None,
    };
    let deadline = Instant::now() + Duration::from_secs(what.wait.get().unsigned_abs());
    let _place = permit.wait()?;
    loop {
        let receive = pin!(permit.broker.receive(&permit.call, what.clone()));
        let received = permit.while_authorized(receive).await?;
        let mut delivery = received.transpose()?.unwrap_or_else(Delivery::empty);
        let held = room(state, &permit.call, &delivery.messages)?;
        let Some(message) = delivery.messages.pop() else { return Ok((Vec::new(), held)) };
        let is_deleted = delete(permit, &message).await?;
        // It is gone, or is to stay out of the way.
        delivery.lease.taken();
        let left = deadline.saturating_duration_since(Instant::now());
        if is_deleted {
            return Ok((vec![message], held));
        } else if left.is_zero() {
            return Ok((Vec::new(), held));
        }
        let seconds = u32::try_from((left + Duration::from_millis(500)).as_secs()).unwrap_or(0);
        what.wait = Wait::saturating(seconds.into());
    }
}

/// Deletes a message that was leased; false if it did not let itself be deleted, or somebody else has it.
async fn delete(permit: &QueuePermit<right::Receive>, message: &Message) -> Result<bool, Failure> {
    use broker::Error as E;
    let receipt = message.receipt.as_ref().map(ToString::to_string);
    let target = SettleTarget { msg_id: Some(message.msg_id), receipt };
    match permit.broker.delete(&permit.call, permit.queue.clone(), target).await {
        Ok(()) => Ok(true),
        Err(
            E::MessageNotFound { .. }
            | E::ReceiptStale { .. }
            | E::MessageKept { .. }
            | E::Locked(_)
            | E::TriggerFailed(_),
        ) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

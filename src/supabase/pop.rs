//! `pop`, which may wait.

use std::sync::Arc;

use axum::{body::Body, response::Response};

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

/// Leases the first message that comes, and deletes it if there is room for it. A client that leaves before has
/// leased nothing.
async fn wait_for_one(
    state: &Supabase,
    permit: &QueuePermit<right::Receive>,
    options: &Options,
) -> Result<(Vec<Message>, MemoryPermit), Failure> {
    let what = Receive {
        queue: permit.queue.clone(),
        qty: Quantity::saturating(1),
        vt: Some(VisibilityTimeout::saturating(LEASE)),
        wait: options.wait.unwrap_or(Wait::saturating(0)),
        filter: None,
        fifo: None,
    };
    let _place = permit.wait()?;
    let received = permit.while_authorized(permit.broker.receive(&permit.call, what)).await?;
    let mut delivery = received.transpose()?.unwrap_or_else(Delivery::empty);
    let held = room(state, &permit.call, &delivery.messages)?;
    let Some(message) = delivery.messages.pop() else { return Ok((Vec::new(), held)) };
    let receipt = message.receipt.as_ref().map(ToString::to_string);
    let target = SettleTarget { msg_id: Some(message.msg_id), receipt };
    let (broker, call) = (&permit.broker, &permit.call);
    match broker.delete(call, permit.queue.clone(), target).await {
        Ok(()) => {
            delivery.lease.taken();
            Ok((vec![message], held))
        }
        // Somebody else took it meanwhile.
        Err(broker::Error::MessageNotFound { .. } | broker::Error::ReceiptStale { .. }) => {
            Ok((Vec::new(), held))
        }
        Err(error) => Err(error.into()),
    }
}

//! `POST /queues/{queue}/messages/receive`: what became of the last messages, and the next ones, in one call.

use axum::{body::Body, extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{Delivery, Receive, Settle},
    domain::{FifoMode, Filter, JsonObject, Quantity, VisibilityTimeout, Wait},
    http::{LeasedBody, QueuePermit, any_room, json, make_room, right, room_for},
};

use super::{
    extract::{NoParameters, OptionalJson, Query},
    message_view::{MessageView, message_example, views},
    messages::TAG,
    openapi::errors,
    problem::Problem,
    receive::{delivered, received},
    response::json_answer,
    settle::{SettleBody, settled_of},
    settled::{Settled, WrittenSettled, room_for_outcome},
    state::Api,
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(settle_and_receive))
}

/// What to settle, and what to receive then.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"settle": {"delete": [{"msg_id": 42}]}, "qty": 10, "wait": 20}))]
struct SettleAndReceive {
    /// What became of messages that were delivered; nothing if not given.
    #[schema(value_type = Option<SettleBody>)]
    settle: Option<JsonObject<SettleBody>>,
    /// The most messages to return, 1 if not given.
    #[schema(inline)]
    qty: Option<Quantity>,
    /// Seconds that they stay hidden from others; as the queue's settings say if not given.
    #[schema(inline)]
    vt: Option<VisibilityTimeout>,
    /// Seconds to wait for a first message, 0 if not given.
    #[schema(inline)]
    wait: Option<Wait>,
    /// A JSON object that a message must contain: at most 4096 bytes, and 16 array elements in all its arrays
    /// together.
    #[schema(value_type = Option<Object>)]
    filter: Option<Filter>,
    /// Reads in groups, by the header `x-pgmq-group`, as the parameter of `GET` does.
    #[schema(inline)]
    fifo: Option<FifoMode>,
}

/// What was settled, and the next messages.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "settled": {"deleted": [41], "archived": [], "dead_lettered": [], "retried": [], "failed": []},
    "messages": [message_example()]
}))]
struct SettledAndReceived<'a> {
    /// The ids of messages by what became of them.
    #[schema(value_type = Settled)]
    settled: &'a WrittenSettled,
    /// In the order they were sent; none if there were none in time.
    messages: Vec<MessageView<'a>>,
}

impl SettleAndReceive {
    /// Both, once it is known that they make sense.
    fn check(self, leave: &QueuePermit<right::Receive>) -> Result<(Settle, Receive), Problem> {
        let settle = self.settle.map(|settle| settle.0.into_settle("settle.")).transpose()?;
        let receive = Receive {
            queue: leave.queue.clone(),
            qty: self.qty.unwrap_or(Quantity::saturating(1)),
            vt: self.vt,
            wait: self.wait.unwrap_or(Wait::saturating(0)),
            filter: self.filter,
            fifo: self.fifo,
        };
        receive.check()?;
        Ok((settle.unwrap_or_default(), receive))
    }
}

/// Settles messages as `settle` does, and then leases the next ones as `GET` does.
///
/// What was settled stays settled when there is nothing to receive, when that fails (then the error has it as
/// `settled`), or when the client goes away while it waits, which leaves nothing leased.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/receive", tag = TAG, operation_id = "settle_and_receive",
    params(("queue" = String, Path)),
    request_body(content = inline(Option<SettleAndReceive>), content_type = "application/json", example =
        json!({"settle": {"delete": [{"msg_id": 42}]}, "qty": 10, "wait": 20})),
    responses(
        (status = 200, description = "What became of each, and the messages; none if there were \
               none in time", body = SettledAndReceived<'_>),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict, errors::OfBody, errors::MessageRejected,
        errors::NotSupported,
    )
)]
async fn settle_and_receive(
    State(api): State<Api>,
    leave: QueuePermit<right::Receive>,
    Query(NoParameters {}): Query<NoParameters>,
    OptionalJson(body): OptionalJson<SettleAndReceive>,
) -> Result<Response, Problem> {
    let (settle, receive) = body.check(&leave)?;
    let (settled, next) = if settle.entries.is_empty() {
        let held = any_room(&api, &leave.call);
        (WrittenSettled::new(&Settled::default(), held)?, None)
    } else {
        let held = room_for_outcome(&api, &leave.call, &settle)?;
        let done = leave.broker.settle_and_receive(&leave.call, settle, &receive).await?;
        (WrittenSettled::new(&settled_of(done.0), held)?, done.1)
    };
    match answer(&api, &leave, receive, &settled, next).await {
        Ok(response) => Ok(response),
        Err(problem) => Err(Problem { settled: Some(settled), ..problem }),
    }
}

/// `next` is what was received with the settling, where that could be done.
async fn answer(
    api: &Api,
    leave: &QueuePermit<right::Receive>,
    receive: Receive,
    settled: &WrittenSettled,
    next: Option<Delivery>,
) -> Result<Response, Problem> {
    let is_answer = |next: &Delivery| !next.messages.is_empty() || receive.wait.get() == 0;
    let mut delivery = match next.filter(is_answer) {
        Some(next) => next,
        None => received(leave, receive).await?,
    };
    // What is over it is given back.
    delivery.keep_within(api.max_answer_bytes);
    let messages = &delivery.messages;
    let mut held = room_for(api, &leave.call, messages.iter())?;
    let bytes = held.bytes() + settled.bytes();
    make_room(api, &mut held, bytes)?;
    let bytes = json(held, &SettledAndReceived { settled, messages: views(messages) })?;
    let delivered = delivered(api, leave.queue.clone(), messages.len());
    Ok(json_answer(Body::new(LeasedBody::new(bytes, delivery.lease, delivered, &leave.call))))
}

//! From a request to an action, and from its outcome to an answer, in both protocols.

use std::{error::Error as StdError, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use crate::{
    domain::Message,
    http::{
        BasePath, Caller, DeliveryCount, LeasedBody, MultiQueuePermit, Rejection, RequestContext,
        WireError, any_room, bearer, error_response, read, room_for, room_for_written,
    },
};

use super::{
    call::{Call, Output},
    error::{Kind, Result, SqsError},
    move_tasks,
    protocol::Protocol,
    queue_attributes, queues,
    receiving::{self, Received},
    request, sending, settling,
    shapes::Action,
    state::Sqs,
    tags,
    validation::MAX_TRACE_BYTES,
    verification, xml,
};

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");
const XML: HeaderValue = HeaderValue::from_static("text/xml");

/// An error on its way to the outermost layer.
#[derive(Debug)]
pub(super) struct Failure {
    error: SqsError,
    protocol: Protocol,
}

impl Failure {
    /// As the shared layers have it.
    pub(super) fn rejected(rejection: Rejection, protocol: Protocol) -> Arc<dyn WireError> {
        Arc::new(Self { error: rejection.into(), protocol })
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.error.kind.parts().2).unwrap_or(StatusCode::BAD_REQUEST)
    }
}

impl WireError for Failure {
    fn code(&self) -> &'static str {
        self.error.kind.parts().1
    }

    fn is_for_now(&self) -> bool {
        self.error.kind == Kind::RequestThrottled
    }

    fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.error.cause.as_deref().map(|cause| cause as _)
    }

    fn render(&self, request_id: &str) -> Response {
        let (shape, code, _) = self.error.kind.parts();
        let fault = if self.error.kind.is_senders_fault() { "Sender" } else { "Receiver" };
        let body = match self.protocol {
            Protocol::Query if self.error.kind == Kind::UnknownOperation => {
                "<UnknownOperationException/>\n".to_owned()
            }
            Protocol::Query => xml::error(&self.error, request_id),
            Protocol::Json => {
                let kind = format!("com.amazonaws.sqs#{shape}");
                serde_json::json!({"__type": kind, "message": self.error.message}).to_string()
            }
        };
        let mut response = answer(self.protocol, request_id, body.into());
        *response.status_mut() = self.status();
        if let (Protocol::Json, Ok(value)) =
            (self.protocol, HeaderValue::from_str(&format!("{code};{fault}")))
        {
            response.headers_mut().insert("x-amzn-query-error", value);
        }
        response
    }
}

fn answer(protocol: Protocol, request_id: &str, body: Body) -> Response {
    let kind = match protocol {
        Protocol::Json => JSON,
        Protocol::Query => XML,
    };
    let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// A request of the JSON protocol.
pub(super) async fn json(State(sqs): State<Sqs>, request: Request) -> Response {
    respond(sqs, Protocol::Json, request).await
}

/// A request of the Query protocol.
pub(super) async fn query(State(sqs): State<Sqs>, request: Request) -> Response {
    respond(sqs, Protocol::Query, request).await
}

async fn respond(sqs: Sqs, protocol: Protocol, request: Request) -> Response {
    match serve(sqs, protocol, request).await {
        Ok(response) => response,
        Err(error) => {
            let failure = Failure { error, protocol };
            error_response(failure.status(), failure)
        }
    }
}

async fn serve(sqs: Sqs, protocol: Protocol, request: Request) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    let Ok(BasePath(base_path)) = BasePath::from_request_parts(&mut parts, &sqs).await;
    // Whose key is not known need not send a body.
    let signed = verification::signature(&sqs, &parts)?;
    let (caller, is_proven) = match &signed {
        Some((signature, key)) => {
            let id = &signature.access_key_id;
            let claimed = Caller::claimed(&parts, &sqs, key.credential.clone(), id)?;
            claimed.refuse_body(&parts).await?;
            let announced = verification::announced_hash(&parts);
            if let Some(hash) = announced {
                verification::verify(&sqs, signature, key, &parts, &base_path, hash)?;
                claimed.prove()?;
            }
            (claimed, announced.is_some())
        }
        None => (Caller::authenticate(&parts, &sqs, bearer(&parts.headers)).await?, true),
    };
    // What may be done is asked again once the body is there.
    let permit = MultiQueuePermit::new(caller);
    let body = read(request, &sqs).await?;
    let context = crate::http::context(&parts);
    let call = Call {
        gated: sqs.gated.clone(),
        place: sqs.place(&parts, &base_path),
        trace: trace(&parts),
        sender: signed.as_ref().map(|(signature, _)| signature.access_key_id.clone()),
        fair_queues: sqs.fair_queues(),
    };
    let bytes = body.len() as u64;
    let understand = move |caller: Caller| {
        if let Some((signature, key)) = &signed {
            let hash = verification::hash(&body);
            match verification::announced_hash(&parts) {
                // With which the signature was verified.
                Some(announced) => verification::check_hash(&sqs, announced, &hash)?,
                None => verification::verify(&sqs, signature, key, &parts, &base_path, &hash)?,
            }
        }
        if !is_proven {
            caller.prove()?;
        }
        Ok::<_, SqsError>((caller, request::action(protocol, &parts, &body)?))
    };
    let (caller, action) = permit.caller.on_text(bytes, understand).await?;
    let name = action.name();
    match dispatch(&call, caller, action).await? {
        Outcome::Done(output) => {
            let request_id = context.request_id();
            let body = write(protocol, name, output.as_ref(), request_id);
            // What was done is said whatever others hold.
            let body = any_room(&call.gated, &context.call).keep_all(body.into_bytes());
            Ok(answer(protocol, request_id, body.into()))
        }
        Outcome::Messages(received) => deliver(call, context, protocol, *received).await,
    }
}

/// The header `X-Amzn-Trace-Id`, unless it is too long to be stored with a message.
fn trace(parts: &Parts) -> Option<String> {
    let trace = parts.headers.get("x-amzn-trace-id").and_then(|trace| trace.to_str().ok());
    trace.filter(|trace| trace.len() <= MAX_TRACE_BYTES).map(str::to_owned)
}

/// What came of an action.
enum Outcome {
    Done(Output),
    Messages(Box<Received>),
}

async fn dispatch(call: &Call, caller: Caller, action: Action) -> Result<Outcome> {
    use Action as A;
    Ok(Outcome::Done(match action {
        A::ReceiveMessage(input) => {
            let received = receiving::receive(caller, input).await?;
            return Ok(Outcome::Messages(Box::new(received)));
        }
        A::SendMessage(input) => sending::send(call, caller, input).await?,
        A::SendMessageBatch(input) => sending::send_batch(call, caller, input).await?,
        A::DeleteMessage(input) => settling::delete(caller, input).await?,
        A::DeleteMessageBatch(input) => settling::delete_batch(caller, input).await?,
        A::ChangeMessageVisibility(input) => settling::change(caller, input).await?,
        A::ChangeMessageVisibilityBatch(input) => settling::change_batch(caller, input).await?,
        A::CreateQueue(input) => queues::create(call, caller, input).await?,
        A::DeleteQueue(input) => queues::delete(caller, input).await?,
        A::GetQueueUrl(input) => queues::get_url(call, caller, input).await?,
        A::ListQueues(input) => queues::list(call, caller, input).await?,
        A::ListDeadLetterSourceQueues(input) => queues::list_sources(call, caller, input).await?,
        A::PurgeQueue(input) => queues::purge(caller, input).await?,
        A::GetQueueAttributes(input) => queue_attributes::get(call, caller, input).await?,
        A::SetQueueAttributes(input) => queue_attributes::set(caller, input).await?,
        A::TagQueue(input) => tags::tag(caller, input).await?,
        A::UntagQueue(input) => tags::untag(caller, input).await?,
        A::ListQueueTags(input) => tags::list(caller, input).await?,
        A::AddPermission(input) => tags::permit(call, caller, input).await?,
        A::RemovePermission(input) => tags::forbid(call, caller, input).await?,
        A::StartMessageMoveTask(input) => move_tasks::start(caller, input).await?,
        A::ListMessageMoveTasks(input) => move_tasks::list(call, caller, input).await?,
        A::CancelMessageMoveTask(input) => move_tasks::cancel(caller, input).await?,
    }))
}

fn write(
    protocol: Protocol,
    action: &str,
    output: Option<&Map<String, Value>>,
    id: &str,
) -> String {
    match protocol {
        Protocol::Query => xml::answer(action, output, id),
        Protocol::Json => output.map_or_else(
            || "{}".to_owned(),
            // Texts and numbers: this cannot fail.
            |output| serde_json::to_string(output).unwrap_or_default(),
        ),
    }
}

/// The answer to ReceiveMessage.
fn written(call: &Call, protocol: Protocol, received: &Received, id: &str) -> String {
    let output = received.output(call, protocol == Protocol::Query);
    let mut text = write(protocol, "ReceiveMessage", Some(&output), id);
    text.shrink_to_fit();
    text
}

/// An answer with messages, which are given back if its client does not take it.
async fn deliver(
    call: Call,
    context: Arc<RequestContext>,
    protocol: Protocol,
    mut received: Received,
) -> Result<Response> {
    received.delivery.keep_within(call.gated.max_answer_bytes);
    let messages = &received.delivery.messages;
    let mut held = room_for(&call.gated, &context.call, messages.iter())?;
    let bytes = messages.iter().map(Message::bytes).sum();
    let gated = call.gated.clone();
    let answered = gated.cpu_pool.run(bytes, move || {
        let id = context.request_id();
        // What is written with escapes is longer than it was: where there is no room for all, some are given back.
        let text = loop {
            let text = written(&call, protocol, &received, id);
            let count = received.delivery.messages.len();
            match room_for_written(&call.gated, &mut held, text.len(), count) {
                Ok(()) => break text,
                Err(_) if count > 1 => received.delivery.keep(count / 2),
                Err(refused) => return Err(refused.into()),
            }
        };
        let delivered = DeliveryCount {
            metrics: Arc::clone(&call.gated.metrics),
            queue: received.name.queue.clone(),
            messages: received.delivery.messages.len(),
        };
        let bytes = held.keep(text.into_bytes());
        let body =
            Body::new(LeasedBody::new(bytes, received.delivery.lease, delivered, &context.call));
        Ok(answer(protocol, id, body))
    });
    answered.await?
}

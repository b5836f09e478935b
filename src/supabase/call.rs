//! Calls of the functions.

use std::{pin::pin, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::{
    broker::{self, Delivery, Receive, SettleTarget},
    domain::{Delay, NewMessage, Quantity, QueueName, Visibility, VisibilityTimeout, Wait},
    http::{
        Caller, DeliveryCount, LeasedBody, MultiQueuePermit, QueuePermit, any_room, read, right,
    },
};

use super::{
    arguments::Arguments,
    credential::authenticate,
    failure::Failure,
    function::Function,
    options::Options,
    pop::pop,
    reply::{check_single, records, reply, room, waited},
    state::Supabase,
};

type Outcome = Result<Response, Failure>;

/// A call, by whatever method.
pub(super) async fn call(State(state): State<Supabase>, request: Request) -> Outcome {
    let method = request.method().clone();
    if method == Method::OPTIONS {
        return Ok(allowed(StatusCode::OK.into_response()));
    }
    if !matches!(method, Method::GET | Method::HEAD | Method::POST) {
        let message = format!("Cannot use the {method} method on RPC");
        let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "PGRST101", message);
        return Ok(allowed(failure.into_response()));
    }
    let (parts, body) = request.into_parts();
    let caller = authenticate(&parts, &state).await?;
    let permit = MultiQueuePermit::new(caller);
    let name = parts.uri.path().rsplit('/').next().unwrap_or_default();
    let name = percent_decode_str(name).decode_utf8_lossy().into_owned();
    let options = Options::of(&parts, &name)?;
    if method != Method::POST {
        let arguments = Arguments::from_query(parts.uri.query().unwrap_or_default());
        return refuse_read(&name, &arguments);
    }
    let bytes = read(Request::from_parts(parts, body), &state).await?;
    let length = bytes.len() as u64;
    let parse = move |permit: MultiQueuePermit| parse(&name, &bytes).map(|what| (permit, what));
    let (permit, what) = permit.on_text(length, parse).await?;
    run(&state, permit.caller, what, &options).await
}

/// What is to be done, once its arguments were understood.
enum What {
    Send(QueueName, Vec<NewMessage>, Batch),
    Read { queue: QueueName, vt: i32, n: i32 },
    Pop(QueueName),
    Archive(QueueName, i64),
    Delete(QueueName, i64),
}

/// Whether one message is sent by itself, or several that are stored together.
#[derive(PartialEq, Eq)]
enum Batch {
    One,
    Many,
}

fn parse(name: &str, bytes: &Bytes) -> Result<What, Failure> {
    let arguments = Arguments::from_body(bytes)?;
    let function = Function::find(name, &arguments.names())?;
    understand(function, arguments)
}

fn understand(function: Function, mut arguments: Arguments) -> Result<What, Failure> {
    let id = "message_id";
    Ok(match function {
        Function::Send => {
            let message = arguments.json("message")?;
            let delay = arguments.integer_or_0("sleep_seconds")?;
            let queue = arguments.queue()?;
            What::Send(queue, vec![new(message, visible(delay)?)], Batch::One)
        }
        Function::SendBatch => {
            let messages = arguments.list("messages")?;
            let visible = visible(arguments.integer_or_0("sleep_seconds")?)?;
            if messages.is_empty() {
                return Err(Failure::bad("P0001", "msgs cannot be NULL or empty"));
            }
            let queue = arguments.queue()?;
            let messages = messages.into_iter().map(|message| new(message, visible)).collect();
            What::Send(queue, messages, Batch::Many)
        }
        Function::Read => {
            let (vt, n) = (arguments.integer("sleep_seconds")?, arguments.integer("n")?);
            What::Read { queue: arguments.queue()?, vt, n }
        }
        Function::Pop => What::Pop(arguments.queue()?),
        Function::Archive => {
            let id = arguments.bigint(id)?;
            What::Archive(arguments.queue()?, id)
        }
        Function::Delete => {
            let id = arguments.bigint(id)?;
            What::Delete(arguments.queue()?, id)
        }
    })
}

fn new(message: crate::domain::RawJson, visible: Visibility) -> NewMessage {
    NewMessage { message, sql_null: true, headers: None, visible: Some(visible) }
}

/// After so many seconds; at once, where they are over already.
fn visible(delay: i32) -> Result<Visibility, Failure> {
    let delay = Delay::new(i64::from(delay.max(0)));
    let delay = delay.map_err(|error| Failure::bad("22023", format!("`sleep_seconds` {error}")))?;
    Ok(Visibility::After(delay))
}

async fn run(state: &Supabase, caller: Caller, what: What, options: &Options) -> Outcome {
    match what {
        What::Send(queue, messages, batch) => {
            send(state, QueuePermit::new(caller, queue)?, messages, &batch, options).await
        }
        What::Read { queue, vt, n } => {
            receive(state, QueuePermit::new(caller, queue)?, vt, n, options).await
        }
        What::Pop(queue) => pop(state, QueuePermit::new(caller, queue)?, options).await,
        What::Archive(queue, id) => {
            let permit = QueuePermit::<right::Receive>::new(caller, queue)?;
            let done = permit.broker.archive(&permit.call, permit.queue, target(id)).await;
            is_done(done, options)
        }
        What::Delete(queue, id) => {
            let permit = QueuePermit::<right::Receive>::new(caller, queue)?;
            let done = permit.broker.delete(&permit.call, permit.queue, target(id)).await;
            is_done(done, options)
        }
    }
}

async fn send(
    state: &Supabase,
    permit: QueuePermit<right::Send>,
    messages: Vec<NewMessage>,
    batch: &Batch,
    options: &Options,
) -> Outcome {
    // Before anything is stored: as it would be undone there.
    check_single(options, messages.len())?;
    let QueuePermit { broker, call, queue, .. } = permit;
    let ids = match (batch, <[NewMessage; 1]>::try_from(messages)) {
        (Batch::One, Ok([message])) => {
            vec![broker.send(&call, queue, message, None).await?.result]
        }
        (_, messages) => {
            let messages = messages.map_or_else(|all| all, Vec::from);
            let sent = broker.send_batch(&call, queue, messages, None).await?.result;
            sent.into_iter().map(|sent| sent.msg_id).collect()
        }
    };
    let list = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let body = if options.single { list } else { format!("[{list}]") };
    let body = any_room(state, &call).keep_all(body.into_bytes());
    Ok(reply(options, ids.len(), body.into()))
}

async fn receive(
    state: &Supabase,
    permit: QueuePermit<right::Receive>,
    vt: i32,
    n: i32,
    options: &Options,
) -> Outcome {
    // A lease that is over at once where it ended before it began.
    let vt = VisibilityTimeout::new(i64::from(vt.max(0)));
    let vt = vt.map_err(|error| Failure::bad("22023", format!("`sleep_seconds` {error}")))?;
    if n <= 0 {
        permit.broker.show_queue(&permit.call, permit.queue.clone()).await?;
        if n < 0 {
            return Err(Failure::bad("2201W", "LIMIT must not be negative"));
        }
        check_single(options, 0)?;
        return Ok(reply(options, 0, "[]".into()));
    }
    let what = Receive {
        queue: permit.queue.clone(),
        qty: Quantity::saturating(i64::from(n)),
        vt: Some(vt),
        wait: options.wait.unwrap_or(Wait::saturating(0)),
        filter: None,
        fifo: None,
    };
    let _place = (what.wait.get() > 0).then(|| permit.wait()).transpose()?;
    let receive = pin!(permit.broker.receive(&permit.call, what));
    let received = permit.while_authorized(receive).await?;
    let mut delivery = received.transpose()?.unwrap_or_else(Delivery::empty);
    // What is over it is given back, and so is everything where one object was to be made of it.
    delivery.keep_within(state.max_answer_bytes);
    let messages = &delivery.messages;
    check_single(options, messages.len())?;
    let held = room(state, &permit.call, messages)?;
    let (bytes, rows) = (records(options, held, messages)?, messages.len());
    let delivered =
        DeliveryCount { metrics: Arc::clone(&state.metrics), queue: permit.queue, messages: rows };
    let body = Body::new(LeasedBody::new(bytes, delivery.lease, delivered, &permit.call));
    Ok(waited(options, reply(options, rows, body)))
}

fn target(id: i64) -> SettleTarget {
    SettleTarget { msg_id: Some(id), receipt: None }
}

fn is_done(done: broker::Result<()>, options: &Options) -> Outcome {
    match done {
        Ok(()) => Ok(truth(options, true)),
        Err(broker::Error::MessageNotFound { .. }) => Ok(truth(options, false)),
        Err(error) => Err(error.into()),
    }
}

fn truth(options: &Options, truth: bool) -> Response {
    reply(options, 1, if truth { "true" } else { "false" }.into())
}

/// Every function writes, and there a GET is a transaction that only reads. Its arguments are not looked at:
/// no values of theirs would make it right.
fn refuse_read(name: &str, arguments: &Arguments) -> Outcome {
    let function = Function::find(name, &arguments.names())?;
    let statement = function.statement();
    let message = format!("cannot execute {statement} in a read-only transaction");
    let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "25006", message);
    Ok(allowed(failure.into_response()))
}

fn allowed(mut response: Response) -> Response {
    let allow = HeaderValue::from_static("OPTIONS,POST");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

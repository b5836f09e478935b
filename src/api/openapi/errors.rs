//! Errors in the document: each stands there once, and operations refer to it.
//!
//! A route names its own among its `responses`, by these types. What any route can run into is added to all.

use std::{collections::BTreeMap, iter};

use utoipa::{
    IntoResponses, ToSchema,
    openapi::{
        ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response,
        ResponseBuilder, example::ExampleBuilder, path::Operation, schema::Type,
    },
};

use super::super::problem::{Code, Problem, ProblemBody};

/// The request's id in examples.
const REQUEST_ID: &str = "01980f2e-1b0c-7000-8000-000000000000";

/// Responses by their status, or by their name.
type Responses = BTreeMap<String, RefOr<Response>>;

/// Makes a type of each error, by which routes name it, and the list of all of them. Their codes have one status.
macro_rules! errors {
    ($($name:ident: [$($code:ident),+], $description:expr;)+) => {
        $(
            pub(in crate::api) struct $name;

            impl IntoResponses for $name {
                fn responses() -> Responses {
                    reference(stringify!($name), &[$(Code::$code),+])
                }
            }
        )+

        /// All of them, by name.
        const ALL: &[(&str, &[Code], &str)] =
            &[$((stringify!($name), &[$(Code::$code),+], $description)),+];
    };
}

errors! {
    InvalidRequest: [InvalidRequest], "A parameter, the body or the queue's name is wrong";
    UnsupportedMediaType: [UnsupportedMediaType],
        "A `Content-Encoding`; or from another site, and not JSON";
    Unauthenticated: [Unauthenticated], "There is no valid key in `Authorization`";
    Forbidden: [Forbidden], "The key, or the gateway's database role, may not do this";
    RateLimited: [RateLimited], "Try again after `Retry-After` seconds";
    Unavailable: [Overloaded, DatabaseUnavailable, OutcomeUnknown], "Try again";
    NotReady: [DatabaseUnavailable, Overloaded], "Not ready, and why";
    InternalError: [InternalError], "A defect";
    QueueNotFound: [QueueNotFound], "The queue is not there";
    MessageNotFound: [QueueNotFound, MessageNotFound], "The queue or the message is not there";
    BindingNotFound: [QueueNotFound, BindingNotFound], "The queue or the binding is not there";
    RequestTimeout: [RequestTimeout], "The body, if only its end, did not arrive in time";
    QueueConflict: [QueueConflict],
        "The queue is there and different, or its table is not as PGMQ makes it: somebody has altered it";
    QueueInUse: [QueueInUse, QueueConflict],
        "Dead letters of other queues go there, or other things depend on its tables";
    IndexConflict: [QueueConflict], "It is partitioned, and its indexes are as they are";
    ReceiptStale: [ReceiptStale, QueueConflict],
        "The message has been delivered again since, or the queue's table is altered";
    ArchiveConflict: [ReceiptStale, MessageConflict, QueueConflict],
        "The message has been delivered again since, the archive has one of its id, or the queue's table is \
         altered";
    MessageConflict: [MessageConflict, QueueConflict],
        "A unique constraint of the table refuses all of them, or the table is altered";
    TransactionConflict: [ReceiptStale, IdempotencyConflict, MessageConflict, QueueConflict],
        "A message has been delivered again since, the key was used for another request, a unique \
         constraint refuses a message, or a queue's table is altered; nothing was done";
    SendConflict: [IdempotencyConflict, MessageConflict, QueueConflict],
        "The key was used for another request, a unique constraint refuses the message, or the queue's table \
         is altered";
    MessageTooLarge: [MessageTooLarge], "A message or the body is over the limit";
    MessageRejected: [MessageRejected],
        "JSON that PostgreSQL cannot store, or what a constraint or trigger refuses";
    MessageUnreadable: [MessageRejected], "The message cannot be read";
    NotSupported: [NotSupported],
        "PGMQ is too old for this, pg_partman is missing, or a publication is in the way; `detail` says \
         what to do";
}

/// What whoever sends a body can run into, whatever stands in it.
pub(in crate::api) struct OfBody;

impl IntoResponses for OfBody {
    fn responses() -> Responses {
        RequestTimeout::responses().into_iter().chain(MessageTooLarge::responses()).collect()
    }
}

/// An operation's response of these codes.
fn reference(name: &str, codes: &[Code]) -> Responses {
    let status = codes.first().map(|code| code.status().as_str().to_owned());
    status.into_iter().zip(iter::once(RefOr::Ref(Ref::from_response_name(name)))).collect()
}

/// What operations refer to.
pub(super) fn shared() -> Responses {
    let response = |(name, codes, description): &(&str, &[Code], &str)| {
        ((*name).to_owned(), RefOr::T(problem(codes, description)))
    };
    ALL.iter().map(response).collect()
}

/// Adds what any operation can run into, or any for which a key is needed.
pub(super) fn add_common(operation: &mut Operation, needs_key: bool) {
    let mut common = InvalidRequest::responses();
    common.append(&mut UnsupportedMediaType::responses());
    if needs_key {
        common.append(&mut Unauthenticated::responses());
        common.append(&mut Forbidden::responses());
        common.append(&mut RateLimited::responses());
        common.append(&mut Unavailable::responses());
    }
    // What the route says itself counts.
    common.append(&mut operation.responses.responses);
    operation.responses.responses = common;
}

/// What an error of any of these codes is like.
fn problem(codes: &[Code], description: &str) -> Response {
    let named: Vec<String> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
    let examples = codes.iter().map(|code| {
        let value = serde_json::to_value(example(*code).body(REQUEST_ID)).ok();
        (code.as_str(), RefOr::T(ExampleBuilder::new().value(value).build()))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(&*ProblemBody::name())))
        .examples_from_iter(examples)
        .build();
    let response = ResponseBuilder::new()
        .description(format!("{}: {description}", named.join(" or ")))
        .content("application/problem+json", content);
    if codes.iter().any(|code| code.retry_after().is_some()) {
        return response.header("Retry-After", retry_after()).build();
    }
    response.build()
}

fn retry_after() -> Header {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    HeaderBuilder::new()
        .schema(Some(seconds.build()))
        .description(Some("Seconds after which trying again makes sense"))
        .build()
}

/// What an error with a code looks like.
fn example(code: Code) -> Problem {
    let detail = match code {
        Code::InvalidRequest => "`qty` must be a whole number from 1 to 100, not `1000`",
        Code::QueueNotFound => "there is no queue `orders`; PUT /queues/orders creates it",
        Code::MessageNotFound => {
            "queue `orders` has no message 42: it was never there, or is deleted or archived"
        }
        Code::BindingNotFound => "queue `orders` is not bound to `orders.#`",
        Code::RouteNotFound => "there is no /queue; /docs shows what there is",
        Code::MethodNotAllowed => "/queues does not take PUT; the header Allow says what it takes",
        Code::RequestTimeout => "the body did not arrive within 30 seconds",
        Code::QueueInUse => {
            "dead letters of other queues go to queue `orders-dead`: set another `dead_letter_queue` for \
             them first, or pass `force=true` to have them go into the archives of those queues; nothing was \
             dropped"
        }
        Code::QueueConflict => "queue `orders` exists and is unlogged, not standard",
        Code::ReceiptStale => {
            "message 42 of queue `orders` has been delivered again since, or is another message \
             of a new queue: this receipt does not stand for it any more"
        }
        Code::IdempotencyConflict => {
            "this Idempotency-Key was used for another request; a new request needs a new key"
        }
        Code::MessageConflict => {
            "the table of queue `orders` has such a message already: its unique constraint \
             `orders_order_id` refuses another one; nothing was stored"
        }
        Code::MessageTooLarge => "the message has 1048577 bytes; the limit is 1048576",
        Code::UnsupportedMediaType => {
            "a request from another site must have `Content-Type: application/json`"
        }
        Code::MessageRejected => {
            "`message`: a string contains \\u0000, which PostgreSQL cannot store"
        }
        Code::Unauthenticated => "a valid key is needed: `Authorization: Bearer <key>`",
        Code::Forbidden => "this needs `send` on queue `orders`, which the key lacks",
        Code::RateLimited => "this key makes more requests than it may",
        Code::NotSupported => "topics need PGMQ 1.11.0 or later",
        Code::Overloaded => "too many requests wait for this queue",
        Code::DatabaseUnavailable => "the database does not answer",
        Code::OutcomeUnknown => "the connection broke while the change was being committed",
        Code::InternalError => "an unexpected error; the log of the gateway tells more",
    };
    Problem::new(code, detail)
}

#[cfg(test)]
mod tests {
    use super::{super::operations, *};

    #[test]
    fn the_codes_of_an_error_have_one_status() {
        for (name, codes, _) in ALL {
            let statuses: Vec<_> = codes.iter().map(|code| code.status()).collect();
            assert!(statuses.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {statuses:?}");
        }
    }

    /// What follows from a route's path and body, so that none is forgotten where a route is added.
    #[test]
    fn every_route_names_the_errors_that_its_shape_brings() {
        let mut document = crate::api::openapi();
        for (path, item) in &mut document.paths.paths {
            let is_of_queues = ["/queues", "/topics", "/bindings", "/transactions"]
                .iter()
                .any(|prefix| path.starts_with(prefix));
            let read = item.get.as_ref().and_then(|operation| operation.operation_id.clone());
            for operation in operations(item) {
                let id = operation.operation_id.as_deref().unwrap_or_default();
                let takes_body = operation.request_body.is_some();
                // A body that is not wanted is read, too; a publication may be in the way of any change.
                let changes = operation.operation_id != read;
                for (status, is_due) in [
                    ("500", is_of_queues),
                    ("404", path.contains("{queue}")),
                    ("408", takes_body || changes),
                    ("413", takes_body),
                    ("501", changes),
                ] {
                    let is_there = operation.responses.responses.contains_key(status);
                    assert!(is_there || !is_due, "{id}: {status}");
                }
            }
        }
    }
}

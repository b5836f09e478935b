//! Errors in the document: each stands there once, and operations refer to it.

use std::collections::BTreeMap;

use utoipa::{
    ToSchema,
    openapi::{
        ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response,
        ResponseBuilder, example::ExampleBuilder, path::Operation, schema::Type,
    },
};

use super::{
    super::problem::{Code, Problem, ProblemBody},
    PROBES,
};

/// The request's id in examples.
const REQUEST_ID: &str = "01980f2e-1b0c-7000-8000-000000000000";

/// Why a queue is in the way.
const DIFFERS: &str = "The queue is there and different, or its table is not as PGMQ makes it: somebody has altered it";

/// Where the errors of every operation stand, once each.
type Shared = BTreeMap<String, RefOr<Response>>;

/// The errors of one operation: references to the shared ones.
struct Errors<'a> {
    shared: &'a mut Shared,
    responses: &'a mut BTreeMap<String, RefOr<Response>>,
}

impl Errors<'_> {
    /// Unless the operation has said something of this status: an error that is shared under a name.
    fn add(&mut self, status: &str, name: &str, codes: &[Code], description: &str) {
        if self.responses.contains_key(status) {
            return;
        }
        let reference = RefOr::Ref(Ref::from_response_name(name));
        self.responses.insert(status.to_owned(), reference);
        let new = || RefOr::T(problem(codes, description));
        self.shared.entry(name.to_owned()).or_insert_with(new);
    }
}

/// Adds the errors that a route can have because of what it takes.
pub(super) fn add(path: &str, operation: &mut Operation, shared: &mut Shared) {
    use Code as C;
    let is_of_queues =
        ["/queues", "/topics", "/bindings", "/transactions"].iter().any(|p| path.starts_with(p));
    let id = operation.operation_id.clone().unwrap_or_default();
    let is = |ids: &[&str]| ids.contains(&&*id);
    let takes_body = operation.request_body.is_some();
    let mut errors = Errors { shared, responses: &mut operation.responses.responses };
    let mut add = |status: &str, name: &str, codes: &[Code], description: &str| {
        errors.add(status, name, codes, description);
    };
    let why = "A parameter, the body or the queue's name is wrong";
    add("400", "InvalidRequest", &[C::InvalidRequest], why);
    let why = "A `Content-Encoding`; or from another site, and not JSON";
    add("415", "UnsupportedMediaType", &[C::UnsupportedMediaType], why);
    if is(&["readyz"]) {
        add("503", "NotReady", &[C::DatabaseUnavailable, C::Overloaded], "Not ready, and why");
    }
    if !PROBES.contains(&path) {
        let why = "There is no valid key in `Authorization`";
        add("401", "Unauthenticated", &[C::Unauthenticated], why);
        let why = "The key, or the gateway's database role, may not do this";
        add("403", "Forbidden", &[C::Forbidden], why);
        add("429", "RateLimited", &[C::RateLimited], "Try again after `Retry-After` seconds");
        let codes = [C::Overloaded, C::DatabaseUnavailable, C::OutcomeUnknown];
        add("503", "Unavailable", &codes, "Try again");
    }
    if !is_of_queues {
        return;
    }
    add("500", "InternalError", &[C::InternalError], "A defect");
    if is(&["unbind"]) {
        let codes = [C::QueueNotFound, C::BindingNotFound];
        add("404", "BindingNotFound", &codes, "The queue or the binding is not there");
    } else if path.contains("{msg_id}") || is(&["transact"]) {
        let codes = [C::QueueNotFound, C::MessageNotFound];
        add("404", "MessageNotFound", &codes, "The queue or the message is not there");
    } else if path.contains("{queue}") || is(&["publish", "publish_batch"]) {
        add("404", "QueueNotFound", &[C::QueueNotFound], "The queue is not there");
    }
    if path.contains("{msg_id}") {
        add("422", "MessageUnreadable", &[C::MessageRejected], "The message cannot be read");
    }
    add_conflicts(&id, &mut add);
    if path.contains("{queue}") {
        add("409", "QueueConflict", &[C::QueueConflict], DIFFERS);
    }
    let has_topics = path.starts_with("/topics") || path.ends_with("/bindings");
    if has_topics || takes_body || is(&["receive_messages", "drop_queue"]) {
        let why = "PGMQ is too old for this, pg_partman is missing, or a publication is in the way; \
                   `detail` says what to do";
        add("501", "NotSupported", &[C::NotSupported], why);
    }
    if takes_body {
        add("408", "RequestTimeout", &[C::RequestTimeout], "The body did not arrive in time");
        let why = "A message or the body is over the limit";
        add("413", "MessageTooLarge", &[C::MessageTooLarge], why);
        let why = "JSON that PostgreSQL cannot store, or what a constraint or trigger refuses";
        add("422", "MessageRejected", &[C::MessageRejected], why);
    }
}

/// What is in the way of an operation, by its id.
fn add_conflicts(id: &str, add: &mut impl FnMut(&str, &str, &[Code], &str)) {
    use Code as C;
    match id {
        "create_queue" => {
            add("409", "QueueConflict", &[C::QueueConflict], DIFFERS);
        }
        "drop_queue" => {
            let why = "Dead letters of other queues go there, or other things depend on its tables";
            add("409", "QueueInUse", &[C::QueueInUse, C::QueueConflict], why);
        }
        "change_settings" => {
            let why = "It is partitioned, and its indexes are as they are";
            add("409", "IndexConflict", &[C::QueueConflict], why);
        }
        "delete_message" | "set_visibility" => {
            let codes = [C::ReceiptStale, C::QueueConflict];
            let why = "The message has been delivered again since, or the queue's table is altered";
            add("409", "ReceiptStale", &codes, why);
        }
        "archive_message" => {
            let codes = [C::ReceiptStale, C::MessageConflict, C::QueueConflict];
            let why = "The message has been delivered again since, the archive has one of its id, or the \
                       queue's table is altered";
            add("409", "ArchiveConflict", &codes, why);
        }
        "replay_archive" | "redrive" => {
            let codes = [C::MessageConflict, C::QueueConflict];
            let why =
                "A unique constraint of the table refuses all of them, or the table is altered";
            add("409", "MessageConflict", &codes, why);
        }
        "transact" => {
            let codes =
                [C::ReceiptStale, C::IdempotencyConflict, C::MessageConflict, C::QueueConflict];
            let why = "A message has been delivered again since, the key was used for another request, \
                       a unique constraint refuses a message, or a queue's table is altered; nothing was done";
            add("409", "TransactionConflict", &codes, why);
        }
        "send_message" | "send_batch" | "publish" | "publish_batch" => {
            let codes = [C::IdempotencyConflict, C::MessageConflict, C::QueueConflict];
            let why = "The key was used for another request, a unique constraint refuses the message, or \
                       the queue's table is altered";
            add("409", "SendConflict", &codes, why);
        }
        _ => {}
    }
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

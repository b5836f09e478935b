//! The OpenAPI document and the pages that show it.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::Response as AxumResponse,
    routing::get,
};
use bytes::Bytes;
use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ContactBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, Response,
        ResponseBuilder,
        example::ExampleBuilder,
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};
use utoipa_swagger_ui::Config;

use super::{
    Api,
    answer::json_answer,
    base_path::BasePath,
    problem::{Code, Problem, ProblemBody},
    schemas,
};

/// The names of the ways to show a key.
const BEARER: &str = "bearer";
const BASIC: &str = "basic";
/// Routes that need none.
const PROBES: [&str; 2] = ["/livez", "/readyz"];
/// Where the document is served.
const DOCUMENT: &str = "/openapi.json";
/// Where the pages find it.
const DOCUMENT_OF_PAGES: &str = "/docs/openapi.json";
/// Where the pages are.
const PAGES: &str = "/docs";
/// The request's id in examples.
const REQUEST_ID: &str = "01980f2e-1b0c-7000-8000-000000000000";

/// The OpenAPI document.
pub fn openapi() -> OpenApi {
    complete(super::routes().into_openapi())
}

/// Adds what no single route can say.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("pgmq-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "PGMQ, the message queue inside PostgreSQL, over HTTP. Durations are whole seconds, \
             times are RFC 3339 in UTC, errors are RFC 9457 problem details with a stable `code`. \
             Unknown parameters and fields are refused.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .contact(None::<ContactBuilder>.map(ContactBuilder::build))
        .build();
    let tag = |name: &str, text: &str| {
        TagBuilder::new().name(name).description(Some(text.to_owned())).build()
    };
    document.tags = Some(vec![
        tag("Queues", "Making, finding, emptying and dropping queues."),
        tag("Messages", "Sending, receiving, looking at and settling messages."),
        tag("Transactions", "Several operations across queues, all or none."),
        tag("Archive and dead letters", "What is over, and taking it back."),
        tag("Topics", "Messages that go to every queue whose patterns match."),
        tag("Operations", "For operators and orchestrators."),
    ]);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key, or a token of the configured signer"));
    let basic = HttpBuilder::new()
        .scheme(HttpAuthScheme::Basic)
        .description(Some("A key as the password; the user does not matter"));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer.build()));
    components.add_security_scheme(BASIC, SecurityScheme::Http(basic.build()));
    components.schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_security(path, operation);
            add_errors(path, operation);
        }
    }
    schemas::refine(&mut document);
    document
}

pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
    methods.into_iter().flatten()
}

/// Who a route asks for a key. A gateway that serves its own machine alone may need none.
fn add_security(path: &str, operation: &mut Operation) {
    if PROBES.contains(&path) {
        return;
    }
    let scheme = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    let either = vec![SecurityRequirement::default(), scheme(BEARER), scheme(BASIC)];
    operation.security = Some(either);
}

/// The errors that a route can have because of what it takes.
fn add_errors(path: &str, operation: &mut Operation) {
    use Code as C;
    let is_of_queues =
        ["/queues", "/topics", "/bindings", "/transactions"].iter().any(|p| path.starts_with(p));
    let id = operation.operation_id.clone().unwrap_or_default();
    let is = |ids: &[&str]| ids.contains(&&*id);
    let takes_body = operation.request_body.is_some();
    let responses = &mut operation.responses.responses;
    let mut add = |status: &str, codes: &[Code], description: &str| {
        let new = || RefOr::T(problem(codes, description));
        responses.entry(status.to_owned()).or_insert_with(new);
    };
    add("400", &[C::InvalidRequest], "A parameter, the body or the queue's name is wrong");
    add(
        "415",
        &[C::UnsupportedMediaType],
        "A `Content-Encoding`; or from another site, and not JSON",
    );
    if is(&["readyz"]) {
        add("503", &[C::DatabaseUnavailable, C::Overloaded], "Not ready, and why");
    }
    if !PROBES.contains(&path) {
        add("401", &[C::Unauthenticated], "There is no valid key in `Authorization`");
        add("403", &[C::Forbidden], "The key, or the gateway's database role, may not do this");
        add("429", &[C::RateLimited], "Try again after `Retry-After` seconds");
        add("503", &[C::Overloaded, C::DatabaseUnavailable, C::OutcomeUnknown], "Try again");
    }
    if !is_of_queues {
        return;
    }
    add("500", &[C::InternalError], "A defect");
    if is(&["unbind"]) {
        add(
            "404",
            &[C::QueueNotFound, C::BindingNotFound],
            "The queue or the binding is not there",
        );
    } else if path.contains("{msg_id}") {
        let codes = [C::QueueNotFound, C::MessageNotFound];
        add("404", &codes, "The queue or the message is not there");
        add("422", &[C::MessageRejected], "The message cannot be read");
    } else if is(&["transact"]) {
        let codes = [C::QueueNotFound, C::MessageNotFound];
        add("404", &codes, "A queue or a message is not there; nothing was done");
    } else if path.contains("{queue}") || is(&["publish", "publish_batch"]) {
        add("404", &[C::QueueNotFound], "The queue is not there");
    }
    if is(&["create_queue"]) {
        add("409", &[C::QueueConflict], "It was there, and is different");
    }
    if is(&["change_settings"]) {
        add("409", &[C::QueueConflict], "It is partitioned, and its indexes are as they are");
    }
    if is(&["drop_queue"]) {
        let why = "Dead letters of other queues go there, or other things depend on its tables";
        add("409", &[C::QueueInUse, C::QueueConflict], why);
    }
    if is(&["delete_message", "set_visibility"]) {
        add("409", &[C::ReceiptStale], "The message has been delivered again since");
    }
    if is(&["archive_message"]) {
        let codes = [C::ReceiptStale, C::MessageConflict];
        let why = "The message has been delivered again since, or the archive has one of its id";
        add("409", &codes, why);
    }
    if is(&["replay_archive", "redrive"]) {
        add("409", &[C::MessageConflict], "A unique constraint of the table refuses all of them");
    }
    if is(&["transact"]) {
        let codes = [C::ReceiptStale, C::IdempotencyConflict, C::MessageConflict];
        add(
            "409",
            &codes,
            "A message has been delivered again since, the key was used for another request, or a \
             unique constraint refuses a message; nothing was done",
        );
    }
    if is(&["send_message", "send_batch", "publish", "publish_batch"]) {
        let codes = [C::IdempotencyConflict, C::MessageConflict];
        let why =
            "The key was used for another request, or a unique constraint refuses the message";
        add("409", &codes, why);
    }
    let has_topics = path.starts_with("/topics") || path.ends_with("/bindings");
    if has_topics || takes_body || is(&["receive_messages", "drop_queue"]) {
        add(
            "501",
            &[C::NotSupported],
            "PGMQ is too old for this, pg_partman is missing, or a publication is in the way; \
             `detail` says what to do",
        );
    }
    if takes_body {
        add("408", &[C::RequestTimeout], "The body did not arrive in time");
        add("413", &[C::MessageTooLarge], "A message or the body is over the limit");
        let why = "JSON that PostgreSQL cannot store, or what a constraint or trigger refuses";
        add("422", &[C::MessageRejected], why);
    }
}

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
    ResponseBuilder::new()
        .description(format!("{}: {description}", named.join(" or ")))
        .content("application/problem+json", content)
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
        Code::QueueConflict => "queue `orders` exists and is unlogged, not standard",
        Code::QueueInUse => {
            "dead letters of other queues go to queue `orders-dead`: set another `dead_letter_queue` for \
             them first, or pass `force=true` to have them go into the archives of those queues; nothing was \
             dropped"
        }
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

/// Serves the document, which is written out once.
pub(super) fn document_route(document: &OpenApi) -> Router<Api> {
    // Strings and numbers: this cannot fail.
    let json = Bytes::from(serde_json::to_vec(document).unwrap_or_default());
    let here = with_server(&json, "..");
    let served = async move |BasePath(base): BasePath| {
        let json = if base.is_empty() { json } else { with_server(&json, &base) };
        json_answer(json.into())
    };
    Router::new()
        .route(DOCUMENT, get(served))
        .route(DOCUMENT_OF_PAGES, get(async move || json_answer(here.into())))
}

/// The document, saying where the API is; it does not for clients that were made from it for any gateway.
fn with_server(json: &Bytes, url: &str) -> Bytes {
    let servers = json!([{ "url": url }]);
    let document = json.get(1..).unwrap_or_default();
    [format!("{{\"servers\":{servers},").as_bytes(), document].concat().into()
}

/// Serves pages to browse it, with nothing from another host, wherever a proxy has them: every address is
/// relative.
pub(super) fn browser() -> Router<Api> {
    let config = Config::from("./openapi.json")
        .validator_url("none")
        .try_it_out_enabled(true)
        .display_request_duration(true);
    let config = Arc::new(config);
    let index = Arc::clone(&config);
    Router::new()
        .route(PAGES, get(async || (StatusCode::SEE_OTHER, [(header::LOCATION, "docs/")])))
        .route("/docs/", get(async move || page("", index)))
        .route("/docs/{*file}", get(async move |Path(file): Path<String>| page(&file, config)))
}

/// A file of the pages. They are nobody's to frame: a click in them can empty a queue.
fn page(file: &str, config: Arc<Config<'_>>) -> Result<AxumResponse, Problem> {
    let found = utoipa_swagger_ui::serve(file, config).map_err(|error| Problem {
        source: Some(error.to_string().into()),
        ..Problem::new(Code::InternalError, "the page could not be made")
    })?;
    let found = found.ok_or_else(|| {
        Problem::new(
            Code::RouteNotFound,
            format!("there is no /docs/{file}; /docs/ shows what there is"),
        )
    })?;
    let mut response = AxumResponse::new(Body::from(found.bytes.into_owned()));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_str(&found.content_type);
    headers.insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("text/plain")));
    if found.gzpipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let unframed = HeaderValue::from_static("frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, unframed);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // By which the pages show, over plain HTTP, that what they ask for is asked from here.
    let referrer = HeaderValue::from_static("same-origin");
    headers.insert(header::REFERRER_POLICY, referrer);
    Ok(response)
}

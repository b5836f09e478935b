//! The OpenAPI document and the pages that show it.

use axum::{Json as JsonAnswer, Router, routing::get};
use utoipa::openapi::{
    ContactBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, Response,
    ResponseBuilder,
    path::{Operation, PathItem},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    tag::TagBuilder,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::Api;

/// The names of the ways to show a key.
const BEARER: &str = "bearer";
const BASIC: &str = "basic";
/// Routes that need none.
const PROBES: [&str; 2] = ["/livez", "/readyz"];
/// Where the document is served.
const DOCUMENT: &str = "/openapi.json";

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
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_security(path, operation);
            add_errors(path, operation);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
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
    let mut add = |status: &str, description: &str| {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(description)));
    };
    add("401", "`unauthenticated`: there is no valid key in `Authorization`");
    add("403", "`forbidden`: the key, or the gateway's database role, may not do this");
    add("429", "`rate_limited`: try again after `Retry-After` seconds");
    add("503", "`overloaded`, `database_unavailable` or `outcome_unknown`: try again");
}

/// The errors that a route can have because of what it takes.
fn add_errors(path: &str, operation: &mut Operation) {
    let is_of_queues =
        ["/queues", "/topics", "/bindings", "/transactions"].iter().any(|p| path.starts_with(p));
    if !is_of_queues {
        return;
    }
    let id = operation.operation_id.clone().unwrap_or_default();
    let is = |ids: &[&str]| ids.contains(&&*id);
    let takes_body = operation.request_body.is_some();
    let mut add = |status: &str, description: &str| {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(description)));
    };
    add("400", "`invalid_request`: a parameter, the body or the queue's name is wrong");
    add("500", "`internal_error`: a defect");
    if is(&["unbind"]) {
        add("404", "`queue_not_found` or `binding_not_found`");
    } else if path.contains("{msg_id}") {
        add("404", "`queue_not_found` or `message_not_found`");
        add("422", "`message_rejected`: the message cannot be read");
    } else if path.contains("{queue}") {
        add("404", "`queue_not_found`");
    }
    if is(&["delete_message", "set_visibility", "archive_message"]) {
        add("409", "`receipt_stale`: the message has been delivered again since");
    }
    if is(&["transact"]) {
        add("409", "`receipt_stale` or `idempotency_conflict`; nothing was done");
    }
    if is(&["send_message", "send_batch", "publish", "publish_batch"]) {
        add("409", "`idempotency_conflict`: the key was used for another request");
        add("404", "`queue_not_found`");
    }
    let has_topics = path.starts_with("/topics") || path.ends_with("/bindings");
    if has_topics || takes_body || is(&["receive_messages"]) {
        add("501", "`not_supported`: PGMQ is too old for this; `detail` says which version has it");
    }
    if takes_body {
        add("408", "`request_timeout`: the body did not arrive in time");
        add("413", "`message_too_large`");
        add("422", "`message_rejected`: JSON that PostgreSQL cannot store");
    }
    add("415", "`unsupported_media_type`: from another site, and not JSON");
}

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
}

/// Serves the document.
pub(super) fn document_route(document: OpenApi) -> Router<Api> {
    Router::new().route(DOCUMENT, get(async move || JsonAnswer(document)))
}

/// Serves pages to browse it, with nothing from another host.
pub(super) fn browser() -> Router<Api> {
    let config = Config::from(DOCUMENT)
        .validator_url("none")
        .try_it_out_enabled(true)
        .display_request_duration(true);
    SwaggerUi::new("/docs").config(config).into()
}

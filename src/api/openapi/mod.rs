//! The OpenAPI document and the pages that show it.

pub(super) mod errors;
mod headers;
mod pages;
mod parts;
mod refine;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        InfoBuilder, LicenseBuilder, OpenApi, Server,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::problem::ProblemBody;

use refine::operations;

pub(super) use pages::{browser, document_route, start_page};

/// The names of the ways to show a key. Pages offer them in the order of their names.
const BEARER: &str = "bearer";
const BASIC: &str = "password";
/// Routes that need none.
const PROBES: [&str; 2] = ["/livez", "/readyz"];
/// Where a gateway is that was started without any settings.
const SERVER: &str = "http://127.0.0.1:8080";

/// Adds what no single route can say.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0"));
    document.info = InfoBuilder::new()
        .title("pgmq-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "PGMQ, the message queue inside PostgreSQL, over HTTP. Durations are whole seconds, \
             times are RFC 3339 in UTC, errors are RFC 9457 problem details with a stable `code`. \
             Unknown parameters and fields are refused.",
        ))
        .license(Some(license.build()))
        .build();
    document.servers = Some(vec![Server::new(SERVER)]);
    document.tags = Some(
        tags()
            .map(|(name, text)| {
                TagBuilder::new().name(name).description(Some(text.to_owned())).build()
            })
            .collect(),
    );
    add_security(&mut document);
    let components = document.components.get_or_insert_default();
    components.schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    components.responses.append(&mut errors::shared());
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            let needs_key = !PROBES.contains(&&**path);
            errors::add_common(operation, needs_key);
            headers::add(operation);
            shorten_summary(operation);
            if !needs_key {
                operation.security = Some(Vec::new());
            }
        }
    }
    refine::refine(&mut document);
    document
}

fn tags() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ("Queues", "Making, finding, emptying and dropping queues."),
        ("Messages", "Sending, receiving, looking at and settling messages."),
        ("Transactions", "Several operations across queues, all or none."),
        ("Archive and dead letters", "What is over, and taking it back."),
        ("Topics", "Messages that go to every queue whose patterns match."),
        ("Operations", "For operators and orchestrators."),
    ]
    .into_iter()
}

/// How a key is shown. A gateway that serves its own machine alone may need none.
fn add_security(document: &mut OpenApi) {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key, or a token of the configured signer"));
    let basic = HttpBuilder::new()
        .scheme(HttpAuthScheme::Basic)
        .description(Some("A key as the password; the user does not matter"));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer.build()));
    components.add_security_scheme(BASIC, SecurityScheme::Http(basic.build()));
    let scheme = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    let any = vec![scheme(BEARER), scheme(BASIC), SecurityRequirement::default()];
    document.security = Some(any);
}

/// A line in a list of operations is the first clause of what is said; the rest stands below it.
fn shorten_summary(operation: &mut Operation) {
    let Some(summary) = operation.summary.take() else { return };
    let text = summary.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = text.find([':', ';']).into_iter().chain(text.find(". ")).min();
    let clause = text[..end.unwrap_or(text.len())].trim_end_matches('.').to_owned();
    if end.is_some() {
        let more = operation.description.take();
        let more = more.map(|more| format!("\n\n{more}")).unwrap_or_default();
        operation.description = Some(text + &more);
    }
    operation.summary = Some(clause);
}

#[cfg(test)]
mod tests {
    use utoipa::openapi::path::OperationBuilder;

    use super::*;

    #[test]
    fn a_summary_is_a_clause() {
        for (said, more, summary, description) in [
            ("Shows a queue.", None, "Shows a queue", None),
            (
                "Leases: they\nare hidden. With `wait`.",
                Some("More."),
                "Leases",
                Some("Leases: they are hidden. With `wait`.\n\nMore."),
            ),
            ("Stores one. Then answers.", None, "Stores one", Some("Stores one. Then answers.")),
            ("Sends 1.5 of them.", Some("More."), "Sends 1.5 of them", Some("More.")),
        ] {
            let mut operation =
                OperationBuilder::new().summary(Some(said)).description(more).build();
            shorten_summary(&mut operation);
            assert_eq!(operation.summary.as_deref(), Some(summary));
            assert_eq!(operation.description.as_deref(), description);
        }
    }
}

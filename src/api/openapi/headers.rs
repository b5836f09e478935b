//! Headers of answers that go with headers of requests.

use utoipa::openapi::{
    Header, HeaderBuilder, ObjectBuilder, RefOr,
    path::{Operation, ParameterIn},
    schema::Type,
};

/// What a request may have, the statuses to which that leads, and what their answers may have then.
const PAIRS: [(&str, &str, &str, &str); 2] = [
    (
        "Idempotency-Key",
        "2",
        "Idempotency-Replayed",
        "`true` where this is the answer to an earlier request with the same key",
    ),
    ("Prefer", "204", "Preference-Applied", "`return=minimal`, as it was preferred"),
];

/// Adds them to what an operation answers.
pub(super) fn add(operation: &mut Operation) {
    for (wanted, statuses, name, text) in PAIRS {
        let is_taken = operation.parameters.iter().flatten().any(|parameter| {
            matches!(parameter, RefOr::T(parameter)
                if parameter.parameter_in == ParameterIn::Header && parameter.name == wanted)
        });
        if !is_taken {
            continue;
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response
                && status.starts_with(statuses)
            {
                response.headers.insert(name.to_owned(), RefOr::T(header(text)));
            }
        }
    }
}

fn header(text: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    HeaderBuilder::new().schema(Some(schema.build())).description(Some(text)).build()
}

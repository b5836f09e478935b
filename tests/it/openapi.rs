//! The OpenAPI document: current, complete, and served.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    layers::files,
    support::{Answer, TestGateway},
};

fn committed() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    fs::read_to_string(path).expect("openapi/openapi.json")
}

#[test]
fn the_committed_document_is_current() {
    let current = pgmq_gateway::api::openapi().to_pretty_json().expect("JSON") + "\n";
    assert!(committed() == current, "run `make openapi` and commit what it writes");
}

#[tokio::test]
async fn the_document_is_served_and_its_routes_are_there() {
    let gateway = TestGateway::start().await;
    let served = gateway.get("/openapi.json").await.expect(200);
    let document: Value = serde_json::from_str(&committed()).expect("JSON");
    assert_eq!(served.json(), document);
    for (path, item) in document["paths"].as_object().expect("paths") {
        let concrete = path.replace("{queue}", "none").replace("{msg_id}", "1");
        for method in item.as_object().expect("methods").keys() {
            let method = method.to_uppercase();
            let answer = Answer::of(gateway.request(&method, &concrete)).await;
            let documented = &item[method.to_lowercase()]["responses"];
            assert!(answer.status != 405, "{method} {path} is not served");
            let code =
                if answer.status < 400 { Value::Null } else { answer.json()["code"].clone() };
            assert_ne!(code, "route_not_found", "{method} {path}");
            let status = answer.status.to_string();
            assert!(documented.get(&status).is_some(), "{method} {path} answers {status}");
        }
    }
}

/// Routes are registered together with their documentation; nothing else may add one, but what has
/// no place in the document.
#[test]
fn no_route_goes_without_documentation() {
    let api = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut found = Vec::new();
    for file in files(&api) {
        let text = fs::read_to_string(file).expect("readable");
        let lines = text.lines().filter(|line| line.contains(".route(") || line.contains("nest"));
        found.extend(lines.map(|line| line.trim().to_owned()));
    }
    found.sort();
    assert_eq!(
        found,
        [
            ".route(\"/docs/\", get(async move || page(\"\", index)))",
            ".route(\"/docs/{*file}\", get(async move |Path(file): Path<String>| page(&file, config)))",
            ".route(DOCUMENT, get(served))",
            ".route(DOCUMENT_OF_PAGES, get(async move || json_answer(here.into())))",
            ".route(PAGES, get(async || (StatusCode::SEE_OTHER, [(header::LOCATION, \"docs/\")])))",
            "let router = router.route(receive::PATH, head(receive::refuse_head));",
        ]
    );
}

#[tokio::test]
async fn the_browsable_pages_load_nothing_from_elsewhere() {
    let gateway = TestGateway::start().await;
    let page = gateway.get("/docs/").await.expect(200);
    assert!(page.header("content-type").starts_with("text/html"));
    let elsewhere = page.text.split(['"', '\'']).find(|part| part.contains("//"));
    assert_eq!(elsewhere, None);
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        gateway.get(&format!("/docs/{file}")).await.expect(200);
    }
    let start = gateway.get("/docs/swagger-initializer.js").await.text;
    assert!(start.contains("/openapi.json"), "{start}");
    assert!(start.contains("\"validatorUrl\": \"none\""), "{start}");
}

/// Every body in the document, with where it is.
fn bodies(document: &Value) -> Vec<(String, &Value)> {
    let mut bodies = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let responses = operation["responses"].as_object().expect("responses");
            let request = operation.get("requestBody").map(|body| ("request", body));
            let all = responses.iter().map(|(status, body)| (&**status, body)).chain(request);
            for (what, body) in all {
                for (kind, content) in body["content"].as_object().into_iter().flatten() {
                    bodies.push((format!("{method} {path} {what} {kind}"), content));
                }
            }
        }
    }
    bodies
}

/// The schema that is meant, and not where it stands.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect(reference),
        None => schema,
    }
}

/// Whether a value has what the schema demands, and nothing that it does not know.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    let schema = resolved(document, schema);
    for choice in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[choice].as_array() {
            return choices.iter().any(|schema| fits(document, schema, value));
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    types.into_iter().any(|kind| match (kind, value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => true,
        ("integer", value) => value.is_i64(),
        ("number", value) => value.is_number(),
        ("array", Value::Array(items)) => {
            items.iter().all(|item| fits(document, &schema["items"], item))
        }
        ("object", Value::Object(fields)) => {
            let Some(known) = schema["properties"].as_object() else { return true };
            let required = schema["required"].as_array().into_iter().flatten();
            required.filter_map(Value::as_str).all(|name| fields.contains_key(name))
                && fields.iter().all(|(name, value)| {
                    known.get(name).is_some_and(|schema| fits(document, schema, value))
                })
        }
        _ => false,
    })
}

#[test]
fn every_body_has_an_example_that_fits_its_schema() {
    let document: Value = serde_json::from_str(&committed()).expect("JSON");
    let bodies = bodies(&document);
    assert!(bodies.len() > 200, "{}", bodies.len());
    for (whose, content) in bodies {
        let schema = resolved(&document, &content["schema"]);
        let named = content["examples"].as_object().into_iter().flatten();
        let mut examples: Vec<&Value> = named.map(|(_, example)| &example["value"]).collect();
        examples.extend(content.get("example").or_else(|| schema.get("example")));
        examples.extend(schema["examples"].as_array().into_iter().flatten());
        assert!(!examples.is_empty(), "{whose} has no example");
        for example in examples {
            assert!(fits(&document, schema, example), "{whose}: {example}");
        }
    }
}

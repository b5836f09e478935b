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
    let mut here = document.clone();
    here["servers"] = serde_json::json!([{"url": "/"}]);
    assert_eq!(served.json(), here);
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
            ".route(\"/docs/\", get(async move || index.page(INDEX)))",
            ".route(\"/docs/{*file}\", get(async move |Path(file): Path<String>| pages.page(&file)))",
            ".route(PAGES, get(async || (StatusCode::SEE_OTHER, [(header::LOCATION, \"docs/\")])))",
            "Router::new().route(\"/\", get(start)).route(\"/favicon.ico\", get(icon))",
            "let router = router.route(receive::PATH, head(receive::refuse_head));",
            "let served = Router::new().route(DOCUMENT, get(served));",
            "served.route(DOCUMENT_OF_PAGES, get(async move || json_answer(of_pages.at(\"..\"))))",
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
                let body = resolved(document, body);
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

/// What generators of clients stumble over; `tests/it/generators.rs` has two of them try.
#[test]
fn the_document_is_one_that_generators_take() {
    let document: Value = serde_json::from_str(&committed()).expect("JSON");
    let errors = document["components"]["responses"].as_object().expect("shared").len();
    assert!(errors < 25, "{errors} shared responses");
    assert!(committed().len() < 320_000, "{} bytes", committed().len());
    let mut open = 0;
    visit(&document, &mut |at, value| {
        let whole = |choice: &Value| choice["properties"].is_object();
        for choices in ["oneOf", "anyOf", "allOf"] {
            let inline = value[choices].as_array().into_iter().flatten().any(whole);
            assert!(!inline, "{at}: {choices} of whole objects");
        }
        let kind = value["type"].to_string();
        if kind.contains("\"object\"") && value.get("properties").is_none() {
            open += 1;
            assert_eq!(value["additionalProperties"], true, "{at} is open and does not say so");
        }
        let both = value.get("in").is_some() && value.get("content").is_some();
        assert!(!both, "{at}: a parameter as content");
    });
    assert!(open > 1, "{open} open objects");
    for (at, content) in bodies(&document) {
        if let Some(code) = at.split(' ').nth(2).filter(|status| status.starts_with(['4', '5'])) {
            assert!(content.get("examples").is_some(), "{at}: {code}");
        }
    }
}

/// Calls something with every object of a document and where it is.
fn visit(document: &Value, call: &mut dyn FnMut(&str, &Value)) {
    fn walk(at: &str, value: &Value, call: &mut dyn FnMut(&str, &Value)) {
        match value {
            Value::Object(fields) => {
                call(at, value);
                // What stands in examples is nobody's schema.
                let fields = fields.iter().filter(|(name, _)| !name.starts_with("example"));
                fields.for_each(|(name, value)| walk(&format!("{at}/{name}"), value, call));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(n, item)| walk(&format!("{at}/{n}"), item, call));
            }
            _ => {}
        }
    }
    walk("", document, call);
}

/// The first try in a browser works with what is filled in: nothing of it delays, filters or names what is
/// not there.
#[tokio::test]
async fn what_is_filled_in_for_the_first_try_works() {
    let gateway = TestGateway::start().await;
    let document = gateway.get("/docs/openapi.json").await.expect(200).json();
    assert_eq!(document["servers"][0]["url"], "..");
    let body = |path: &str, method: &str| {
        let content =
            &document["paths"][path][method]["requestBody"]["content"]["application/json"];
        let schema = resolved(&document, &content["schema"]);
        content.get("example").or_else(|| schema.get("example")).expect("an example").to_string()
    };
    gateway.put("/queues/first", &body("/queues/{queue}", "put")).await.expect(201);
    let messages = "/queues/{queue}/messages";
    gateway.post("/queues/first/messages", &body(messages, "post")).await.expect(201);
    let receive = &document["paths"][messages]["get"]["parameters"];
    for parameter in receive.as_array().expect("parameters") {
        let filled = parameter.get("example").or_else(|| parameter["schema"].get("example"));
        let filled = filled.or_else(|| parameter["schema"].get("default"));
        assert_eq!(filled, None, "{parameter}");
    }
    gateway.receive_one("first", "").await;
    for (path, method) in [
        ("/queues/{queue}/messages/batch", "post"),
        ("/queues/{queue}/messages/settle", "post"),
        ("/queues/{queue}/archive/replay", "post"),
        ("/queues/{queue}/redrive", "post"),
        ("/queues/{queue}/bindings", "post"),
        ("/queues/{queue}", "patch"),
    ] {
        let concrete = path.replace("{queue}", "first");
        let request = gateway.request(&method.to_uppercase(), &concrete).body(body(path, method));
        let answer = Answer::of(request).await;
        assert!(answer.status < 300, "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_pages_offer_a_bearers_key_first_remember_it_and_fit_a_phone() {
    let gateway = TestGateway::start().await;
    let document = gateway.get("/openapi.json").await.expect(200).json();
    let schemes = document["components"]["securitySchemes"].as_object().expect("schemes");
    assert_eq!(schemes.keys().next().map(String::as_str), Some("bearer"));
    assert!(document["security"][0].get("bearer").is_some(), "{}", document["security"]);
    let start = gateway.get("/docs/swagger-initializer.js").await.expect(200).text;
    assert!(start.contains("\"persistAuthorization\": true"), "{start}");
    let page = gateway.get("/docs/").await.expect(200).text;
    assert!(page.contains("name=\"viewport\"") && page.contains("max-width: 640px"), "{page}");
    assert!(page.contains("<title>pgmq-gateway</title>"), "{page}");
    let icon = gateway.get("/favicon.ico").await.expect(200);
    assert_eq!(icon.header("content-type"), "image/svg+xml");
}

#[tokio::test]
async fn the_root_leads_browsers_on_and_tells_programs_what_this_is() {
    let gateway = TestGateway::start().await;
    let about = gateway.get("/").await.expect(200);
    assert_eq!(about.header("vary"), "accept");
    let about = about.json();
    assert_eq!(about["name"], "pgmq-gateway");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    for document in ["docs", "openapi", "dashboard"] {
        gateway.get(about[document].as_str().expect("a path")).await.expect(200);
    }
    let plain = TestGateway::with(|settings| settings.dashboard.enabled = false).await;
    for (gateway, leads_to) in [(&gateway, "<h1>Queues</h1>"), (&plain, "swagger-ui")] {
        let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
        let browser = gateway.request("GET", "/").header("accept", accept);
        let page = Answer::of(browser).await.expect(200);
        assert!(page.text.contains(leads_to), "{}", page.text);
    }
    assert!(plain.get("/").await.json().get("dashboard").is_none());
    plain.get("/ui").await.problem(404, "route_not_found");
    let prefixed = gateway.request("GET", "/").header("x-forwarded-prefix", "/queue-api");
    assert_eq!(Answer::of(prefixed).await.expect(200).json()["docs"], "/queue-api/docs/");
}

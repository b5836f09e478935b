//! What someone who means harm puts into every place where text goes.

use std::{collections::BTreeSet, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{RequestBuilder, header::HeaderValue};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Answer, TestGateway};

/// Longer than any answer of these may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that must be as it was: what PGMQ and the gateway are made of, the canary's table and
/// queue, its archive and its bindings, and who may do what. One of the texts is a queue's name.
const FINGERPRINT: &str = r"
    SELECT string_agg(replace(line, chr(10), ' '), chr(10)) FROM (
        SELECT 'function ' || p.oid || ' ' || p.prosrc FROM pg_proc p
        WHERE p.pronamespace::regnamespace::text IN ('pgmq', 'pgmq_gateway', 'public')
        UNION ALL
        SELECT format('relation %s %s %s', c.relname, c.relkind, c.relacl) FROM pg_class c
        WHERE c.relnamespace::regnamespace::text IN ('pgmq', 'pgmq_gateway', 'public')
            AND c.relname !~ 'victim|9223372036854775808|pg_toast'
        UNION ALL SELECT 'superuser ' || rolname FROM pg_roles WHERE rolsuper
        UNION ALL SELECT 'canary ' || canary::text FROM canary
        UNION ALL SELECT 'message ' || m::text FROM pgmq.q_canary m
        UNION ALL SELECT 'archive ' || m::text FROM pgmq.a_canary m
        UNION ALL SELECT 'binding ' || b::text FROM pgmq.topic_bindings b
            WHERE b.queue_name = 'canary'
        UNION ALL SELECT 'queue ' || m::text FROM pgmq.meta m 
            WHERE m.queue_name NOT IN ('victim', '9223372036854775808')
        UNION ALL SELECT 'migration ' || m::text FROM pgmq_gateway._sqlx_migrations m
    ) AS all_of_it (line)";

fn nasty() -> Vec<String> {
    let mut texts: Vec<String> = [
        "'; DROP TABLE canary; --",
        "\"; DROP TABLE canary; --",
        "\\'; DROP TABLE canary; --",
        "victim'); DROP TABLE canary; --",
        "$$; DROP TABLE canary; $$",
        "' OR '1'='1",
        "\\",
        "$1",
        "%",
        "_",
        "%s%n",
        "\0",
        "a\0b",
        "../",
        "..\\",
        "/",
        "\u{1F600}\u{202E}\u{FEFF}",
        "\r\nX-Injected: 1",
        "-1",
        "9223372036854775808",
        "NaN",
        "{}",
        "",
    ]
    .map(str::to_owned)
    .into();
    texts.push("x".repeat(10_000));
    texts.push("\u{1F600}'\"".repeat(1_500));
    texts
}

/// Values that a schema of the document allows, one for each of its alternatives.
fn samples(document: &Value, name: &str, schema: &Value) -> Vec<Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        return samples(document, name, document.pointer(pointer).expect("it is there"));
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().flat_map(|choice| samples(document, name, choice)).collect();
    }
    if let Some(values) = schema["enum"].as_array() {
        return vec![values[0].clone()];
    }
    let kind = schema["type"].as_array().map_or(&schema["type"], |kinds| &kinds[0]);
    match (kind.as_str(), name) {
        (Some("null"), _) => vec![Value::Null],
        (Some("boolean"), _) => vec![json!(true)],
        (Some("integer"), _) => vec![json!(schema["minimum"].as_i64().unwrap_or(1))],
        (Some("string"), _) if schema["format"] == "date-time" => {
            vec![json!("2020-01-01T00:00:00Z")]
        }
        (Some("string"), "pattern") => vec![json!("victim.*")],
        (Some("string"), "interval" | "retention") => vec![schema["example"].clone()],
        (Some("string"), _) => vec![json!("victim")],
        (Some("array"), _) => {
            let items = samples(document, name, &schema["items"]);
            items.into_iter().map(|item| json!([item])).collect()
        }
        (Some("object"), _) if schema["properties"].is_object() => {
            let mut wholes = vec![json!({})];
            for (field, schema) in schema["properties"].as_object().expect("fields") {
                let values = samples(document, field, schema);
                let with = |whole: &Value| {
                    let with = |value: &Value| {
                        let mut whole = whole.clone();
                        whole[field] = value.clone();
                        whole
                    };
                    values.iter().map(with).collect::<Vec<_>>()
                };
                wholes = wholes.iter().flat_map(with).take(16).collect();
            }
            wholes
        }
        _ => vec![json!({"key": "value"})],
    }
}

/// Every place in a value, as a JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| places(value, &format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(n, value)| places(value, &format!("{at}/{n}"), found));
        }
        _ => {}
    }
}

/// Bodies with the text in each place of a body, as a value and as a name.
fn spoilt(body: &Value, text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    places(body, "", &mut found);
    let mut bodies = Vec::new();
    for place in found {
        let mut with = body.clone();
        *with.pointer_mut(&place).expect("a place") = json!(text);
        bodies.push(with);
        let mut with = body.clone();
        if let Some(Value::Object(fields)) = with.pointer_mut(&place) {
            fields.insert(text.to_owned(), json!(text));
            bodies.push(with);
        }
    }
    bodies
}

/// An operation of the document.
struct Operation<'a> {
    gateway: &'a TestGateway,
    document: &'a Value,
    method: String,
    path: &'a str,
    item: &'a Value,
}

impl Operation<'_> {
    fn parameters(&self, place: &str) -> Vec<&str> {
        let all = self.item["parameters"].as_array().into_iter().flatten();
        all.filter(|p| p["in"] == place).filter_map(|p| p["name"].as_str()).collect()
    }

    /// A request with these values in the path, where there are others than harmless ones.
    fn request(&self, given: &[(&str, &str)], query: &str) -> RequestBuilder {
        let mut path = self.path.to_owned();
        let harmless = [("queue", "victim"), ("msg_id", "1"), ("routing_key", "victim.key")];
        for (name, text) in given.iter().chain(&harmless) {
            let text = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            path = path.replacen(&format!("{{{name}}}"), &text, 1);
        }
        self.gateway.request(&self.method, &format!("{path}?{query}")).timeout(PATIENCE)
    }

    fn bodies(&self) -> Vec<Value> {
        let schema = &self.item["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() { Vec::new() } else { samples(self.document, "", schema) }
    }

    /// Every request that has the text in one place.
    fn with(&self, text: &str) -> Vec<RequestBuilder> {
        let body = self.bodies().first().map(ToString::to_string).unwrap_or_default();
        let plain =
            |given: &[(&str, &str)], query: &str| self.request(given, query).body(body.clone());
        let escaped = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut requests = Vec::new();
        for name in self.parameters("path") {
            requests.push(plain(&[(name, text)], ""));
        }
        for name in self.parameters("query") {
            requests.push(plain(&[], &format!("{name}={escaped}")));
        }
        requests.push(plain(&[], &format!("{escaped}=1")));
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            let usual =
                ["X-Request-Id", "Content-Type", "Origin", "Authorization", "Accept", "X-Other"];
            for name in self.parameters("header").into_iter().chain(usual) {
                requests.push(plain(&[], "").header(name, value.clone()));
            }
        }
        for body in self.bodies().iter().flat_map(|body| spoilt(body, text)) {
            requests.push(self.request(&[], "").body(body.to_string()));
        }
        requests.push(self.request(&[], "").body(text.to_owned()));
        requests
    }
}

fn check(answer: &Answer, what: &str) {
    let code = if answer.status < 400 { Value::Null } else { answer.json()["code"].clone() };
    let fine = answer.status < 500 || code == "not_supported" || code == "overloaded";
    assert!(fine, "{what}: {} {}", answer.status, answer.text);
    let injected = answer.headers.contains_key("x-injected");
    assert!(!injected, "{what}: a header was smuggled in");
    if answer.status >= 400 {
        assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
        for internal in ["syntax error", "pgmq.q_", "SQLSTATE", "stack backtrace"] {
            assert!(!answer.text.contains(internal), "{what}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn no_text_in_any_place_does_harm() {
    let gateway = TestGateway::start().await;
    gateway.database.execute("CREATE TABLE canary (a text); INSERT INTO canary VALUES ('x')").await;
    gateway.create("canary").await;
    for message in [r#"{"message":1}"#, r#"{"message":{"a":["b"]},"delay":600000}"#] {
        gateway.send("canary", message).await;
    }
    gateway.post("/queues/canary/messages/1/archive", "").await.expect(204);
    gateway.post("/queues/canary/bindings", r#"{"pattern":"canary.only"}"#).await.expect(201);
    let before: String = gateway.database.value(FINGERPRINT).await;

    let document = gateway.get("/openapi.json").await.expect(200).json();
    let mut requests = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, item) in item.as_object().expect("methods") {
            let method = method.to_uppercase();
            let operation =
                Operation { gateway: &gateway, document: &document, method, path, item };
            for text in nasty() {
                gateway.put("/queues/victim", "").await;
                for request in operation.with(&text) {
                    let what = format!("{} {path} with {text:.40?}", operation.method);
                    check(&Answer::of(request).await, &what);
                    requests += 1;
                }
            }
        }
    }
    assert!(requests > 5_000, "every place was tried: {requests}");
    let after: String = gateway.database.value(FINGERPRINT).await;
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (lines(&before), lines(&after));
    let changed: Vec<_> = before.symmetric_difference(&after).collect();
    assert_eq!(changed, [""; 0], "nothing else was touched");
    assert_eq!(gateway.get("/queues/canary").await.expect(200).json()["queue"], "canary");
    assert_eq!(gateway.receive("canary", "").await.len(), 0, "its one message is delayed");
}

/// Sends bytes as they are, and returns what comes back until the connection ends.
async fn raw(gateway: &TestGateway, request: &[u8]) -> String {
    let address = gateway.base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    // A server that has read enough may hang up in the midst of it.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection ended in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What no proper client sends.
#[tokio::test]
async fn broken_requests_are_refused_and_others_served() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let long = "x".repeat(200_000);
    for line in [
        "GET /queues/%FF HTTP/1.1",
        "GET /queues/%C3%28/messages HTTP/1.1",
        "GET /queues/q/messages?filter=%FF HTTP/1.1",
        "GET /queues/\u{0} HTTP/1.1",
        "GET /queues/q\u{1}/messages HTTP/1.1",
        "GET /queues/q/messages?\u{0} HTTP/1.1",
        "GET /queues/q HTTP/1.1\r\nX-Request-Id: a\u{0}b",
        "GET /queues/q HTTP/1.1\r\nContent-Length: -1",
        "GET /queues/q HTTP/9.9",
        "get",
        "G\u{0}T / HTTP/1.1",
        "POST /queues/q/messages HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6",
        "POST /queues/q/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: y",
        &format!("GET /queues/{long} HTTP/1.1"),
        &format!("GET /queues/q/messages?filter={long} HTTP/1.1"),
        &format!("GET /queues/q/x HTTP/1.1\r\nX-Long: {}", "x".repeat(1_000_000)),
    ] {
        let request = format!("{line}\r\nHost: h\r\nConnection: close\r\n\r\nzz\r\n");
        let answer = raw(&gateway, request.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or("hung up");
        assert!(status == "hung up" || status.starts_with('4'), "{line:.60?}: {answer:.200}");
    }
    assert_eq!(gateway.receive("q", "").await.len(), 0, "none of them sent anything");
}

/// A method that a path does not take is refused in the same way, whatever it is.
#[tokio::test]
async fn other_methods_are_refused_with_allow() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let document = gateway.get("/openapi.json").await.expect(200).json();
    let others = ["TRACE", "OPTIONS", "PUT", "POST", "PATCH", "DELETE", "PROPFIND", "QUERY", "X"];
    for (path, item) in document["paths"].as_object().expect("paths") {
        let concrete = path.replace("{queue}", "q").replace("{msg_id}", "1");
        let concrete = concrete.replace("{routing_key}", "a.b");
        let taken: Vec<String> =
            item.as_object().expect("methods").keys().map(|m| m.to_uppercase()).collect();
        for method in others.iter().filter(|method| !taken.iter().any(|t| t == *method)) {
            let answer = Answer::of(gateway.request(method, &concrete)).await;
            let answer = answer.problem(405, "method_not_allowed");
            let allowed: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
            for method in &taken {
                assert!(allowed.contains(&&**method), "{path} takes {method}: {allowed:?}");
            }
            assert!(!allowed.contains(method), "{method} {path}: {allowed:?}");
        }
    }
}

//! Who may do what: every operation of the API, with every kind of key.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use chrono::{TimeDelta, Utc};
use pgmq_gateway::config::{KeySettings, Secret};
use serde_json::{Value, json};

use super::auth::{ADMIN, key};
use crate::support::{Answer, Client, TestGateway};

/// The right that an operation takes on the queues it is about. One that is missing here fails the
/// test: a new route cannot be forgotten.
const NEEDED: [(&str, &str); 32] = [
    ("list_queues", "any"),
    ("create_queue", "manage"),
    ("show_queue", "any"),
    ("change_settings", "manage"),
    ("drop_queue", "manage"),
    ("purge_queue", "manage"),
    ("queue_metrics", "any"),
    ("send_message", "send"),
    ("send_batch", "send"),
    ("receive_messages", "receive"),
    ("peek", "receive"),
    ("show_message", "receive"),
    ("delete_message", "receive"),
    ("set_visibility", "receive"),
    ("archive_message", "receive"),
    ("pop_messages", "receive"),
    ("settle", "receive"),
    ("settle_and_receive", "receive"),
    ("transact", "send"),
    ("browse_archive", "receive"),
    ("replay_archive", "manage, receive and send"),
    ("redrive", "manage and receive"),
    ("list_bindings", "any"),
    ("queue_bindings", "any"),
    ("bind", "manage"),
    ("unbind", "manage"),
    ("publish", "send somewhere"),
    ("publish_batch", "send somewhere"),
    ("route", "any"),
    ("livez", "-"),
    ("readyz", "-"),
    ("metrics", "operator"),
];

/// Each kind of credential, what it may do to queue `q`, and whether it is in force.
const KEYS: [(&str, &[&str], bool); 10] = [
    ("no key", &[], false),
    ("wrong key", &[], false),
    ("expired", &["any", "send", "send somewhere", "receive", "manage", "operator"], false),
    ("revoked", &["any", "send", "send somewhere", "receive", "manage", "operator"], false),
    ("other queue", &["send somewhere"], true),
    ("send", &["any", "send", "send somewhere"], true),
    ("receive", &["any", "receive"], true),
    ("manage", &["any", "manage"], true),
    ("all three", &["any", "send", "send somewhere", "receive", "manage"], true),
    ("admin", &["any", "send", "send somewhere", "receive", "manage", "operator"], true),
];

/// An operation of the API.
struct Operation {
    id: String,
    method: String,
    path: String,
    body: Option<Value>,
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().expect("paths");
    let all = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("methods").iter();
        methods.map(move |(method, operation)| Operation {
            id: operation["operationId"].as_str().expect("an id").to_owned(),
            method: method.to_uppercase(),
            path: path.clone(),
            body: operation.get("requestBody").cloned(),
        })
    });
    all.collect()
}

/// A request that is right but for what its caller may do.
fn request(operation: &Operation) -> (String, String) {
    let path = operation.path.replace("{queue}", "q").replace("{msg_id}", "4711");
    let path = path.replace("{routing_key}", "t.x");
    let path = if operation.id == "unbind" { format!("{path}?pattern=none") } else { path };
    let body = match &*operation.id {
        "send_message" | "publish" => json!({"message": 1}),
        "send_batch" | "publish_batch" => json!({"messages": [{"message": 1}]}),
        "set_visibility" => json!({"vt": 0}),
        "settle" => json!({"delete": [{"msg_id": 4711}]}),
        "transact" => json!({"operations": [{"send": {"queue": "q", "message": 1}}]}),
        "change_settings" => json!({"settings": {}}),
        "bind" => json!({"pattern": "t.#"}),
        _ => return (path, String::new()),
    };
    assert!(operation.body.is_some(), "{} has a body here and none in the document", operation.id);
    (path, body.to_string())
}

/// The gateway with every kind of key, and a client for each.
async fn stage() -> (TestGateway, BTreeMap<&'static str, Client>) {
    let gateway = TestGateway::with(|settings| {
        settings.auth.admin_key = Some(Secret::new(ADMIN));
        let past = Some(Utc::now() - TimeDelta::seconds(1));
        settings.auth.keys = vec![
            KeySettings { expires_at: past, ..key("e", "key of kind expired", &["admin"]) },
            key("o", "key of kind other queue", &["send,receive,manage:other"]),
            key("s", "key of kind send", &["send:q"]),
            key("r", "key of kind receive", &["receive:q"]),
            key("m", "key of kind manage", &["manage:q"]),
            key("a", "key of kind all three", &["send,receive,manage:q"]),
        ];
    })
    .await;
    let revoked = "pgk_revoked_secret";
    gateway
        .database
        .execute(&format!(
            "INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants, revoked_at) \
             VALUES ('revoked', 'revoked', sha256('{revoked}'), '{{admin}}', now())"
        ))
        .await;
    let clients = KEYS.iter().map(|(kind, ..)| {
        let client = match *kind {
            "no key" => gateway.client.clone(),
            "admin" => gateway.with_key(ADMIN),
            "revoked" => gateway.with_key(revoked),
            kind => gateway.with_key(&format!("key of kind {kind}")),
        };
        (*kind, client)
    });
    let clients = clients.collect();
    (gateway, clients)
}

fn expected(needed: &str, may: &[&str], in_force: bool, over_all: bool) -> &'static str {
    match needed {
        "-" => "yes",
        _ if !in_force => "401",
        // Lists leave out what the key may not see, and are no secret themselves.
        "any" if over_all => "yes",
        needed
            if needed
                .split(" and ")
                .flat_map(|some| some.split(", "))
                .all(|right| may.contains(&right)) =>
        {
            "yes"
        }
        _ => "403",
    }
}

#[tokio::test]
async fn every_operation_asks_for_the_right_that_it_takes() {
    let (gateway, clients) = stage().await;
    let admin = &clients["admin"];
    let document: Value = admin.get("/openapi.json").await.expect(200).json();
    let needed: BTreeMap<&str, &str> = NEEDED.into_iter().collect();
    let mut table = String::from("| operation | takes |");
    for (kind, ..) in KEYS {
        write!(table, " {kind} |").expect("written");
    }
    writeln!(table, "\n|---|---|{}", "---|".repeat(KEYS.len())).expect("written");
    for operation in operations(&document) {
        let id = &*operation.id;
        let Some(right) = needed.get(id) else { panic!("nobody says who may do {id}") };
        let (path, body) = request(&operation);
        write!(table, "| `{} {}` | {right} |", operation.method, operation.path).expect("written");
        for (kind, may, in_force) in KEYS {
            // As it was before the one before.
            admin.put("/queues/q", "").await;
            if operation.path.starts_with("/topics") {
                admin.post("/queues/q/bindings", r#"{"pattern":"t.#"}"#).await;
            }
            let request = clients[kind].request(&operation.method, &path).body(body.clone());
            let answer = Answer::of(request).await;
            let verdict = match answer.status {
                401 => "401",
                403 => "403",
                // Let in: it found nothing to do, for the message is not there.
                200 | 201 | 204 | 404 => "yes",
                other => panic!("{kind} {id}: {other} {}", answer.text),
            };
            let over_all = !operation.path.contains("{queue}");
            let wanted = expected(right, may, in_force, over_all);
            assert_eq!(verdict, wanted, "{kind} {id}: {}", answer.text);
            write!(table, " {verdict} |").expect("written");
        }
        table.push('\n');
    }
    drop(gateway);
    check_committed(&table);
}

/// The table stands in the documents. `TEST_UPDATE=1 cargo test permissions` writes it there.
fn check_committed(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/permissions.md");
    let text = fs::read_to_string(&path).expect("docs/permissions.md");
    let (head, _) = text.split_once("| operation |").expect("a table");
    let whole = format!("{head}{table}");
    if std::env::var_os("TEST_UPDATE").is_some() {
        fs::write(&path, whole).expect("written");
    } else {
        assert!(text == whole, "docs/permissions.md is out of date: TEST_UPDATE=1 writes it");
    }
}

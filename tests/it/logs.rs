//! The log: lines that a machine can read, the last one of a start that failed, and which requests have one.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{
    Deserialize,
    de::{MapAccess, Visitor},
};

use crate::{
    layers::files,
    support::{
        TestDatabase, eventually,
        process::{Program, program},
    },
};

/// An object as it stands, refused where a key stands in it twice.
#[derive(Debug)]
struct Line(BTreeMap<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Line;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, _>()? {
                    if fields.insert(key.clone(), value).is_some() {
                        return Err(serde::de::Error::custom(format!("`{key}` stands twice")));
                    }
                }
                Ok(Line(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

fn parsed(log: &str) -> Vec<BTreeMap<String, serde_json::Value>> {
    let line = |line: &str| {
        serde_json::from_str::<Line>(line).unwrap_or_else(|error| panic!("{error}: {line}")).0
    };
    log.lines().map(line).collect()
}

const JSON: (&str, &str) = ("PGMQ_GATEWAY__LOG__FORMAT", "json");
const ANY_PORT: (&str, &str) = ("PGMQ_GATEWAY__SERVER__PORT", "0");

#[tokio::test]
async fn every_line_is_json_with_each_key_once_and_the_last_one_says_why() {
    let nobody = ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/nowhere");
    let patience = ("PGMQ_GATEWAY__DATABASE__CONNECT_TIMEOUT_SECONDS", "1");
    let output = program(&[], &[JSON, nobody, patience]).output().expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = parsed(&said);
    assert!(lines.len() > 1, "it tries again, and says so: {said}");
    let last = lines.last().expect("a line");
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().expect("text").contains("cannot connect"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    for (name, value) in [("PGMQ_GATEWAY__SERVER__PORT", "x"), ("PGMQ_GATEWAY__NO__THING", "1")] {
        let output = program(&[], &[JSON, (name, value)]).output().expect("ran");
        let lines = parsed(&String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0]["message"].to_string().contains(name), "{lines:?}");
    }
    let output = program(&[], &[("PGMQ_GATEWAY__SERVER__PORT", "x")]).output().expect("ran");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("pgmq-gateway: `server.port`"));
}

/// What a line has of its own, which no event may have a field of.
#[test]
fn no_event_has_a_field_of_a_name_that_is_taken() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in files(&source) {
        let text = fs::read_to_string(&file).expect("readable");
        for kind in ["error!(", "warn!(", "info!(", "debug!(", "trace!(", "event!("] {
            for (at, _) in text.match_indices(kind) {
                let event = text[at + kind.len()..].split(';').next().unwrap_or_default();
                let fields = event.split(',').map(|field| {
                    let name = field.split('=').next().unwrap_or_default().trim();
                    name.trim_start_matches(['%', '?'])
                });
                for field in fields {
                    let taken = ["target", "level", "timestamp", "message", "span", "spans"];
                    assert!(!taken.contains(&field), "{}: {event}", file.display());
                }
            }
        }
    }
}

/// The statuses of the requests that have lines.
async fn statuses(choice: &str) -> Vec<u64> {
    let database = TestDatabase::new().await;
    let url = database.url();
    let requests = ("PGMQ_GATEWAY__LOG__REQUESTS", choice);
    let mut gateway =
        Program::start(program(&[], &[JSON, ANY_PORT, requests, ("DATABASE_URL", &url)]));
    let client = gateway.client().await;
    client.create("q").await;
    for _ in 0..20 {
        client.get("/queues/q").await.expect(200);
        client.get("/queues/none").await.expect(404);
    }
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gateway.ended().await);
    eventually("the log is complete", async || gateway.log().contains("stopped").then_some(()))
        .await;
    let lines = parsed(&gateway.log());
    let requests = lines.iter().filter(|line| line["message"] == "request");
    requests.map(|line| line["status"].as_u64().expect("a status")).collect()
}

#[tokio::test]
async fn requests_have_lines_as_the_settings_say() {
    for (choice, fine, wrong) in [("all", 21, 20), ("errors", 0, 20), ("off", 0, 0), ("10%", 2, 20)]
    {
        let statuses = statuses(choice).await;
        let count = |wanted: fn(&u64) -> bool| statuses.iter().filter(|s| wanted(s)).count();
        assert_eq!(count(|status| *status < 400), fine, "{choice}: {statuses:?}");
        assert_eq!(count(|status| *status == 404), wrong, "{choice}: {statuses:?}");
    }
    let output = program(&["config"], &[("PGMQ_GATEWAY__LOG__REQUESTS", "some")]).output();
    let output = output.expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("log.requests") && said.contains("all, errors, off"), "{said}");
}

/// Where somebody listens to spans, the line of a request says in which it was written; else there are none.
#[tokio::test]
async fn lines_belong_to_the_span_of_their_request() {
    for (level, has_spans) in [("info", false), ("debug", true)] {
        let database = TestDatabase::new().await;
        let url = database.url();
        let environment =
            [JSON, ANY_PORT, ("DATABASE_URL", &url), ("PGMQ_GATEWAY__LOG__LEVEL", level)];
        let mut gateway = Program::start(program(&[], &environment));
        let client = gateway.client().await;
        client.put("/queues/q", "").await.expect(201);
        let line = eventually("the line", async || {
            let lines = parsed(&gateway.log());
            lines.into_iter().find(|line| line["message"] == "request" && line["status"] == 201)
        })
        .await;
        let span = line.get("spans").and_then(|spans| spans.get(0));
        assert_eq!(span.is_some(), has_spans, "{line:?}");
        if let Some(span) = span {
            assert_eq!(span["name"], "request");
            assert_eq!(span["request_id"], line["request_id"]);
        }
    }
}

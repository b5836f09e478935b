//! Real clients, directly and behind proxies: whatever they are refused for, they hear of it, and the
//! connection is as good as before or known to be gone.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pgmq_gateway::config::Settings;
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinSet, time::timeout};

use super::auth::{ADMIN, key, with_admin};
use crate::support::{
    Client,
    fronts::{Front, Fronts},
};

/// A limit in case that something hangs.
const LIMIT: Duration = Duration::from_secs(240);
const SENDER: &str = "a-key-that-sends-to-one-queue";
const HURRIED: &str = "a-key-that-has-one-request-a-second";

fn with_keys(settings: &mut Settings) {
    with_admin(settings);
    let mut hurried = key("hurried", HURRIED, &["send:q"]);
    hurried.requests_per_second = Some(1);
    settings.auth.keys = vec![key("sender", SENDER, &["send:q"]), hurried];
}

/// A request, and the status that it has to get.
#[derive(Clone, Debug)]
struct Refused {
    request: Value,
    status: u16,
}

/// Requests with bodies that nobody reads, each refused for another reason, and behind each a good one.
fn refused(front: &Front, sizes: &[usize]) -> Vec<Refused> {
    let with = |secret: &str| json!({ "authorization": format!("Bearer {secret}") });
    let mut encoded = with(ADMIN);
    encoded["content-encoding"] = "gzip".into();
    let kinds = [
        ("POST", "/queues/q/messages", json!({}), 401),
        ("POST", "/queues/other/messages", with(SENDER), 403),
        ("POST", "/nowhere", json!({}), 404),
        ("PUT", "/queues/q/messages", with(ADMIN), 405),
        ("POST", "/queues/q/messages?x=1", with(ADMIN), 400),
        ("DELETE", "/queues/q/messages/1", with(ADMIN), 400),
        ("POST", "/queues/q/messages", encoded, 415),
        ("POST", "/queues/q/messages", with(ADMIN), 400),
    ];
    let mut all = Vec::new();
    for size in sizes {
        for (method, path, headers, status) in &kinds {
            let url = format!("{}{path}", front.base);
            let request = json!({"method": method, "url": url, "headers": headers, "size": size});
            all.push(Refused { request, status: *status });
            let url = format!("{}/queues/q/messages", front.base);
            let good = json!({
                "method": "POST", "url": url, "headers": with(ADMIN), "text": "{\"message\":1}"
            });
            all.push(Refused { request: good, status: 201 });
        }
    }
    all
}

/// What a program that does requests in turn says came of them.
async fn outcomes(mut program: Command, all: &[Refused], last: &[&str]) -> Vec<Value> {
    let requests: Vec<_> = all.iter().map(|refused| &refused.request).collect();
    program.arg(serde_json::to_string(&requests).expect("JSON")).args(last);
    let output = run(program).await;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

async fn run(mut program: Command) -> String {
    program.stdin(Stdio::null()).kill_on_drop(true);
    let ran = timeout(LIMIT, program.output()).await.expect("it ended in time").expect("it ran");
    let errors = String::from_utf8_lossy(&ran.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&ran.stdout))
}

#[track_caller]
fn compare(front: &Front, client: &str, all: &[Refused], outcomes: &[Value]) {
    assert_eq!(outcomes.len(), all.len(), "{outcomes:?}");
    for (refused, outcome) in all.iter().zip(outcomes) {
        let (url, size) = (&refused.request["url"], &refused.request["size"]);
        assert_eq!(*outcome, refused.status, "{client}, {}: {url} with {size} bytes", front.name);
    }
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

async fn started() -> Fronts {
    let fronts = Fronts::start(with_keys).await;
    let admin = fronts.gateway.with_key(ADMIN);
    admin.create("q").await;
    admin.create("other").await;
    fronts
}

const SIZES: [usize; 4] = [10_000, 300_000, 8_000_000, 15_000_000];

#[tokio::test]
async fn fetch_hears_why_it_is_refused() {
    let fronts = started().await;
    for front in fronts.all() {
        let all = refused(front, &SIZES);
        let mut node = Command::new("node");
        node.env("NODE_EXTRA_CA_CERTS", fronts.authority());
        node.arg(in_repository("tests/clients/requests.mjs"));
        compare(front, "fetch", &all, &outcomes(node, &all, &[]).await);
    }
}

#[tokio::test]
async fn python_hears_why_it_is_refused() {
    let fronts = started().await;
    let authority = fronts.authority().display().to_string();
    for front in fronts.all() {
        let all = refused(front, &SIZES);
        for client in ["http.client", "requests"] {
            let mut python = Command::new(in_repository("target/schemathesis/bin/python"));
            python.arg("-B").arg(in_repository("tests/clients/requests_in_turn.py"));
            let outcomes = outcomes(python, &all, &[client, &authority]).await;
            compare(front, client, &all, &outcomes);
        }
    }
}

/// What curl says of one request.
async fn curl(fronts: &Fronts, arguments: &[&str], request: &Value) -> String {
    let file = fronts.authority().with_file_name("body");
    let size = request["size"].as_u64().unwrap_or_default();
    std::fs::write(&file, vec![b'x'; usize::try_from(size).expect("a size")]).expect("written");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--output", "/dev/null", "--max-time", "60"]);
    curl.args(["--write-out", "%{http_code} %{exitcode}", "--cacert"]).arg(fronts.authority());
    curl.arg("--data-binary").arg(format!("@{}", file.display()));
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        curl.arg("--header").arg(format!("{name}: {}", value.as_str().unwrap_or_default()));
    }
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    curl.args(["--request", text("method")]).args(arguments).arg(text("url"));
    run(curl).await
}

#[tokio::test]
async fn curl_hears_why_it_is_refused() {
    let fronts = started().await;
    for front in fronts.all() {
        let http2 = if front.name == "TLS" { "--http2" } else { "--http2-prior-knowledge" };
        // The last one is told without having sent any of it.
        let ways = [&["--http1.1", "--header", "Expect:"][..], &[http2], &["--http1.1"]];
        for refused in refused(front, &[10_000, 300_000, 8_000_000]) {
            for way in ways {
                if refused.status == 201 || (front.is_proxy && way == [http2]) {
                    continue;
                }
                let said = curl(&fronts, way, &refused.request).await;
                let expected = format!("{} 0", refused.status);
                assert_eq!(said, expected, "{way:?}, {}: {refused:?}", front.name);
            }
        }
    }
}

/// What is larger than anybody reads on for: the connection goes, and says so before.
#[tokio::test]
async fn a_body_without_end_is_refused_and_the_client_hears_of_it() {
    let fronts = started().await;
    for front in fronts.all().iter().filter(|front| !front.is_proxy) {
        let refused = [("POST", "/queues/q/messages", 401), ("POST", "/nowhere", 404)];
        for (method, path, status) in refused {
            let url = format!("{}{path}", front.base);
            let request = json!({"method": method, "url": url, "headers": {}, "size": 200_000_000});
            for way in [&["--http1.1", "--header", "Expect:"][..], &["--http1.1"]] {
                let said = curl(&fronts, way, &request).await;
                assert!(said.starts_with(&status.to_string()), "{way:?} {}: {said}", front.name);
            }
            let all = [Refused { request, status }];
            let mut node = Command::new("node");
            node.env("NODE_EXTRA_CA_CERTS", fronts.authority());
            node.arg(in_repository("tests/clients/requests.mjs"));
            compare(front, "fetch", &all, &outcomes(node, &all, &[]).await);
        }
    }
}

/// More requests than a key may: told so, with a body as without one.
#[tokio::test]
async fn a_client_that_is_too_fast_hears_of_it() {
    let fronts = started().await;
    for front in fronts.all() {
        let url = format!("{}/queues/q/messages", front.base);
        let headers = json!({ "authorization": format!("Bearer {HURRIED}") });
        // The first of a second is refused for what it is. On a busy machine a second is over with each large one.
        let sizes = [10, 8_000_000].into_iter().cycle().take(10);
        let of_size = |size: i32| Refused {
            request: json!({"method": "POST", "url": url, "headers": headers, "size": size}),
            status: 429,
        };
        let all: Vec<_> = sizes.map(of_size).collect();
        let mut node = Command::new("node");
        node.env("NODE_EXTRA_CA_CERTS", fronts.authority());
        node.arg(in_repository("tests/clients/requests.mjs"));
        let outcomes = outcomes(node, &all, &[]).await;
        assert!(outcomes.iter().all(|o| *o == 429 || *o == 400), "{}: {outcomes:?}", front.name);
        let is_told = outcomes.iter().skip(1).step_by(2).any(|large| *large == 429);
        assert!(is_told, "{}: {outcomes:?}", front.name);
    }
}

/// Others' requests share the connections that a proxy keeps with those that are refused.
#[tokio::test]
async fn refused_requests_disturb_nobody_behind_the_same_proxy() {
    let fronts = started().await;
    for front in fronts.all().iter().filter(|front| front.is_proxy) {
        let client = front.client();
        let mut all = JoinSet::new();
        for _ in 0..4 {
            let client = client.clone();
            all.spawn(async move { refuse_again_and_again(client).await });
        }
        for _ in 0..4 {
            let admin = client.with_key(ADMIN);
            all.spawn(async move {
                for _ in 0..100 {
                    admin.send("q", r#"{"message":1}"#).await;
                }
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.expect("no other answer");
        }
    }
}

async fn refuse_again_and_again(client: Client) {
    for size in [0, 10, 100_000, 8_000_000, 1_000_000].into_iter().cycle().take(25) {
        let answer = client.post("/queues/q/messages", &"x".repeat(size)).await;
        answer.problem(401, "unauthenticated");
    }
}

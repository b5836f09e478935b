//! Signatures of requests that are written in odd ways, and of requests that proxies have changed.

use chrono::{TimeDelta, Utc};
use serde_json::json;

use super::sqs_keys::{AccessKey, code, made};
use crate::support::{
    Answer, TestDatabase, TestGateway, eventually,
    process::program,
    sigv4::{Signer, hash, send},
    sqs::Sqs,
};

const TARGET: &str = "AmazonSQS.ListQueues";
const MISMATCH: &str = "SignatureDoesNotMatch";
const INCOMPLETE: &str = "IncompleteSignature";

async fn gateway() -> (TestGateway, AccessKey) {
    let database = TestDatabase::new().await;
    let key = made(&database, &["create", "--name", "k", "--grant", "admin", "--aws"], &[]);
    (TestGateway::on(&database, |_| {}).await, key)
}

fn host(gateway: &TestGateway) -> String {
    gateway.base.trim_start_matches("http://").to_owned()
}

/// ListQueues as it is sent, and as its client wrote it down to sign it.
#[derive(Clone)]
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    /// Beside those that every request has.
    headers: Vec<(&'a str, &'a str)>,
    /// The path and the query.
    signed_target: (&'a str, &'a str),
    /// The host, if it is signed as another than the one that is sent.
    signed_host: Option<&'a str>,
    /// A header beside those that every request has: its name and its value.
    signed_header: Option<(&'a str, &'a str)>,
    /// What stands for the body.
    signed_body: Option<&'a str>,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            method: "POST",
            target: "/",
            headers: Vec::new(),
            signed_target: ("/", ""),
            signed_host: None,
            signed_header: None,
            signed_body: None,
        }
    }
}

impl Request<'_> {
    async fn send(&self, gateway: &TestGateway, signer: &Signer) -> Answer {
        let body = if self.method == "POST" { "{}" } else { "" };
        let (time, host) = (signer.time(), host(gateway));
        let mut signed = vec![("host", self.signed_host.unwrap_or(&host)), ("x-amz-date", &time)];
        let mut headers = vec![("Host", &*host), ("X-Amz-Date", &time)];
        if self.method == "POST" {
            signed.push(("x-amz-target", TARGET));
            headers.push(("X-Amz-Target", TARGET));
        }
        signed.extend(self.signed_header);
        signed.sort_unstable();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: Vec<String> =
            signed.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let lines = lines.join("\n");
        let (path, query) = self.signed_target;
        let hash = self.signed_body.map_or_else(|| hash(body), str::to_owned);
        let canonical = format!("{}\n{path}\n{query}\n{lines}\n\n{names}\n{hash}", self.method);
        let authorization = signer.authorization(&names, &canonical);
        headers.push(("Authorization", &authorization));
        headers.extend(&self.headers);
        send(gateway, self.method, self.target, &headers, body).await
    }
}

/// The code of an error, or nothing; in whichever protocol it was answered.
fn outcome(answer: &Answer) -> String {
    let in_xml = answer.text.split_once("<Code>").and_then(|(_, rest)| rest.split('<').next());
    let told = in_xml.unwrap_or_else(|| code(answer));
    assert_eq!(answer.status == 200, told.is_empty(), "{}", answer.text);
    told.to_owned()
}

#[tokio::test]
async fn odd_requests_are_verified_as_their_clients_wrote_them() {
    let (gateway, key) = gateway().await;
    let signer = Signer::new(&key.id, &key.secret);
    let queries = [
        ("Version=2012-11-05&Action=ListQueues", "Action=ListQueues&Version=2012-11-05"),
        ("Action=ListQueues&x=2&x=10&x=1", "Action=ListQueues&x=1&x=10&x=2"),
        ("Action=ListQueues&QueueNamePrefix=a%2fb", "Action=ListQueues&QueueNamePrefix=a%2Fb"),
        ("Action=ListQueues&QueueNamePrefix=a/b", "Action=ListQueues&QueueNamePrefix=a%2Fb"),
        ("Action=ListQueues&QueueNamePrefix=a+b", "Action=ListQueues&QueueNamePrefix=a%20b"),
        ("Action=ListQueues&QueueNamePrefix=a%2Bb", "Action=ListQueues&QueueNamePrefix=a%2Bb"),
        ("Action=ListQueues&QueueNamePrefix=%C3%A9", "Action=ListQueues&QueueNamePrefix=%C3%A9"),
        ("Action=ListQueues&x", "Action=ListQueues&x="),
    ];
    for (sent, signed) in queries {
        let target = format!("/?{sent}");
        let request = Request { method: "GET", target: &target, ..Request::default() };
        let request = Request { signed_target: ("/", signed), ..request };
        assert_eq!(outcome(&request.send(&gateway, &signer).await), "", "{sent}");
    }
    let paths = [
        ("/000000000000/q", "/000000000000/q"),
        ("/000000000000/q/", "/000000000000/q/"),
        // Encoded once more than it is sent; a detour as it is, or left out.
        ("/000000000000/a%20b", "/000000000000/a%2520b"),
        ("//000000000000//q", "//000000000000//q"),
        ("//000000000000//q", "/000000000000/q"),
        ("/a/./b/../000000000000/q", "/a/000000000000/q"),
    ];
    for (sent, signed) in paths {
        let request = Request { target: sent, signed_target: (signed, ""), ..Request::default() };
        assert_eq!(outcome(&request.send(&gateway, &signer).await), "", "{sent} {signed}");
    }
    let headers = [
        (vec![("X-Meta", "  a    b ")], "a b"),
        (vec![("X-Meta", "b"), ("X-Meta", " a,  c ")], "b,a, c"),
        (vec![("X-Meta", "")], ""),
        (vec![("X-Meta", "é")], "é"),
    ];
    for (sent, signed) in headers {
        let request = Request { headers: sent.clone(), ..Request::default() };
        let request = Request { signed_header: Some(("x-meta", signed)), ..request };
        assert_eq!(outcome(&request.send(&gateway, &signer).await), "", "{sent:?}");
    }
}

#[tokio::test]
async fn what_a_proxy_changes_is_verified_as_it_was() {
    let (gateway, key) = gateway().await;
    let signer = Signer::new(&key.id, &key.secret);
    let prefix = ("X-Forwarded-Prefix", "/mq");
    for (headers, signed_host, target, signed) in [
        (vec![("X-Forwarded-Host", "queue.example")], Some("queue.example"), "/", "/"),
        (vec![("X-Forwarded-Host", "queue.example:443")], Some("queue.example"), "/", "/"),
        (
            vec![("X-Forwarded-Host", "queue.example"), ("X-Forwarded-Port", "8443")],
            Some("queue.example:8443"),
            "/",
            "/",
        ),
        (vec![prefix], None, "/", "/mq/"),
        (vec![prefix], None, "/", "/mq"),
        (vec![prefix], None, "/000000000000/q", "/mq/000000000000/q"),
    ] {
        let request = Request { headers: headers.clone(), signed_host, ..Request::default() };
        let request = Request { target, signed_target: (signed, ""), ..request };
        assert_eq!(outcome(&request.send(&gateway, &signer).await), "", "{headers:?} {signed}");
        // Without what the proxy says it is another request.
        let request = Request { headers: Vec::new(), ..request };
        assert_eq!(outcome(&request.send(&gateway, &signer).await), MISMATCH, "{signed}");
    }
}

#[tokio::test]
async fn what_is_not_signed_as_it_has_to_be_is_refused() {
    let (gateway, key) = gateway().await;
    let signer = Signer::new(&key.id, &key.secret);
    let unsigned = "UNSIGNED-PAYLOAD";
    let streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    let content = |value, encoding: &[(&'static str, &'static str)]| {
        let mut headers = vec![("X-Amz-Content-Sha256", value)];
        headers.extend(encoding);
        let signed_header = Some(("x-amz-content-sha256", value));
        Request { headers, signed_header, signed_body: Some(value), ..Request::default() }
    };
    let chunked = [("Content-Encoding", "aws-chunked")];
    let one = |name, value| Request { headers: vec![(name, value)], ..Request::default() };
    for (what, request, expected) in [
        ("no hash of the body", content(unsigned, &[]), MISMATCH),
        (
            "a body in signed pieces",
            content(streaming, &chunked),
            "AWS.SimpleQueueService.UnsupportedOperation",
        ),
        ("two Authorization headers", one("Authorization", "Bearer x"), INCOMPLETE),
        (
            "a signature in the URL too",
            Request { target: "/?X-Amz-Algorithm=AWS4-HMAC-SHA256", ..Request::default() },
            INCOMPLETE,
        ),
    ] {
        assert_eq!(outcome(&request.send(&gateway, &signer).await), expected, "{what}");
    }
    let request = Request::default();
    let other = |change: &dyn Fn(&mut Signer)| {
        let mut signer = signer.clone();
        change(&mut signer);
        signer
    };
    let minutes =
        |minutes| Signer::at(&key.id, &key.secret, Utc::now() + TimeDelta::minutes(minutes));
    for (what, signer, expected) in [
        ("any region", other(&|s| s.region = "xx-1".to_owned()), ""),
        ("another service", other(&|s| s.service = "sns".to_owned()), MISMATCH),
        ("another end", other(&|s| s.terminator = "aws3_request".to_owned()), MISMATCH),
        ("another day", other(&|s| s.date = "20200101".to_owned()), MISMATCH),
        ("another secret", other(&|s| s.secret = "x".to_owned()), MISMATCH),
        ("nobody's key", other(&|s| s.id = "PGMQNOBODY".to_owned()), "InvalidClientTokenId"),
        ("a clock that is behind", minutes(-14), ""),
        ("one that is too far behind", minutes(-16), MISMATCH),
        ("a clock that is ahead", minutes(14), ""),
        ("one that is too far ahead", minutes(16), MISMATCH),
    ] {
        assert_eq!(outcome(&request.send(&gateway, &signer).await), expected, "{what}");
    }
}

/// A URL that is good for some seconds; `changed` is what is put in place of the prefix that is signed.
async fn by_url(gateway: &TestGateway, signer: &Signer, seconds: i64, changed: &str) -> String {
    let credential = format!("{}/{}", signer.id, signer.scope()).replace('/', "%2F");
    let query = format!(
        "Action=ListQueues&QueueNamePrefix=%C3%A9%20%2B&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
         X-Amz-Credential={credential}&X-Amz-Date={}&X-Amz-Expires={seconds}&X-Amz-SignedHeaders=host",
        signer.time()
    );
    let host = host(gateway);
    let canonical = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{}", hash(""));
    let signature = signer.signature(&canonical);
    let query = query.replace("%C3%A9%20%2B", changed);
    let target = format!("/?X-Amz-Signature={signature}&{query}");
    outcome(&send(gateway, "GET", &target, &[("Host", &host)], "").await)
}

#[tokio::test]
async fn a_signed_url_is_good_until_it_expires() {
    let (gateway, key) = gateway().await;
    let ago = |minutes| Signer::at(&key.id, &key.secret, Utc::now() - TimeDelta::minutes(minutes));
    for (signer, seconds, changed, expected) in [
        (ago(0), 60, "%C3%A9%20%2B", ""),
        (ago(0), 60, "%C3%A9+%2b", ""),
        (ago(0), 60, "a", MISMATCH),
        (ago(50), 3_600, "%C3%A9%20%2B", ""),
        (ago(61), 3_600, "%C3%A9%20%2B", MISMATCH),
        (ago(-16), 3_600, "%C3%A9%20%2B", MISMATCH),
        (ago(0), 604_801, "%C3%A9%20%2B", INCOMPLETE),
        (ago(0), 0, "%C3%A9%20%2B", INCOMPLETE),
    ] {
        let told = by_url(&gateway, &signer, seconds, changed).await;
        assert_eq!(told, expected, "{} {seconds} {changed}", signer.at);
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_while_it_waits_receives_nothing() {
    let database = TestDatabase::new().await;
    let open = TestGateway::on(&database, |_| {}).await;
    let url = Sqs(&open).create("orders", &json!({})).await;
    let key =
        made(&database, &["create", "--name", "k", "--grant", "receive:orders", "--aws"], &[]);
    // An administrator, whose key outlives the other.
    let admin = made(&database, &["create", "--name", "a", "--grant", "admin", "--aws"], &[]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    let input = json!({"QueueUrl": url, "WaitTimeSeconds": 20}).to_string();
    let revoke = async {
        eventually("it waits", async || {
            let metrics = admin_metrics(&gateway, &admin).await;
            metrics.contains("pgmq_gateway_long_poll_waiters 1").then_some(())
        })
        .await;
        let id = key.id[4..14].to_lowercase();
        let url = database.url();
        let revoked = program(&["keys", "revoke", &id], &[("DATABASE_URL", &url)]).output();
        assert!(revoked.expect("ran").status.success());
    };
    let (answer, ()) = tokio::join!(key.asks(&gateway, "ReceiveMessage", &input), revoke);
    assert_eq!(outcome(&answer), "InvalidClientTokenId");
    let message = json!({"QueueUrl": url, "MessageBody": "x"}).to_string();
    admin.asks(&gateway, "SendMessage", &message).await.expect(200);
    let received = admin.asks(&gateway, "ReceiveMessage", &input).await.expect(200).json();
    assert_eq!(received["Messages"][0]["Body"], "x");
}

async fn admin_metrics(gateway: &TestGateway, admin: &AccessKey) -> String {
    let key = format!("pgk_{}_{}", admin.id[4..14].to_lowercase(), admin.secret);
    gateway.with_key(&key).get("/metrics").await.expect(200).text
}

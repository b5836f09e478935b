//! Prometheus, as Debian has it: it reads what `/metrics` says, and the rules of docs/alerts.yml fire when they should.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::auth::{ADMIN, with_admin};
use crate::support::{Client, TestGateway, eventually, proxies::free_port, report};

const INTERVALS: &str = "global: { scrape_interval: 500ms, evaluation_interval: 500ms }\n";

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program that `tools/setup --test` installs.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs promtool, insists that it finds nothing to say, and returns what it printed.
fn promtool(arguments: &[&str], input: Option<&str>) -> String {
    let mut command = command("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let missing = "promtool is missing: run tools/setup --test";
    let mut child = command.spawn().expect(missing);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.unwrap_or_default().as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// A Prometheus that scrapes a gateway often, configured as docs/operations.md says.
struct Prometheus {
    child: Child,
    directory: tempfile::TempDir,
    client: Client,
}

impl Prometheus {
    async fn start(gateway: &TestGateway) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let config = path.join("prometheus.yml");
        fs::write(&config, documented(path, &gateway.base)).expect("written");
        fs::write(path.join("pgmq-gateway.key"), ADMIN).expect("written");
        promtool(&["check", "config", &config.display().to_string()], None);
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = command("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", path.join("data").display()));
        command.arg(format!("--web.listen-address={listen}")).stdout(Stdio::null());
        command.stderr(File::create(path.join("log")).expect("a file"));
        let child = command.spawn().expect("prometheus is missing: run tools/setup --test");
        let client = Client::new(&format!("http://{listen}"));
        let mut started = Self { child, directory, client };
        let http = reqwest::Client::new();
        eventually("Prometheus is ready", async || {
            if let Ok(Some(status)) = started.child.try_wait() {
                panic!("it ended with {status}: {}", started.log());
            }
            let ready = http.get(format!("http://{listen}/-/ready")).send().await.ok()?;
            ready.status().is_success().then_some(())
        })
        .await;
        started
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    async fn api(&self, path: &str) -> Value {
        self.client.get(&format!("/api/v1/{path}")).await.expect(200).json()["data"].clone()
    }

    /// The value of the only series of a query.
    async fn value(&self, query: &str) -> Option<String> {
        let found = self.api(&format!("query?query={query}")).await;
        Some(found["result"][0]["value"][1].as_str()?.to_owned())
    }

    /// The alerts that are pending or firing, by name and queue.
    async fn alerts(&self) -> Vec<Value> {
        let alerts = self.api("alerts").await["alerts"].as_array().expect("alerts").clone();
        let brief = |alert: &Value| {
            let labels = &alert["labels"];
            json!([labels["alertname"], labels["queue"], alert["state"]])
        };
        alerts.iter().map(brief).collect()
    }

    /// When each rule was looked at last, all without an error.
    async fn evaluations(&self) -> Vec<String> {
        let groups = self.api("rules").await;
        let rules = groups["groups"][0]["rules"].as_array().expect("rules").clone();
        let at = |rule: &Value| {
            assert!(rule["lastError"].is_null(), "{rule}");
            rule["lastEvaluation"].as_str().unwrap_or_default().to_owned()
        };
        rules.iter().map(at).collect()
    }

    /// Waits until every rule was looked at twice more: what was scraped before counted in the second.
    async fn evaluated(&self) {
        for _ in 0..2 {
            let before = self.evaluations().await;
            eventually("the rules are looked at", async || {
                let now = self.evaluations().await;
                now.iter().zip(&before).all(|(now, before)| now > before).then_some(())
            })
            .await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The configuration of the page, with this gateway's address, the rules, and short intervals.
fn documented(directory: &Path, base: &str) -> String {
    let page = fs::read_to_string(in_repository("docs/operations.md")).expect("the page");
    let config = page.split("```yaml\n").find(|block| block.starts_with("rule_files:"));
    let config = config.and_then(|rest| rest.split("```").next()).expect("a configuration");
    let rules = in_repository("docs/alerts.yml").display().to_string();
    let config = config.replace("/etc/prometheus/alerts.yml", &rules);
    let config = config.replace("/etc/prometheus", &directory.display().to_string());
    let address = base.trim_start_matches("http://");
    assert!(config.contains("127.0.0.1:8080"), "{config}");
    format!("{INTERVALS}{}", config.replace("127.0.0.1:8080", address))
}

/// A gateway with a queue whose messages are delivered once; the series of all kinds are there.
async fn in_use() -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.metrics.queue_interval_seconds = 1;
        with_admin(settings);
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("dead").await;
    let settings = json!({"settings": {"max_receives": 1, "dead_letter_queue": "dead"}});
    admin.create_with("q", &settings).await;
    admin.send("q", r#"{"message":1}"#).await;
    gateway.get("/queues").await.expect(401);
    gateway
}

#[tokio::test]
async fn the_first_dead_letter_fires_and_nothing_before_it() {
    let gateway = in_use().await;
    let admin = gateway.with_key(ADMIN);
    let prometheus = Prometheus::start(&gateway).await;
    let count = "pgmq_gateway_messages_dead_lettered_total{queue=\"q\"}";
    eventually("the counter is scraped at 0", async || {
        (prometheus.value(count).await? == "0").then_some(())
    })
    .await;
    // A message that is delivered for the first time is none.
    admin.receive_one("q", "vt=0").await;
    prometheus.evaluated().await;
    assert_eq!(prometheus.alerts().await, [Value::Null; 0], "{}", prometheus.log());

    let died = Instant::now();
    assert_eq!(admin.receive("q", "vt=0").await, [Value::Null; 0]);
    assert_eq!(admin.all("dead").await.len(), 1);
    let firing = |queue: &str| json!(["DeadLetters", queue, "firing"]);
    eventually("it fires", async || prometheus.alerts().await.contains(&firing("q")).then_some(()))
        .await;
    report(&format!("fired {} ms after the first dead letter", died.elapsed().as_millis()));
    assert_eq!(prometheus.alerts().await, [firing("q")]);

    // That of a queue of which nothing was scraped yet fires too.
    admin.create("new").await;
    let id = admin.send("new", r#"{"message":1}"#).await;
    let body = json!({"dead_letter": [{"msg_id": id}]}).to_string();
    admin.post("/queues/new/messages/settle", &body).await.expect(200);
    eventually("it fires", async || {
        prometheus.alerts().await.contains(&firing("new")).then_some(())
    })
    .await;
    assert_eq!(prometheus.value("up").await.as_deref(), Some("1"));
}

/// Names, units and help as Prometheus wants them, with as many kinds of series as there can be.
#[tokio::test]
async fn metrics_are_as_prometheus_wants_them() {
    let gateway = in_use().await;
    let admin = gateway.with_key(ADMIN);
    let length = "pgmq_gateway_queue_length{queue=\"q\"} 1";
    let text = eventually("the queue has its figures", async || {
        let text = admin.get("/metrics").await.expect(200).text;
        text.contains(length).then_some(text)
    })
    .await;
    assert_eq!(promtool(&["check", "metrics"], Some(&text)), "");
    // What the rules go by is there.
    let rules = fs::read_to_string(in_repository("docs/alerts.yml")).expect("rules");
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = rules.split(|c| !of_name(c)).filter(|word| word.starts_with("pgmq_gateway_"));
    let names: std::collections::BTreeSet<_> = words.collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        let has =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| !rest.starts_with(of_name));
        assert!(text.lines().any(has), "{name} is not in:\n{text}");
    }
}

#[test]
fn the_rules_fire_when_they_should() {
    promtool(&["check", "rules", &in_repository("docs/alerts.yml").display().to_string()], None);
    let cases = in_repository("tests/prometheus/alerts_test.yml").display().to_string();
    let said = promtool(&["test", "rules", &cases], None);
    assert!(said.contains("SUCCESS"), "{said}");
}

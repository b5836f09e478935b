//! What people write into the tables that no calendar and no setting has: it costs nobody more than itself.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually, process::Program, process::program,
};

/// A gateway as a process, whose panics would show in its log.
async fn start(database: &TestDatabase, more: &[(&str, &str)]) -> (Program, Client) {
    let url = database.url();
    let mut environment = vec![("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    environment.extend(more);
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await;
    (gateway, client)
}

const MOMENTS: [&str; 8] = [
    "infinity",
    "-infinity",
    "4713-01-01 00:00:00+00 BC",
    "0001-01-01 BC",
    "0001-01-01",
    "9999-12-31 23:59:59+00",
    "294276-12-31 23:59:59+00",
    "1800-01-01",
];

/// Puts a moment into every column that is shown of the queue `q`.
async fn put(database: &TestDatabase, moment: &str) {
    let sql = format!(
        "UPDATE pgmq.q_q SET enqueued_at = '{moment}', last_read_at = '{moment}';
         UPDATE pgmq.a_q SET enqueued_at = '{moment}', last_read_at = '{moment}', vt = '{moment}',
                             archived_at = '{moment}';
         UPDATE pgmq.meta SET created_at = '{moment}' WHERE queue_name = 'q';
         UPDATE pgmq.topic_bindings SET bound_at = '{moment}';
         UPDATE pgmq_gateway.queue_settings SET queue_created_at = '{moment}', bound_created_at = '{moment}'
         WHERE queue_name = 'q';
         UPDATE pgmq_gateway.idempotency_keys SET created_at = '{moment}' WHERE key = 'odd'"
    );
    database.execute(&sql).await;
}

#[tokio::test]
async fn no_moment_stops_or_hides_anything() {
    let database = TestDatabase::new().await;
    let (gateway, client) =
        start(&database, &[("PGMQ_GATEWAY__MAINTENANCE__INTERVAL_MS", "50")]).await;
    let settings = json!({"max_receives": 900, "delay": 0});
    client.create_with("q", &json!({"settings": settings})).await;
    client.create("good").await;
    let bind = json!({"pattern": "t.#"}).to_string();
    client.post("/queues/q/bindings", &bind).await.expect(201);
    for n in 0..3 {
        client.send("q", &json!({"message": n}).to_string()).await;
    }
    let archived = client.send("q", r#"{"message":"archived"}"#).await;
    let key = client.request("POST", "/queues/q/messages").header("idempotency-key", "odd");
    Answer::of(key.body(r#"{"message":"once"}"#)).await.expect(201);
    for moment in MOMENTS {
        database.execute("UPDATE pgmq.q_q SET vt = now()").await;
        if moment == MOMENTS[0] {
            client.post(&format!("/queues/q/messages/{archived}/archive"), "").await.expect(204);
        }
        put(&database, moment).await;
        for path in [
            "/queues",
            "/queues/q",
            "/queues/q/peek",
            "/queues/q/messages/1",
            "/queues/q/metrics",
            "/bindings",
            "/queues/q/bindings",
            "/metrics",
            "/readyz",
            "/queues/q/messages?qty=1&vt=0&wait=1",
            "/queues/q/messages?qty=2&vt=0",
        ] {
            let answer = client.get(path).await.expect(200);
            assert!(!answer.text.contains("infinity"), "{moment} {path}: {}", answer.text);
        }
        let since = "/queues/q/archive?since=0001-01-02T00:00:00Z&until=9999-12-31T00:00:00Z";
        client.get(since).await.expect(200);
        assert_eq!(
            client.get("/queues/q/archive").await.expect(200).messages().len(),
            1,
            "{moment}"
        );
        let message = client.receive_one("q", "qty=1&vt=0").await;
        let receipt = message["receipt"].as_str().expect("a receipt");
        let path = format!("/queues/q/messages/{}?receipt={receipt}", message["msg_id"]);
        client.patch(&path, r#"{"vt":0}"#).await.expect(200);
        let transaction =
            json!({"operations": [{"set_vt": {"queue": "q", "receipt": receipt, "vt": 0}}]});
        client.post("/transactions", &transaction.to_string()).await.expect(200);
        let settle = json!({"retry": [{"receipt": receipt, "delay": 0}]}).to_string();
        let settled = client.post("/queues/q/messages/settle", &settle).await.expect(200).json();
        assert_eq!(settled["failed"], json!([]), "{moment}");
        client.post("/topics/t.x/messages", r#"{"message":"t"}"#).await.expect(201);
        let key = client.request("POST", "/queues/q/messages").header("idempotency-key", moment);
        Answer::of(key.body(r#"{"message":"once"}"#)).await.expect(201);
        assert_eq!(
            client.get("/queues/q").await.json()["settings"]["max_receives"],
            900,
            "{moment}"
        );
        client.send("good", r#"{"message":1}"#).await;
        client.receive_one("good", "qty=1&vt=600").await;
    }
    for path in ["/queues/q/archive/replay", "/queues/q/redrive", "/queues/q/messages/pop?qty=100"]
    {
        client.post(path, "").await.expect(200);
    }
    client.post("/queues/q/purge", "").await.expect(200);
    client.delete("/queues/q").await.expect(204);
    let log = gateway.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

/// What somebody writes for the time of a delivery is of no calendar, and its receipt is good for it.
#[tokio::test]
async fn a_receipt_is_good_at_whatever_moment_it_was_given() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.odd() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN new.last_read_at := (new.message ->> 0)::timestamptz; RETURN new; END';
             CREATE TRIGGER odd BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.odd()",
        )
        .await;
    for moment in MOMENTS {
        gateway.send("q", &json!({"message": [moment]}).to_string()).await;
        let message = gateway.receive_one("q", "qty=1&vt=600").await;
        let receipt = message["receipt"].as_str().expect("a receipt");
        let path = format!("/queues/q/messages/{}?receipt={receipt}", message["msg_id"]);
        assert_eq!(gateway.delete(&path).await.status, 204, "{moment}");
    }
}

#[tokio::test]
async fn figures_go_on_past_a_moment_that_is_none() {
    let gateway = TestGateway::with(|settings| settings.metrics.queue_interval_seconds = 1).await;
    gateway.create("q").await;
    for (n, moment) in MOMENTS.into_iter().enumerate() {
        let insert = format!(
            "INSERT INTO pgmq.q_q (vt, enqueued_at, message) VALUES (now(), '{moment}', '1')"
        );
        gateway.database.execute(&insert).await;
        eventually("its figures are had", async || {
            let metrics = gateway.get("/metrics").await.expect(200).text;
            metrics.contains(&format!("{{queue=\"q\"}} {}\n", n + 1)).then_some(())
        })
        .await;
        let shown = gateway.get("/queues/q/metrics").await.expect(200).json();
        assert_eq!(shown["queue_length"], n + 1, "{shown}");
    }
}

/// Settings that are none, and what is left of them.
fn odd_settings() -> Vec<(String, Value)> {
    let odd = [
        ("[]", json!({})),
        ("null", json!({})),
        ("5", json!({})),
        ("\"max_receives\"", json!({})),
        ("[\"message_retention\", \"archive_retention\"]", json!({})),
        (r#"{"delay": "soon", "max_receives": 4}"#, json!({"max_receives": 4})),
        (r#"{"delay": 1e400, "max_receives": 4}"#, json!({"max_receives": 4})),
        (r#"{"delay": 0.5, "max_receives": 4.5, "visibility_timeout": -1}"#, json!({})),
        (r#"{"delay": null, "max_receives": [4], "visibility_timeout": {"a": 1}}"#, json!({})),
        (r#"{"max_message_bytes": true, "max_receives": 1e300}"#, json!({})),
        (r#"{"max_message_bytes": 99999999999999999999}"#, json!({})),
        (r#"{"dead_letter_queue": 5, "max_receives": 4}"#, json!({"max_receives": 4})),
        (r#"{"dead_letter_queue": "odd", "max_receives": 4}"#, json!({"max_receives": 4})),
        (r#"{"dead_letter_queue": "a;b", "max_receives": 4}"#, json!({"max_receives": 4})),
        (r#"{"message_retention": "x", "archive_retention": -7}"#, json!({})),
        (r#"{"message_retention": 1e20, "archive_retention": []}"#, json!({})),
        (r#"{"notify": 7, "max_receives": 4}"#, json!({"max_receives": 4})),
        (r#"{"notify": {"throttle_ms": "x"}, "max_receives": 4}"#, json!({"max_receives": 4})),
        (r#"{"notify": {"throttle_ms": 1e300}}"#, json!({})),
        (r#"{"of a later gateway": {"a": [1]}, "max_receives": 4}"#, json!({"max_receives": 4})),
    ];
    let mut all: Vec<_> = odd.map(|(text, left)| (format!("'{text}'"), left)).into();
    let left = json!({"max_receives": 4});
    // More than can be sent, or read.
    for huge in [
        "('[' || repeat('1e131071,', 9000) || '0]')::jsonb",
        "(repeat('[', 5000) || repeat(']', 5000))::jsonb",
        "to_jsonb(repeat('x', 10000000))",
    ] {
        all.push((format!("jsonb_build_object('max_receives', 4, 'delay', {huge})"), left.clone()));
        all.push((format!("jsonb_build_object('max_receives', 4, 'x', {huge})"), left.clone()));
        all.push((huge.to_owned(), json!({})));
    }
    all
}

#[tokio::test]
async fn settings_that_are_none_count_as_the_default_for_that_queue_alone() {
    let database = TestDatabase::new().await;
    let (gateway, client) =
        start(&database, &[("PGMQ_GATEWAY__MAINTENANCE__INTERVAL_MS", "50")]).await;
    let settings =
        json!({"max_receives": 7, "message_retention": 1000, "notify": {"throttle_ms": 9}});
    client.create_with("good", &json!({"settings": settings})).await;
    client.create("odd").await;
    let defaults = client.get("/queues/odd").await.expect(200).json()["settings"].clone();
    for queue in ["good", "odd"] {
        let bind = json!({"pattern": "t"}).to_string();
        client.post(&format!("/queues/{queue}/bindings"), &bind).await.expect(201);
    }
    for (odd, left) in odd_settings() {
        let update = format!(
            "UPDATE pgmq_gateway.queue_settings SET settings = {odd} WHERE queue_name = 'odd'"
        );
        database.execute(&update).await;
        let mut expected = defaults.clone();
        for (name, value) in left.as_object().expect("an object") {
            expected[name] = value.clone();
        }
        let odd = odd.chars().take(100).collect::<String>();
        assert_eq!(
            client.get("/queues/odd").await.expect(200).json()["settings"],
            expected,
            "{odd}"
        );
        let listed = client.get("/queues").await.expect(200).json();
        assert_eq!(listed["queues"][0]["settings"]["max_receives"], 7, "{odd}");
        assert_eq!(listed["queues"][1]["settings"], expected, "{odd}");
        // Once what was known is past its time.
        database
            .execute("SELECT pgmq_gateway.register_queues(), pgmq_gateway.queues_with_retention()")
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        for queue in ["good", "odd"] {
            client.send(queue, r#"{"message":1}"#).await;
            assert_eq!(client.receive(queue, "qty=10&vt=600").await.len(), 1, "{queue} {odd}");
        }
        let sent = client.post("/topics/t/messages", r#"{"message":2}"#).await.expect(201).json();
        assert_eq!(sent["deliveries"].as_array().map(Vec::len), Some(2), "{odd}");
        for queue in ["good", "odd"] {
            assert_eq!(client.receive(queue, "qty=10&vt=600").await.len(), 1, "{queue} {odd}");
        }
    }
    let log = gateway.log();
    assert!(log.contains("queue_settings makes no sense"), "{log}");
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    // It can be put right, whatever it was.
    for odd in ["[]", "5", "null", r#"{"delay": "soon"}"#] {
        let update = format!(
            "UPDATE pgmq_gateway.queue_settings SET settings = '{odd}' WHERE queue_name = 'odd'"
        );
        database.execute(&update).await;
        let set = client.configure("odd", json!({"delay": 3, "max_receives": 2})).await.expect(200);
        assert_eq!(set.json()["settings"]["delay"], 3, "{odd}");
        assert_eq!(set.json()["settings"]["max_receives"], 2, "{odd}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_concerns_its_key_alone() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let once = |path: &str, key: &str, body: &str| {
        let request = gateway.request("POST", path).header("idempotency-key", key);
        Answer::of(request.body(body.to_owned()))
    };
    let (send, batch) = ("/queues/q/messages", "/queues/q/messages/batch");
    let (one, two) = (r#"{"message":1}"#, r#"{"messages":[{"message":1},{"message":2}]}"#);
    let transaction = r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#;
    let requests = [(send, "one", one), (batch, "two", two), ("/transactions", "tx", transaction)];
    for (path, key, body) in requests {
        once(path, key, body).await;
        once(path, &format!("{key}-good"), body).await;
    }
    let stored = "SELECT count(*) FROM pgmq.q_q";
    let before = gateway.database.value::<i64>(stored).await;
    for odd in [
        "'5'",
        "'{}'",
        "'[]'",
        "'null'",
        "'[5]'",
        r#"'[{"msg_ids":"x"}]'"#,
        r#"'[{"msg_ids":[1e300]}]'"#,
        r#"'[{"msg_ids":[]}]'"#,
        r#"'[{"msg_ids":[1]},{"msg_ids":[2]}]'"#,
        r#"'[{"msg_id":"x"}]'"#,
        "('[' || repeat('1e131071,', 9000) || '0]')::jsonb",
    ] {
        let odd_ones = format!(
            "UPDATE pgmq_gateway.idempotency_keys SET answer = {odd} WHERE key NOT LIKE '%good'"
        );
        gateway.database.execute(&odd_ones).await;
        for (path, key, body) in requests {
            let lost = once(path, key, body).await;
            // An empty object can be the result of an operation of a transaction.
            if path == "/transactions" && lost.status == 200 {
                continue;
            }
            lost.problem(409, "idempotency_conflict");
            let good = once(path, &format!("{key}-good"), body).await;
            assert!(good.status < 300, "{odd}: {}", good.text);
            assert_eq!(good.header("idempotency-replayed"), "true", "{odd}");
        }
    }
    assert_eq!(gateway.database.value::<i64>(stored).await, before, "nothing is stored again");
}

#[tokio::test]
async fn a_key_that_makes_no_sense_lets_nobody_in_and_stops_nothing() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let environment = [("DATABASE_URL", &*url)];
    let create = async |name: &str| {
        let key = format!("pgk_{name}_a-secret-of-its-own");
        let insert = format!(
            "INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants) \
             VALUES ('{name}', '{name}', sha256('{key}'), '{{admin:*}}')"
        );
        database.execute(&insert).await;
        key
    };
    let good = create("good").await;
    let refresh = [("PGMQ_GATEWAY__AUTH__REFRESH_INTERVAL_MS", "100")];
    let (mut gateway, client) = start(&database, &refresh).await;
    let good = client.with_key(&good);
    for (n, (change, lets_in)) in [
        ("expires_at = 'infinity'", true),
        ("expires_at = '-infinity'", false),
        ("expires_at = '4713-01-01 BC'", false),
        ("expires_at = '1999-01-01'", false),
        ("expires_at = '294276-12-31'", true),
        ("expires_at = '9999-12-31'", true),
        ("created_at = 'infinity', last_used_at = '-infinity'", true),
        ("created_at = '294276-12-31', last_used_at = '4713-01-01 BC'", true),
        ("previous_hash = hash, previous_until = 'infinity'", true),
        ("previous_hash = hash, previous_until = '-infinity'", true),
        ("previous_hash = '', previous_until = '294276-12-31'", true),
        ("hash = ''", false),
        ("grants = '{nonsense}'", false),
        ("grants = ARRAY['admin:*', NULL]", false),
        ("grants = ARRAY[ARRAY['admin:*', 'admin:*']]", false),
        ("requests_per_second = -1", false),
        ("requests_per_second = 0", false),
        ("max_waiters = -1", false),
        ("revoked_at = 'infinity'", false),
        ("revoked_at = '-infinity'", false),
        ("name = ''", true),
        ("name = repeat('x', 1000000)", true),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("odd{n}");
        let key = client.with_key(&create(&name).await);
        eventually("it is known", async || (key.get("/queues").await.status == 200).then_some(()))
            .await;
        let rename = if change.starts_with("name") { "" } else { ", name = 'changed'" };
        let update =
            format!("UPDATE pgmq_gateway.api_keys SET {change}{rename} WHERE name = '{name}'");
        database.execute(&update).await;
        if lets_in {
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            key.get("/queues").await.expect(200);
        } else {
            eventually(change, async || (key.get("/queues").await.status != 200).then_some(()))
                .await;
            let refused = key.get("/queues").await;
            refused.problem(401, "unauthenticated");
        }
        good.get("/queues").await.expect(200);
        good.get("/readyz").await.expect(200);
    }
    let listed = program(&["keys", "list"], &environment).output().expect("it runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let log = gateway.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");

    // And a gateway starts over all that.
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gateway.ended().await);
    let (again, client) = start(&database, &[]).await;
    client.with_key("nonsense").get("/queues").await.problem(401, "unauthenticated");
    assert!(!again.log().contains("panicked"), "{}", again.log());
}

/// A message that an SQL client parked at infinity neither hides others nor breaks what shows it.
#[tokio::test]
async fn a_message_parked_at_infinity_does_no_harm() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("r").await;
    for queue in ["q", "r"] {
        let park = format!("SELECT pgmq.send('{queue}', '1', 'infinity'::timestamptz)");
        gateway.database.execute(&park).await;
    }
    gateway.database.execute("SELECT pgmq.send('r', '2', '-infinity'::timestamptz)").await;
    let parked = gateway.get("/queues/q/messages/1").await.expect(200).json();
    assert_eq!(parked["vt"], "9999-12-31T00:00:00.000000Z");
    assert_eq!(gateway.receive("r", "wait=1&qty=10").await[0]["message"], json!(2));
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.receive("q", "wait=20").await });
    gateway.wait_for_waiters("q", 1).await;
    gateway.database.execute("SELECT pgmq.send('q', '\"by SQL\"')").await;
    assert_eq!(waiting.await.expect("no panic")[0]["message"], "by SQL");
}

/// Tables of PGMQ's that others fill may lack what its own functions always say.
#[tokio::test]
async fn rows_that_lack_something_hide_no_others() {
    let gateway = TestGateway::start().await;
    for queue in ["plain", "unlogged", "good"] {
        let kind = if queue == "unlogged" { "unlogged" } else { "standard" };
        gateway.create_with(queue, &json!({"kind": kind})).await;
    }
    let bind = json!({"pattern": "t.#"}).to_string();
    gateway.post("/queues/plain/bindings", &bind).await.expect(201);
    gateway.post("/queues/good/bindings", &bind).await.expect(201);
    let sql =
        "ALTER TABLE pgmq.meta ALTER is_partitioned DROP NOT NULL, ALTER is_unlogged DROP NOT NULL,
                                     ALTER created_at DROP NOT NULL;
        ALTER TABLE pgmq.topic_bindings ALTER bound_at DROP NOT NULL;
        UPDATE pgmq.meta SET is_partitioned = NULL, is_unlogged = NULL, created_at = NULL
        WHERE queue_name IN ('plain', 'unlogged');
        UPDATE pgmq.topic_bindings SET bound_at = NULL WHERE queue_name = 'plain'";
    gateway.database.execute(sql).await;
    let listed = gateway.get("/queues").await.expect(200).json();
    let kinds: Vec<_> =
        listed["queues"].as_array().expect("a list").iter().map(|q| &q["kind"]).collect();
    assert_eq!(kinds, ["standard", "standard", "unlogged"], "{listed}");
    let bindings = gateway.get("/bindings").await.expect(200).json();
    assert_eq!(bindings["bindings"].as_array().map(Vec::len), Some(2), "{bindings}");
    gateway.post("/queues/plain/bindings", &bind).await.expect(200);
    for queue in ["plain", "unlogged"] {
        gateway.get(&format!("/queues/{queue}")).await.expect(200);
        gateway.delete(&format!("/queues/{queue}")).await.expect(204);
    }
    let left = gateway.get("/queues").await.expect(200).json();
    assert_eq!(left["queues"].as_array().map(Vec::len), Some(1), "{left}");
}

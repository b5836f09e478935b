//! Transactions and publications that come together: they share statements and commits, and none is in the way
//! of another.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Answer, Client, TestDatabase, TestGateway, guarded::together};

/// With queues, in each of which a row says which transaction stored it.
async fn with_queues(gateway: &TestGateway, queues: &[&str]) {
    for queue in queues {
        gateway.create(queue).await;
        note_commits(&gateway.database, queue).await;
    }
}

/// Has each row of a queue say which transaction stored it: what subtransactions store is of the whole.
pub async fn note_commits(database: &TestDatabase, queue: &str) {
    let column = "tx text DEFAULT pg_current_xact_id()::text";
    database.execute(&format!("ALTER TABLE pgmq.q_{queue} ADD COLUMN {column}")).await;
}

/// Commits by which the rows of a queue came.
pub async fn commits(database: &TestDatabase, queue: &str) -> i64 {
    database.value(&format!("SELECT count(DISTINCT tx) FROM pgmq.q_{queue}")).await
}

fn send(queue: &str, message: impl Into<Value>) -> Value {
    json!({"send": {"queue": queue, "message": message.into()}})
}

pub fn transaction(operations: &[Value]) -> String {
    json!({"operations": operations}).to_string()
}

fn post(
    client: &Client,
    path: &str,
    key: Option<&str>,
    body: String,
) -> impl Future<Output = Answer> + use<> {
    let request = client.request("POST", path).body(body);
    let request = match key {
        Some(key) => request.header("Idempotency-Key", key),
        None => request,
    };
    Answer::of(request)
}

fn transact(client: &Client, operations: &[Value]) -> impl Future<Output = Answer> + use<> {
    post(client, "/transactions", None, transaction(operations))
}

/// The message with an id.
async fn message(gateway: &TestGateway, queue: &str, id: &Value) -> Value {
    gateway.get(&format!("/queues/{queue}/messages/{id}")).await.expect(200).json()["message"]
        .clone()
}

#[tokio::test]
async fn a_crowd_shares_commits_and_each_is_told_its_own_ids() {
    let gateway = TestGateway::start().await;
    with_queues(&gateway, &["a", "b"]).await;
    let answers =
        together(60, |n| transact(&gateway, &[send("a", n), send("b", -n), send("a", n + 100)]))
            .await;
    for (n, answer) in (0i64..).zip(answers) {
        let results = answer.expect(200).json()["results"].clone();
        for (index, queue, expected) in [(0, "a", n), (1, "b", -n), (2, "a", n + 100)] {
            let stored = message(&gateway, queue, &results[index]["msg_id"]).await;
            assert_eq!(stored, json!(expected), "{results}");
        }
    }
    let database = &gateway.database;
    let shared = commits(database, "a").await;
    assert!(shared <= 30, "{shared} commits of 60 transactions");
    let apart = "SELECT count(*) FROM pgmq.q_a a JOIN pgmq.q_b b \
                 ON a.message::text::int = -b.message::text::int AND a.tx <> b.tx";
    assert_eq!(
        database.value::<i64>(apart).await,
        0,
        "what belongs together is committed together"
    );
}

#[tokio::test]
async fn publications_share_commits_with_each_other_and_with_transactions() {
    let gateway = TestGateway::start().await;
    with_queues(&gateway, &["a", "b"]).await;
    for queue in ["a", "b"] {
        let path = format!("/queues/{queue}/bindings");
        gateway.post(&path, r#"{"pattern":"t.*"}"#).await.expect(201);
    }
    gateway.post("/queues/b/bindings", r#"{"pattern":"u.#"}"#).await.expect(201);
    let answers = together(90, |n| match n % 3 {
        0 => post(&gateway, "/topics/t.x/messages", None, json!({"message": n}).to_string()),
        1 => post(&gateway, "/topics/u.x.y/messages", None, json!({"message": n}).to_string()),
        _ => post(&gateway, "/transactions", None, transaction(&[send("a", n), send("b", n)])),
    })
    .await;
    for (n, answer) in (0i64..).zip(answers) {
        if n % 3 == 2 {
            answer.expect(200);
            continue;
        }
        let deliveries = answer.expect(201).json()["deliveries"].clone();
        let expected: &[&str] = if n % 3 == 0 { &["a", "b"] } else { &["b"] };
        let queues: Vec<_> = (0..expected.len()).map(|i| deliveries[i]["queue"].clone()).collect();
        assert_eq!(queues, expected, "{deliveries}");
        assert_eq!(deliveries.as_array().map(Vec::len), Some(expected.len()));
        for (index, queue) in expected.iter().enumerate() {
            let stored = message(&gateway, queue, &deliveries[index]["msg_id"]).await;
            assert_eq!(stored, json!(n), "{deliveries}");
        }
    }
    let shared = commits(&gateway.database, "b").await;
    assert!(shared <= 45, "{shared} commits of 90 requests");
    let nowhere = together(20, |_| {
        post(&gateway, "/topics/none/messages", None, r#"{"message":1}"#.to_owned())
    });
    for answer in nowhere.await {
        assert_eq!(answer.expect(201).json(), json!({"deliveries": []}));
    }
}

/// A worker's step: what it has done goes, and the next begins.
#[tokio::test]
async fn steps_of_many_workers_share_commits() {
    let gateway = TestGateway::start().await;
    with_queues(&gateway, &["steps", "next"]).await;
    let messages: Vec<Value> = (0..60).map(|n| json!({"message": n})).collect();
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/steps/messages/batch", &batch).await.expect(201);
    let received = gateway.receive("steps", "qty=60&vt=600").await;
    let answers = together(60, |n| {
        let message = &received[usize::try_from(n).expect("small")];
        let receipt = &message["receipt"];
        let ends = match n % 3 {
            0 => json!({"delete": {"queue": "steps", "receipt": receipt}}),
            1 => json!({"archive": {"queue": "steps", "receipt": receipt}}),
            _ => json!({"set_vt": {"queue": "steps", "receipt": receipt, "vt": 900}}),
        };
        transact(&gateway, &[ends, send("next", message["message"].clone())])
    });
    for (answer, message) in answers.await.into_iter().zip(&received) {
        let results = answer.expect(200).json()["results"].clone();
        assert_eq!(results[0]["msg_id"], message["msg_id"]);
        assert_eq!(results[0]["vt"].is_string(), message["message"].as_i64().expect("n") % 3 == 2);
    }
    assert_eq!(gateway.all("next").await.len(), 60);
    assert_eq!(gateway.all("steps").await.len(), 20);
    assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.a_steps").await, 20);
    let shared = commits(&gateway.database, "next").await;
    assert!(shared <= 30, "{shared} commits of 60 transactions");
}

/// What makes a transaction fail, and at which operation.
async fn failing(gateway: &TestGateway) -> Vec<(Vec<Value>, usize, u16)> {
    gateway.create_with("small", &json!({"settings": {"max_message_bytes": 100}})).await;
    gateway.create("unique").await;
    let index = "CREATE UNIQUE INDEX no_twins ON pgmq.q_unique ((message ->> 'u'))";
    gateway.database.execute(index).await;
    gateway.send("unique", r#"{"message":{"u":1}}"#).await;
    gateway.create("checked").await;
    let check = "ALTER TABLE pgmq.q_checked ADD CHECK (message ->> 'u' IS NULL)";
    gateway.database.execute(check).await;
    gateway.create("triggered").await;
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                   'BEGIN IF NEW.message ? ''u'' THEN RETURN NULL; END IF; RETURN NEW; END'; \
                   CREATE TRIGGER refuse BEFORE INSERT ON pgmq.q_triggered \
                   FOR EACH ROW EXECUTE FUNCTION refuse()";
    gateway.database.execute(trigger).await;
    gateway.send("old", r#"{"message":1}"#).await;
    let stale = gateway.receive_one("old", "vt=0").await["receipt"].clone();
    gateway.receive_one("old", "vt=600").await;
    let bad = json!({"u": 1});
    vec![
        (vec![send("a", "no"), json!({"delete": {"queue": "old", "msg_id": 99}})], 1, 404),
        (vec![json!({"set_vt": {"queue": "old", "msg_id": 98, "vt": 1}}), send("a", "no")], 0, 404),
        (vec![json!({"delete": {"queue": "old", "receipt": stale}}), send("a", "no")], 0, 409),
        (vec![send("a", "no"), send("none", 1)], 1, 404),
        (vec![json!({"archive": {"queue": "none", "msg_id": 1}}), send("a", "no")], 0, 404),
        (vec![send("a", "no"), send("b", "no"), send("small", "x".repeat(200))], 2, 413),
        (vec![send("a", "no"), send("unique", bad.clone())], 1, 409),
        (vec![send("a", "no"), send("checked", bad.clone()), send("b", "no")], 1, 422),
        (vec![send("a", "no"), send("triggered", bad), send("b", "no")], 1, 422),
    ]
}

/// The problem without what is of one request alone.
fn told(answer: &Answer) -> Value {
    let mut problem = answer.json();
    problem.as_object_mut().expect("an object").remove("instance");
    problem
}

#[tokio::test]
async fn one_that_fails_undoes_itself_alone_and_is_told_what_it_is_told_alone() {
    let gateway = TestGateway::start().await;
    with_queues(&gateway, &["a", "b", "old"]).await;
    let failing = failing(&gateway).await;
    let mut alone = Vec::new();
    for (operations, index, status) in &failing {
        let answer = transact(&gateway, operations).await;
        assert_eq!(answer.status, *status, "{}", answer.text);
        assert_eq!(answer.json()["index"], *index, "{}", answer.text);
        alone.push(told(&answer));
    }
    // Twice each, among five times as many that go through.
    let of = |n: i64| usize::try_from(n / 5).expect("small") % failing.len();
    let count = i64::try_from(failing.len()).expect("few") * 10;
    let answers = together(count, |n| match n % 5 {
        0 => transact(&gateway, &failing[of(n)].0),
        _ => transact(&gateway, &[send("a", n), send("b", n)]),
    })
    .await;
    let mut done = BTreeSet::new();
    for (n, answer) in (0i64..).zip(answers) {
        if n % 5 == 0 {
            assert_eq!(answer.status, failing[of(n)].2, "{}", answer.text);
            assert_eq!(told(&answer), alone[of(n)]);
        } else {
            answer.expect(200);
            done.insert(n);
        }
    }
    for queue in ["a", "b"] {
        let messages = gateway.all(queue).await;
        let stored: BTreeSet<i64> =
            messages.iter().map(|m| m["message"].as_i64().expect("of one that is done")).collect();
        assert_eq!((messages.len(), stored), (done.len(), done.clone()), "{queue}");
    }
    // Those that share with one that fails have little time for another try.
    let shared = commits(&gateway.database, "a").await;
    assert!(
        shared <= i64::try_from(done.len() * 3 / 4).expect("few"),
        "{shared} commits of {}",
        done.len()
    );
}

/// The same key several times in one statement, and at two gateways at once.
#[tokio::test]
async fn what_has_a_key_is_done_once() {
    let gateways = TestGateway::pair().await;
    with_queues(&gateways[0], &["a", "b"]).await;
    for queue in ["a", "b"] {
        let path = format!("/queues/{queue}/bindings");
        gateways[0].post(&path, r#"{"pattern":"t.*"}"#).await.expect(201);
    }
    let request = |n: i64, gateway: &TestGateway, different: bool| {
        let (key, content) = (format!("key {}", n % 30), n % 30 + i64::from(different) * 1_000);
        if n % 2 == 0 {
            let body = json!({"message": content}).to_string();
            return post(gateway, "/topics/t.x/messages", Some(&key), body);
        }
        let body = transaction(&[send("a", content), send("b", content)]);
        post(gateway, "/transactions", Some(&key), body)
    };
    let answers = together(120, |n| request(n, &gateways[usize::from(n >= 60)], false)).await;
    let (mut firsts, mut bodies) = (0, BTreeMap::new());
    for (n, answer) in (0i64..).zip(answers) {
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
        let is_replay = answer.headers.get("idempotency-replayed").is_some();
        firsts += usize::from(!is_replay);
        assert_eq!(*bodies.entry(n % 30).or_insert_with(|| answer.json()), answer.json());
    }
    assert_eq!(firsts, 30);
    for queue in ["a", "b"] {
        let mut stored: Vec<i64> = Vec::new();
        stored.extend(gateways[0].all(queue).await.iter().filter_map(|m| m["message"].as_i64()));
        stored.sort_unstable();
        assert_eq!(stored, (0..30).collect::<Vec<_>>(), "{queue}");
    }
    let shared = commits(&gateways[0].database, "a").await;
    assert!(shared < 30, "{shared} commits of 30 requests");
    // Later, together: the same again, and others with the same keys.
    let answers = together(60, |n| request(n, &gateways[0], n >= 30)).await;
    for (n, answer) in (0i64..).zip(answers) {
        if n < 30 {
            assert_eq!(answer.header("idempotency-replayed"), "true", "{}", answer.text);
            assert_eq!(answer.json(), bodies[&n]);
        } else {
            answer.problem(409, "idempotency_conflict");
        }
    }
    assert_eq!(gateways[0].all("a").await.len(), 30);
}

#[tokio::test]
async fn one_that_fails_leaves_its_key_free() {
    let gateway = TestGateway::start().await;
    with_queues(&gateway, &["a"]).await;
    let body = |n: i64| {
        let other = if n % 4 == 0 { "late" } else { "a" };
        transaction(&[send("a", n), send(other, n)])
    };
    let request = |n: i64| post(&gateway, "/transactions", Some(&n.to_string()), body(n));
    for (n, answer) in (0i64..).zip(together(40, request).await) {
        assert_eq!(answer.status, if n % 4 == 0 { 404 } else { 200 }, "{}", answer.text);
    }
    assert_eq!(gateway.all("a").await.len(), 60);
    gateway.create("late").await;
    for (n, answer) in (0i64..).zip(together(40, request).await) {
        let is_replay = answer.expect(200).headers.get("idempotency-replayed").is_some();
        assert_eq!(is_replay, n % 4 != 0);
    }
    assert_eq!(gateway.all("a").await.len(), 70);
}

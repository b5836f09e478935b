//! The functions of Supabase Queues, as its clients ask for them on the wire.

use std::time::Duration;

use chrono::Utc;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use tokio::time::Instant;

use crate::support::{Answer, Client, TestGateway, eventually};

/// A call as supabase-js makes it.
pub fn request(client: &Client, function: &str, body: &Value) -> RequestBuilder {
    let request = client.request("POST", &format!("/rest/v1/rpc/{function}"));
    request
        .header("content-profile", "pgmq_public")
        .header("content-type", "application/json")
        .body(body.to_string())
}

pub async fn call(client: &Client, function: &str, body: Value) -> Answer {
    Answer::of(request(client, function, &body)).await
}

/// Insists on an error with all four members.
#[track_caller]
pub fn failure(answer: &Answer, status: u16, code: &str, message: &str) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    let body = answer.json();
    let members: Vec<&String> = body.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["code", "details", "hint", "message"], "{body}");
    assert_eq!(body["code"], code, "{body}");
    assert!(body["message"].as_str().expect("a text").contains(message), "{body}");
    body
}

#[tokio::test]
async fn the_six_functions_answer_as_they_do_there() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let sent = call(&gateway, "send", json!({"queue_name": "q", "message": {"a": 1}})).await;
    let sent = sent.expect(200);
    assert_eq!(sent.text, "[1]");
    for (name, value) in [
        ("content-type", "application/json; charset=utf-8"),
        ("content-profile", "pgmq_public"),
        ("content-range", "0-0/*"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(sent.header(name), value, "{name}");
    }
    let batch = json!({"queue_name": "q", "messages": [{"b": 2}, null, "c"], "sleep_seconds": 0});
    let batch = call(&gateway, "send_batch", batch).await.expect(200);
    assert_eq!((&*batch.text, batch.header("content-range")), ("[2,3,4]", "0-2/*"));

    let read = json!({"queue_name": "q", "sleep_seconds": 60, "n": 2});
    let read = call(&gateway, "read", read).await.expect(200);
    assert_eq!(read.header("content-range"), "0-1/*");
    let records = read.json();
    assert_eq!(records[0]["message"], json!({"a": 1}));
    assert_eq!(records[1]["headers"], Value::Null);
    let text = records[0]["enqueued_at"].as_str().expect("a time");
    assert!(text.ends_with("+00:00") && text.parse::<chrono::DateTime<Utc>>().is_ok(), "{text}");
    let begin = r#"[{"msg_id":1,"read_ct":1,"enqueued_at":""#;
    assert!(read.text.starts_with(begin), "{}", read.text);

    let popped = call(&gateway, "pop", json!({"queue_name": "q"})).await.expect(200).json();
    assert_eq!((&popped[0]["msg_id"], &popped[0]["message"]), (&json!(3), &Value::Null));
    // As supabase-js writes a bigint; and as the platform's own guide calls it.
    for (function, body, done) in [
        ("archive", json!({"queue_name": "q", "message_id": "1"}), "true"),
        ("archive", json!({"queue_name": "q", "message_id": 1}), "false"),
        ("delete", json!({"queue_name": "q", "msg_id": 2}), "true"),
        ("delete", json!({"queue_name": "q", "message_id": 0}), "false"),
    ] {
        let answer = call(&gateway, function, body).await.expect(200);
        assert_eq!((&*answer.text, answer.header("content-range")), (done, "0-0/*"));
    }
    let archived: i64 = gateway.database.value("SELECT msg_id FROM pgmq.a_q").await;
    assert_eq!(archived, 1);
    let last = call(&gateway, "pop", json!({"queue_name": "q"})).await.expect(200).json();
    assert_eq!(last[0]["message"], "c");
    let none = call(&gateway, "read", json!({"queue_name": "q", "sleep_seconds": 1, "n": 1})).await;
    assert_eq!((&*none.text, none.header("content-range")), ("[]", "*/*"));
}

#[tokio::test]
async fn what_one_door_stores_the_others_deliver_digit_for_digit() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let message = r#"{"n": 12345678901234567890.123456789}"#;
    let body = format!(r#"{{"queue_name":"q","message":{message}}}"#);
    let sent = gateway.request("POST", "/rest/v1/rpc/send").body(body);
    Answer::of(sent).await.expect(200);
    let stored = "SELECT message::text FROM pgmq.q_q";
    assert_eq!(gateway.database.value::<String>(stored).await, message);
    let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200);
    assert!(popped.text.contains(message), "{}", popped.text);
    gateway.database.execute(&format!("SELECT pgmq.send('q', '{message}')")).await;
    let read = json!({"queue_name": "q", "sleep_seconds": 0, "n": 1});
    let read = call(&gateway, "read", read).await.expect(200);
    assert!(read.text.contains(message), "{}", read.text);
}

#[tokio::test]
async fn what_is_wrong_is_told_as_postgrest_does() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let send = |message: Value| json!({"queue_name": "q", "message": message});
    for (function, body, status, code, message) in [
        (
            "read",
            json!({"queue_name": "foo", "sleep_seconds": 1, "n": 1}),
            404,
            "42P01",
            r#"relation "pgmq.q_foo" does not exist"#,
        ),
        ("read", json!({"queue_name": "foo", "sleep_seconds": 1, "n": 0}), 404, "42P01", "q_foo"),
        ("delete", json!({"queue_name": "foo", "message_id": 0}), 404, "42P01", "q_foo"),
        ("send", json!({"queue_name": "foo", "message": 1}), 404, "42P01", "q_foo"),
        (
            "read",
            json!({"queue_name": "q", "n": 1}),
            404,
            "PGRST202",
            "Could not find the function pgmq_public.read(n, queue_name) in the schema cache",
        ),
        (
            "pop",
            json!({}),
            404,
            "PGRST202",
            "Could not find the function pgmq_public.pop without parameters in the schema cache",
        ),
        (
            "delete",
            json!({"queue_name": "q", "message_id": 1, "msg_id": 2}),
            404,
            "PGRST202",
            "pgmq_public.delete(message_id, msg_id, queue_name)",
        ),
        ("sendd", send(json!(1)), 404, "PGRST202", "pgmq_public.sendd(message, queue_name)"),
        (
            "read",
            json!({"queue_name": "q", "sleep_seconds": "x", "n": 1}),
            400,
            "22P02",
            r#"invalid input syntax for type integer: "x""#,
        ),
        ("read", json!({"queue_name": "q", "sleep_seconds": 1.5, "n": 1}), 400, "22P02", "\"1.5\""),
        (
            "archive",
            json!({"queue_name": "q", "message_id": "9999999999999999999"}),
            400,
            "22003",
            "out of range for type bigint",
        ),
        (
            "read",
            json!({"queue_name": "q", "sleep_seconds": 1, "n": -1}),
            400,
            "2201W",
            "LIMIT must not be negative",
        ),
        ("pop", json!({"queue_name": "a;b"}), 400, "P0001", "queue name contains invalid"),
        ("pop", json!({"queue_name": "a b"}), 400, "P0001", "a queue name consists of"),
        ("pop", json!({"queue_name": "Orders"}), 400, "P0001", "a queue name is lower case"),
        ("send", send(json!("\u{0}")), 400, "22P05", "unsupported Unicode escape sequence"),
        ("send_batch", json!({"queue_name": "q", "messages": []}), 400, "P0001", "empty"),
        ("send_batch", json!({"queue_name": "q", "messages": {}}), 400, "22P02", "JSON array"),
    ] {
        let answer = call(&gateway, function, body.clone()).await;
        let body = failure(&answer, status, code, message);
        if code == "PGRST202" {
            let hint = body["hint"].as_str().expect("a hint");
            assert!(hint.starts_with("Perhaps you meant to call the function pgmq_public."));
        }
    }
    assert!(gateway.all("q").await.is_empty(), "nothing was stored");
    let text = gateway.request("POST", "/rest/v1/rpc/send").body("{");
    failure(&Answer::of(text).await, 400, "PGRST102", "Empty or invalid json");
    let schema = request(&gateway, "pop", &json!({"queue_name": "q"}));
    let schema = Answer::of(schema.header("content-profile", "")).await;
    assert_eq!(schema.status, 200, "the first one says it");
    let foreign = gateway.request("POST", "/rest/v1/rpc/pop").header("content-profile", "foo");
    let foreign = Answer::of(foreign.body(r#"{"queue_name":"q"}"#)).await;
    let body = failure(&foreign, 406, "PGRST106", "Invalid schema: foo");
    assert!(body["hint"].as_str().expect("a hint").contains("pgmq_public"));
    for (path, code) in [("/rest/v1/orders", "PGRST205"), ("/rest/v1/a/b", "PGRST125")] {
        failure(&gateway.get(path).await, 404, code, "");
    }
}

#[tokio::test]
async fn a_message_that_is_null_is_stored_as_the_null_of_sql() {
    let gateway = TestGateway::start().await;
    let queues: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    for queue in &queues {
        gateway.create(queue).await;
    }
    // Alone, several at once, and many queues in one statement.
    let sent = queues.iter().map(async |queue| {
        let one = json!({"queue_name": queue, "message": null});
        let more = json!({"queue_name": queue, "messages": [null, "null", 1]});
        tokio::join!(call(&gateway, "send", one), call(&gateway, "send_batch", more))
    });
    for (one, more) in futures_util::future::join_all(sent).await {
        one.expect(200);
        more.expect(200);
    }
    for queue in &queues {
        let count = format!("SELECT count(*) FROM pgmq.q_{queue} WHERE message IS NULL");
        assert_eq!(gateway.database.value::<i64>(&count).await, 2, "{queue}");
    }
    let read = json!({"queue_name": "n0", "sleep_seconds": 0, "n": 9});
    let read = call(&gateway, "read", read).await.expect(200).json();
    let records = read.as_array().expect("records").iter();
    assert_eq!(records.filter(|record| record["message"].is_null()).count(), 2);
    assert_eq!(gateway.all("n0").await.iter().filter(|m| m["message"].is_null()).count(), 2);
    // The JSON null of REST stays one.
    gateway.send("n1", r#"{"message":null}"#).await;
    let json_nulls = "SELECT count(*) FROM pgmq.q_n1 WHERE message = 'null'";
    assert_eq!(gateway.database.value::<i64>(json_nulls).await, 1);
}

#[tokio::test]
async fn other_methods_than_post_change_nothing() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let pop = "/rest/v1/rpc/pop?queue_name=q";
    failure(&gateway.get(pop).await, 405, "25006", "cannot execute DELETE in a read-only");
    // Whatever the values of the arguments.
    for call in [
        "send?queue_name=q&message=1&sleep_seconds=x",
        "send_batch?queue_name=q&messages=%7B1,2%7D",
        "send_batch?queue_name=q&messages=%5B1%5D",
        "read?queue_name=none&sleep_seconds=1&n=1",
        "archive?queue_name=a;b&message_id=1",
    ] {
        failure(
            &gateway.get(&format!("/rest/v1/rpc/{call}")).await,
            405,
            "25006",
            "cannot execute",
        );
    }
    let head = Answer::of(gateway.request("HEAD", pop)).await;
    assert_eq!((head.status, &*head.text), (405, ""));
    failure(&gateway.get("/rest/v1/rpc/pop").await, 404, "PGRST202", "without parameters");
    for method in ["PUT", "PATCH", "DELETE"] {
        let answer = Answer::of(gateway.request(method, pop)).await;
        failure(&answer, 405, "PGRST101", &format!("Cannot use the {method} method on RPC"));
    }
    let options = Answer::of(gateway.request("OPTIONS", pop)).await.expect(200);
    assert_eq!(options.header("allow"), "OPTIONS,POST");
    assert_eq!(gateway.all("q").await[0]["read_ct"], 0);
}

#[tokio::test]
async fn one_object_is_made_of_one_row_or_nothing_is_done() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let single = async |function: &str, body: Value| {
        let request = request(&gateway, function, &body);
        Answer::of(request.header("accept", "application/vnd.pgrst.object+json")).await
    };
    let none = single("pop", json!({"queue_name": "q"})).await;
    let body = failure(&none, 406, "PGRST116", "single JSON object");
    assert_eq!(body["details"], "The result contains 0 rows");
    let two = single("send_batch", json!({"queue_name": "q", "messages": [1, 2]})).await;
    failure(&two, 406, "PGRST116", "single");
    assert!(gateway.all("q").await.is_empty(), "nothing was stored");
    let one = single("send", json!({"queue_name": "q", "message": 1})).await.expect(200);
    assert_eq!(one.text, "1");
    assert_eq!(one.header("content-type"), "application/vnd.pgrst.object+json; charset=utf-8");
    single("send", json!({"queue_name": "q", "message": 2})).await.expect(200);
    let two = single("read", json!({"queue_name": "q", "sleep_seconds": 600, "n": 2})).await;
    failure(&two, 406, "PGRST116", "single");
    // They are given back, as they are there, where the transaction is undone.
    eventually("both are visible", async || {
        let received = gateway.receive("q", "qty=2&vt=0").await;
        (received.len() == 2).then_some(())
    })
    .await;
    let read = single("read", json!({"queue_name": "q", "sleep_seconds": 0, "n": 1})).await;
    assert_eq!(read.expect(200).json()["msg_id"], 1);
}

#[tokio::test]
async fn columns_and_their_order_are_chosen_and_nothing_is_cut_off() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    call(&gateway, "send_batch", json!({"queue_name": "q", "messages": [1, 2]})).await.expect(200);
    let read = async |query: &str, prefer: &'static str| {
        let body = json!({"queue_name": "q", "sleep_seconds": 0, "n": 2}).to_string();
        let request = gateway.request("POST", &format!("/rest/v1/rpc/read?{query}"));
        Answer::of(request.header("prefer", prefer).body(body)).await
    };
    let chosen = read("select=message,msg_id&order=msg_id.desc", "count=exact").await.expect(200);
    assert_eq!(chosen.text, r#"[{"message":2,"msg_id":2},{"message":1,"msg_id":1}]"#);
    assert_eq!(chosen.header("content-range"), "0-1/2");
    for query in ["limit=1", "offset=1", "msg_id=eq.1", "order=vt", "select=message-%3Ea"] {
        failure(&read(query, "").await, 400, "PGRST100", "");
    }
    failure(&read("select=nothing", "").await, 400, "42703", "column read.nothing does not exist");
    let csv = request(&gateway, "pop", &json!({"queue_name": "q"})).header("accept", "text/csv");
    failure(&Answer::of(csv).await, 406, "PGRST107", "text/csv");
    assert_eq!(gateway.all("q").await.len(), 2);
}

#[tokio::test]
async fn a_read_and_a_pop_wait_if_that_is_preferred() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let client = gateway.client.clone();
    let waiting = |function: &'static str, body: Value, wait: &'static str| {
        let request = request(&client, function, &body).header("prefer", wait);
        tokio::spawn(Answer::of(request))
    };
    let read = json!({"queue_name": "q", "sleep_seconds": 60, "n": 1});
    for (function, body) in [("read", read), ("pop", json!({"queue_name": "q"}))] {
        let answer = waiting(function, body, "wait=20");
        gateway.wait_for_waiters("q", 1).await;
        // By SQL, of which the gateway is told by nobody, and by itself.
        if function == "read" {
            gateway.database.execute("SELECT pgmq.send('q', '{\"sql\":1}')").await;
        } else {
            call(&gateway, "send", json!({"queue_name": "q", "message": 1})).await.expect(200);
        }
        let began = Instant::now();
        let answer = answer.await.expect("it ran").expect(200);
        assert_eq!(answer.json().as_array().expect("rows").len(), 1, "{}", answer.text);
        assert_eq!(answer.header("preference-applied"), "wait=20");
        assert!(began.elapsed() < Duration::from_secs(15), "it did not wait to the end");
    }
    let left: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_q").await;
    assert_eq!(left, 1, "what was popped is gone, what was read is leased");
    let empty = waiting("pop", json!({"queue_name": "q"}), "wait=1").await.expect("it ran");
    assert_eq!(empty.expect(200).text, "[]");
}

/// What keeps the first message from being deleted.
const KEEPERS: [&str; 3] = [
    "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
     IF OLD.msg_id = 1 THEN RETURN NULL; END IF; RETURN OLD; END $$;
     CREATE TRIGGER keep BEFORE DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
    "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
     IF OLD.msg_id = 1 THEN RAISE EXCEPTION 'keep'; END IF; RETURN OLD; END $$;
     CREATE TRIGGER keep BEFORE DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
    "CREATE TABLE public.kept (id bigint REFERENCES pgmq.q_q); INSERT INTO public.kept VALUES (1)",
];

#[tokio::test]
async fn a_message_that_cannot_be_deleted_is_in_no_pops_way() {
    for keeper in KEEPERS {
        let gateway = TestGateway::start().await;
        gateway.create("q").await;
        // Visible once somebody waits: who does not wait passes it over.
        gateway.send("q", r#"{"message":"kept","delay":3}"#).await;
        gateway.database.execute(keeper).await;
        let pop = json!({"queue_name": "q"});
        let pop = || Answer::of(request(&gateway, "pop", &pop).header("prefer", "wait=20"));
        let began = Instant::now();
        let waiting = [tokio::spawn(pop()), tokio::spawn(pop())];
        gateway.wait_for_waiters("q", 2).await;
        let leased = "SELECT read_ct > 0 AND vt > now() FROM pgmq.q_q WHERE msg_id = 1";
        eventually("one of them has it", async || {
            gateway.database.value::<bool>(leased).await.then_some(())
        })
        .await;
        gateway.wait_for_waiters("q", 2).await;
        assert!(gateway.database.value::<bool>(leased).await, "it stays out of the way");
        for message in ["a", "b"] {
            gateway.send("q", &json!({"message": message}).to_string()).await;
        }
        let mut popped = Vec::new();
        for waiting in waiting {
            let rows = waiting.await.expect("it ran").expect(200).json();
            popped.push(rows[0]["message"].as_str().expect("a message").to_owned());
        }
        popped.sort();
        assert_eq!(popped, ["a", "b"], "{keeper}");
        assert!(began.elapsed() < Duration::from_secs(18), "they did not wait to the end");
    }
}

#[tokio::test]
async fn trouble_that_passes_says_when_to_come_again() {
    let gateway = TestGateway::with(|settings| settings.limits.requests_per_second = Some(1)).await;
    let body = json!({"queue_name": "q"});
    let limited = eventually("a request too many", async || {
        let answer = call(&gateway, "pop", body.clone()).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    failure(&limited, 429, "53400", "more requests than it takes");
    assert_eq!(limited.header("retry-after"), "1");

    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_q").await.expect("locked");
    let locked = call(&gateway, "send", json!({"queue_name": "q", "message": 1})).await;
    failure(&locked, 503, "55P03", "locked");
    assert_eq!(locked.header("retry-after"), "1");
}

#[tokio::test]
async fn it_is_not_there_where_it_is_turned_off() {
    let gateway = TestGateway::with(|settings| settings.supabase.enabled = false).await;
    let answer = call(&gateway, "pop", json!({"queue_name": "q"})).await;
    answer.problem(404, "route_not_found");
}

//! Messages that nobody gets done: `max_receives`, dead-letter queues and the way back.

use chrono::{DateTime, Utc};
use pgmq_gateway::config::{ReadMode, Settings, Strategy};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    slow_queues::GATE,
    support::{Answer, Client, Holder, PATIENCE, TestGateway, eventually, gateway::patient},
};

/// Every way of reading.
const WAYS: [fn(&mut Settings); 3] = [
    |_| {},
    |settings| settings.engine.read = ReadMode::Pgmq,
    |settings| settings.long_poll.strategy = Strategy::ReadWithPoll,
];

/// `q`, from which messages go to `dlq` after `max_receives` deliveries.
async fn make_queues(client: &Client, max_receives: i64) {
    client.create("dlq").await;
    let settings = json!({"max_receives": max_receives, "dead_letter_queue": "dlq"});
    client.create_with("q", &json!({"settings": settings})).await;
}

async fn with_queues(max_receives: i64) -> TestGateway {
    let gateway = TestGateway::start().await;
    make_queues(&gateway, max_receives).await;
    gateway
}

/// Sends messages and has all of them delivered once, which is all that `max_receives: 1` allows.
async fn exhaust(client: &Client, messages: &[&str]) {
    for message in messages {
        let body = json!({"message": message, "headers": {"h": message}}).to_string();
        client.send("q", &body).await;
    }
    assert_eq!(client.receive("q", "qty=100&vt=0").await.len(), messages.len());
}

/// Has them delivered once too often, so that they are in the dead-letter queue.
async fn kill(client: &Client, messages: &[&str]) {
    exhaust(client, messages).await;
    let moved = async || {
        assert!(client.receive("q", "qty=100&vt=0").await.is_empty());
        client.all("q").await.is_empty().then_some(())
    };
    eventually("they are moved", moved).await;
}

async fn redrive(client: &Client, body: &str) -> i64 {
    let answer = client.post("/queues/dlq/redrive", body).await.expect(200).json();
    assert!(answer.get("next").is_none(), "{answer}");
    answer["moved"].as_i64().expect("a number")
}

async fn values(client: &Client, queue: &str) -> Vec<String> {
    let text = |m: &Value| m["message"].as_str().expect("text").to_owned();
    client.all(queue).await.iter().map(text).collect()
}

#[tokio::test]
async fn a_poison_message_is_seen_three_times_and_moved_once() {
    let gateways = TestGateway::pair().await;
    make_queues(&gateways[0], 3).await;
    let body = r#"{"message":"poison","headers":{"trace":"abc"}}"#;
    let id = gateways[0].send("q", body).await;
    let sent = gateways[0].all("q").await.remove(0);
    for n in 0..3 {
        let received = gateways[n % 2].receive_one("q", "vt=0").await;
        assert_eq!((&received["msg_id"], &received["read_ct"]), (&json!(id), &json!(n + 1)));
    }
    for gateway in gateways.iter().cycle().take(4) {
        assert!(gateway.receive("q", "vt=0").await.is_empty());
    }
    assert!(gateways[0].all("q").await.is_empty());
    let dead = gateways[0].all("dlq").await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    let (dead, headers) = (&dead[0], &dead[0]["headers"]);
    assert_eq!((&dead["message"], &dead["read_ct"]), (&json!("poison"), &json!(3)));
    assert_eq!(dead["enqueued_at"], sent["enqueued_at"]);
    assert_eq!(headers["trace"], "abc", "its own headers are kept");
    assert_eq!(headers["x-dead-letter-queue"], "q");
    assert_eq!(headers["x-dead-letter-msg-id"], id);
    assert_eq!(headers["x-dead-letter-read-ct"], 3);
    let at = headers["x-dead-letter-at"].as_str().expect("a time");
    let at: DateTime<Utc> = DateTime::parse_from_rfc3339(at).expect("RFC 3339").into();
    assert!((Utc::now() - at).num_seconds().abs() < 60, "{at}");
    let archived: i64 = gateways[0].database.value("SELECT count(*) FROM pgmq.a_q").await;
    assert_eq!(archived, 0);
}

/// The same with consumers that crowd at both gateways.
#[tokio::test]
async fn a_crowd_sees_each_poison_message_three_times() {
    let first = TestGateway::start().await;
    make_queues(&first, 3).await;
    // Which learns of a change elsewhere within a second, and of this one as it begins.
    let second = TestGateway::on(&first.database, |_| {}).await;
    let gateways = [first, second];
    for n in 0..10 {
        gateways[n % 2].send("q", r#"{"message":"poison"}"#).await;
    }
    let mut crowd = JoinSet::new();
    for gateway in gateways.iter().cycle().take(8) {
        let client = gateway.client.clone();
        crowd.spawn(async move {
            let mut seen = 0;
            while !client.all("q").await.is_empty() {
                seen += client.receive("q", "qty=3&vt=0").await.len();
            }
            seen
        });
    }
    let seen = timeout(PATIENCE, crowd.join_all()).await.expect("all are moved");
    assert_eq!(seen.iter().sum::<usize>(), 30);
    let dead = gateways[0].all("dlq").await;
    assert_eq!(dead.len(), 10);
    assert!(dead.iter().all(|message| message["read_ct"] == 3), "{dead:?}");
}

#[tokio::test]
async fn the_receive_that_moves_goes_on_to_the_next_good_message() {
    for way in WAYS {
        for parameters in ["qty=1&vt=0", "qty=1&vt=0&wait=20", "vt=0&filter=%7B%22a%22%3A1%7D"] {
            let gateway = TestGateway::with(way).await;
            make_queues(&gateway, 1).await;
            for _ in 0..5 {
                gateway.send("q", r#"{"message":{"a":1,"poison":true}}"#).await;
            }
            assert_eq!(gateway.receive("q", "qty=5&vt=0").await.len(), 5);
            let good = gateway.send("q", r#"{"message":{"a":1}}"#).await;
            assert_eq!(gateway.receive_one("q", parameters).await["msg_id"], good, "{parameters}");
            eventually("the poison is moved", async || {
                gateway.receive("q", "vt=0").await;
                (gateway.all("dlq").await.len() == 6).then_some(())
            })
            .await;
        }
    }
}

/// What is in front is somebody else's, and behind it is one that is to be moved.
#[tokio::test]
async fn a_good_message_is_found_behind_what_is_locked_and_what_was_delivered_too_often() {
    for filter in ["", "&filter=%7B%22a%22%3A1%7D"] {
        let gateway = with_queues(1).await;
        let fill = "INSERT INTO pgmq.q_q (vt, read_ct, message)
                    SELECT now(), (n IN (16, 18))::int, '{\"a\": 1}' FROM generate_series(1, 20) n";
        gateway.database.execute(fill).await;
        let lock = "SELECT FROM pgmq.q_q WHERE msg_id <= 15 FOR UPDATE";
        let holder = Holder::of(&gateway.database, lock).await;
        let ids = async |parameters: &str| {
            let found = gateway.receive("q", &format!("{parameters}&vt=600{filter}")).await;
            found.iter().map(|m| m["msg_id"].as_i64().expect("an id")).collect::<Vec<_>>()
        };
        assert_eq!(ids("qty=1").await, [17]);
        assert_eq!(ids("qty=2").await, [19, 20]);
        holder.rollback().await;
        assert_eq!(ids("qty=100").await, (1..16).collect::<Vec<_>>());
        eventually("both are moved", async || {
            (gateway.all("dlq").await.len() == 2 || !ids("qty=1").await.is_empty()).then_some(())
        })
        .await;
        assert_eq!(gateway.all("dlq").await.len(), 2, "{filter}");
    }
}

/// To move a message away may take its time; nobody waits for that who can have another one.
#[tokio::test]
async fn what_stands_behind_a_message_that_is_slow_to_be_moved_is_delivered_meanwhile() {
    let gateway = TestGateway::with(patient).await;
    make_queues(&gateway, 1).await;
    let fill = "INSERT INTO pgmq.q_q (vt, read_ct, message)
                SELECT now(), (n = 1)::int, to_jsonb(n) FROM generate_series(1, 6) n";
    let slow = "CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_dlq FOR EACH ROW EXECUTE FUNCTION wait_at_gate()";
    gateway.database.execute(&format!("{fill}; {GATE}; {slow}")).await;
    let found = gateway.receive("q", "qty=6&vt=600").await;
    let ids: Vec<_> = found.iter().map(|m| m["msg_id"].as_i64().expect("an id")).collect();
    assert_eq!(ids, [2, 3, 4, 5, 6]);
    let at_gate = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                   AND datname = current_database())";
    assert!(gateway.database.value::<bool>(at_gate).await, "it is still being moved");
    gateway.database.execute("DELETE FROM public.gate").await;
    let is_moved = async || (!gateway.all("dlq").await.is_empty()).then_some(());
    eventually("it is moved", is_moved).await;
    assert_eq!(gateway.all("dlq").await[0]["message"], 1);
}

#[tokio::test]
async fn who_waits_is_given_the_next_good_message() {
    for way in WAYS {
        let gateway = TestGateway::with(way).await;
        make_queues(&gateway, 1).await;
        exhaust(&gateway, &["poison"]).await;
        let (received, _) = tokio::join!(gateway.receive_one("q", "wait=20"), async {
            eventually("the poison is moved", async || {
                (values(&gateway, "dlq").await == ["poison"]).then_some(())
            })
            .await;
            gateway.send("q", r#"{"message":"good"}"#).await
        });
        assert_eq!(received["message"], "good");
    }
}

#[tokio::test]
async fn a_message_that_is_deleted_in_time_is_not_moved() {
    let gateway = with_queues(3).await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    for vt in ["vt=0", "vt=0", "vt=600"] {
        gateway.receive_one("q", vt).await;
    }
    assert!(gateway.receive("q", "").await.is_empty());
    gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    assert!(gateway.all("dlq").await.is_empty(), "the third had it until the end");
}

#[tokio::test]
async fn without_a_dead_letter_queue_it_goes_to_the_archive() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"settings": {"max_receives": 2}})).await;
    gateway.send("q", r#"{"message":"poison","headers":{"trace":"abc"}}"#).await;
    for _ in 0..2 {
        gateway.receive_one("q", "vt=0").await;
    }
    assert!(gateway.receive("q", "vt=0").await.is_empty());
    assert!(gateway.all("q").await.is_empty());
    let archived = gateway.get("/queues/q/archive").await.expect(200).messages();
    assert_eq!(archived.len(), 1);
    assert_eq!((&archived[0]["message"], &archived[0]["read_ct"]), (&json!("poison"), &json!(2)));
    let headers = &archived[0]["headers"];
    assert_eq!(headers["trace"], "abc");
    assert_eq!(headers["x-dead-letter-queue"], "q");
    assert_eq!(headers["x-dead-letter-read-ct"], 2);
}

#[tokio::test]
async fn popping_honours_max_receives() {
    for way in WAYS {
        let gateway = TestGateway::with(way).await;
        make_queues(&gateway, 1).await;
        exhaust(&gateway, &["poison"]).await;
        gateway.send("q", r#"{"message":"good"}"#).await;
        let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200).messages();
        assert_eq!(popped.iter().map(|m| &m["message"]).collect::<Vec<_>>(), ["good"]);
        assert!(gateway.post("/queues/q/messages/pop", "").await.messages().is_empty());
        assert_eq!(values(&gateway, "dlq").await, ["poison"]);
    }
}

#[tokio::test]
async fn a_limit_that_is_set_later_counts_what_was_before() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("dlq").await;
    gateway.send("q", r#"{"message":"poison"}"#).await;
    for _ in 0..5 {
        gateway.receive_one("q", "vt=0").await;
    }
    let settings = json!({"max_receives": 3, "dead_letter_queue": "dlq"});
    gateway.configure("q", settings).await.expect(200);
    assert!(gateway.receive("q", "vt=0").await.is_empty());
    assert_eq!(gateway.all("dlq").await[0]["read_ct"], 5);
}

/// SQL clients may send headers that are none, or no object.
#[tokio::test]
async fn whatever_the_headers_are_it_is_moved() {
    let gateway = with_queues(1).await;
    let database = &gateway.database;
    database.execute("SELECT pgmq.send('q', '\"none\"')").await;
    database.execute(r#"SELECT pgmq.send('q', '"array"', '[1]'::jsonb)"#).await;
    database.execute("SELECT pgmq.send('q', '\"null\"', 'null'::jsonb)").await;
    assert_eq!(gateway.receive("q", "qty=10&vt=0").await.len(), 3);
    assert!(gateway.receive("q", "qty=10&vt=0").await.is_empty());
    let mut dead = values(&gateway, "dlq").await;
    dead.sort();
    assert_eq!(dead, ["array", "none", "null"]);
    assert_eq!(redrive(&gateway, "{}").await, 3, "each knows where it came from");
}

#[tokio::test]
async fn a_dead_letter_queue_counts_from_the_arrival() {
    let gateway = TestGateway::start().await;
    gateway.create("last").await;
    let settings = json!({"max_receives": 2, "dead_letter_queue": "last"});
    gateway.create_with("dlq", &json!({"settings": settings})).await;
    let settings = json!({"max_receives": 3, "dead_letter_queue": "dlq"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    gateway.send("q", r#"{"message":"poison"}"#).await;
    for _ in 0..3 {
        gateway.receive_one("q", "vt=0").await;
    }
    assert!(gateway.receive("q", "vt=0").await.is_empty());
    for read_ct in [4, 5] {
        assert_eq!(gateway.receive_one("dlq", "vt=0").await["read_ct"], read_ct);
    }
    assert!(gateway.receive("dlq", "vt=0").await.is_empty());
    assert_eq!(values(&gateway, "last").await, ["poison"]);
}

#[tokio::test]
async fn a_dead_letter_queue_must_be_there_and_another() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for wrong in ["none", "q"] {
        let settings = json!({"max_receives": 1, "dead_letter_queue": wrong});
        let refused = gateway.configure("q", settings.clone()).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains("dead_letter_queue"), "{detail}");
    }
    for wrong in ["none", "new"] {
        let body = json!({"settings": {"max_receives": 1, "dead_letter_queue": wrong}});
        let refused = gateway.put("/queues/new", &body.to_string()).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains("dead_letter_queue"), "{detail}");
        gateway.get("/queues/new").await.problem(404, "queue_not_found");
    }
    let settings = gateway.get("/queues/q").await.expect(200).json()["settings"].clone();
    assert_eq!(settings["dead_letter_queue"], Value::Null);
}

#[tokio::test]
async fn a_dead_letter_queue_that_was_dropped_loses_nothing() {
    let gateway = with_queues(1).await;
    exhaust(&gateway, &["poison"]).await;
    gateway.delete("/queues/dlq?force=true").await.expect(204);
    gateway.send("q", r#"{"message":"good"}"#).await;
    eventually("the good message comes", async || {
        let received = gateway.receive("q", "vt=600").await;
        received.iter().any(|message| message["message"] == "good").then_some(())
    })
    .await;
    let kept = "SELECT (SELECT count(*) FROM pgmq.q_q) + (SELECT count(*) FROM pgmq.a_q)";
    assert_eq!(gateway.database.value::<i64>(kept).await, 2);
}

#[tokio::test]
async fn redrive_brings_them_back_as_new() {
    let gateway = with_queues(1).await;
    kill(&gateway, &["poison"]).await;
    assert_eq!(redrive(&gateway, "").await, 1);
    assert_eq!(redrive(&gateway, "{}").await, 0, "safe to run twice");
    assert!(gateway.all("dlq").await.is_empty());
    let back = gateway.all("q").await;
    assert_eq!(back.len(), 1);
    assert_eq!((&back[0]["message"], &back[0]["read_ct"]), (&json!("poison"), &json!(0)));
    assert_eq!(back[0]["headers"], json!({"h": "poison"}), "as they were");
    assert_eq!(gateway.receive_one("q", "vt=0").await["read_ct"], 1, "it has another chance");
    assert!(gateway.receive("q", "vt=0").await.is_empty());
    assert_eq!(values(&gateway, "dlq").await, ["poison"]);
}

#[tokio::test]
async fn redrive_wakes_who_waits() {
    let [one, other] = TestGateway::pair().await;
    make_queues(&one, 1).await;
    kill(&one, &["poison"]).await;
    let (received, moved) = tokio::join!(other.receive_one("q", "wait=20"), redrive(&one, "{}"));
    assert_eq!((&received["message"], moved), (&json!("poison"), 1));
}

#[tokio::test]
async fn redrive_can_go_elsewhere() {
    let gateway = with_queues(1).await;
    gateway.create("elsewhere").await;
    kill(&gateway, &["poison"]).await;
    let missing = gateway.post("/queues/dlq/redrive", r#"{"to":"none"}"#).await;
    missing.problem(404, "queue_not_found");
    assert_eq!(redrive(&gateway, r#"{"to":"elsewhere"}"#).await, 1);
    let moved = gateway.receive_one("elsewhere", "").await;
    assert_eq!((&moved["read_ct"], &moved["headers"]), (&json!(1), &json!({"h": "poison"})));
    assert!(gateway.all("q").await.is_empty());
}

#[tokio::test]
async fn redrive_takes_the_oldest_up_to_a_limit() {
    let gateway = with_queues(1).await;
    kill(&gateway, &["a", "b", "c"]).await;
    let order = values(&gateway, "dlq").await;
    assert_eq!(redrive(&gateway, r#"{"limit":2}"#).await, 2);
    assert_eq!(values(&gateway, "q").await, order[..2]);
    assert_eq!(values(&gateway, "dlq").await, order[2..]);
    for wrong in [r#"{"limit":0}"#, r#"{"limit":-1}"#, r#"{"limits":1}"#, r#"{"to":1}"#, "[]"] {
        gateway.post("/queues/dlq/redrive", wrong).await.problem(400, "invalid_request");
    }
    gateway.post("/queues/none/redrive", "{}").await.problem(404, "queue_not_found");
}

#[tokio::test]
async fn redrive_leaves_what_came_from_nowhere() {
    let gateway = with_queues(1).await;
    gateway.send("dlq", r#"{"message":"sent here"}"#).await;
    kill(&gateway, &["poison"]).await;
    assert_eq!(redrive(&gateway, r#"{"limit":1}"#).await, 1, "it does not stand in the way");
    assert_eq!(values(&gateway, "dlq").await, ["sent here"]);
    assert_eq!(values(&gateway, "q").await, ["poison"]);
}

#[tokio::test]
async fn redrives_at_once_move_each_message_once() {
    let [one, other] = TestGateway::pair().await;
    make_queues(&one, 1).await;
    kill(&one, &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    let moved = tokio::join!(
        redrive(&one, "{}"),
        redrive(&other, "{}"),
        redrive(&one, r#"{"limit":3}"#),
        redrive(&other, "{}")
    );
    assert_eq!(moved.0 + moved.1 + moved.2 + moved.3, 8, "{moved:?}");
    let mut back = values(&one, "q").await;
    back.sort();
    assert_eq!(back, ["a", "b", "c", "d", "e", "f", "g", "h"]);
}

/// A message that says how often it was delivered elsewhere is not believed, whichever way it comes.
#[tokio::test]
async fn a_sender_cannot_add_to_the_deliveries() {
    for way in WAYS {
        let gateway = TestGateway::with(way).await;
        make_queues(&gateway, 3).await;
        gateway.post("/queues/q/bindings", r#"{"pattern":"t"}"#).await.expect(201);
        let headers = r#"{"x-dead-letter-queue":"q","x-dead-letter-read-ct":3,"a":1,
                          "x-dead-letter\u002dread-ct":3}"#;
        let one = format!(r#"{{"message":1,"headers":{headers}}}"#);
        let send = format!(r#"{{"queue":"q","message":1,"headers":{headers}}}"#);
        for (path, body) in [
            ("/queues/q/messages", one.clone()),
            ("/queues/q/messages/batch", format!(r#"{{"messages":[{one}]}}"#)),
            ("/topics/t/messages", one.clone()),
            ("/topics/t/messages/batch", format!(r#"{{"messages":[{one}]}}"#)),
            ("/transactions", format!(r#"{{"operations":[{{"send":{send}}}]}}"#)),
        ] {
            for key in [None, Some("once")] {
                let request = gateway.request("POST", path).body(body.clone());
                let request = match key {
                    Some(key) => request.header("Idempotency-Key", key),
                    None => request,
                };
                let status = Answer::of(request).await.status;
                assert!([200, 201].contains(&status), "{path}: {status}");
            }
        }
        for n in 1..=3 {
            let received = gateway.receive("q", "qty=100&vt=0").await;
            assert_eq!(received.len(), 10, "delivery {n}");
            assert!(received.iter().all(|message| message["headers"]["a"] == 1), "{received:?}");
        }
        eventually("all are dead letters", async || {
            assert!(gateway.receive("q", "qty=100&vt=0").await.is_empty(), "a fourth delivery");
            gateway.all("q").await.is_empty().then_some(())
        })
        .await;
        let dead = gateway.all("dlq").await;
        assert_eq!(dead.len(), 10);
        assert!(dead.iter().all(|m| m["headers"]["x-dead-letter-read-ct"] == 3), "{dead:?}");
        // What SQL clients write there goes with the way back.
        let sql = r#"SELECT pgmq.send('dlq', '2', '{"x-dead-letter-read-ct": 3}'::jsonb)"#;
        gateway.database.execute(sql).await;
        assert_eq!(redrive(&gateway, r#"{"to":"q"}"#).await, 11);
        let back = gateway.all("q").await;
        assert!(back.iter().all(|m| m["headers"]["x-dead-letter-read-ct"].is_null()), "{back:?}");
    }
}

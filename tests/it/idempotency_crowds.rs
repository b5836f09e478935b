//! `Idempotency-Key` of many requests at once: they share statements and commits, and none is in the way of
//! another.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::support::{
    Answer, Client, Holder, TestDatabase, TestGateway, eventually,
    holder::{LOCK_LIMIT, LOCK_PATIENCE},
};

const MESSAGES: &str = "/queues/q/messages";
const BATCH: &str = "/queues/q/messages/batch";

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
}

/// Sends a body, with a key unless that is empty.
fn send(client: &Client, path: &str, key: &str, body: &Value) -> JoinHandle<Answer> {
    let request = client.request("POST", path).body(body.to_string());
    let request = if key.is_empty() { request } else { request.header("Idempotency-Key", key) };
    tokio::spawn(Answer::of(request))
}

fn message(content: impl Into<Value>) -> Value {
    json!({"message": content.into()})
}

fn is_replay(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|replayed| replayed == "true")
}

async fn all(sends: Vec<JoinHandle<Answer>>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for send in sends {
        answers.push(send.await.expect("no panic"));
    }
    answers
}

/// Waits until a gateway has so many requests in hand, besides the one that asks.
async fn until_in_hand(gateway: &TestGateway, requests: usize) {
    let line = format!("pgmq_gateway_requests_in_flight {}", requests + 1);
    eventually("they are in hand", async || {
        let metrics = gateway.get("/metrics").await.text;
        metrics.lines().any(|one| one == line).then_some(())
    })
    .await;
}

async fn keys_of(database: &TestDatabase, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM pgmq_gateway.idempotency_keys WHERE {condition}");
    database.value(&sql).await
}

/// Duplicates, other bodies and requests without a key, all of which go into one statement: they gather while
/// the table is locked.
#[tokio::test]
async fn one_statement_does_each_of_its_requests_once() {
    let gateway = with_queue().await;
    send(&gateway, MESSAGES, "before", &message("before")).await.expect("no panic").expect(201);
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "EXCLUSIVE").await;
    let two = json!({"messages": [{"message": "two"}, {"message": "two", "headers": {"h": 1}}]});
    let mut sends = vec![
        send(&gateway, MESSAGES, "before", &message("before")),
        send(&gateway, MESSAGES, "before", &message("other")),
    ];
    for n in 0..5 {
        sends.push(send(&gateway, MESSAGES, "", &message("plain")));
        sends.push(send(&gateway, MESSAGES, "twice", &message("twice")));
        sends.push(send(&gateway, MESSAGES, &format!("own {n}"), &message("own")));
        sends.push(send(&gateway, BATCH, "two", &two));
    }
    until_in_hand(&gateway, sends.len()).await;
    holder.commit().await;
    let answers = all(sends).await;
    assert!(is_replay(&answers[0]), "{}", answers[0].text);
    answers[1].clone().problem(409, "idempotency_conflict");
    let (mut firsts, mut twice, mut two) = (0, Vec::new(), Vec::new());
    for (n, answer) in answers.into_iter().skip(2).enumerate() {
        let answer = answer.expect(201);
        firsts += usize::from(!is_replay(&answer));
        match n % 4 {
            1 => twice.push(answer.json()["msg_id"].clone()),
            3 => two.push(answer.json()["msg_ids"].clone()),
            _ => assert!(!is_replay(&answer), "{}", answer.text),
        }
    }
    assert_eq!(firsts, 5 + 1 + 5 + 1);
    twice.dedup();
    two.dedup();
    assert_eq!((twice.len(), two.len()), (1, 1), "{twice:?} {two:?}");
    let stored = gateway.all("q").await;
    let mut contents = BTreeMap::new();
    for message in &stored {
        *contents.entry(message["message"].as_str().expect("text")).or_insert(0) += 1;
    }
    assert_eq!(
        contents,
        BTreeMap::from([("before", 1), ("own", 5), ("plain", 5), ("twice", 1), ("two", 2)])
    );
    let of = |id: &Value| stored.iter().find(|message| message["msg_id"] == *id).expect("stored");
    assert_eq!(of(&twice[0])["message"], "twice");
    assert_eq!(
        (&of(&two[0][0])["headers"], &of(&two[0][1])["headers"]),
        (&Value::Null, &json!({"h": 1}))
    );
    let statements = "SELECT count(DISTINCT xmin::text) FROM pgmq.q_q";
    let commits = gateway.database.value::<i64>(statements).await;
    assert!(commits <= 3, "one before and, unless some came late, one for all: {commits}");
}

#[tokio::test]
async fn a_crowd_at_two_gateways_shares_commits_and_nothing_is_stored_twice() {
    let gateways = TestGateway::pair().await;
    let database = &gateways[0].database;
    gateways[0].create("q").await;
    gateways[0].create_with("grouped", &json!({"fifo": true})).await;
    for queue in ["q", "grouped"] {
        let path = format!("/queues/{queue}/messages");
        let mut sends = Vec::new();
        for n in 0..100 {
            for copy in 0..4 {
                // At both, and twice at each.
                sends.push(send(&gateways[copy % 2], &path, &n.to_string(), &message(n)));
            }
        }
        let mut ids = BTreeMap::new();
        let mut firsts = 0;
        for (n, answer) in all(sends).await.into_iter().enumerate() {
            let answer = answer.expect(201);
            firsts += usize::from(!is_replay(&answer));
            let id = answer.json()["msg_id"].as_i64().expect("an id");
            assert_eq!(*ids.entry(n / 4).or_insert(id), id, "{queue}: {n}");
        }
        assert_eq!(firsts, 100, "{queue}");
        let stored = gateways[0].all(queue).await;
        assert_eq!(stored.len(), 100, "{queue}");
        for message in stored {
            let n = usize::try_from(message["message"].as_u64().expect("a number")).expect("small");
            assert_eq!(message["msg_id"], ids[&n], "{queue}");
        }
        let commits = format!("SELECT count(DISTINCT xmin::text) FROM pgmq.q_{queue}");
        let commits = database.value::<i64>(&commits).await;
        assert!(commits <= 60, "{queue}: {commits} commits");
    }
    // Each in the commit of its message.
    let apart = "SELECT count(*) FROM pgmq.q_q m JOIN pgmq_gateway.idempotency_keys k \
                 ON k.answer = jsonb_build_array(jsonb_build_object('msg_ids', ARRAY[m.msg_id])) \
                 AND k.scope LIKE '%/queues/q/%' WHERE k.xmin = m.xmin";
    assert_eq!(database.value::<i64>(apart).await, 100);
}

/// A transaction that goes on has a key, claimed or about to be used.
#[tokio::test]
async fn a_key_that_is_locked_makes_its_own_request_wait_and_no_other() {
    for claim in [true, false] {
        let gateway = with_queue().await;
        let first =
            send(&gateway, MESSAGES, "held", &message(0)).await.expect("no panic").expect(201);
        let held = if claim {
            "UPDATE pgmq_gateway.idempotency_keys SET key = 'moved' WHERE key = 'held'; \
             INSERT INTO pgmq_gateway.idempotency_keys (scope, key, fingerprint, queue_id) \
             SELECT scope, 'held', fingerprint, queue_id FROM pgmq_gateway.idempotency_keys"
        } else {
            "SELECT FROM pgmq_gateway.idempotency_keys WHERE key = 'held' FOR UPDATE"
        };
        let holder = Holder::of(&gateway.database, held).await;
        let began = Instant::now();
        let stuck = send(&gateway, MESSAGES, "held", &message(0));
        for round in 0..4 {
            let mut others = Vec::new();
            for n in 0..10 {
                others.push(send(&gateway, MESSAGES, &format!("{round} {n}"), &message(n)));
                others.push(send(&gateway, MESSAGES, "", &message(n)));
            }
            let others = timeout(LOCK_PATIENCE, all(others)).await.expect("nobody waits for it");
            for answer in others {
                answer.expect(201);
            }
        }
        let told = stuck.await.expect("no panic").problem(503, "overloaded");
        assert!(told.detail().contains("another transaction"), "{}", told.text);
        assert!(began.elapsed() < LOCK_LIMIT);
        let stuck = send(&gateway, MESSAGES, "held", &message(0));
        until_in_hand(&gateway, 1).await;
        holder.rollback().await;
        let answer = stuck.await.expect("no panic").expect(201);
        assert_eq!((is_replay(&answer), answer.json()), (true, first.json()));
        assert_eq!(gateway.all("q").await.len(), 81);
    }
}

#[tokio::test]
async fn a_refused_message_leaves_its_key_free_and_the_others_theirs() {
    let gateway = with_queue().await;
    let database = &gateway.database;
    database.execute("ALTER TABLE pgmq.q_q ADD CONSTRAINT c CHECK (message <> '\"bad\"')").await;
    let mut sends = Vec::new();
    for n in 0..20 {
        sends.push(send(&gateway, MESSAGES, &format!("good {n}"), &message("good")));
        sends.push(send(&gateway, MESSAGES, &format!("bad {n}"), &message("bad")));
        let half = json!({"messages": [{"message": "good"}, {"message": "bad"}]});
        sends.push(send(&gateway, BATCH, "half", &half));
    }
    let answers = all(sends).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match n % 3 {
            0 => drop(answer.expect(201)),
            _ => drop(answer.problem(422, "message_rejected")),
        }
    }
    assert_eq!(gateway.all("q").await.len(), 20);
    assert_eq!(keys_of(database, "true").await, 20, "what was refused claims nothing");
    database.execute("ALTER TABLE pgmq.q_q DROP CONSTRAINT c").await;
    let now =
        send(&gateway, MESSAGES, "bad 0", &message("now")).await.expect("no panic").expect(201);
    assert!(!is_replay(&now));
}

/// What is wrong with the table of keys is no fault of a message's, and of no concern to those without one.
#[tokio::test]
async fn a_key_that_cannot_be_claimed_concerns_its_request_alone() {
    let gateway = with_queue().await;
    let broken = "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS \
                  'BEGIN RAISE EXCEPTION ''broken''; END'; \
                  CREATE TRIGGER broken BEFORE INSERT ON pgmq_gateway.idempotency_keys FOR EACH ROW \
                  WHEN (new.key LIKE 'broken%') EXECUTE FUNCTION broken()";
    gateway.database.execute(broken).await;
    let mut sends = Vec::new();
    for n in 0..10 {
        for key in ["", "good", "broken"] {
            let key = if key.is_empty() { String::new() } else { format!("{key} {n}") };
            sends.push(send(&gateway, MESSAGES, &key, &message(n)));
        }
    }
    for (n, answer) in all(sends).await.into_iter().enumerate() {
        if n % 3 == 2 {
            answer.problem(403, "forbidden");
        } else {
            answer.expect(201);
        }
    }
    assert_eq!(gateway.all("q").await.len(), 20);
}

/// Keys past their time are claimed anew, those of others of the same statement replayed.
#[tokio::test]
async fn of_old_and_new_keys_in_one_statement_each_is_what_it_is() {
    let gateway = with_queue().await;
    let bodies = [("old", 1), ("young", 2), ("elsewhere", 3)];
    for (key, n) in bodies {
        send(&gateway, MESSAGES, key, &message(n)).await.expect("no panic").expect(201);
    }
    let age = "UPDATE pgmq_gateway.idempotency_keys SET created_at = now() - interval '25 hours' \
               WHERE key = 'old'; \
               UPDATE pgmq_gateway.idempotency_keys SET queue_id = queue_id + 1 WHERE key = 'elsewhere'";
    gateway.database.execute(age).await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "EXCLUSIVE").await;
    let sends: Vec<_> =
        bodies.map(|(key, n)| send(&gateway, MESSAGES, key, &message(n * 10))).into();
    until_in_hand(&gateway, sends.len()).await;
    holder.commit().await;
    let [old, young, elsewhere] = all(sends).await.try_into().expect("three");
    assert!(!is_replay(&old.expect(201)) && !is_replay(&elsewhere.expect(201)));
    young.problem(409, "idempotency_conflict");
    let mut stored: Vec<i64> =
        gateway.all("q").await.iter().filter_map(|one| one["message"].as_i64()).collect();
    stored.sort_unstable();
    assert_eq!(stored, [1, 2, 3, 10, 30]);
}

/// Somebody else claims a key after it was looked up: what was stored for it is undone, and done as for one that is
/// known.
#[tokio::test]
async fn a_key_that_is_claimed_meanwhile_is_done_once() {
    let gateway = with_queue().await;
    let database = &gateway.database;
    database
        .execute(
            "CREATE FUNCTION claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO pgmq_gateway.idempotency_keys (scope, key, fingerprint, queue_id, answer)
                 VALUES ('s', 'other', 'other', 1, '[{\"msg_ids\":[77]}]') ON CONFLICT DO NOTHING;
                 RETURN new;
             END $$;
             CREATE TRIGGER claim AFTER INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION claim()",
        )
        .await;
    let send_once = "SELECT place, ids, outcome FROM pgmq_gateway.send_once('q',
         ARRAY['1', '2', '3', '4']::jsonb[], ARRAY[NULL, NULL, NULL, NULL]::jsonb[], '{0,0,0,0}',
         '{NULL,NULL,NULL,NULL}', false, '{1,1,2,3}', '{s,s,NULL}', ARRAY['own', $1, NULL],
         '{own,other,NULL}', '{60,60,NULL}') ORDER BY place";
    let mut connection = database.connect().await;
    let mut stored = async |key: &str| {
        let rows: Vec<(i32, Option<Vec<i64>>, String)> =
            sqlx::query_as(send_once).bind(key).fetch_all(&mut connection).await.expect("done");
        rows.into_iter().map(|(_, ids, outcome)| (outcome, ids.unwrap_or_default())).collect()
    };
    let done = |ids: &[i64]| ("done".to_owned(), ids.to_vec());
    // Not the ids of what was undone.
    let first: Vec<_> = stored("other").await;
    assert_eq!(first, [done(&[5, 6]), done(&[7]), done(&[8])]);
    let replayed = |ids: &[i64]| ("replayed".to_owned(), ids.to_vec());
    let again: Vec<_> = stored("other").await;
    assert_eq!(again, [replayed(&[5, 6]), replayed(&[7]), done(&[9])]);
    assert_eq!(gateway.all("q").await.len(), 5);
}

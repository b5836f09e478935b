//! Triggers that have checks put off to the commit, whatever was settled before: who meets one of them is told so,
//! and nobody else.

use serde_json::{Value, json};

use crate::support::{Answer, TestDatabase, TestGateway, guarded::together};

/// A row of `log` that points nowhere, and is found out at the end of the transaction: by what is stored in, or
/// deleted from, queue `q` and says `bad`.
async fn put_off(database: &TestDatabase, event: &str) {
    database
        .execute(&format!(
            "CREATE TABLE public.owners (id int PRIMARY KEY);
             CREATE TABLE public.log
                 (id int CONSTRAINT owned REFERENCES public.owners DEFERRABLE INITIALLY DEFERRED);
             CREATE FUNCTION public.put_off() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 SET CONSTRAINTS ALL DEFERRED;
                 IF (coalesce(new, old)).message #>> '{{}}' = 'bad' THEN INSERT INTO public.log VALUES (7); END IF;
                 RETURN coalesce(new, old);
             END $$;
             CREATE TRIGGER t BEFORE {event} ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.put_off()"
        ))
        .await;
}

async fn gateway(event: &str) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("other").await;
    put_off(&gateway.database, event).await;
    gateway
}

/// What is stored of each, in order.
async fn stored(gateway: &TestGateway, queue: &str) -> Vec<String> {
    let sql = format!(
        "SELECT coalesce(array_agg(message #>> '{{}}' ORDER BY message #>> '{{}}'), '{{}}') FROM pgmq.q_{queue}"
    );
    gateway.database.value(&sql).await
}

/// Twenty that are done at once, of which the last is bad.
async fn at_once(gateway: &TestGateway, path: &str, body: impl Fn(&str) -> Value) -> Vec<Answer> {
    together(20, |n| {
        let word = if n == 19 { "bad".to_owned() } else { format!("{n:02}") };
        Answer::of(gateway.request("POST", path).body(body(&word).to_string()))
    })
    .await
}

fn refused_alone(answers: &[Answer], status: u16) {
    let (bad, good) = answers.split_last().expect("some");
    bad.clone().problem(422, "message_rejected");
    for answer in good {
        assert_eq!(answer.status, status, "{}", answer.text);
    }
}

#[tokio::test]
async fn who_sends_what_fails_at_the_commit_is_told_so_alone() {
    let gateway = gateway("INSERT").await;
    let words: Vec<String> = (0..19).map(|n| format!("{n:02}")).collect();
    let send = |word: &str| json!({"send": {"queue": "q", "message": word}});
    refused_alone(
        &at_once(&gateway, "/queues/q/messages", |word| json!({"message": word})).await,
        201,
    );
    assert_eq!(stored(&gateway, "q").await, words);
    gateway.database.execute("TRUNCATE pgmq.q_q").await;
    let transaction = |word: &str| {
        let beside = json!({"send": {"queue": "other", "message": word}});
        json!({"operations": [beside, send(word)]})
    };
    let answers = at_once(&gateway, "/transactions", transaction).await;
    refused_alone(&answers, 200);
    let detail = answers[19].json()["detail"].to_string();
    assert!(detail.contains("operations[1]") && detail.contains("owned"), "{detail}");
    assert_eq!(stored(&gateway, "q").await, words);
    assert_eq!(stored(&gateway, "other").await, words, "as a whole, or not at all");
    gateway.database.execute("TRUNCATE pgmq.q_q; SELECT pgmq.bind_topic('a', 'q')").await;
    refused_alone(
        &at_once(&gateway, "/topics/a/messages", |word| json!({"message": word})).await,
        201,
    );
    assert_eq!(stored(&gateway, "q").await, words);
}

#[tokio::test]
async fn what_fails_at_the_commit_is_kept_and_the_rest_is_settled() {
    let gateway = gateway("DELETE").await;
    let refill = "TRUNCATE pgmq.q_q RESTART IDENTITY;
        INSERT INTO pgmq.q_q (vt, message)
        SELECT now(), to_jsonb(CASE i WHEN 3 THEN 'bad' ELSE i::text END) FROM generate_series(1, 6) i";
    let refill = async || gateway.database.execute(refill).await;
    refill().await;
    let answers = together(6, |n| {
        Answer::of(gateway.request("DELETE", &format!("/queues/q/messages/{}", n + 1)))
    })
    .await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.status, if n == 2 { 403 } else { 204 }, "{}", answer.text);
    }
    assert_eq!(stored(&gateway, "q").await, ["bad"]);

    refill().await;
    let settle = json!({"delete": [{"msg_id": 1}, {"msg_id": 3}], "archive": [{"msg_id": 2}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([1]));
    assert_eq!(settled["archived"], json!([2]));
    assert_eq!(settled["failed"][0]["msg_id"], 3);
    assert_eq!(stored(&gateway, "q").await, ["4", "5", "6", "bad"]);

    let popped = gateway.post("/queues/q/messages/pop?qty=10", "").await.expect(200).messages();
    assert_eq!(popped.iter().map(|m| &m["msg_id"]).collect::<Vec<_>>(), [4, 5, 6]);
    assert_eq!(stored(&gateway, "q").await, ["bad"]);

    refill().await;
    let purged = gateway.post("/queues/q/purge", "").await.expect(200).json();
    assert_eq!(
        (&purged["purged"], stored(&gateway, "q").await),
        (&json!(5), vec!["bad".to_owned()])
    );
}

#[tokio::test]
async fn what_cannot_be_moved_stays_and_the_rest_is_delivered() {
    let gateway = gateway("DELETE").await;
    gateway
        .configure("q", json!({"max_receives": 1, "dead_letter_queue": "other"}))
        .await
        .expect(200);
    gateway
        .database
        .execute(
            "INSERT INTO pgmq.q_q (vt, read_ct, message) SELECT now(), least(i, 1), to_jsonb(w)
             FROM unnest(ARRAY['fine', 'bad', 'dead']) WITH ORDINALITY AS m (w, n), LATERAL (SELECT n - 1) AS l (i)",
        )
        .await;
    let received = gateway.receive("q", "qty=10&vt=30").await;
    assert_eq!(received.iter().map(|m| &m["message"]).collect::<Vec<_>>(), ["fine"]);
    assert_eq!(stored(&gateway, "other").await, ["dead"]);
    let moved = gateway.post("/queues/other/redrive", "{}").await.expect(200).json();
    assert_eq!(moved["moved"], 1);
    assert_eq!(stored(&gateway, "q").await, ["bad", "dead", "fine"]);
}

//! Locks in the way of what moves messages, and of what stores them.

use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::locks::{fill, ids};
use crate::support::{
    Answer, Holder, TestGateway, eventually,
    holder::{LOCK_LIMIT, LOCK_PATIENCE, stuck_statements},
};

/// Messages in a dead-letter queue that came from `q`, and `q` empty.
async fn dead_letters(count: usize) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    fill(&gateway, "q", count).await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
    gateway.configure("q", settings).await.expect(200);
    gateway.receive("q", "qty=100&vt=0").await;
    assert!(gateway.receive("q", "qty=100").await.is_empty());
    assert_eq!(gateway.all("dead").await.len(), count);
    gateway
}

async fn lock_rows(gateway: &TestGateway, table: &str, ids: &str) -> Holder {
    let lock = format!("SELECT FROM pgmq.{table} WHERE msg_id IN ({ids}) FOR UPDATE");
    Holder::of(&gateway.database, &lock).await
}

#[tokio::test]
async fn redrive_moves_what_is_not_locked() {
    let gateway = dead_letters(6).await;
    let holder = lock_rows(&gateway, "q_dead", "1, 4").await;
    let began = Instant::now();
    let moved = gateway.post("/queues/dead/redrive", "").await.expect(200).json();
    assert_eq!(moved["moved"], 4);
    assert!(began.elapsed() < LOCK_PATIENCE);
    assert_eq!(ids(&gateway.all("dead").await), [1, 4]);
    holder.rollback().await;
    assert_eq!(gateway.post("/queues/dead/redrive", "").await.json()["moved"], 2);
    assert_eq!(gateway.all("q").await.len(), 6);
}

#[tokio::test]
async fn replay_moves_what_is_not_locked() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 6).await;
    for id in 1..=6 {
        gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    }
    let holder = lock_rows(&gateway, "a_q", "1, 4").await;
    let began = Instant::now();
    let replayed = gateway.post("/queues/q/archive/replay", "{}").await.expect(200).json();
    assert_eq!(replayed["replayed"], 4);
    assert!(began.elapsed() < LOCK_PATIENCE);
    holder.rollback().await;
    let replayed = gateway.post("/queues/q/archive/replay", "{}").await.expect(200).json();
    assert_eq!(replayed["replayed"], 2);
    assert_eq!(gateway.all("q").await.len(), 6);
}

/// Where the messages are to go is locked: they stay, or go when it is not any more.
#[tokio::test]
async fn redrive_waits_for_a_locked_target() {
    let gateway = dead_letters(3).await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "ACCESS EXCLUSIVE").await;
    for body in ["", r#"{"to":"q"}"#] {
        let began = Instant::now();
        let answer = gateway.post("/queues/dead/redrive", body).await.problem(503, "overloaded");
        assert!(answer.detail().contains("locked queue"), "{}", answer.text);
        assert!(began.elapsed() < LOCK_LIMIT);
        assert_eq!(gateway.all("dead").await.len(), 3, "nothing is lost");
    }
    let client = gateway.client.clone();
    let redrive = tokio::spawn(async move { client.post("/queues/dead/redrive", "").await });
    // It has met the lock by then.
    let other = gateway.post("/queues/dead/messages", r#"{"message":"beside"}"#).await;
    assert!(!redrive.is_finished(), "{}", other.expect(201).text);
    holder.rollback().await;
    assert_eq!(redrive.await.expect("no panic").expect(200).json()["moved"], 3);
    assert_eq!(gateway.all("q").await.len(), 3);
}

/// What was delivered often enough and is locked stays where it is; what is good is delivered.
#[tokio::test]
async fn dead_letters_that_are_locked_hold_up_no_receive() {
    for target in [Some("dead"), None] {
        let gateway = TestGateway::start().await;
        gateway.create("dead").await;
        fill(&gateway, "q", 4).await;
        let settings = json!({"max_receives": 1, "dead_letter_queue": target});
        gateway.configure("q", settings).await.expect(200);
        assert_eq!(ids(&gateway.receive("q", "qty=2&vt=0").await), [1, 2]);
        let holder = lock_rows(&gateway, "q_q", "1").await;
        let began = Instant::now();
        assert_eq!(ids(&gateway.receive("q", "qty=1&vt=600").await), [3]);
        let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200).messages();
        assert_eq!(ids(&popped), [4]);
        assert!(began.elapsed() < LOCK_PATIENCE);
        assert_eq!(ids(&gateway.all("q").await), [1, 3], "2 has moved");
        holder.rollback().await;
        assert!(gateway.receive("q", "").await.is_empty());
        assert_eq!(ids(&gateway.all("q").await), [3], "{target:?}");
    }
}

/// The dead-letter queue, or the archive, is locked as a whole: what is good is delivered all the same.
#[tokio::test]
async fn locked_dead_letter_queue_holds_up_no_receive() {
    for (target, table, fifo) in
        [(Some("dead"), "q_dead", false), (None, "a_q", false), (Some("dead"), "q_dead", true)]
    {
        let gateway = TestGateway::start().await;
        gateway.create_with("dead", &json!({"fifo": fifo})).await;
        fill(&gateway, "q", 40).await;
        gateway.create_with("grouped", &json!({"fifo": true})).await;
        for n in 0..20 {
            let body = json!({"message": n, "headers": {"x-pgmq-group": n.to_string()}});
            gateway.send("grouped", &body.to_string()).await;
        }
        for queue in ["q", "grouped"] {
            let settings = json!({"max_receives": 1, "dead_letter_queue": target});
            gateway.configure(queue, settings).await.expect(200);
        }
        gateway.receive("q", "qty=30&vt=0").await;
        gateway.receive("grouped", "qty=10&fifo=head&vt=0").await;
        let lock = if fifo {
            // The order in which it is sent to, which is a lock of its own.
            "SELECT FROM pgmq_gateway.queue_settings WHERE queue_name = 'dead' FOR UPDATE"
                .to_owned()
        } else {
            format!("LOCK TABLE pgmq.{table}, pgmq.a_grouped IN ACCESS EXCLUSIVE MODE")
        };
        let holder = Holder::of(&gateway.database, &lock).await;
        let began = Instant::now();
        assert_eq!(gateway.receive("q", "qty=100&vt=600").await.len(), 10, "{target:?}");
        let grouped = gateway.receive("grouped", "qty=100&fifo=grouped&vt=600").await;
        assert_eq!(grouped.len(), 10, "{target:?}");
        assert!(began.elapsed() < LOCK_PATIENCE, "{:?}", began.elapsed());
        assert_eq!(gateway.all("q").await.len(), 40, "none is lost");
        holder.rollback().await;
        assert!(gateway.receive("q", "qty=100").await.is_empty());
        assert!(gateway.receive("grouped", "qty=100&fifo=grouped").await.is_empty());
        assert_eq!(gateway.all("q").await.len(), 10, "{target:?}");
        assert_eq!(gateway.all("grouped").await.len(), 10, "{target:?}");
    }
}

/// An entry of a unique index that is not committed: who wants the same one waits, and nobody else.
#[tokio::test]
async fn send_that_waits_for_a_unique_entry_waits_alone() {
    for (commits, status) in [(None, 503), (Some(true), 409), (Some(false), 201)] {
        let gateway = TestGateway::start().await;
        gateway.create("q").await;
        let index = "CREATE UNIQUE INDEX ON pgmq.q_q ((message ->> 'key'))";
        gateway.database.execute(index).await;
        let insert = r#"SELECT pgmq.send('q', '{"key":"one"}'), pgmq.send('q', '{"key":"two"}')"#;
        let holder = Holder::of(&gateway.database, insert).await;
        let mut senders = JoinSet::new();
        for n in 0..24 {
            let client = gateway.client.clone();
            let key = match n {
                3 | 7 => "one".to_owned(),
                5 => "two".to_owned(),
                n => n.to_string(),
            };
            senders.spawn(async move {
                let body = json!({"message": {"key": key}}).to_string();
                (n, client.post("/queues/q/messages", &body).await)
            });
        }
        for _ in 0..21 {
            let (n, answer) = senders.join_next().await.expect("a sender").expect("no panic");
            assert!(![3, 5, 7].contains(&n), "it is locked: {}", answer.text);
            answer.expect(201);
        }
        match commits {
            Some(true) => holder.commit().await,
            Some(false) => holder.rollback().await,
            None => {}
        }
        let mut statuses = Vec::new();
        while let Some(sender) = senders.join_next().await {
            statuses.push(sender.expect("no panic").1.status);
        }
        statuses.sort_unstable();
        // Of the two that want the same, one gets it.
        let expected = if status == 201 { vec![201, 201, 409] } else { vec![status; 3] };
        assert_eq!(statuses, expected);
    }
}

/// Locks that belong to a queue and are not on its table: the order of a queue that is read in groups, and
/// the throttle of PGMQ's notifications, which every insert updates.
#[tokio::test]
async fn locks_that_sends_to_one_queue_need_hold_up_no_other() {
    let order = "SELECT FROM pgmq_gateway.queue_settings WHERE queue_name = 'q' FOR UPDATE";
    let throttle = "SELECT pgmq.send('q', '1')";
    for (body, lock) in [
        (json!({"fifo": true}), order),
        (json!({"settings": {"notify": {"throttle_ms": 0}}}), throttle),
    ] {
        let gateway = TestGateway::start().await;
        gateway.create_with("q", &body).await;
        gateway.create_with("other", &body).await;
        gateway.send("q", r#"{"message":"before"}"#).await;
        let holder = Holder::of(&gateway.database, lock).await;
        let send = |key: Option<&str>| {
            let request = gateway.request("POST", "/queues/q/messages").body(r#"{"message":1}"#);
            let request = match key {
                Some(key) => request.header("Idempotency-Key", key),
                None => request,
            };
            tokio::spawn(Answer::of(request))
        };
        let transact = || {
            let body = r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#;
            tokio::spawn(Answer::of(gateway.request("POST", "/transactions").body(body)))
        };
        let began = Instant::now();
        let stuck = [send(None), send(None), send(Some("one")), transact()];
        for n in 0..10 {
            gateway.send("other", &json!({"message": n}).to_string()).await;
            gateway.receive_one("other", "fifo=grouped&vt=600").await;
            gateway.delete(&format!("/queues/other/messages/{}", n + 1)).await.expect(204);
        }
        let received = timeout(LOCK_PATIENCE, gateway.receive("q", "vt=0&fifo=grouped")).await;
        assert_eq!(received.expect("at once").len(), 1, "what is there is delivered");
        assert!(stuck.iter().all(|send| !send.is_finished()), "{lock}");
        for send in stuck {
            let answer = send.await.expect("no panic").problem(503, "overloaded");
            assert!(answer.detail().contains("another transaction"), "{}", answer.text);
        }
        assert!(began.elapsed() < LOCK_LIMIT);
        let later = [send(None), send(None), send(Some("one")), transact()];
        eventually("they have met the lock", async || {
            gateway.send("other", r#"{"message":1}"#).await;
            stuck_statements(&gateway.database).await.is_empty().then_some(())
        })
        .await;
        holder.commit().await;
        for send in later {
            let status = send.await.expect("no panic").status;
            assert!([200, 201].contains(&status), "{lock}: {status}");
        }
        let sent = if lock == throttle { 6 } else { 5 };
        assert_eq!(gateway.all("q").await.len(), sent, "{lock}");
    }
}

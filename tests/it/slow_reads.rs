//! Receives that take their time: they come to an end, and who has nothing to do with what is slow is served.

use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    slow_queues::{GATE, wait_at_gate},
    support::{Answer, TestDatabase, TestGateway, gateway::patient},
};

/// Each read of queue `q` takes longer than one is waited for by others, and counts.
const SLOW_READS: &str = "
    CREATE SEQUENCE public.reads;
    CREATE FUNCTION public.slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM nextval('public.reads');
        PERFORM pg_sleep(0.4);
        RETURN NULL;
    END $$;
    CREATE TRIGGER slow BEFORE UPDATE ON pgmq.q_q FOR EACH STATEMENT EXECUTE FUNCTION public.slowly()";
/// A message of group `slow` waits at the gate when it is delivered.
const SLOW_GROUP: &str = "CREATE TRIGGER slow BEFORE UPDATE ON pgmq.q_q FOR EACH ROW \
    WHEN (NEW.message = '\"slow\"') EXECUTE FUNCTION wait_at_gate()";

async fn reads(database: &TestDatabase) -> i64 {
    database.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.reads").await
}

async fn gateway_with(sql: &str) -> TestGateway {
    let gateway = TestGateway::with(patient).await;
    gateway.create("q").await;
    gateway.database.execute(sql).await;
    gateway
}

fn receive(gateway: &TestGateway, query: &str) -> impl Future<Output = Answer> + use<> {
    Answer::of(gateway.request("GET", &format!("/queues/q/messages?{query}")))
}

async fn send(gateway: &TestGateway, group: &str) {
    let body = json!({"message": group, "headers": {"x-pgmq-group": group}});
    gateway.send("q", &body.to_string()).await;
}

#[tokio::test]
async fn receives_that_find_nothing_slowly_are_answered_and_end() {
    let gateway = gateway_with(SLOW_READS).await;
    // The second read of each may have begun when the first one was answered.
    for most in [2, 4] {
        assert!(receive(&gateway, "qty=1").await.expect(200).messages().is_empty());
        assert!(reads(&gateway.database).await <= most);
    }
    let before = reads(&gateway.database).await;
    assert!(receive(&gateway, "qty=1&wait=3").await.expect(200).messages().is_empty());
    let more = reads(&gateway.database).await - before;
    // Without an end there would be one every quarter of a second.
    assert!((1..=5).contains(&more), "{more} reads of nothing");
    send(&gateway, "1").await;
    assert_eq!(receive(&gateway, "qty=1&wait=20").await.expect(200).messages().len(), 1);
}

#[tokio::test]
async fn receives_of_groups_do_not_wait_for_a_slow_one() {
    for mode in ["grouped", "round_robin"] {
        let gateway = gateway_with(&format!("{GATE}; {SLOW_GROUP}")).await;
        send(&gateway, "slow").await;
        let query = format!("fifo={mode}&qty=2&vt=60&wait=20");
        let waiting = tokio::spawn(receive(&gateway, &query));
        wait_at_gate(&gateway.database).await;
        send(&gateway, "ok").await;
        let received = waiting.await.expect("no panic").expect(200).messages();
        assert_eq!((received.len(), &received[0]["message"]), (1, &json!("ok")), "{mode}");
        gateway.database.execute("DELETE FROM public.gate").await;
        let received = receive(&gateway, &query).await.expect(200).messages();
        assert_eq!((received.len(), &received[0]["message"]), (1, &json!("slow")), "{mode}");
    }
}

#[tokio::test]
async fn of_many_lines_none_waits_for_a_slow_message_of_another() {
    let gateway = gateway_with(&format!("{GATE}; {SLOW_GROUP}")).await;
    let mut waiting = JoinSet::new();
    let lines = 6;
    for vt in 0..lines {
        waiting.spawn(receive(&gateway, &format!("fifo=head&qty=1&wait=20&vt={}", 60 + vt)));
    }
    gateway.wait_for_waiters("q", lines).await;
    send(&gateway, "slow").await;
    wait_at_gate(&gateway.database).await;
    for n in 1..lines {
        send(&gateway, &format!("ok{n}")).await;
        let answer = waiting.join_next().await.expect("one waits").expect("no panic");
        assert_eq!(answer.expect(200).messages()[0]["message"], format!("ok{n}"));
    }
    gateway.database.execute("DELETE FROM public.gate").await;
    let answer = waiting.join_next().await.expect("one waits").expect("no panic");
    assert_eq!(answer.expect(200).messages()[0]["message"], "slow");
}

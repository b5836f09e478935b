//! Triggers that connect to other servers, which are away: that is no failure of the gateway's own connections.

use serde_json::json;

use crate::support::{Answer, TestGateway, guarded::together};

/// Fails as connections of postgres_fdw, of dblink and the like do, without any extension.
const CONNECTS: &str = "CREATE FUNCTION public.connect() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF coalesce((new).message, (old).message) #>> '{}' = 'far' THEN
            CREATE SUBSCRIPTION away CONNECTION 'host=/nowhere' PUBLICATION p WITH (create_slot = false);
        END IF;
        RETURN coalesce(new, old);
    END $$;
    CREATE TRIGGER t BEFORE INSERT OR DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.connect()";

/// The server's processes that work for the gateway, and when each began.
async fn sessions(gateway: &TestGateway) -> Vec<String> {
    let sql = "SELECT coalesce(array_agg(pid || ' ' || backend_start::text ORDER BY pid), '{}') FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pgmq-gateway'";
    gateway.database.value(sql).await
}

#[tokio::test]
async fn a_server_that_a_trigger_does_not_reach_concerns_its_message_alone() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let send = |word: &str| {
        let body = json!({"message": word}).to_string();
        Answer::of(gateway.request("POST", "/queues/q/messages").body(body))
    };
    let crowd = async || together(20, |n| send(if n % 10 == 9 { "far" } else { "near" })).await;
    crowd().await;
    gateway.database.execute(&format!("TRUNCATE pgmq.q_q; {CONNECTS}")).await;
    crowd().await;
    gateway.database.execute("TRUNCATE pgmq.q_q").await;
    let before = sessions(&gateway).await;
    for answer in [send("far").await, send("far").await] {
        answer.problem(503, "database_unavailable");
    }
    for (n, answer) in crowd().await.into_iter().enumerate() {
        if n % 10 == 9 {
            answer.problem(503, "database_unavailable");
        } else {
            answer.expect(201);
        }
    }
    let stored: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_q").await;
    assert_eq!(stored, 18);
    let after = sessions(&gateway).await;
    assert!(before.iter().all(|session| after.contains(session)), "{before:?} {after:?}");
}

#[tokio::test]
async fn what_a_trigger_cannot_tell_a_server_that_is_away_is_not_deleted() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for word in ["near", "far", "near"] {
        gateway.send("q", &json!({"message": word}).to_string()).await;
    }
    gateway.database.execute(CONNECTS).await;
    let delete =
        |n| Answer::of(gateway.request("DELETE", &format!("/queues/q/messages/{}", n + 1)));
    for (n, answer) in together(3, delete).await.into_iter().enumerate() {
        if n == 1 {
            answer.problem(503, "database_unavailable");
        } else {
            answer.expect(204);
        }
    }
    let left: i64 = gateway.database.value("SELECT sum(msg_id)::bigint FROM pgmq.q_q").await;
    assert_eq!(left, 2);
}

/// What a trigger does to the whole session, or in the words of the gateway's own functions.
#[tokio::test]
async fn a_trigger_that_cancels_or_ends_its_statement_fails_its_message_alone() {
    const DEEDS: [(&str, u16, &str); 6] = [
        ("RAISE query_canceled", 503, "database_unavailable"),
        (
            "PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(5)",
            503,
            "database_unavailable",
        ),
        (
            "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5)",
            503,
            "database_unavailable",
        ),
        ("RAISE SQLSTATE 'PGW40'", 422, "message_rejected"),
        ("RAISE SQLSTATE 'PGW55'", 422, "message_rejected"),
        ("RAISE SQLSTATE 'PGW98'", 422, "message_rejected"),
    ];
    let gateway = TestGateway::start().await;
    for (n, (deed, status, code)) in DEEDS.into_iter().enumerate() {
        let queue = format!("q{n}");
        gateway.create(&queue).await;
        gateway
            .database
            .execute(&format!(
                "CREATE FUNCTION public.deed_{n}() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN IF new.message = '\"bad\"' THEN {deed}; END IF; RETURN new; END $$;
                 CREATE TRIGGER t BEFORE INSERT ON pgmq.q_{queue} FOR EACH ROW EXECUTE FUNCTION public.deed_{n}()"
            ))
            .await;
        let answers = together(8, |i| {
            let body = json!({"message": if i == 5 { "bad" } else { "good" }}).to_string();
            Answer::of(gateway.request("POST", &format!("/queues/{queue}/messages")).body(body))
        });
        for (i, answer) in answers.await.into_iter().enumerate() {
            if i == 5 {
                answer.problem(status, code);
            } else {
                assert_eq!(answer.status, 201, "{deed}: {}", answer.text);
            }
        }
        let stored: i64 =
            gateway.database.value(&format!("SELECT count(*) FROM pgmq.q_{queue}")).await;
        assert_eq!(stored, 7, "{deed}");
    }
}

/// SET without LOCAL outlives the trigger that says it.
#[tokio::test]
async fn a_trigger_that_changes_the_role_of_its_session_is_felt_by_nobody() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("other").await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.become() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN SET ROLE pg_monitor; RETURN new; END';
             CREATE TRIGGER t BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.become()",
        )
        .await;
    for round in 0..5 {
        let queues = ["q", "other", "other", "q", "other"];
        let answers = together(5, |n| {
            let queue = usize::try_from(n).map_or("q", |n| queues[n]);
            let path = format!("/queues/{queue}/messages");
            Answer::of(gateway.request("POST", &path).body(r#"{"message":1}"#))
        });
        for answer in answers.await {
            assert_eq!(answer.status, 201, "{round}: {}", answer.text);
        }
        assert_eq!(gateway.receive("other", "qty=3&vt=0").await.len(), 3);
    }
}

/// As triggers pass on that another server's time was up.
#[tokio::test]
async fn what_a_trigger_cancels_keeps_no_other_from_being_received_and_settled() {
    let gateway = TestGateway::start().await;
    for queue in ["q", "grouped", "fair"] {
        let body = json!({"fifo": queue == "grouped", "settings": {"fair": queue == "fair"}});
        gateway.create_with(queue, &body).await;
        for word in ["bad", "good", "better"] {
            let body = json!({"message": word, "headers": {"x-pgmq-group": word}});
            gateway.send(queue, &body.to_string()).await;
        }
        gateway
            .database
            .execute(&format!(
                "CREATE FUNCTION public.cancel_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN IF old.message = '\"bad\"' THEN RAISE query_canceled; END IF; RETURN coalesce(new, old); END $$;
                 CREATE TRIGGER t BEFORE UPDATE OR DELETE ON pgmq.q_{queue}
                 FOR EACH ROW EXECUTE FUNCTION public.cancel_{queue}()"
            ))
            .await;
        let fifo = if queue == "grouped" { "&fifo=grouped" } else { "" };
        let received = gateway.receive(queue, &format!("qty=3&vt=0{fifo}")).await;
        let mut words: Vec<_> = received.iter().map(|m| m["message"].clone()).collect();
        words.sort_by_key(ToString::to_string);
        assert_eq!(words, ["better", "good"], "{queue}");
    }
    let settle = json!({"delete": [{"msg_id": 1}, {"msg_id": 2}]}).to_string();
    let settled = gateway.post("/queues/q/messages/settle", &settle).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([2]), "{settled}");
    assert_eq!(settled["failed"][0]["msg_id"], 1, "{settled}");
    gateway.delete("/queues/q/messages/1").await.problem(503, "database_unavailable");
    let popped = gateway.post("/queues/q/messages/pop?qty=2", "").await.expect(200).messages();
    assert_eq!(popped.len(), 1, "{popped:?}");
    assert_eq!(popped[0]["message"], "better");
    let delete = json!({"operations": [{"delete": {"queue": "q", "msg_id": 1}}]}).to_string();
    let answers = together(6, |n| {
        let send = json!({"operations": [{"send": {"queue": "q", "message": n}}]}).to_string();
        let body = if n == 3 { delete.clone() } else { send };
        Answer::of(gateway.request("POST", "/transactions").body(body))
    });
    for (n, answer) in answers.await.into_iter().enumerate() {
        if n == 3 {
            answer.problem(503, "database_unavailable");
        } else {
            answer.expect(200);
        }
    }
    assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await, 6);
}

#[tokio::test]
async fn a_dead_letter_queue_whose_trigger_cancels_keeps_nothing_from_being_received() {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.cancels() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RAISE query_canceled; END';
             CREATE TRIGGER t BEFORE INSERT ON pgmq.q_dead FOR EACH ROW EXECUTE FUNCTION public.cancels()",
        )
        .await;
    gateway.send("q", r#"{"message":"exhausted"}"#).await;
    gateway.receive_one("q", "vt=0").await;
    gateway.send("q", r#"{"message":"new"}"#).await;
    assert_eq!(gateway.receive_one("q", "qty=10").await["message"], "new");
}

//! Row-level security whose expression fails at a row: that row is refused, alone and by its right name, and nothing of
//! it is logged.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client,
    guarded::Guarded,
    process::{Program, program},
    sqs::Sqs,
};

/// What must show nowhere.
const SECRET: &str = "s3cr3t";

/// A policy that fails where `t` is no number.
const OF_NUMBERS: &str = "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON pgmq.q_q USING ((message->>'t')::int = 1);";

/// A policy that calls a function, which raises what a message asks for, with the message in it.
const AS_TOLD: &str =
    "CREATE FUNCTION public.judge(m jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF m ? 'code' THEN RAISE EXCEPTION 'refused: %', m USING ERRCODE = m->>'code'; END IF;
        RETURN true; END $$;
    ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON pgmq.q_q USING (public.judge(message));";

/// Messages with the ids from 1, stored by the owner.
async fn store(gateway: &Guarded, messages: &[Value]) {
    let list: Vec<String> = messages.iter().map(|message| format!("'{message}'")).collect();
    let sql = format!("SELECT pgmq.send_batch('q', ARRAY[{}]::jsonb[])", list.join(","));
    gateway.database.execute(&sql).await;
}

/// The only message, whose policy raises `code`.
async fn store_alone(gateway: &Guarded, code: &str) {
    gateway.database.execute("TRUNCATE pgmq.q_q RESTART IDENTITY").await;
    store(gateway, &[json!({"code": code, "pin": SECRET})]).await;
}

async fn post(client: &Client, path: &str, body: Value) -> Answer {
    client.post(path, &body.to_string()).await
}

fn of_numbers() -> [Value; 9] {
    [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|n| json!({"t": if n % 3 == 2 { "abc" } else { "1" }}))
}

#[tokio::test]
async fn row_at_which_a_policy_fails_is_refused_alone() {
    let gateway = Guarded::start("").await;
    store(&gateway, &of_numbers()).await;
    let delivered = gateway.receive("q", "qty=9&vt=600").await;
    assert_eq!(delivered.len(), 9);
    gateway.database.execute(OF_NUMBERS).await;

    let entries = json!({
        "delete": [{"msg_id": 4}, {"msg_id": 2}], "archive": [{"msg_id": 5}, {"msg_id": 6}],
        "retry": [{"msg_id": 8, "delay": 600}, {"msg_id": 9, "delay": 600}, {"msg_id": 2, "delay": 1}],
    });
    let settled = post(&gateway, "/queues/q/messages/settle", entries).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([4]), "{settled}");
    assert_eq!(settled["archived"], json!([6]), "{settled}");
    assert_eq!(settled["retried"], json!([9]), "{settled}");
    let failed = settled["failed"].as_array().expect("a list");
    let of = |entry: &Value| (entry["msg_id"].as_i64(), entry["code"].clone());
    let failed: Vec<_> = failed.iter().map(of).collect();
    let expected = [2, 5, 8, 2].map(|id| (Some(id), json!("forbidden")));
    assert_eq!(failed.len(), expected.len(), "{settled}");
    assert!(expected.iter().all(|one| failed.contains(one)), "{settled}");
    assert_eq!(gateway.ids("q_q").await, [1, 2, 3, 5, 7, 8, 9]);

    // By a receipt, and with a receive, which meets none that can be delivered.
    let receipt = |id: i64| {
        let message = delivered.iter().find(|message| message["msg_id"] == id);
        message.expect("delivered")["receipt"].clone()
    };
    let entries = json!({"delete": [{"receipt": receipt(5)}, {"receipt": receipt(1)}]});
    let both = json!({"settle": entries, "qty": 1});
    let settled = post(&gateway, "/queues/q/messages/receive", both).await.expect(200).json();
    assert_eq!(settled["settled"]["deleted"], json!([1]), "{settled}");
    assert_eq!(settled["settled"]["failed"][0]["code"], "forbidden", "{settled}");
    gateway.delete("/queues/q/messages/2").await.problem(403, "forbidden");

    let sqs = Sqs(&gateway);
    let url = sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await["QueueUrl"].clone();
    let entry = |id: i64| json!({"Id": id.to_string(), "ReceiptHandle": receipt(id), "VisibilityTimeout": 600});
    for (action, done) in [("ChangeMessageVisibilityBatch", "3"), ("DeleteMessageBatch", "3")] {
        let mut entries = json!([entry(2), entry(3)]);
        if action == "DeleteMessageBatch" {
            for entry in entries.as_array_mut().expect("a list") {
                entry.as_object_mut().expect("an entry").remove("VisibilityTimeout");
            }
        }
        let output = sqs.done(action, &json!({"QueueUrl": url, "Entries": entries})).await;
        assert_eq!(output["Successful"][0]["Id"], done, "{action}: {output}");
        assert_eq!(output["Failed"][0]["Id"], "2", "{action}: {output}");
    }
    assert_eq!(gateway.ids("q_q").await, [2, 5, 7, 8, 9]);
}

#[tokio::test]
async fn read_that_a_policy_fails_says_so() {
    let gateway = Guarded::start(AS_TOLD).await;
    for code in [
        "53200", "58030", "08006", "57014", "57P01", "XX000", "42704", "42P17", "55000", "P0001",
        "22P02", "23514",
    ] {
        store_alone(&gateway, code).await;
        for answer in [
            gateway.get("/queues/q/messages").await,
            gateway.get("/queues/q/messages?fifo=grouped").await,
            gateway.post("/queues/q/messages/pop", "").await,
            gateway.get("/queues/q/messages/1").await,
            gateway.get("/queues/q/peek").await,
        ] {
            let detail = answer.problem(500, "internal_error").detail();
            assert!(detail.contains("cannot be read: a policy"), "{code}: {detail}");
            let told = if code == "23514" { "class 23" } else { code };
            assert!(detail.contains(told) && !detail.contains(SECRET), "{code}: {detail}");
        }
    }
    // What lacks a right is told apart from that.
    store_alone(&gateway, "42501").await;
    gateway.get("/queues/q/messages").await.problem(403, "forbidden");
}

#[tokio::test]
async fn read_with_a_policy_that_asks_for_what_is_not_there_says_so() {
    let gateway = Guarded::start("").await;
    store(&gateway, &[json!({"t": "mine"})]).await;
    let policy = "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON pgmq.q_q USING (message->>'t' = current_setting('app.tenant'));";
    gateway.database.execute(policy).await;
    for answer in [
        gateway.get("/queues/q/messages").await,
        gateway.post("/queues/q/messages/pop", "").await,
        gateway.get("/queues/q/messages/1").await,
    ] {
        let detail = answer.problem(500, "internal_error").detail();
        assert!(
            detail.contains("cannot be read: a policy") && detail.contains("42704"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn message_whose_policy_fails_is_hidden_by_nobody_and_is_not_called_unreadable() {
    let gateway = Guarded::start(AS_TOLD).await;
    for (code, status, word) in [
        ("54000", 403, "forbidden"),
        ("22021", 403, "forbidden"),
        ("22P05", 403, "forbidden"),
        ("22P02", 403, "forbidden"),
        ("53200", 503, "database_unavailable"),
        ("08006", 503, "database_unavailable"),
    ] {
        store_alone(&gateway, code).await;
        let answer = gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await;
        assert_eq!(answer.status, status, "{code}: {}", answer.text);
        let detail = answer.problem(status, word).detail();
        assert!(!detail.contains(SECRET) && !detail.contains("UTF-8"), "{code}: {detail}");
    }
}

/// A message is to be discarded for what is in it alone.
#[tokio::test]
async fn send_that_a_policy_fails_is_forbidden_and_not_rejected() {
    let on_table = |using: &str| {
        format!(
            "DROP POLICY IF EXISTS p ON pgmq.q_q; ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON pgmq.q_q USING ({using});"
        )
    };
    let broken =
        "CREATE FUNCTION public.broken(m jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no tenant: %', m; END $$;";
    let gateway = Guarded::start(broken).await;
    post(&gateway, "/queues/q/bindings", json!({"pattern": "t.*"})).await.expect(201);
    let policies = ["message->>'t' = current_setting('app.tenant')", "public.broken(message)"];
    for policy in policies {
        gateway.database.execute(&on_table(policy)).await;
        let message = json!({"message": {"t": SECRET}});
        for (path, body) in [
            ("/queues/q/messages", message.clone()),
            ("/queues/q/messages/batch", json!({"messages": [message, message]})),
            ("/topics/t.x/messages", message.clone()),
            (
                "/transactions",
                json!({"operations": [{"send": {"queue": "q", "message": {"t": SECRET}}}]}),
            ),
        ] {
            let answer = post(&gateway, path, body).await;
            assert_eq!(answer.status, 403, "{path} {policy}: {}", answer.text);
            let detail = answer.problem(403, "forbidden").detail();
            assert!(detail.contains("policy") && !detail.contains(SECRET), "{path}: {detail}");
        }
        assert!(gateway.ids("q_q").await.is_empty());
    }
    gateway.send("other", r#"{"message":1}"#).await;
}

/// What the function of a policy raises has the message in it.
#[tokio::test]
async fn nothing_that_a_policy_says_is_logged() {
    let gateway = Guarded::start(AS_TOLD).await;
    let role = format!("guarded_{}", gateway.database.name);
    let url = gateway.database.url_as(&role);
    let environment = [
        ("DATABASE_URL", &*url),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY__LOG__LEVEL", "debug"),
    ];
    let mut started = Program::start(program(&[], &environment));
    let client = started.client().await;
    for code in [
        "53200", "58030", "08006", "57014", "57P01", "XX000", "42704", "42P01", "42601", "55000",
        "40001", "54000", "P0001", "25006", "0A000", "26000",
    ] {
        store_alone(&gateway, code).await;
        for answer in [
            client.get("/queues/q/messages").await,
            client.get("/queues/q/messages?fifo=grouped").await,
            client.post("/queues/q/messages/pop", "").await,
            client.get("/queues/q/messages/1").await,
            client.get("/queues/q/peek").await,
            client.get("/queues/q/metrics").await,
            client.patch("/queues/q/messages/1", r#"{"vt":0}"#).await,
            client.delete("/queues/q/messages/1").await,
            client.post("/queues/q/purge", "").await,
        ] {
            assert!(!answer.text.contains(SECRET), "{code}: {}", answer.text);
        }
    }
    client.get("/livez").await.expect(200);
    let log = started.log();
    let told = log.lines().find(|line| line.contains(SECRET));
    assert_eq!(told, None);
    assert!(log.contains("/queues/{queue}/messages"), "requests are logged: {log}");
}

/// PGMQ's own list may be hidden as well, while its queues are not.
#[tokio::test]
async fn queue_that_policies_hide_is_not_said_to_be_missing() {
    let gateway = Guarded::start("").await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.database.execute("ALTER TABLE pgmq.meta ENABLE ROW LEVEL SECURITY").await;
    let settings = json!({"settings": {"delay": 1}});
    for answer in [
        gateway.get("/queues/q").await,
        gateway.put("/queues/q", "").await,
        gateway.patch("/queues/q", &settings.to_string()).await,
        gateway.delete("/queues/q").await,
        post(&gateway, "/queues/q/bindings", json!({"pattern": "t.*"})).await,
        gateway.get("/queues/q/bindings").await,
        post(&gateway, "/queues/q/archive/replay", json!({"to": "other"})).await,
        post(&gateway, "/queues/q/redrive", json!({"to": "other"})).await,
    ] {
        let detail = answer.problem(403, "forbidden").detail();
        assert!(detail.contains("pgmq.meta"), "{detail}");
    }
    gateway.send("q", r#"{"message":2}"#).await;
    assert_eq!(gateway.receive("q", "qty=5").await.len(), 2);
    gateway.get("/queues/missing").await.problem(404, "queue_not_found");
}

/// The table of keys is not the queue's.
#[tokio::test]
async fn key_that_a_trigger_refuses_is_told_and_nothing_is_stored() {
    let gateway = Guarded::start("").await;
    for (deed, code) in
        [("RETURN NULL;", None), ("RAISE EXCEPTION 'no: %', NEW.key;", Some("P0001"))]
    {
        let sql = format!(
            "DROP FUNCTION IF EXISTS public.guard() CASCADE;
             CREATE FUNCTION public.guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {deed} END $$;
             CREATE TRIGGER guard BEFORE INSERT ON pgmq_gateway.idempotency_keys
             FOR EACH ROW EXECUTE FUNCTION public.guard();"
        );
        gateway.database.execute(&sql).await;
        let keyed = gateway.request("POST", "/queues/q/messages").header("Idempotency-Key", SECRET);
        let answer = Answer::of(keyed.body(r#"{"message":1}"#)).await;
        let detail = answer.problem(403, "forbidden").detail();
        assert!(detail.contains("idempotency key") && !detail.contains(SECRET), "{detail}");
        assert!(code.is_none_or(|code| detail.contains(code)), "{detail}");
    }
    gateway.send("q", r#"{"message":2}"#).await;
    assert_eq!(gateway.ids("q_q").await.len(), 1);
}

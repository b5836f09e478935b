//! Triggers on the tables of queues: whatever one does to a message, who came with that message notices
//! nothing, and who sent it is told.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client,
    guarded::{Guarded, together},
    process::{Program, program},
};

/// What a trigger does to one message, and what its sender and who settles it are told.
type Deed = (&'static str, (u16, &'static str), (u16, &'static str));

const DEEDS: [Deed; 25] = [
    ("RETURN NULL;", REJECTED, KEPT),
    ("RAISE EXCEPTION 'no: %', v;", REJECTED, KEPT),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = '45000', DETAIL = v, HINT = v;", REJECTED, KEPT),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'MY001';", REJECTED, KEPT),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'unique_violation';", CONFLICT, CONFLICT),
    (
        "RAISE EXCEPTION 'no: %', v USING ERRCODE = 'check_violation', CONSTRAINT = 'mine';",
        REJECTED,
        KEPT,
    ),
    (
        "RAISE EXCEPTION 'no: %', v USING ERRCODE = 'undefined_table', TABLE = 'q_q';",
        REJECTED,
        KEPT,
    ),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'insufficient_privilege';", KEPT, KEPT),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'disk_full';", AWAY, AWAY),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'connection_failure';", AWAY, AWAY),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'admin_shutdown';", AWAY, AWAY),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'read_only_sql_transaction';", REJECTED, KEPT),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'internal_error';", REJECTED, KEPT),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = '2200H';", REJECTED, KEPT),
    ("RAISE EXCEPTION 'no: %', v USING ERRCODE = 'feature_not_supported';", REJECTED, KEPT),
    ("ASSERT false, v;", REJECTED, KEPT),
    ("PERFORM 1 / 0;", REJECTED, KEPT),
    ("PERFORM v::integer;", REJECTED, KEPT),
    ("PERFORM v::json;", REJECTED, KEPT),
    ("PERFORM no_such_function(v);", REJECTED, KEPT),
    ("PERFORM FROM no_such_table;", REJECTED, KEPT),
    ("PERFORM no_such_schema.f();", REJECTED, KEPT),
    ("EXECUTE v;", REJECTED, KEPT),
    ("PERFORM pg_catalog.currval('public.numbers');", REJECTED, KEPT),
    ("PERFORM FROM public.locked_away;", KEPT, KEPT),
];
const REJECTED: (u16, &str) = (422, "message_rejected");
const CONFLICT: (u16, &str) = (409, "message_conflict");
const KEPT: (u16, &str) = (403, "forbidden");
const AWAY: (u16, &str) = (503, "database_unavailable");

/// What must show nowhere.
const SECRET: &str = "s3cr3t";

const STAGE: &str = "CREATE TABLE public.locked_away (); CREATE SEQUENCE public.numbers;
    GRANT USAGE ON SEQUENCE public.numbers TO PUBLIC;";

/// A trigger that does something to the messages that have `bad`, whose text is in `v`, and nothing else.
fn trigger(name: &str, table: &str, event: &str, deed: &str) -> String {
    format!(
        "CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE v text := (coalesce(NEW, OLD)).message->>'bad';
         BEGIN IF v IS NOT NULL THEN {deed} END IF; RETURN coalesce(NEW, OLD); END $$;
         CREATE TRIGGER {name} {event} ON pgmq.{table} FOR EACH ROW EXECUTE FUNCTION public.{name}();"
    )
}

async fn replace(gateway: &Guarded, name: &str, table: &str, event: &str, deed: &str) {
    let drop = format!("DROP FUNCTION IF EXISTS public.{name}() CASCADE;");
    gateway.database.execute(&(drop + &trigger(name, table, event, deed))).await;
}

fn message(n: i64, bad: bool) -> Value {
    if bad { json!({"n": n, "bad": SECRET}) } else { json!({"n": n}) }
}

/// Sends at once, of which one is bad; what is sent is stored under the id that its sender is told.
async fn send_together(client: &Client, count: i64, bad: i64) -> Answer {
    let sent = together(count, |n| {
        let (client, body) = (client.clone(), json!({"message": message(n, n == bad)}).to_string());
        async move { client.post("/queues/q/messages", &body).await }
    });
    let mut refused = None;
    for (n, answer) in (0..).zip(sent.await) {
        if n == bad {
            refused = Some(answer);
            continue;
        }
        let id = answer.expect(201).json()["msg_id"].as_i64().expect("an id");
        let stored = client.get(&format!("/queues/q/messages/{id}")).await.expect(200).json();
        assert_eq!(stored["message"]["n"], n, "its own id");
    }
    refused.expect("a bad one")
}

/// Stores messages past every trigger, of which the one with id `bad` is bad, and returns their ids.
async fn store(gateway: &Guarded, count: i64) -> Vec<i64> {
    let sql = format!(
        "TRUNCATE pgmq.q_q; SET session_replication_role = replica;
         SELECT pgmq.send('q', CASE n WHEN 5 THEN '{{\"bad\":\"{SECRET}\"}}' ELSE '{{}}' END::jsonb)
         FROM generate_series(1, {count}) n"
    );
    gateway.database.execute(&sql).await;
    gateway.ids("q_q").await
}

/// Nothing of a message shows.
#[track_caller]
fn is_discreet(answer: &Answer) {
    assert!(!answer.text.contains(SECRET), "{}", answer.text);
    for internal in ["PL/pgSQL", "locked_away", "no_such", "public."] {
        assert!(!answer.text.contains(internal), "{}", answer.text);
    }
}

#[tokio::test]
async fn trigger_refuses_one_of_many_sends_in_every_way() {
    let gateway = Guarded::start(STAGE).await;
    for (n, (deed, (status, code), _)) in DEEDS.into_iter().enumerate() {
        let event = ["BEFORE INSERT", "AFTER INSERT", "BEFORE INSERT OR UPDATE"][n % 3];
        let event = if deed == "RETURN NULL;" { "BEFORE INSERT" } else { event };
        replace(&gateway, "guard", "q_q", event, deed).await;
        let refused = send_together(&gateway, 20, 7).await;
        assert_eq!(refused.status, status, "{deed} {event}: {}", refused.text);
        is_discreet(&refused.problem(status, code));

        // The same in a batch, and in a transaction, where it is said which operation it was.
        let count = gateway.ids("q_q").await.len();
        let batch = json!({"messages": [
            {"message": message(1, false)}, {"message": message(2, true)}, {"message": message(3, false)}
        ]});
        let refused = gateway.post("/queues/q/messages/batch", &batch.to_string()).await;
        assert_eq!(refused.status, status, "{deed} {event}: {}", refused.text);
        is_discreet(&refused.problem(status, code));
        let operations = json!({"operations": [
            {"send": {"queue": "other", "message": 1}}, {"send": {"queue": "q", "message": message(1, false)}},
            {"send": {"queue": "q", "message": message(2, true)}}
        ]});
        let refused = gateway.post("/transactions", &operations.to_string()).await;
        assert_eq!(refused.status, status, "{deed} {event}: {}", refused.text);
        assert_eq!(refused.json()["index"], 2, "{deed} {event}: {}", refused.text);
        is_discreet(&refused.problem(status, code));
        assert_eq!(gateway.ids("q_q").await.len(), count, "{deed} {event}");
        assert!(gateway.ids("q_other").await.is_empty(), "{deed} {event}");
    }
}

#[tokio::test]
async fn sixty_sends_of_which_one_is_dropped_without_a_word() {
    let gateway = Guarded::start(&trigger("guard", "q_q", "BEFORE INSERT", "RETURN NULL;")).await;
    for (count, bad) in [(12, 0), (60, 31), (60, 59)] {
        send_together(&gateway, count, bad).await.problem(422, "message_rejected");
    }
    assert_eq!(gateway.ids("q_q").await.len(), 11 + 59 + 59);
}

#[tokio::test]
async fn trigger_keeps_one_of_many_messages_in_every_way() {
    let gateway = Guarded::start(STAGE).await;
    for (deed, _, (status, code)) in DEEDS {
        for (event, method) in [("DELETE", "DELETE"), ("DELETE", "POST"), ("UPDATE", "PATCH")] {
            let ids = store(&gateway, 12).await;
            replace(&gateway, "guard", "q_q", &format!("BEFORE {event}"), deed).await;
            let answers = together(12, |n| {
                let (client, path) = (
                    gateway.client.clone(),
                    format!("/queues/q/messages/{}", ids[usize::try_from(n).expect("small")]),
                );
                async move {
                    match method {
                        "DELETE" => client.delete(&path).await,
                        "POST" => client.post(&format!("{path}/archive"), "").await,
                        _ => client.patch(&path, r#"{"vt":600}"#).await,
                    }
                }
            });
            for (n, answer) in (1..).zip(answers.await) {
                let wanted = if n == 5 {
                    status
                } else if method == "PATCH" {
                    200
                } else {
                    204
                };
                assert_eq!(answer.status, wanted, "{deed} {event} {method} {n}: {}", answer.text);
                if n == 5 {
                    is_discreet(&answer.problem(status, code));
                }
            }
            let stay = if method == "PATCH" { 12 } else { 1 };
            assert_eq!(gateway.ids("q_q").await.len(), stay, "{deed} {event} {method}");
        }
    }
}

#[tokio::test]
async fn settle_and_transaction_with_something_that_a_trigger_keeps() {
    let gateway = Guarded::start(STAGE).await;
    for (deed, _, (status, code)) in DEEDS {
        let ids = store(&gateway, 8).await;
        replace(&gateway, "guard", "q_q", "BEFORE UPDATE OR DELETE", deed).await;
        for end in ["delete", "archive", "set_vt"] {
            let mut ended = json!({"queue": "q", "msg_id": ids[4]});
            if end == "set_vt" {
                ended["vt"] = json!(600);
            }
            let operations = json!({"operations": [
                {"delete": {"queue": "q", "msg_id": ids[0]}}, {"send": {"queue": "other", "message": 1}},
                {end: ended}
            ]});
            let refused = gateway.post("/transactions", &operations.to_string()).await;
            assert_eq!(refused.status, status, "{deed} {end}: {}", refused.text);
            assert_eq!(refused.json()["index"], 2, "{deed} {end}: {}", refused.text);
            is_discreet(&refused.problem(status, code));
        }
        assert_eq!(gateway.ids("q_q").await, ids, "{deed}");
        assert!(gateway.ids("q_other").await.is_empty(), "{deed}");
        for list in ["delete", "archive", "retry"] {
            let entries = json!({
                list: [{"msg_id": ids[4]}], "archive": [{"msg_id": ids[1]}],
                "delete": [{"msg_id": ids[0]}], "retry": [{"msg_id": ids[2], "delay": 600}],
            });
            let mut entries = entries;
            entries[list].as_array_mut().expect("a list").push(json!({"msg_id": ids[4]}));
            let settled =
                gateway.post("/queues/q/messages/settle", &entries.to_string()).await.expect(200);
            is_discreet(&settled);
            let failed = settled.json()["failed"].as_array().expect("failed").clone();
            let kept: Vec<&Value> =
                failed.iter().filter(|entry| entry["msg_id"] == ids[4]).collect();
            assert!(kept.len() == 1 && kept[0]["code"] == code, "{deed} {list}: {}", settled.text);
            assert_eq!(settled.json()["retried"], json!([ids[2]]), "{deed} {list}");
        }
        assert_eq!(gateway.ids("q_q").await, ids[2..], "{deed}");
    }
}

/// What is raised at the end of a transaction, or for a statement as a whole, tells no row.
#[tokio::test]
async fn triggers_that_come_late_are_traced_to_their_messages() {
    let deferred = "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF (coalesce(NEW, OLD)).message ? 'bad' THEN RAISE EXCEPTION 'late %', NEW;
        END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON pgmq.q_q
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.late();";
    let of_statement = "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF EXISTS (SELECT FROM changed WHERE message ? 'bad') THEN RAISE EXCEPTION 'late'; END IF;
        RETURN NULL; END $$;
        CREATE TRIGGER i AFTER INSERT ON pgmq.q_q REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION public.late();
        CREATE TRIGGER u AFTER UPDATE ON pgmq.q_q REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION public.late();
        CREATE TRIGGER d AFTER DELETE ON pgmq.q_q REFERENCING OLD TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION public.late();";
    for late in [deferred, of_statement] {
        let gateway = Guarded::start(late).await;
        send_together(&gateway, 20, 7).await.problem(422, "message_rejected");
        let one = |bad| json!({"send": {"queue": "q", "message": message(1, bad)}});
        let operations = json!({"operations": [one(false), one(true), one(false)]}).to_string();
        let refused = gateway.post("/transactions", &operations).await;
        assert_eq!(refused.problem(422, "message_rejected").json()["index"], 1);
        let once = gateway.request("POST", "/queues/q/messages").header("Idempotency-Key", "k");
        let body = json!({"message": message(1, true)}).to_string();
        Answer::of(once.body(body)).await.problem(422, "message_rejected");
        assert_eq!(gateway.ids("q_q").await.len(), 19);

        let ids = store(&gateway, 8).await;
        for parameters in ["qty=10&vt=0", "qty=1&vt=0&wait=1", "qty=10&vt=0&fifo=head"] {
            let received = gateway.receive("q", parameters).await;
            assert!(received.iter().all(|message| message["msg_id"] != ids[4]), "{parameters}");
            assert!(!received.is_empty(), "{parameters}");
        }
        let all: Vec<Value> = ids.iter().map(|id| json!({"msg_id": id})).collect();
        let retry = json!({"retry": all}).to_string();
        let settled = gateway.post("/queues/q/messages/settle", &retry).await.expect(200).json();
        assert_eq!(settled["retried"].as_array().map(Vec::len), Some(7), "{settled}");
        assert_eq!(settled["failed"][0]["code"], "forbidden", "{settled}");
        let deleted = together(4, |n| {
            let (client, path) =
                (gateway.client.clone(), format!("/queues/q/messages/{}", ids[4] + n));
            async move { client.delete(&path).await }
        });
        let statuses: Vec<u16> = deleted.await.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [403, 204, 204, 204]);
        assert_eq!(gateway.post("/queues/q/messages/pop?qty=2", "").await.messages().len(), 2);
        assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 2);
        gateway.post("/queues/q/redrive", r#"{"to":"other"}"#).await.problem(403, "forbidden");
        assert_eq!(gateway.ids("q_q").await, [ids[4]]);
    }
}

#[tokio::test]
async fn triggers_of_the_archive_and_of_other_queues_keep_what_was_to_be_moved() {
    let gateway = Guarded::start(STAGE).await;
    for (deed, _, (status, code)) in DEEDS {
        let ids = store(&gateway, 8).await;
        gateway.database.execute("TRUNCATE pgmq.a_q, pgmq.q_other").await;
        replace(&gateway, "guard", "a_q", "BEFORE INSERT OR DELETE", deed).await;
        let path = |n: usize| format!("/queues/q/messages/{}/archive", ids[n]);
        let archived = together(8, |n| {
            let (client, path) = (gateway.client.clone(), path(usize::try_from(n).expect("small")));
            async move { client.post(&path, "").await }
        });
        for (n, answer) in (1..).zip(archived.await) {
            assert_eq!(
                answer.status,
                if n == 5 { status } else { 204 },
                "{deed} {n}: {}",
                answer.text
            );
            if n == 5 {
                is_discreet(&answer.problem(status, code));
            }
        }
        assert_eq!(gateway.ids("q_q").await, [ids[4]], "{deed}");
        assert_eq!(
            gateway.post("/queues/q/archive/replay", "").await.json()["replayed"],
            7,
            "{deed}"
        );
        assert!(gateway.ids("a_q").await.is_empty(), "{deed}");
    }
}

#[tokio::test]
async fn trigger_that_changes_messages_changes_what_is_stored_and_no_answer() {
    let sql = "CREATE FUNCTION public.change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.message := jsonb_set(NEW.message, '{seen}', 'true');
            NEW.msg_id := 1000 - (NEW.message->>'n')::int;
            INSERT INTO pgmq.q_other (vt, message) VALUES (now(), NEW.message);
            RETURN NEW; END $$;
        CREATE TRIGGER change BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.change();";
    let gateway = Guarded::start(sql).await;
    let sent = together(12, |n| {
        let client = gateway.client.clone();
        async move { client.post("/queues/q/messages", &json!({"message": {"n": n}}).to_string()).await }
    });
    for (n, answer) in (0..).zip(sent.await) {
        assert_eq!(answer.expect(201).json()["msg_id"], 1000 - n);
    }
    let batch: Vec<Value> = (20..25).map(|n| json!({"message": {"n": n}})).collect();
    let ids =
        gateway.post("/queues/q/messages/batch", &json!({"messages": batch}).to_string()).await;
    assert_eq!(ids.expect(201).json()["msg_ids"], json!([980, 979, 978, 977, 976]));
    assert_eq!(gateway.ids("q_other").await.len(), 17);
    assert!(gateway.all("q").await.iter().all(|message| message["message"]["seen"] == true));
}

/// What triggers say and raise has messages in it, and is logged nowhere.
#[tokio::test]
async fn nothing_that_a_trigger_says_is_logged() {
    let gateway = Guarded::start(STAGE).await;
    let role = format!("guarded_{}", gateway.database.name);
    let url = gateway.database.url_as(&role);
    for level in ["info", "debug", "pgmq_gateway=trace"] {
        let environment = [
            ("DATABASE_URL", &*url),
            ("PGMQ_GATEWAY__SERVER__PORT", "0"),
            ("PGMQ_GATEWAY__LOG__LEVEL", level),
        ];
        let mut started = Program::start(program(&[], &environment));
        let client = started.client().await;
        let says =
            ["NOTICE", "WARNING", "INFO", "LOG"].map(|level| format!("RAISE {level} 'says %', v;"));
        let raises = DEEDS.iter().map(|(deed, ..)| (*deed).to_owned());
        for deed in says.iter().cloned().chain(raises) {
            let ids = store(&gateway, 6).await;
            replace(&gateway, "guard", "q_q", "BEFORE INSERT OR UPDATE OR DELETE", &deed).await;
            let body = json!({"message": message(1, true)}).to_string();
            is_discreet(&client.post("/queues/q/messages", &body).await);
            let path = format!("/queues/q/messages/{}", ids[4]);
            is_discreet(&client.delete(&path).await);
            client.get("/queues/q/messages?qty=100").await.expect(200);
            client.post("/queues/q/messages/pop?qty=100", "").await.expect(200);
            is_discreet(&client.post("/queues/q/redrive", r#"{"to":"other"}"#).await);
            is_discreet(&client.post("/queues/q/purge", "").await);
        }
        client.get("/livez").await.expect(200);
        let log = started.log();
        let told = log.lines().find(|line| line.contains(SECRET));
        assert_eq!(told, None, "at {level}");
        assert!(log.contains("/queues/{queue}/messages"), "requests are logged: {log}");
    }
}

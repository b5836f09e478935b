//! Messages that their table does not let be delivered: they stay, and nobody waits behind them but their
//! group.

use std::time::Duration;

use pgmq_gateway::config::{ReadMode, Settings, Strategy};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Client, PATIENCE, eventually,
    guarded::{Guarded, together},
};

/// Every way of reading.
const WAYS: [fn(&mut Settings); 3] = [
    |_| {},
    |settings| settings.engine.read = ReadMode::Pgmq,
    |settings| settings.long_poll.strategy = Strategy::ReadWithPoll,
];

/// What keeps messages that have `bad` from being delivered.
const KEEPERS: [&str; 6] = [
    "ALTER TABLE pgmq.q_q ADD CONSTRAINT never CHECK (read_ct < 1 OR NOT message ? 'bad')",
    "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
     IF OLD.message ? 'bad' THEN RETURN NULL; END IF; RETURN NEW; END $$;
     CREATE TRIGGER keep BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
    "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
     IF OLD.message ? 'bad' THEN RAISE EXCEPTION 'keep'; END IF; RETURN NEW; END $$;
     CREATE TRIGGER keep AFTER UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
    "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
     IF OLD.message ? 'bad' THEN PERFORM FROM public.locked_away; END IF; RETURN NEW; END $$;
     CREATE TABLE public.locked_away ();
     CREATE TRIGGER keep BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
    "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON pgmq.q_q USING (true);
     CREATE POLICY u ON pgmq.q_q AS RESTRICTIVE FOR UPDATE USING (NOT message ? 'bad')",
    "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON pgmq.q_q USING (true);
     CREATE POLICY u ON pgmq.q_q AS RESTRICTIVE FOR UPDATE USING (true)
     WITH CHECK (read_ct < 1 OR NOT message ? 'bad')",
];

fn one(n: i64, bad: bool, group: &str) -> String {
    let message = if bad { json!({"n": n, "bad": true}) } else { json!({"n": n}) };
    json!({"message": message, "headers": {"x-pgmq-group": group}}).to_string()
}

/// Two bad messages in front of three good ones.
async fn fill(client: &Client) {
    for n in 1..=5 {
        client.send("q", &one(n, n <= 2, &format!("g{n}"))).await;
    }
}

fn numbers(messages: &[Value]) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        messages.iter().map(|m| m["message"]["n"].as_i64().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn what_cannot_be_delivered_is_in_nobodys_way() {
    for keeper in KEEPERS {
        for way in WAYS {
            let gateway = Guarded::with(keeper, way).await;
            fill(&gateway).await;
            for parameters in ["qty=1", "qty=1&wait=5", "qty=100", "qty=100&wait=5"] {
                let received = gateway.receive("q", &format!("vt=0&{parameters}")).await;
                let numbers = numbers(&received);
                let expected = if parameters.contains("100") { 3 } else { 1 };
                assert!(numbers.len() == expected, "{keeper} {parameters}: {numbers:?}");
                assert!(numbers.iter().all(|n| *n > 2), "{keeper} {parameters}: {numbers:?}");
            }
            let filtered = gateway.receive("q", "qty=100&vt=0&filter=%7B%22n%22%3A1%7D").await;
            assert!(filtered.is_empty(), "{keeper}");
            // Twelve at once, among whom three are served.
            let answers = together(12, |_| {
                let client = gateway.client.clone();
                async move { client.get("/queues/q/messages?vt=600").await }
            });
            let answers: Vec<Value> = answers
                .await
                .into_iter()
                .flat_map(|answer| answer.expect(200).messages())
                .collect();
            assert_eq!(numbers(&answers), [3, 4, 5], "{keeper}");
            let read: Option<i32> = gateway
                .database
                .value("SELECT max(read_ct) FROM pgmq.q_q WHERE message ? 'bad'")
                .await;
            assert_eq!(read, Some(0), "{keeper}");
        }
    }
}

/// Who waits there goes on waiting, and is served with what comes, by whichever way it comes.
#[tokio::test]
async fn waiters_beside_what_cannot_be_delivered_are_served_in_time() {
    for (keeper, way) in KEEPERS.into_iter().zip(WAYS.into_iter().cycle()) {
        let gateway = Guarded::with(keeper, way).await;
        gateway.send("q", &one(1, true, "a")).await;
        for by_sql in [false, true] {
            let client = gateway.client.clone();
            let waiter = tokio::spawn(async move { client.receive("q", "wait=20&vt=600").await });
            gateway.wait_for_waiters("q", 1).await;
            sleep(Duration::from_millis(300)).await;
            let sent = Instant::now();
            if by_sql {
                gateway.database.execute(r#"SELECT pgmq.send('q', '{"n":2}')"#).await;
            } else {
                gateway.send("q", &one(2, false, "b")).await;
            }
            let received = timeout(PATIENCE, waiter).await.expect("in time").expect("no panic");
            assert_eq!(numbers(&received), [2], "{keeper}");
            assert!(sent.elapsed() < Duration::from_secs(3), "{keeper}: {:?}", sent.elapsed());
        }
        // With nothing new the wait ends as it should.
        let begun = Instant::now();
        assert!(gateway.receive("q", "wait=1").await.is_empty());
        assert!(begun.elapsed() > Duration::from_millis(900), "{keeper}");
    }
}

/// Each try counts, whatever becomes of it: sequences don't go back.
#[tokio::test]
async fn nobody_spins_beside_what_cannot_be_delivered() {
    let counting = "CREATE SEQUENCE public.tries; GRANT ALL ON SEQUENCE public.tries TO PUBLIC;
        SELECT nextval('public.tries');
        CREATE FUNCTION public.count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM nextval('public.tries'); DEED END $$;
        CREATE TRIGGER count_it WHEN_IT UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.count_it();
        SELECT pgmq.send('q', '{\"bad\":true}')";
    for (when, deed) in [("BEFORE", "RETURN NULL;"), ("AFTER", "RAISE EXCEPTION 'keep';")] {
        for way in WAYS {
            let sql = counting.replace("WHEN_IT", when).replace("DEED", deed);
            let gateway = Guarded::with(&sql, way).await;
            assert!(gateway.receive("q", "wait=5").await.is_empty());
            let tries: i64 =
                gateway.database.value("SELECT last_value - 1 FROM public.tries").await;
            // Twice for a look, where the first try fails as a whole.
            let most = if when == "BEFORE" { 24 } else { 48 };
            assert!((1..most).contains(&tries), "{when} {tries}");
        }
    }
}

#[tokio::test]
async fn group_is_blocked_by_its_own_messages_alone() {
    for keeper in KEEPERS {
        for mode in ["grouped", "round_robin", "head"] {
            let gateway = Guarded::start(keeper).await;
            gateway.create_with("unused", &json!({"fifo": true})).await;
            for (n, group) in (1..).zip(["a", "b", "c", "a", "b", "c", "d", "c"]) {
                // The first of `a`, the second of `c`.
                gateway.send("q", &one(n, n == 1 || n == 6, group)).await;
            }
            // Of `a` nothing can be had, of `c` what is in front of the bad one.
            let first = gateway.receive("q", &format!("fifo={mode}&vt=600&qty=1")).await;
            assert_eq!(numbers(&first), [2], "{keeper} {mode}");
            let rest = gateway.receive("q", &format!("fifo={mode}&vt=600&qty=100&wait=5")).await;
            assert_eq!(numbers(&rest), [3, 7], "{keeper} {mode}");
            gateway.delete("/queues/q/messages/2").await.expect(204);
            let next =
                gateway.receive_one("q", &format!("fifo={mode}&vt=600&qty=100&wait=5")).await;
            assert_eq!(next["message"]["n"], 5, "{keeper} {mode}");
            gateway.delete("/queues/q/messages/3").await.expect(204);
            let blocked = gateway.receive("q", &format!("fifo={mode}&vt=600&qty=100")).await;
            assert!(blocked.is_empty(), "{keeper} {mode}: {blocked:?}");
        }
    }
}

#[tokio::test]
async fn pop_goes_past_what_cannot_be_deleted() {
    let keepers = [
        "CREATE TABLE public.held (id bigint REFERENCES pgmq.q_q (msg_id))",
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF OLD.message ? 'bad' THEN RETURN NULL; END IF; RETURN OLD; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF OLD.message ? 'bad' THEN PERFORM 1 / 0; END IF; RETURN OLD; END $$;
         CREATE TRIGGER keep AFTER DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()",
        "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON pgmq.q_q USING (true);
         CREATE POLICY u ON pgmq.q_q AS RESTRICTIVE FOR DELETE USING (NOT message ? 'bad')",
    ];
    for keeper in keepers {
        let gateway = Guarded::start(keeper).await;
        fill(&gateway).await;
        if keeper.contains("held") {
            gateway.database.execute("INSERT INTO public.held VALUES (1), (2)").await;
        }
        let pop = async |qty| {
            let popped = gateway.post(&format!("/queues/q/messages/pop?qty={qty}"), "").await;
            numbers(&popped.expect(200).messages())
        };
        assert_eq!(pop(1).await, [3], "{keeper}");
        assert_eq!(pop(10).await, [4, 5], "{keeper}");
        assert_eq!(pop(10).await, [0; 0], "{keeper}");
        gateway.delete("/queues/q/messages/1").await.problem(403, "forbidden");
        gateway.send("q", &one(6, false, "a")).await;
        assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 1);
        assert_eq!(gateway.ids("q_q").await, [1, 2], "{keeper}");
    }
}

/// With `max_receives`, too: what cannot be moved stays, and what can be delivered is.
#[tokio::test]
async fn dead_letters_that_cannot_be_moved_are_in_nobodys_way() {
    let targets = [
        "ALTER TABLE pgmq.q_other ADD CONSTRAINT none CHECK (NOT message ? 'bad')",
        "CREATE UNIQUE INDEX once ON pgmq.q_other ((message->>'bad'));
         SELECT pgmq.send('other', '{\"bad\":true}')",
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF NEW.message ? 'bad' THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER keep BEFORE INSERT ON pgmq.q_other FOR EACH ROW EXECUTE FUNCTION public.keep()",
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         ASSERT NOT NEW.message ? 'bad'; RETURN NEW; END $$;
         CREATE TRIGGER keep BEFORE INSERT ON pgmq.q_other FOR EACH ROW EXECUTE FUNCTION public.keep()",
        "REVOKE ALL ON pgmq.q_other FROM PUBLIC",
    ];
    for target in targets {
        let gateway = Guarded::start(target).await;
        if target.starts_with("REVOKE") {
            let role = format!("guarded_{}", gateway.database.name);
            gateway.database.execute(&format!("REVOKE ALL ON pgmq.q_other FROM {role}")).await;
        }
        let settings = json!({"max_receives": 1, "dead_letter_queue": "other"});
        gateway.configure("q", settings).await.expect(200);
        fill(&gateway).await;
        assert_eq!(gateway.receive("q", "qty=10&vt=0").await.len(), 5);
        gateway.send("q", &one(6, false, "new")).await;
        let next = gateway.receive_one("q", "qty=10&vt=0&wait=5").await;
        assert_eq!(next["message"]["n"], 6, "{target}");
        let stay: i64 = if target.starts_with("REVOKE") { 6 } else { 2 };
        let moved = async || {
            assert!(gateway.receive("q", "qty=10&vt=0&fifo=head").await.is_empty());
            assert!(gateway.post("/queues/q/messages/pop", "").await.messages().is_empty());
            let left: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_q").await;
            (left == stay).then_some(())
        };
        eventually("what can be moved is moved", moved).await;
    }
}

//! Constraints on the tables of queues: the message that one refuses is refused, and no other.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, TestGateway,
    guarded::{Guarded, together},
};

/// A constraint by its name, a message that it takes once, and one that it refuses then.
struct Guard {
    name: &'static str,
    sql: &'static str,
    /// `null` for one that is not needed.
    first: &'static str,
    bad: &'static str,
    answer: (u16, &'static str),
}

const REJECTED: (u16, &str) = (422, "message_rejected");
const CONFLICT: (u16, &str) = (409, "message_conflict");

const GUARDS: [Guard; 13] = [
    Guard {
        name: "order_once",
        sql: "CREATE UNIQUE INDEX order_once ON pgmq.q_q ((message->>'order'))",
        first: r#"{"order":"s3cr3t"}"#,
        bad: r#"{"order":"s3cr3t"}"#,
        answer: CONFLICT,
    },
    Guard {
        name: "trace_once",
        sql: "ALTER TABLE pgmq.q_q ADD COLUMN trace text GENERATED ALWAYS AS (message->>'trace') STORED,
              ADD CONSTRAINT trace_once UNIQUE (trace) DEFERRABLE INITIALLY DEFERRED",
        first: r#"{"trace":"s3cr3t"}"#,
        bad: r#"{"trace":"s3cr3t"}"#,
        answer: CONFLICT,
    },
    Guard {
        name: "small",
        sql: "ALTER TABLE pgmq.q_q ADD CONSTRAINT small CHECK ((message->>'size')::int < 10)",
        first: "null",
        bad: r#"{"size":99,"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    // What a constraint reckons with may fail.
    Guard {
        name: "",
        sql: "ALTER TABLE pgmq.q_q ADD CONSTRAINT small CHECK ((message->>'size')::int < 10)",
        first: "null",
        bad: r#"{"size":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "",
        sql: "ALTER TABLE pgmq.q_q ADD CONSTRAINT share CHECK (100 / (message->>'of')::int > 1)",
        first: "null",
        bad: r#"{"of":0,"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "",
        sql: "CREATE INDEX by_number ON pgmq.q_q (((message->>'number')::numeric(4, 2)))",
        first: "null",
        bad: r#"{"number":12345,"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "",
        sql: "CREATE INDEX by_text ON pgmq.q_q ((message->>'text'))",
        first: "null",
        // What is long and the same is compressed.
        bad: "LONG",
        answer: REJECTED,
    },
    Guard {
        name: "",
        sql: "ALTER TABLE pgmq.q_q ADD COLUMN kind text NOT NULL
              GENERATED ALWAYS AS (coalesce(message->>'kind', message->>'n')) STORED",
        first: "null",
        bad: r#"{"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "apart",
        sql: "ALTER TABLE pgmq.q_q ADD CONSTRAINT apart EXCLUDE USING gist
              (int8range((message->>'from')::bigint, (message->>'to')::bigint) WITH &&)
              WHERE (message ? 'from')",
        first: r#"{"from":1,"to":100}"#,
        bad: r#"{"from":50,"to":60,"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "of_somebody",
        sql: "CREATE TABLE public.customers (id bigint PRIMARY KEY);
              ALTER TABLE pgmq.q_q ADD COLUMN customer bigint
              GENERATED ALWAYS AS ((message->>'customer')::bigint) STORED,
              ADD CONSTRAINT of_somebody FOREIGN KEY (customer) REFERENCES public.customers",
        first: "null",
        bad: r#"{"customer":4711,"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "of_somebody",
        sql: "CREATE TABLE public.customers (id bigint PRIMARY KEY);
              ALTER TABLE pgmq.q_q ADD COLUMN customer bigint
              GENERATED ALWAYS AS ((message->>'customer')::bigint) STORED,
              ADD CONSTRAINT of_somebody FOREIGN KEY (customer) REFERENCES public.customers
              DEFERRABLE INITIALLY DEFERRED",
        first: "null",
        bad: r#"{"customer":4711,"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "positive",
        sql: "CREATE DOMAIN public.positive AS int CONSTRAINT positive CHECK (value > 0);
              ALTER TABLE pgmq.q_q ADD COLUMN count public.positive
              GENERATED ALWAYS AS ((message->>'count')::int::public.positive) STORED",
        first: "null",
        bad: r#"{"count":-1,"what":"s3cr3t"}"#,
        answer: REJECTED,
    },
    Guard {
        name: "",
        sql: "CREATE FUNCTION public.check_it(jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
              IF $1 ? 'bad' THEN RAISE EXCEPTION 'not %', $1; END IF; RETURN true; END $$;
              ALTER TABLE pgmq.q_q ADD CONSTRAINT checked CHECK (public.check_it(message))",
        first: "null",
        bad: r#"{"bad":"s3cr3t"}"#,
        answer: REJECTED,
    },
];

impl Guard {
    /// A gateway with the guarded queue, in which the first message is.
    async fn start(&self) -> Guarded {
        let gateway = Guarded::start(self.sql).await;
        if self.first != "null" {
            gateway.send("q", &format!(r#"{{"message":{}}}"#, self.first)).await;
        }
        gateway
    }

    fn bad(&self) -> Value {
        if self.bad == "LONG" {
            let text: String = (0..6_000).map(|_| rand::random_range('a'..='z')).collect();
            return json!({"text": text + "s3cr3t"});
        }
        serde_json::from_str(self.bad).expect("JSON")
    }

    /// Insists that a message was refused, by name, and that nothing of it shows.
    #[track_caller]
    fn refuses(&self, answer: Answer) -> Answer {
        let (status, code) = self.answer;
        assert_eq!(answer.status, status, "{}: {}", self.sql, answer.text);
        let answer = answer.problem(status, code);
        // The id of the request may have any digits.
        let shown = answer.text.split("\"instance\"").next().unwrap_or_default();
        for hidden in ["s3cr3t", "4711", "12345", "_q"] {
            assert!(!shown.contains(hidden), "{}", answer.text);
        }
        let detail = answer.detail();
        assert!(self.name.is_empty() || detail.contains(&format!("`{}`", self.name)), "{detail}");
        answer
    }
}

async fn once(client: &Client, path: &str, body: &Value) -> Answer {
    let request = client.request("POST", path).header("Idempotency-Key", "the-key");
    Answer::of(request.body(body.to_string())).await
}

#[tokio::test]
async fn constraint_refuses_one_of_twenty_sends_that_came_together() {
    for guard in GUARDS {
        let gateway = guard.start().await;
        let before = gateway.ids("q_q").await.len();
        for bad in [0, 11] {
            let sent = together(20, |n| {
                let message = if n == bad { guard.bad() } else { json!({"n": n.to_string()}) };
                let client = gateway.client.clone();
                let body = json!({"message": message}).to_string();
                async move { client.post("/queues/q/messages", &body).await }
            });
            for (n, answer) in (0..).zip(sent.await) {
                if n == bad {
                    guard.refuses(answer);
                    continue;
                }
                let id = answer.expect(201).json()["msg_id"].as_i64().expect("an id");
                let stored =
                    gateway.get(&format!("/queues/q/messages/{id}")).await.expect(200).json();
                assert_eq!(stored["message"]["n"], n.to_string(), "{}", guard.sql);
            }
        }
        assert_eq!(gateway.ids("q_q").await.len(), before + 38);
    }
}

#[tokio::test]
async fn constraint_refuses_what_is_stored_all_or_nothing_as_a_whole() {
    for guard in GUARDS {
        let gateway = guard.start().await;
        let before = gateway.ids("q_q").await;
        let good = |n: i64| json!({"n": n.to_string()});
        let batch = json!({"messages": [
            {"message": good(1)}, {"message": guard.bad()}, {"message": good(2)}
        ]});
        guard.refuses(gateway.post("/queues/q/messages/batch", &batch.to_string()).await);
        guard.refuses(once(&gateway, "/queues/q/messages/batch", &batch).await);
        let operations = json!({"operations": [
            {"send": {"queue": "other", "message": 1}}, {"send": {"queue": "q", "message": good(1)}},
            {"send": {"queue": "q", "message": guard.bad()}}, {"send": {"queue": "q", "message": good(2)}}
        ]});
        let refused = guard.refuses(gateway.post("/transactions", &operations.to_string()).await);
        assert_eq!(refused.json()["index"], 2, "{}", refused.text);
        let refused = guard.refuses(once(&gateway, "/transactions", &operations).await);
        assert_eq!(refused.json()["index"], 2, "{}", refused.text);
        for queue in ["other", "q"] {
            let bind = r#"{"pattern":"t.*"}"#;
            gateway.post(&format!("/queues/{queue}/bindings"), bind).await.expect(201);
        }
        let topic = json!({"message": guard.bad()});
        let refused = guard.refuses(gateway.post("/topics/t.x/messages", &topic.to_string()).await);
        assert!(refused.detail().contains("`q`"), "{}", refused.text);
        guard.refuses(once(&gateway, "/topics/t.x/messages", &topic).await);
        assert_eq!(gateway.ids("q_q").await, before, "{}", guard.sql);
        assert!(gateway.ids("q_other").await.is_empty(), "{}", guard.sql);

        // The keys stand for nothing that was done: with them something else can be.
        for (path, body, status) in [
            ("/queues/q/messages/batch", json!({"messages": [{"message": good(3)}]}), 201),
            (
                "/transactions",
                json!({"operations": [{"send": {"queue": "q", "message": good(4)}}]}),
                200,
            ),
            ("/topics/t.x/messages", json!({"message": good(5)}), 201),
        ] {
            let first = once(&gateway, path, &body).await.expect(status);
            assert!(!first.headers.contains_key("idempotency-replayed"), "{path}");
            let again = once(&gateway, path, &body).await.expect(status);
            assert_eq!(again.header("idempotency-replayed"), "true", "{path}");
            assert_eq!(again.json(), first.json());
        }
    }
}

#[tokio::test]
async fn messages_that_are_refused_do_not_come_back_and_the_others_do() {
    for guard in GUARDS {
        let gateway = guard.start().await;
        let first = gateway.ids("q_q").await;
        for n in 0..4 {
            let message = if n == 1 { guard.bad() } else { json!({"n": n.to_string()}) };
            let body = json!({"message": message}).to_string();
            gateway.send("other", &body).await;
            gateway.send("other", &body).await;
        }
        for id in (2..=8).step_by(2) {
            gateway.post(&format!("/queues/other/messages/{id}/archive"), "").await.expect(204);
        }
        // Of the same message twice, a unique one refuses one at least.
        let replay = |from: i64| {
            let body = json!({"to": "q", "msg_ids": [from]}).to_string();
            let client = gateway.client.clone();
            async move { client.post("/queues/other/archive/replay", &body).await }
        };
        guard.refuses(replay(4).await);
        assert_eq!(gateway.ids("a_other").await, [2, 4, 6, 8], "{}", guard.sql);
        let all = gateway.post("/queues/other/archive/replay", r#"{"to":"q"}"#).await.expect(200);
        assert_eq!(all.json()["replayed"], 3, "{}", guard.sql);
        assert_eq!(gateway.ids("a_other").await, [4], "{}", guard.sql);
        let moved = gateway.post("/queues/other/redrive", r#"{"to":"q"}"#).await.expect(200).json();
        assert_eq!(moved["moved"], 3, "{}", guard.sql);
        guard.refuses(gateway.post("/queues/other/redrive", r#"{"to":"q"}"#).await);
        assert_eq!(gateway.ids("q_other").await, [3], "{}", guard.sql);
        assert_eq!(gateway.ids("q_q").await.len(), first.len() + 6, "{}", guard.sql);
    }
}

/// Of each two that are the same one is stored, whichever was first.
#[tokio::test]
async fn of_two_sends_that_exclude_each_other_one_is_stored() {
    let gateway = GUARDS[0].start().await;
    let sent = together(40, |n| {
        let client = gateway.client.clone();
        let body = json!({"message": {"order": n / 2}}).to_string();
        async move { client.post("/queues/q/messages", &body).await }
    });
    for pair in sent.await.chunks(2) {
        let mut statuses = [pair[0].status, pair[1].status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{} {}", pair[0].text, pair[1].text);
    }
    assert_eq!(gateway.ids("q_q").await.len(), 21);
}

/// A rejected send is as good as not sent: once what it met is gone, its key stores it.
#[tokio::test]
async fn key_of_a_refused_send_can_be_used_again() {
    let gateway = GUARDS[0].start().await;
    let body = json!({"message": {"order": "s3cr3t"}});
    let together = together(5, |_| {
        let (client, body) = (gateway.client.clone(), body.clone());
        async move { once(&client, "/queues/q/messages", &body).await }
    });
    for refused in together.await {
        GUARDS[0].refuses(refused);
    }
    gateway.delete("/queues/q/messages/1").await.expect(204);
    let sent = once(&gateway, "/queues/q/messages", &body).await.expect(201);
    let again = once(&gateway, "/queues/q/messages", &body).await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.json(), sent.json());
    assert_eq!(gateway.ids("q_q").await.len(), 1);
}

/// What is checked at the end of a transaction may be wrong in between.
#[tokio::test]
async fn transaction_may_replace_what_is_unique_at_its_end() {
    let gateway = GUARDS[1].start().await;
    let operations = json!({"operations": [
        {"send": {"queue": "q", "message": {"trace": "s3cr3t"}}}, {"delete": {"queue": "q", "msg_id": 1}}
    ]});
    let done = gateway.post("/transactions", &operations.to_string()).await.expect(200).json();
    assert_eq!(gateway.ids("q_q").await, [done["results"][0]["msg_id"].as_i64().expect("an id")]);
}

/// Dead letters that cannot be moved stay where they are, and good messages are delivered.
#[tokio::test]
async fn dead_letters_that_cannot_be_moved_block_nobody() {
    let gateway = TestGateway::start().await;
    gateway.put("/queues/dead", r#"{"fifo":true}"#).await.expect(201);
    let settings = r#"{"settings":{"max_receives":1,"dead_letter_queue":"dead"}}"#;
    gateway.put("/queues/q", settings).await.expect(201);
    // A group that the index cannot take, as it cannot be compressed.
    let group: String = (0..6000).map(|_| uuid::Uuid::now_v7().simple().to_string()).collect();
    // Over HTTP it is refused.
    let poison = json!({"x-pgmq-group": group});
    let sql = format!("SELECT pgmq.send('q', '\"poison\"', '{poison}'::jsonb)");
    gateway.database.execute(&sql).await;
    assert_eq!(gateway.receive("q", "vt=0").await.len(), 1);
    gateway.send("q", r#"{"message":"good"}"#).await;
    assert_eq!(gateway.receive("q", "").await[0]["message"], "good");
    let left = gateway.get("/queues/q/messages/1").await.expect(200).json();
    assert_eq!(left["message"], "poison");
}

/// What a column is computed by may fail as well, and is no trigger's doing.
#[tokio::test]
async fn what_fails_to_be_computed_is_not_laid_on_a_trigger_alone() {
    let computed = "ALTER TABLE pgmq.q_q ADD COLUMN size int
        GENERATED ALWAYS AS ((message->>'size')::int) STORED";
    let gateway = Guarded::start(computed).await;
    let answer = gateway.post("/queues/q/messages", r#"{"message":{"size":"s3cr3t"}}"#).await;
    let detail = answer.problem(422, "message_rejected").detail();
    assert!(detail.contains("what a column of it is computed by"), "{detail}");
    assert!(!detail.contains("s3cr3t"), "{detail}");
}

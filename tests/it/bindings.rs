//! Bindings of one's own are in nobody's way, and publications have a bound.

use std::time::Instant;

use serde_json::{Value, json};
use sqlx::Connection;

use super::auth::{ADMIN, key, with_admin};
use crate::support::{Answer, Browser, Client, TestGateway};

async fn bind(client: &Client, queue: &str, pattern: &str) -> Answer {
    let body = json!({"pattern": pattern}).to_string();
    client.post(&format!("/queues/{queue}/bindings"), &body).await
}

#[tokio::test]
async fn a_queue_has_so_many_bindings_and_no_more() {
    let gateway = TestGateway::with(|settings| settings.limits.max_bindings_per_queue = 3).await;
    gateway.create("q").await;
    gateway.create("other").await;
    for n in 0..3 {
        bind(&gateway, "q", &format!("a.{n}")).await.expect(201);
    }
    let refused = bind(&gateway, "q", "a.3").await.problem(400, "invalid_request").detail();
    assert!(refused.contains("3 bindings") && refused.contains("`q`"), "{refused}");
    // What is there is there, and other queues have their own.
    bind(&gateway, "q", "a.1").await.expect(200);
    bind(&gateway, "other", "a.3").await.expect(201);
    gateway.delete("/queues/q/bindings?pattern=a.0").await.expect(204);
    bind(&gateway, "q", "a.3").await.expect(201);
    bind(&gateway, "q", "a.4").await.problem(400, "invalid_request");
    let default = TestGateway::on(&gateway.database, |_| {}).await;
    for n in 3..100 {
        let status = bind(&default, "other", &format!("a.{n}")).await.status;
        assert!([200, 201].contains(&status), "{n}: {status}");
    }
    bind(&default, "other", "a.100").await.expect(201);
    bind(&default, "other", "a.101").await.expect(201);
    bind(&default, "other", "a.102").await.expect(201);
    bind(&default, "other", "a.103").await.problem(400, "invalid_request");
}

#[tokio::test]
async fn a_pattern_has_so_many_wildcards_and_no_more() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for pattern in ["*.*.*.*.*.*.*.*", "a.#.b.#.c.#.d.#.e.*.f.*.g.*.h.#"] {
        bind(&gateway, "q", pattern).await.expect(201);
    }
    for pattern in ["*.*.*.*.*.*.*.*.*", "#.a#.b#.c#.d#.e#.f#.g#.h#"] {
        let refused = bind(&gateway, "q", pattern).await.problem(400, "invalid_request");
        assert!(refused.detail().contains("at most 8 wildcards, not 9"), "{}", refused.detail());
    }
}

/// Leads to the same queues as PGMQ does, whatever the patterns.
#[tokio::test]
async fn a_routing_key_leads_where_pgmq_leads_it() {
    let gateway = TestGateway::start().await;
    let mut connection = gateway.database.connect().await;
    let made = "DO $$ BEGIN FOR n IN 0..299 LOOP
        INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) VALUES ('q' || n, false, false);
        EXECUTE format('CREATE TABLE pgmq.%I ()', 'q_q' || n);
    END LOOP; END $$";
    gateway.database.execute(made).await;
    // Of few words and characters, so that many match; PGMQ refuses some.
    let sql = "DO $$ DECLARE pattern text; BEGIN
        PERFORM setseed(0.5);
        FOR n IN 0..299 LOOP
            pattern := (SELECT string_agg((ARRAY['a','b','a_','-','aa','*','#','a*','#b','a','A','.','.'])
                                          [1 + floor(random() * 13)::integer], '')
                        FROM generate_series(1, 1 + (n % 7)));
            BEGIN
                PERFORM pgmq.bind_topic(pattern, 'q' || n);
            EXCEPTION WHEN raise_exception THEN
                PERFORM pgmq.bind_topic('x' || n || '.*', 'q' || n);
            END;
        END LOOP;
    END $$";
    gateway.database.execute(sql).await;
    let mut led = 0;
    for key in [
        "a",
        "b",
        "a_",
        "ab",
        "a.b",
        "a.a",
        "aa.b",
        "a.b.a",
        "ax",
        "A.b",
        "-",
        "a-.b_",
        "x3.y",
        "a.b.aa.b.a.a.b.a.aa.a.b.b.a.a.a_b.aa",
    ] {
        let both: (Vec<String>, Vec<String>) = sqlx::query_as(
            "SELECT ARRAY(SELECT queue FROM pgmq_gateway.route_within($1, NULL)), \
                    ARRAY(SELECT DISTINCT queue_name::text FROM pgmq.test_routing($1) ORDER BY 1)",
        )
        .bind(key)
        .fetch_one(&mut connection)
        .await
        .expect("both");
        assert_eq!(both.0, both.1, "{key}");
        led += both.0.len();
    }
    assert!(led > 50, "{led}");
    connection.close().await.expect("closed");
}

/// PGMQ compiles a regular expression for each binding there is, whoever's it is.
#[tokio::test]
async fn bindings_of_others_cost_next_to_nothing() {
    let gateway = TestGateway::start().await;
    gateway.create("mine").await;
    gateway.create("theirs").await;
    bind(&gateway, "mine", "pay.*").await.expect(201);
    let sql = "INSERT INTO pgmq.topic_bindings (pattern, queue_name) \
               SELECT form || n, 'theirs' FROM generate_series(1, 1000) n, \
                      unnest(ARRAY['x.*.', '*.x', 'pay.*.', '#.']) AS form";
    gateway.database.execute(sql).await;
    let mut connection = gateway.database.connect().await;
    let mut times = Vec::new();
    for route in ["pgmq.test_routing('pay.x')", "pgmq_gateway.route_within('pay.x', NULL)"] {
        let sql = format!("SELECT count(*) FROM {route}");
        let mut best = f64::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            let led: i64 = sqlx::query_scalar(&sql).fetch_one(&mut connection).await.expect("led");
            assert_eq!(led, 1);
            best = best.min(began.elapsed().as_secs_f64());
        }
        times.push(best);
    }
    assert!(times[1] * 4.0 < times[0], "{times:?}");
}

#[tokio::test]
async fn a_publication_stores_no_more_than_one_may() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("few", "a-key-for-a-few-queues", &["send:q0", "send:q1"])];
        settings.limits.max_publish_messages = 12;
        settings.limits.max_publish_bytes = 3_000;
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    for n in 0..4 {
        let queue = format!("q{n}");
        admin.create(&queue).await;
        bind(&admin, &queue, "t.#").await.expect(201);
    }
    let batch = |count: usize, bytes: usize| {
        json!({"messages": vec![json!({"message": "x".repeat(bytes)}); count]}).to_string()
    };
    let stored = async || {
        let mut stored = 0;
        for n in 0..4 {
            stored += admin.all(&format!("q{n}")).await.len();
        }
        stored
    };
    let path = "/topics/t.a/messages/batch";
    for (body, numbers) in
        [(batch(4, 1), ["16 messages", "12"]), (batch(2, 400), ["3216 bytes", "3000"])]
    {
        let refused = admin.post(path, &body).await.problem(413, "message_too_large").detail();
        assert!(numbers.iter().all(|number| refused.contains(number)), "{refused}");
    }
    let once = json!({"message": "x".repeat(800)}).to_string();
    admin.post("/topics/t.a/messages", &once).await.problem(413, "message_too_large");
    assert_eq!(stored().await, 0);
    assert_eq!(deliveries(&admin.post(path, &batch(3, 1)).await), 12);
    // What goes to the queues that one may send to counts.
    let few = gateway.with_key("a-key-for-a-few-queues");
    assert_eq!(deliveries(&few.post(path, &batch(6, 1)).await), 12);
    few.post(path, &batch(7, 1)).await.problem(413, "message_too_large");
    assert_eq!(stored().await, 24);
}

fn deliveries(answer: &Answer) -> usize {
    answer.clone().expect(201).json()["deliveries"].as_array().map_or(0, Vec::<Value>::len)
}

/// As many as SQL makes: a list has a bound, and says so; those of others are not even looked at.
#[tokio::test]
async fn lists_of_bindings_have_a_bound() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("few", "a-key-for-a-queue-of-few", &["send:few"])];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    let few = gateway.with_key("a-key-for-a-queue-of-few");
    for queue in ["few", "many"] {
        admin.create(queue).await;
    }
    bind(&admin, "few", "pay.#").await.expect(201);
    let sql = "INSERT INTO pgmq.topic_bindings (pattern, queue_name)
               SELECT 'a.' || n, 'many' FROM generate_series(1, 10001) n";
    gateway.database.execute(sql).await;
    for path in ["/bindings", "/queues/many/bindings"] {
        let refused = admin.get(path).await.problem(400, "invalid_request").detail();
        assert!(refused.contains("more than 10000 bindings"), "{refused}");
    }
    for (client, path) in [(&few, "/bindings"), (&admin, "/queues/few/bindings")] {
        let listed = client.get(path).await.expect(200).json();
        assert_eq!(listed["bindings"].as_array().map(Vec::len), Some(1), "{listed}");
    }
    let bound = bind(&admin, "many", "a.7").await.expect(200).json();
    assert_eq!((&bound["queue"], &bound["pattern"]), (&json!("many"), &json!("a.7")));
    let routed = few.get("/topics/a.7/queues").await.expect(200).json();
    assert_eq!(routed, json!({"queues": []}));

    let browser = Browser::logged_in(&gateway.base, ADMIN).await;
    let page = browser.get("/ui/topics").await.expect(200).text;
    assert!(page.contains("There are more bindings than the 10\u{202f}000"), "{page}");
    let rows = |page: &str| page.matches("<th scope=\"row\">").count();
    assert_eq!(rows(&page), 100);
    let table = browser.get("/ui/queues/many/table").await.expect(200).text;
    assert!(table.contains("There are more than these"), "{table}");
    let other = Browser::logged_in(&gateway.base, "a-key-for-a-queue-of-few").await;
    let page = other.get("/ui/topics").await.expect(200).text;
    assert!(rows(&page) == 1 && !page.contains("There are more"), "{page}");

    let fewer = "DELETE FROM pgmq.topic_bindings WHERE pattern IN ('a.1', 'a.2')";
    gateway.database.execute(fewer).await;
    let listed = admin.get("/bindings").await.expect(200).json();
    let bindings = listed["bindings"].as_array().expect("a list");
    assert_eq!(bindings.len(), 10_000);
    assert_eq!(bindings[9_999]["pattern"], "pay.#");
    let page = browser.get("/ui/topics?page=100").await.expect(200).text;
    assert!(page.contains("pay.#") && !page.contains("There are more"), "{page}");
}

/// PGMQ's own functions take it for a letter that no routing key has.
#[tokio::test]
async fn a_pattern_that_sql_wrote_with_a_backslash_fails_no_publication() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("odd").await;
    bind(&gateway, "q", "t.#").await.expect(201);
    gateway
        .database
        .execute(r"INSERT INTO pgmq.topic_bindings (pattern, queue_name) VALUES ('#\', 'odd'), ('t\', 'odd')")
        .await;
    for (path, count) in [("/topics/t.x/messages", 1), ("/topics/t/messages", 0)] {
        let answer = gateway.post(path, r#"{"message":1}"#).await;
        assert_eq!(deliveries(&answer), count, "{path}: {}", answer.text);
    }
    assert_eq!(gateway.get("/topics/t.x/queues").await.expect(200).json()["queues"], json!(["q"]));
}

/// What is answered is what the statement that bound it has said: another one may find it unbound by then.
#[tokio::test]
async fn who_binds_asks_for_no_list_of_bindings() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute("DROP FUNCTION pgmq_gateway.bindings(text, text, integer)").await;
    let first = bind(&gateway, "q", "t.#").await.expect(201).json();
    assert!(first["bound_at"].is_string(), "{first}");
    assert_eq!(bind(&gateway, "q", "t.#").await.expect(200).json(), first);
}

/// What a trigger keeps of a queue would be that of the next one of its name.
#[tokio::test]
async fn a_queue_whose_bindings_are_kept_is_not_dropped() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    bind(&gateway, "q", "a").await.expect(201);
    let keep = "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE DELETE ON pgmq.topic_bindings FOR EACH ROW EXECUTE FUNCTION public.keep()";
    gateway.database.execute(keep).await;
    gateway.delete("/queues/q").await.problem(403, "forbidden");
    gateway.get("/queues/q").await.expect(200);
    let published = gateway.post("/topics/a/messages", r#"{"message":1}"#).await.expect(201);
    assert_eq!(published.json()["deliveries"], json!([{"queue": "q", "msg_id": 1}]));
    gateway.database.execute("DROP TRIGGER keep ON pgmq.topic_bindings").await;
    gateway.delete("/queues/q").await.expect(204);
    gateway.create("q").await;
    let published = gateway.post("/topics/a/messages", r#"{"message":1}"#).await.expect(201);
    assert_eq!(published.json()["deliveries"], json!([]));
}

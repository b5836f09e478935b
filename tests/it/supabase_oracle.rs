//! Calls at random, answered by the gateway and by the functions of `pgmq_public` themselves, called as
//! PostgREST calls them.

use pgmq_gateway::config::ReadMode;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use sqlx::{PgConnection, postgres::PgDatabaseError};

use super::supabase::call;
use crate::support::TestGateway;

const FUNCTIONS: &str = include_str!("../supabase/pgmq_public.sql");
const CALLS: usize = 300;

/// The parameters of a function as PostgREST declares them, and whether it returns one value.
fn signature(function: &str) -> (&'static str, bool) {
    match function {
        "send" => ("queue_name text, message jsonb, sleep_seconds integer", false),
        "send_batch" => ("queue_name text, messages jsonb[], sleep_seconds integer", false),
        "read" => ("queue_name text, sleep_seconds integer, n integer", false),
        "pop" => ("queue_name text", false),
        _ => ("queue_name text, message_id bigint", true),
    }
}

/// What the function itself answers: JSON, or a SQLSTATE and a message.
async fn oracle(
    connection: &mut PgConnection,
    function: &str,
    arguments: &Value,
) -> Result<Value, (String, String)> {
    let (declared, is_scalar) = signature(function);
    let given = arguments.as_object().expect("an object");
    let parameters: Vec<&str> = declared
        .split(", ")
        .filter(|p| given.contains_key(p.split(' ').next().unwrap_or(p)))
        .collect();
    let passed = parameters.iter().map(|p| p.split(' ').next().unwrap_or(p));
    let passed: Vec<String> = passed.map(|name| format!("{name} := args.{name}")).collect();
    let all = if is_scalar {
        "(json_agg(t.v) -> 0)::text"
    } else {
        "coalesce(json_agg(t.v), '[]')::text"
    };
    let sql = format!(
        "WITH args AS (SELECT * FROM json_to_recordset(json_build_array($1::json)) AS _({})), \
         t AS (SELECT call AS v FROM args, LATERAL pgmq_public.{function}({}) call) \
         SELECT {all} FROM t",
        parameters.join(", "),
        passed.join(", ")
    );
    let answer = sqlx::query_scalar::<_, String>(&sql).bind(arguments.to_string());
    match answer.fetch_one(connection).await {
        Ok(text) => Ok(serde_json::from_str(&text).expect("JSON")),
        Err(error) => {
            let error = error.into_database_error().expect("one of the database");
            let error = error.downcast_ref::<PgDatabaseError>();
            Err((error.code().to_owned(), error.message().to_owned()))
        }
    }
}

/// Without what differs from one moment, or one queue, to another; that times are there is kept. PGMQ returns
/// the rows of a read in no order in particular.
fn alike(mut answer: Value, queue: &str) -> Value {
    for record in answer.as_array_mut().into_iter().flatten() {
        for time in ["enqueued_at", "last_read_at", "vt"] {
            if record[time].is_string() {
                record[time] = json!("a time");
            }
        }
    }
    if let Some(records) = answer.as_array_mut().filter(|rows| rows.iter().all(Value::is_object)) {
        records.sort_by_key(|record| record["msg_id"].as_i64());
    }
    let text = answer.to_string().replace(&format!("q_{queue}"), "q_queue");
    serde_json::from_str(&text).expect("JSON")
}

fn message(random: &mut StdRng) -> Value {
    let few = [
        json!(null),
        json!(1),
        json!(-0.5),
        json!("text \u{e9}\u{1f600}"),
        json!(true),
        json!({"a": {"b": [1, null, "c"]}, "z": 1}),
        json!({}),
        json!("nul \u{0}"),
    ];
    // What cannot be stored is rarer.
    let most = if random.random_bool(0.9) { few.len() - 1 } else { few.len() };
    few[..most].choose(random).expect("some").clone()
}

/// A function and its arguments, without the queue.
fn any_call(random: &mut StdRng) -> (&'static str, Value) {
    let sleep = *[0, 0, 1000, -5].choose(random).expect("some");
    let id = random.random_range(-1..40_i64);
    let id = if random.random_bool(0.5) { json!(id) } else { json!(id.to_string()) };
    match random.random_range(0..14) {
        0..3 => ("send", json!({"message": message(random)})),
        3 => ("send", json!({"message": message(random), "sleep_seconds": sleep})),
        4..6 => {
            let count = random.random_range(0..4);
            let messages: Vec<Value> = (0..count).map(|_| message(random)).collect();
            ("send_batch", json!({"messages": messages, "sleep_seconds": sleep}))
        }
        6..9 => ("read", json!({"sleep_seconds": sleep, "n": random.random_range(-1..5)})),
        9 => {
            let odd =
                [json!("x"), json!(1.5), json!(true), json!(99_999_999_999_i64), json!(" 7 ")];
            let n = odd.choose(random).expect("some").clone();
            ("read", json!({"sleep_seconds": "1000", "n": n}))
        }
        10 => ("pop", json!({})),
        11 => ("archive", json!({"message_id": id})),
        _ => ("delete", json!({"message_id": id})),
    }
}

#[tokio::test]
async fn calls_at_random_are_answered_as_by_the_functions_themselves() {
    // In the order of the ids, as PGMQ reads.
    let gateway = TestGateway::with(|settings| settings.engine.read = ReadMode::Pgmq).await;
    gateway.database.execute(FUNCTIONS).await;
    gateway.create("mine").await;
    gateway.create("theirs").await;
    let mut connection = gateway.database.connect().await;
    sqlx::query("SET timezone = 'UTC'").execute(&mut connection).await.expect("set");
    let seed = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(17);
    let mut random = StdRng::seed_from_u64(seed);
    let (mut errors, mut rows) = (0, 0);
    for number in 0..CALLS {
        let (function, arguments) = any_call(&mut random);
        let odd = *["", "", "", "", "", "", "", "", "", "gone", "a;b", "a'b"]
            .choose(&mut random)
            .expect("some");
        let named = |queue: &str| {
            let mut arguments = arguments.clone();
            arguments["queue_name"] = json!(if odd.is_empty() { queue } else { odd });
            arguments
        };
        let expected = oracle(&mut connection, function, &named("theirs")).await;
        let answer = call(&gateway, function, named("mine")).await;
        let at = format!("seed {seed}, call {number}: {function} {}", named("mine"));
        match expected {
            Ok(expected) => {
                assert_eq!(answer.status, 200, "{at}: {} in place of {expected}", answer.text);
                rows += expected.as_array().map_or(1, Vec::len);
                assert_eq!(alike(answer.json(), "mine"), alike(expected, "theirs"), "{at}");
            }
            Err((code, message)) => {
                let body = answer.json();
                let found = (body["code"].as_str(), body["message"].as_str());
                assert_eq!(found, (Some(&*code), Some(&*message)), "{at}");
                let status = if code == "42P01" { 404 } else { 400 };
                assert_eq!(answer.status, status, "{at}");
                errors += 1;
            }
        }
    }
    assert!(errors > CALLS / 20 && rows > CALLS / 2, "{errors} errors, {rows} rows");
}

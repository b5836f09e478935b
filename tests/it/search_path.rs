//! Who may create in a schema of the search path, as everybody may in `public` of a database that was made
//! before PostgreSQL 15, makes functions, operators and aggregates that fit better than PostgreSQL's own.
//! None of them runs as the gateway's role.

use std::fs;

use pgmq_gateway::{
    app::Database,
    config::{ReadMode, Secret, Settings, Strategy},
};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{Answer, TestDatabase, TestGateway, eventually, process::program};

/// Traps for whatever has arguments that PostgreSQL's own takes as something else: text, numbers of
/// relations, names, arrays. Each makes the role that laid it a superuser, if it can.
const TRAPS: &str = r"
    SET search_path = pg_catalog;
    CREATE FUNCTION public.spring() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE 'ALTER ROLE ROLE_NAME SUPERUSER'; RETURN true;
    END $$;
    -- format, with up to four arguments of each kind.
    DO $do$
    DECLARE
        kinds text[] := '{text,regclass,name,varchar,bigint}';
        list text;
        lists text[] := '{text}';
        longer text[];
    BEGIN
        FOR n IN 1..4 LOOP
            longer := '{}';
            FOREACH list IN ARRAY lists LOOP
                longer := longer || ARRAY(SELECT list || ',' || k FROM unnest(kinds) k);
            END LOOP;
            lists := longer;
            FOREACH list IN ARRAY lists LOOP
                EXECUTE 'CREATE FUNCTION public.format(' || list || ') RETURNS text LANGUAGE sql AS '
                        || quote_literal('SELECT public.spring()::text');
            END LOOP;
        END LOOP;
    END $do$;
    -- Functions that take what can be cast, or anything.
    DO $do$
    DECLARE
        trap text[];
    BEGIN
        FOREACH trap SLICE 1 IN ARRAY ARRAY[
            ['lower(varchar)', 'text', '''q_q'''], ['lower(name)', 'text', '''q_q'''],
            ['quote_ident(name)', 'text', '''x'''], ['quote_ident(varchar)', 'text', '''x'''],
            ['starts_with(varchar,text)', 'boolean', 'true'],
            ['starts_with(text,varchar)', 'boolean', 'true'],
            ['to_regclass(varchar)', 'regclass', 'NULL'], ['to_regclass(name)', 'regclass', 'NULL'],
            ['has_table_privilege(regclass,text)', 'boolean', 'true'],
            ['has_table_privilege(name,text)', 'boolean', 'true'],
            ['has_database_privilege(name,text)', 'boolean', 'true'],
            ['row_security_active(regclass)', 'boolean', 'false'],
            ['pg_stat_get_live_tuples(regclass)', 'bigint', '1'],
            ['cardinality(bigint[])', 'integer', '1'], ['cardinality(text[])', 'integer', '1'],
            ['cardinality(integer[])', 'integer', '1'], ['cardinality(jsonb[])', 'integer', '1'],
            ['unnest(bigint[])', 'SETOF bigint', '1'], ['unnest(text[])', 'SETOF text', '''q'''],
            ['unnest(jsonb[])', 'SETOF jsonb', '''1'''], ['unnest(integer[])', 'SETOF integer', '1'],
            ['unnest(timestamptz[])', 'SETOF timestamptz', 'now()'],
            ['array_fill(text,integer[])', 'text[]', '''{}'''],
            ['array_fill(integer,integer[])', 'integer[]', '''{}'''],
            ['array_positions(integer[],integer)', 'integer[]', '''{}'''],
            ['array_append(bigint[],bigint)', 'bigint[]', '''{}'''],
            ['jsonb_build_array(jsonb)', 'jsonb', '''[]'''],
            ['jsonb_build_object(text,text)', 'jsonb', '''{}'''],
            ['jsonb_build_object(text,bigint)', 'jsonb', '''{}'''],
            ['jsonb_build_object(text,bigint[])', 'jsonb', '''{}'''],
            ['jsonb_build_object(text,text,text,bigint)', 'jsonb', '''{}'''],
            ['concat(text,text)', 'text', '''x'''], ['make_interval(bigint)', 'interval', '''1 s'''],
            ['to_char(timestamp,varchar)', 'text', '''x'''], ['clock_timestamp(text)', 'text', '''x''']
        ] LOOP
            EXECUTE 'CREATE FUNCTION public.' || trap[1] || ' RETURNS ' || trap[2]
                    || ' LANGUAGE plpgsql AS ' || quote_literal('BEGIN PERFORM public.spring(); RETURN '
                    || CASE WHEN trap[2] LIKE 'SETOF%' THEN 'QUERY SELECT ' || trap[3] || '::'
                            || substr(trap[2], 7) ELSE trap[3] END || '; END');
        END LOOP;
        FOREACH trap SLICE 1 IN ARRAY ARRAY[
            ['=', 'varchar', 'text'], ['=', 'text', 'varchar'], ['=', 'varchar', 'varchar'],
            ['=', 'oid', 'regclass'], ['=', 'regclass', 'oid'], ['=', 'regclass', 'regclass'],
            ['<>', 'varchar', 'text'], ['<>', 'text', 'varchar'],
            ['>', 'varchar', 'text'], ['>', 'text', 'varchar'], ['=', 'bigint[]', 'bigint[]'],
            ['<>', 'bigint[]', 'bigint[]'], ['<>', 'text[]', 'text[]'], ['=', 'name', 'varchar'],
            ['~', 'varchar', 'text'], ['!~', 'name', 'name'], ['~', 'text', 'varchar'],
            ['=', 'text', 'regclass'], ['@>', 'jsonb', 'json']
        ] LOOP
            EXECUTE format('CREATE OR REPLACE FUNCTION public.operator_trap(%s,%s) RETURNS boolean LANGUAGE sql
                            AS ''SELECT public.spring()''', trap[2], trap[3]);
            EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.operator_trap, LEFTARG = %s,
                            RIGHTARG = %s)', trap[1], trap[2], trap[3]);
        END LOOP;
        FOREACH trap SLICE 1 IN ARRAY ARRAY[
            ['bigint[]', 'bigint'], ['bigint[]', 'bigint[]'], ['integer[]', 'integer'],
            ['integer[]', 'integer[]'], ['text', 'regclass'], ['text', 'bigint'], ['text', 'name'],
            ['text', 'varchar'], ['varchar', 'text'], ['text', 'regprocedure']
        ] LOOP
            EXECUTE format('CREATE FUNCTION public.join_trap(%1$s,%2$s) RETURNS %1$s LANGUAGE plpgsql
                            AS ''BEGIN PERFORM public.spring(); RETURN $1; END''', trap[1], trap[2]);
            EXECUTE format('CREATE OPERATOR public.|| (FUNCTION = public.join_trap, LEFTARG = %s,
                            RIGHTARG = %s)', trap[1], trap[2]);
        END LOOP;
        FOREACH trap SLICE 1 IN ARRAY ARRAY[['bigint'], ['integer'], ['text'], ['jsonb']] LOOP
            EXECUTE format('CREATE FUNCTION public.gather(%1$s[], %1$s) RETURNS %1$s[] LANGUAGE plpgsql
                            AS ''BEGIN PERFORM public.spring(); RETURN $1; END''', trap[1]);
            EXECUTE format('CREATE AGGREGATE public.array_agg(%1$s) (SFUNC = public.gather,
                            STYPE = %1$s[])', trap[1]);
        END LOOP;
    END $do$;
";

/// A database in which everybody may create in `public`, the traps laid by a role that may nothing else.
async fn with_traps() -> (TestDatabase, String) {
    let database = TestDatabase::new().await;
    let role = format!("trapper_{}", database.name);
    database
        .execute(&format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO PUBLIC"))
        .await;
    let mut connection = PgConnection::connect(&database.url_as(&role)).await.expect("connected");
    let traps = TRAPS.replace("ROLE_NAME", &role);
    connection.execute(&*traps).await.expect("traps laid");
    (database, role)
}

async fn assert_not_sprung(database: &TestDatabase, role: &str, what: &str) {
    let query = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'");
    assert!(!database.value::<bool>(&query).await, "{what} ran what others had made");
}

/// Does everything that there is to do.
async fn use_everything(gateway: &TestGateway) {
    let settings = json!({"fifo": true, "settings": {"max_receives": 2, "dead_letter_queue": "dlq",
                          "message_retention": 1000, "archive_retention": 1000}});
    gateway.create("dlq").await;
    let by_sql = "SET search_path = pg_catalog; SELECT pgmq.create('By SQL')";
    gateway.database.execute(by_sql).await;
    gateway.create("plain").await;
    gateway.create_with("q", &settings).await;
    gateway.put("/queues/q", &settings.to_string()).await.expect(200);
    gateway.put("/queues/unlogged", r#"{"kind":"unlogged"}"#).await.expect(201);
    gateway.configure("plain", json!({"notify": {"throttle_ms": 100}, "delay": 0})).await;
    for queue in ["q", "plain"] {
        let headers = json!({"x-pgmq-group": "a"});
        for n in 0..6 {
            let body = json!({"message": {"n": n}, "headers": headers}).to_string();
            let send = gateway.request("POST", &format!("/queues/{queue}/messages")).body(body);
            Answer::of(send.header("Idempotency-Key", format!("{queue}{n}"))).await.expect(201);
            gateway.send(queue, r#"{"message":{"n":1},"delay":0}"#).await;
        }
        gateway.send(queue, r#"{"message":{"n":1}}"#).await;
        for parameters in ["vt=0&qty=3", "vt=0&filter=%7B%22n%22%3A1%7D", "wait=1", "vt=0&qty=9"] {
            gateway.receive(queue, parameters).await;
        }
        for mode in ["grouped", "round_robin", "head"] {
            gateway.receive(queue, &format!("fifo={mode}&vt=0")).await;
        }
        gateway.all(queue).await;
        gateway.get(&format!("/queues/{queue}/metrics")).await.expect(200);
        let settle = json!({"delete": [{"msg_id": 1}], "archive": [{"msg_id": 2}],
                            "retry": [{"msg_id": 3}]});
        gateway.post(&format!("/queues/{queue}/messages/settle"), &settle.to_string()).await;
        for id in 4..8 {
            gateway.patch(&format!("/queues/{queue}/messages/{id}"), r#"{"vt":0}"#).await;
            gateway.post(&format!("/queues/{queue}/messages/{id}/archive"), "").await;
            gateway.delete(&format!("/queues/{queue}/messages/{id}")).await;
        }
        gateway.post(&format!("/queues/{queue}/messages/pop?qty=2"), "").await.expect(200);
        gateway.get(&format!("/queues/{queue}/archive?filter=%7B%22n%22%3A1%7D")).await.expect(200);
        for body in [r#"{"dry_run":true}"#, "{}"] {
            gateway.post(&format!("/queues/{queue}/archive/replay"), body).await.expect(200);
        }
    }
    gateway.post("/queues/dlq/redrive", "").await.expect(200);
    gateway.post("/queues/q/bindings", r#"{"pattern":"t.#"}"#).await.expect(201);
    gateway.get("/bindings").await.expect(200);
    gateway.get("/topics/t.x/queues").await.expect(200);
    gateway.post("/topics/t.x/messages", r#"{"message":1}"#).await.expect(201);
    let operations = json!({"operations": [{"send": {"queue": "q", "message": 1}},
                                           {"send": {"queue": "plain", "message": 1}}]});
    gateway.post("/transactions", &operations.to_string()).await.expect(200);
    gateway.delete("/queues/q/bindings?pattern=t.%23").await.expect(204);
    gateway.get("/queues?prefix=p&limit=1").await.expect(200);
    gateway.get("/queues/q").await.expect(200);
    for gone in [
        "/queues/gone",
        "/queues/gone/messages",
        "/queues/By%20SQL/messages",
        "/queues/by%20sql/messages",
    ] {
        gateway.get(gone).await;
    }
    gateway.post("/queues/plain/purge", "").await.expect(200);
    gateway.delete("/queues/plain").await.expect(204);
    gateway.get("/readyz").await.expect(200);
    eventually("the figures are looked at", async || {
        let metrics = gateway.get("/metrics").await.text;
        metrics.contains(r#"queue="q""#).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_stands_in_for_postgresqls_own() {
    let ways: [fn(&mut Settings); 4] = [
        |_| {},
        |settings| settings.engine.read = ReadMode::Pgmq,
        |settings| settings.long_poll.strategy = Strategy::ReadWithPoll,
        // Nothing is set for a session.
        |settings| {
            settings.database.transaction_pooler = true;
            settings.engine.read = ReadMode::Pgmq;
            settings.long_poll.strategy = Strategy::ReadWithPoll;
        },
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let (database, role) = with_traps().await;
        if number % 2 == 1 {
            let path = "ALTER DATABASE DATABASE_NAME SET search_path = pg_temp, public";
            database.execute(&path.replace("DATABASE_NAME", &database.name)).await;
        }
        let gateway = TestGateway::on(&database, way).await;
        use_everything(&gateway).await;
        assert_not_sprung(&database, &role, &format!("way {number}")).await;
    }
}

#[tokio::test]
async fn the_commands_are_not_caught_either() {
    let (database, role) = with_traps().await;
    let url = database.url();
    let run = |arguments: &[&str]| {
        let output = program(arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    run(&["migrate", "--grant-to", &role]);
    let key = run(&["keys", "create", "--name", "n", "--grant", "admin"]);
    let id = key.split('_').nth(1).expect("an id");
    run(&["keys", "list"]);
    run(&["keys", "rotate", id]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.with_key(&key).get("/queues").await.problem(401, "unauthenticated");
    run(&["keys", "revoke", id]);
    assert_not_sprung(&database, &role, "a command").await;

    // The installer, and an upgrade of everything.
    database.execute("DROP SCHEMA pgmq_gateway CASCADE; DROP SCHEMA pgmq CASCADE").await;
    run(&["migrate", "--grant-to", &role]);
    database.execute("UPDATE pgmq.__pgmq_migrations SET version = '1.11.0'").await;
    database.execute("DROP SCHEMA pgmq_gateway CASCADE").await;
    run(&["migrate", "--grant-to", &role]);
    assert_not_sprung(&database, &role, "the installer").await;
    drop(gateway);
}

/// What the gateway calls of its own pins the search path, for poolers that keep nothing of a session, and
/// what it calls of PostgreSQL's is named with its schema.
#[tokio::test]
async fn every_function_that_the_gateway_calls_is_the_one_that_is_meant() {
    // Everything in these is PostgreSQL's own for exactly such arguments.
    const EXACT: [&str; 2] = ["pgmq_gateway.seconds_until", "pgmq_gateway.as_text"];
    // Without arguments, or no function: of several arrays PostgreSQL takes its own.
    const PLAIN: [&str; 4] = ["now", "clock_timestamp", "coalesce", "unnest"];
    let database = TestDatabase::new().await;
    let pinned = "SELECT array_agg('pgmq_gateway.' || p.proname) FROM pg_proc p \
                  WHERE p.pronamespace = 'pgmq_gateway'::regnamespace \
                    AND p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp']";
    let pinned: Vec<String> = database.value(pinned).await;
    let mut called = 0;
    for file in fs::read_dir("src/store").expect("a directory") {
        let path = file.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source");
        let (source, _) = source.split_once("#[cfg(test)]").unwrap_or((&source, ""));
        let statements = source.split('"').skip(1).step_by(2);
        let is_sql =
            |text: &&str| ["SELECT ", "UPDATE ", "INSERT "].iter().any(|w| text.contains(w));
        for statement in statements.filter(is_sql) {
            // What is within is no call.
            let statement = statement.split('\'').step_by(2).collect::<Vec<_>>().join("''");
            for (place, _) in statement.match_indices('(') {
                let is_name =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c);
                let name = statement[..place].trim_end_matches(is_name).len();
                let name = &statement[name..place];
                let safe = name.is_empty()
                    || name.starts_with("pg_catalog.")
                    || PLAIN.contains(&name) && !statement[place..].starts_with("(grants")
                    || EXACT.contains(&name)
                    || pinned.iter().any(|pinned| pinned == name);
                assert!(safe, "{}: `{name}` may be another: {statement}", path.display());
                called += usize::from(name.starts_with("pgmq_gateway."));
            }
        }
    }
    assert!(called > 30, "{called}");
}

#[tokio::test]
async fn a_migration_is_not_led_astray_by_a_temporary_table() {
    let (database, role) = with_traps().await;
    let path = format!("ALTER DATABASE {} SET search_path = pg_temp, public", database.name);
    database.execute(&path).await;
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(database.url()));
    let opened = Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, Some(&role)).await.expect("migrated");
    assert_not_sprung(&database, &role, "a migration").await;
}

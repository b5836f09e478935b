//! Names of queues that are other ones to PostgreSQL than they look.

use pgmq_gateway::config::Secret;

use super::auth::{ADMIN, key, with_admin};
use crate::support::{Client, TestDatabase, gateway::try_start};

/// PGMQ folds names by the database's rules for letters, which are not Rust's: of the Turkish capital I
/// with a dot they make an i.
#[tokio::test]
async fn a_key_reaches_no_queue_whose_name_is_folded_to_the_one_it_has() {
    let server = TestDatabase::empty().await;
    for (locale, made, folded) in [
        ("C.UTF-8", "İSTANBUL", "istanbul"),
        ("C.UTF-8", "ISTANBUL", "istanbul"),
        ("C", "ISTANBUL", "istanbul"),
        ("C.UTF-8", "\u{212a}elvin", "kelvin"),
    ] {
        let name = format!("names_{}", rand::random::<u32>());
        let create = format!(
            "CREATE DATABASE {name} ENCODING 'UTF8' LC_COLLATE '{locale}' LC_CTYPE '{locale}' \
             TEMPLATE template0"
        );
        server.execute(&create).await;
        let url = server.url().replace(&format!("/{}?", server.name), &format!("/{name}?"));
        let gateway = try_start(&url, |settings| {
            with_admin(settings);
            let grants = [format!("admin:{folded}")];
            let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
            settings.auth.keys = vec![key("some", "the-key-of-somebody", &grants)];
            settings.database.url = Some(Secret::new(&url));
        })
        .await
        .expect("gateway started");
        let client = Client::new(&gateway.url());
        let (admin, some) = (client.with_key(ADMIN), client.with_key("the-key-of-somebody"));
        let mut connection =
            <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.expect("up");
        for sql in
            [format!("SELECT pgmq.create('{made}')"), format!("SELECT pgmq.send('{made}', '1')")]
        {
            sqlx::Executor::execute(&mut connection, &*sql).await.expect("done");
        }
        let table = format!("SELECT to_regclass('pgmq.q_{folded}') IS NOT NULL");
        let same: bool =
            sqlx::query_scalar(&table).fetch_one(&mut connection).await.expect("asked");
        assert!(same, "{made} is not {folded} in {locale}");
        // What is known of names is a moment old.
        let path = format!("/queues/{folded}");
        crate::support::eventually("it is not found", async || {
            let receive = some.get(&format!("{path}/messages?vt=0")).await;
            (receive.status == 404).then_some(())
        })
        .await;
        let sent = some.post(&format!("{path}/messages"), r#"{"message":2}"#).await;
        sent.problem(404, "queue_not_found");
        for gone in ["/peek", "/metrics", "/archive", "/messages/1", ""] {
            some.get(&format!("{path}{gone}")).await.problem(404, "queue_not_found");
        }
        for refused in ["/purge", "/messages/pop", "/redrive", "/archive/replay"] {
            some.post(&format!("{path}{refused}"), "").await.problem(404, "queue_not_found");
        }
        some.delete(&path).await.problem(404, "queue_not_found");
        some.put(&path, "").await.problem(409, "queue_conflict");
        // Its own name reaches it, for whom that is granted.
        let received = admin.receive(made, "vt=0").await;
        assert_eq!(received[0]["message"], 1, "{received:?}");
        some.get(&format!("/queues/{made}/messages")).await.problem(403, "forbidden");
    }
}

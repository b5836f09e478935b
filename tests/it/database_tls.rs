//! The way to PostgreSQL over TLS, with an authority that is known, and without.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use nix::unistd::{User, geteuid};

use crate::support::{
    certificates::Authority,
    gateway::try_start,
    postgres::{new_directory, start_on},
};

/// A key that PostgreSQL takes: its own, and nobody else's to read.
fn hand_over(key: &Path) {
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).expect("permissions");
    if geteuid().is_root() {
        let user = User::from_name("postgres").expect("passwd").expect("postgres");
        chown(key, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
    }
}

#[tokio::test]
async fn the_authority_of_the_database_is_verified() {
    let (directory, files) = (new_directory(), tempfile::tempdir().expect("a directory"));
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let authority = Authority::new();
    let (cert, key) = authority.server().write(files.path());
    hand_over(&key);
    let authorities = [("right.crt", &authority), ("wrong.crt", &Authority::new())];
    let [right, wrong] = authorities.map(|(name, authority)| {
        let path = files.path().join(name);
        fs::write(&path, authority.pem()).expect("written");
        path.display().to_string()
    });
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let settings = [
        ("ssl", "on"),
        ("ssl_cert_file", &*cert),
        ("ssl_key_file", &*key),
        ("listen_addresses", "127.0.0.1,127.0.0.2"),
    ];
    let server = start_on(Some(port), &directory, &settings).await;
    let password = fs::read_to_string(directory.join("password")).expect("a password");
    let url = |host: &str, parameters: &str| {
        format!("postgres://postgres:{password}@{host}:{port}/postgres?{parameters}")
    };
    let verify = |authority: &str| format!("sslmode=verify-full&sslrootcert={authority}");
    let start =
        |url: String| try_start(&url, |settings| settings.database.connect_timeout_seconds = 0);

    let gateway = start(url("127.0.0.1", &verify(&right))).await.expect("started");
    let client = crate::support::Client::new(&gateway.url());
    client.create("q").await;
    client.send("q", r#"{"message":1}"#).await;
    let plain = url("127.0.0.1", "sslmode=disable");
    let mut connection =
        <sqlx::PgConnection as sqlx::Connection>::connect(&plain).await.expect("connected");
    let ours = "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl \
                JOIN pg_stat_activity USING (pid) WHERE application_name = 'pgmq-gateway'";
    let (all, encrypted): (i64, i64) =
        sqlx::query_as(ours).fetch_one(&mut connection).await.expect("figures");
    assert!(all > 0 && all == encrypted, "{encrypted} of {all} connections are encrypted");
    gateway.shut_down().await;

    for (refused, says) in [
        (url("127.0.0.1", &verify(&wrong)), "sslrootcert in the database URL"),
        // Another name than those in the certificate.
        (url("127.0.0.2", &verify(&right)), "not valid for name"),
        (url("127.0.0.1", &verify("/no/such/file")), "sslrootcert, sslcert or sslkey"),
    ] {
        let error = start(refused).await.expect_err("refused").to_string();
        assert!(error.contains(says) && error.contains("cannot connect to"), "{error}");
        assert!(!error.contains(&password), "{error}");
    }
    server.stop().await;
}

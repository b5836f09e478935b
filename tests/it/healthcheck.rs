//! `healthcheck`, however the gateway listens.

use std::{net::TcpListener, process::Output};

use crate::support::{
    TestDatabase,
    certificates::Authority,
    eventually,
    process::{Program, program},
};

/// Runs a gateway with some settings and asks it about itself, before, meanwhile, and after.
async fn check(database: &TestDatabase, settings: &[(&str, &str)]) -> (Output, String) {
    let named: Vec<(String, String)> = settings
        .iter()
        .map(|(name, value)| (format!("PGMQ_GATEWAY__{name}"), (*value).to_owned()))
        .chain([("DATABASE_URL".to_owned(), database.url())])
        .collect();
    let environment: Vec<_> = named.iter().map(|(name, value)| (&**name, &**value)).collect();
    let ask = || program(&["healthcheck"], &environment).output().expect("the program runs");
    assert!(!ask().status.success(), "nobody is there yet");
    let mut gateway = Program::start(program(&[], &environment));
    eventually("it listens", async || gateway.log().contains("listening on").then_some(())).await;
    let output = ask();
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gateway.ended().await, "{}", gateway.log());
    assert!(!ask().status.success(), "nobody is there any more");
    (output, gateway.log())
}

fn free_port() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("an address").port().to_string()
}

#[track_caller]
fn healthy(output: &Output) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n");
    assert!(output.status.success());
}

#[tokio::test]
async fn over_a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("http.sock").display().to_string();
    let database = TestDatabase::new().await;
    let (output, log) = check(&database, &[("SERVER__UNIX_SOCKET", &path)]).await;
    healthy(&output);
    assert!(log.contains(&format!("listening on unix:{path}")), "{log}");
    assert!(!directory.path().join("http.sock").exists(), "it is removed");
}

#[tokio::test]
async fn over_tls_and_beside_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let (cert, key) = authority.server().write(directory.path());
    let client_ca = directory.path().join("clients.crt");
    std::fs::write(&client_ca, authority.pem()).expect("written");
    let [cert, key, client_ca] = [cert, key, client_ca].map(|path| path.display().to_string());
    let (port, operations) = (free_port(), free_port());
    let database = TestDatabase::new().await;
    let tls = [
        ("SERVER__PORT", &*port),
        ("TLS__CERT_FILE", &cert),
        ("TLS__KEY_FILE", &key),
        ("TLS__CLIENT_CA_FILE", &client_ca),
        ("SERVER__OPERATIONS_PORT", &operations),
    ];
    let (output, log) = check(&database, &tls[..3]).await;
    healthy(&output);
    assert!(log.contains(&format!("listening on https://127.0.0.1:{port}")), "{log}");

    let (output, _) = check(&database, &tls[..4]).await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("certificate") && said.contains("server.operations_port"), "{said}");

    let (output, log) = check(&database, &tls).await;
    healthy(&output);
    assert!(log.contains(&format!("http://127.0.0.1:{operations}")), "it says both: {log}");
}

#[tokio::test]
async fn at_the_operations_listener() {
    let (port, operations) = (free_port(), free_port());
    let database = TestDatabase::new().await;
    let settings = [
        ("SERVER__PORT", &*port),
        ("SERVER__OPERATIONS_PORT", &operations),
        ("LIMITS__MAX_CONNECTIONS", "1"),
    ];
    let (output, log) = check(&database, &settings).await;
    healthy(&output);
    for port in [&port, &operations] {
        assert!(log.contains(&format!("http://127.0.0.1:{port}")), "{log}");
    }
}

/// By the variable as a chart has it; the name that it asks by is not among them.
#[tokio::test]
async fn under_names_that_are_not_this_machines() {
    let port = free_port();
    let database = TestDatabase::new().await;
    for hosts in ["queue.example", r#"["queue.example", "[::1]"]"#, "['queue.example']"] {
        let settings = [("SERVER__PORT", &*port), ("HTTP__ALLOWED_HOSTS", hosts)];
        healthy(&check(&database, &settings).await.0);
    }
}

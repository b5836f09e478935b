//! Commands beside `serve`: looking before a start, examples, and what the command line says of settings.

use std::{fs, net::TcpListener, os::unix::net::UnixListener, path::Path, process::Command};

use crate::support::{
    TestDatabase, TestGateway,
    postgres::{new_directory, start_on},
    process::{Program, embedded_environment, program},
    proxies::free_port,
};

/// Whether a command succeeds, what it prints, and what it says beside that.
fn run(mut command: Command) -> (bool, String, String) {
    let output = command.output().expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn check_tells_what_a_start_would_find_and_changes_nothing() {
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgmq%'";
    let empty = TestDatabase::empty().await;
    let any_port = ("PGMQ_GATEWAY__SERVER__PORT", "0");
    let check = |url: &str, more: (&str, &str)| {
        run(program(&["check"], &[("DATABASE_URL", url), any_port, more]))
    };
    let (fine, said, errors) = check(&empty.url(), ("A", "b"));
    assert!(fine && said.contains("PGMQ is missing, and a start installs it"), "{said}{errors}");
    assert_eq!(empty.value::<i64>(schemas).await, 0, "it has installed something");
    let forbidden = ("PGMQ_GATEWAY__DATABASE__INSTALL_PGMQ", "false");
    let (fine, _, errors) = check(&empty.url(), forbidden);
    assert!(!fine && errors.contains("install_pgmq is false"), "{errors}");
    let (fine, _, errors) = check(&empty.url(), ("PGMQ_GATEWAY__SERVER__HOST", "0.0.0.0"));
    assert!(!fine && errors.contains("keys create"), "{errors}");

    let database = TestDatabase::new().await;
    let (fine, said, errors) = check(&database.url(), ("A", "b"));
    assert!(fine && said.contains("pgmq_gateway is up to date"), "{said}{errors}");
    let role = format!("{}_looker", database.name);
    database.execute(&format!("SELECT pgmq.create('q'); CREATE ROLE {role} LOGIN")).await;
    for (grant, missing) in [
        ("SELECT", "use schema pgmq"),
        (
            "USAGE ON SCHEMA pgmq, pgmq_gateway; GRANT SELECT ON ALL TABLES IN SCHEMA pgmq, pgmq_gateway",
            "use the tables of every queue",
        ),
    ] {
        if grant != "SELECT" {
            let sql = format!("GRANT {}", grant.replace(';', &format!(" TO {role};")));
            database.execute(&format!("{sql} TO {role}")).await;
        }
        let (fine, _, errors) = check(&database.url_as(&role), ("A", "b"));
        assert!(!fine && errors.contains(missing) && errors.contains("--grant-to"), "{errors}");
    }

    // A start will do, and some requests would be refused.
    let of_queues = format!("GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {role}");
    database.execute(&of_queues).await;
    let (fine, said, errors) = check(&database.url_as(&role), ("A", "b"));
    assert!(fine && !said.contains("sufficient"), "{said}{errors}");
    for missing in ["on table pgmq_gateway.idempotency_keys", "CREATE on schema pgmq", "--grant-to"]
    {
        assert!(said.contains(missing), "{missing}: {said}");
    }
    let granted = program(&["migrate", "--grant-to", &role], &[("DATABASE_URL", &*database.url())]);
    let (fine, _, errors) = run(granted);
    assert!(fine, "{errors}");
    let (fine, said, errors) = check(&database.url_as(&role), ("A", "b"));
    assert!(fine && said.contains("rights: sufficient"), "{said}{errors}");
}

#[tokio::test]
async fn check_makes_no_private_postgresql() {
    let directory = new_directory();
    let environment = embedded_environment(&directory);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let (fine, said, errors) = run(program(&["check"], &environment));
    assert!(fine && said.contains("is made by the first start"), "{said}{errors}");
    assert!(!directory.exists());
}

/// It is not started to look: where its keys decide, that is said.
#[tokio::test]
async fn check_tells_where_a_private_postgresql_has_no_key() {
    let directory = new_directory();
    let environment = embedded_environment(&directory);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let exposed = [&environment[..], &[("PGMQ_GATEWAY__SERVER__HOST", "0.0.0.0")]].concat();
    let (fine, _, errors) = run(program(&["migrate"], &environment));
    assert!(fine, "{errors}");
    let (fine, said, errors) = run(program(&["check"], &environment));
    assert!(fine && said.contains("keys: none is configured"), "{said}{errors}");
    assert!(!said.contains("refused"), "{said}");
    let (fine, said, errors) = run(program(&["check"], &exposed));
    assert!(
        fine && said.contains("it does not run; if there is none, a start is refused"),
        "{said}{errors}"
    );
    let (fine, _, errors) = run(program(&[], &exposed));
    assert!(!fine && errors.contains("keys create"), "{errors}");

    let mut gateway = Program::start(program(&[], &environment));
    gateway.client().await;
    let (fine, said, errors) = run(program(&["check"], &exposed));
    assert!(!fine && errors.contains("keys create"), "{said}{errors}");
    let create = ["keys", "create", "--name", "a", "--grant", "admin"];
    let (fine, _, errors) = run(program(&create, &environment));
    assert!(fine, "{errors}");
    let (fine, said, errors) = run(program(&["check"], &exposed));
    assert!(fine && !said.contains("refused"), "{said}{errors}");
}

/// A port that is in use may be so by the gateway to be replaced; it hides nothing else.
#[tokio::test]
async fn check_looks_at_everything_where_a_port_is_in_use() {
    let taken = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [port, other] =
        taken.each_ref().map(|taken| taken.local_addr().expect("an address").port().to_string());
    let freed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let free = freed.local_addr().expect("an address").port().to_string();
    drop(freed);
    let directory = new_directory();
    let environment = embedded_environment(&directory);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let check = |more: &[(&str, &str)]| {
        let mut command = program(&["check"], &environment);
        command.envs(
            more.iter().map(|(name, value)| (format!("PGMQ_GATEWAY__SERVER__{name}"), value)),
        );
        run(command)
    };
    let (fine, said, errors) = check(&[("PORT", &port), ("OPERATIONS_PORT", &other)]);
    assert!(fine, "{said}{errors}");
    for port in [&port, &other] {
        assert!(said.contains(&format!("127.0.0.1:{port} is in use: fine if")), "{said}");
    }
    for (more, named) in [
        // No address of this machine's.
        (
            &[("PORT", &*port), ("OPERATIONS_PORT", "1"), ("OPERATIONS_HOST", "192.0.2.1")][..],
            "192.0.2.1",
        ),
        (&[("PORT", &*port), ("HOST", "0.0.0.0")], "keys create"),
        // Nobody is to be replaced where one is in the way of the other.
        (&[("PORT", &*free), ("OPERATIONS_PORT", &*free)], "operations_port"),
    ] {
        let (fine, said, errors) = check(more);
        assert!(!fine && errors.contains(named), "{more:?}: {said}{errors}");
    }
    assert!(!directory.exists());
}

/// What a start would refuse after it has installed PGMQ, or could not do.
#[tokio::test]
async fn check_and_a_start_refuse_the_same() {
    let database = TestDatabase::empty().await;
    let url = database.url();
    let short = tempfile::NamedTempFile::new().expect("a file");
    fs::write(short.path(), "short").expect("written");
    let short = short.path().display().to_string();
    for (file, reason) in [("/no/such.key", "No such file"), (&short, "fewer than")] {
        let environment = [
            ("DATABASE_URL", &*url),
            ("PGMQ_GATEWAY__SERVER__PORT", "0"),
            ("PGMQ_GATEWAY__SQS__MASTER_KEY_FILE", file),
        ];
        for arguments in [&["check"][..], &[]] {
            let (fine, said, errors) = run(program(arguments, &environment));
            assert!(!fine && errors.contains("sqs.master_key_file"), "{said}{errors}");
            assert!(errors.contains(file) && errors.contains(reason), "{errors}");
        }
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgmq%'";
    assert_eq!(database.value::<i64>(schemas).await, 0, "it has installed something");

    let (directory, empty) = (new_directory(), tempfile::tempdir().expect("a directory"));
    let programs = empty.path().display().to_string();
    for arguments in [&["check"][..], &[]] {
        let mut command = program(arguments, &[]);
        command.envs(embedded_environment(&directory));
        command.env("PGMQ_GATEWAY__EMBEDDED__BIN_DIR", &programs);
        let (fine, said, errors) = run(command);
        assert!(!fine && errors.contains("no PostgreSQL is installed"), "{said}{errors}");
        assert!(!directory.exists(), "a private PostgreSQL was begun");
    }
}

#[tokio::test]
async fn check_leaves_a_socket_where_it_is() {
    let database = TestDatabase::new().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let named = path.display().to_string();
    let check_with = |more: &[(&str, &str)]| {
        let url = database.url();
        let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__UNIX_SOCKET", &named)];
        run(program(&["check"], &[&environment[..], more].concat()))
    };
    let check = || check_with(&[]);
    let (fine, said, errors) = check();
    assert!(fine && said.contains("listeners: free") && !path.exists(), "{said}{errors}");
    // What is looked at after it.
    let (fine, _, errors) = check_with(&[
        ("PGMQ_GATEWAY__JWT__JWKS", "https://127.0.0.1:1/keys"),
        ("PGMQ_GATEWAY__JWT__ISSUER", "i"),
        ("PGMQ_GATEWAY__JWT__AUDIENCE", "a"),
    ]);
    assert!(!fine && errors.contains("jwt.jwks") && !errors.contains("panic"), "{errors}");
    let listener = UnixListener::bind(&path).expect("bound");
    let (fine, said, errors) = check();
    assert!(fine && said.contains("is in use: fine if"), "{said}{errors}");
    drop(listener);
    let (fine, said, errors) = check();
    assert!(fine && said.contains("a start removes it") && path.exists(), "{said}{errors}");
    fs::remove_file(&path).expect("there");
    fs::write(&path, "precious").expect("written");
    let (fine, _, errors) = check();
    assert!(!fine && errors.contains("not a socket"), "{errors}");
}

/// What cannot be printed has not been told: the exit code and standard error say so.
#[tokio::test]
async fn what_cannot_be_printed_is_no_success() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let create = ["keys", "create", "--name", "a", "--grant", "admin"];
    let (_, key, _) = run(program(&create, &[("DATABASE_URL", &url)]));
    let id = key.split('_').nth(1).expect("an id");
    for (arguments, told) in [
        (&["openapi"][..], "cannot write to standard output"),
        (&["config"], "cannot write to standard output"),
        (&["config", "--example"], "cannot write to standard output"),
        (&["check", "--port", "0"], "cannot write to standard output"),
        (&["keys", "list"], "cannot write to standard output"),
        (&["migrate"], "schema pgmq_gateway is up to date, which could not be written"),
        (&["keys", "revoke", id], "is revoked, which could not be written"),
    ] {
        let mut command = program(arguments, &[("DATABASE_URL", &url)]);
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let output = command.stdout(full).output().expect("it ran");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
}

/// A password in the environment may have any characters, and the URL that goes with it has none.
#[tokio::test]
async fn the_composition_of_containers_takes_any_password() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compose = fs::read_to_string(root.join("docker-compose.yml")).expect("text");
    let value = |name: &str| {
        let mut lines = compose.lines().map(str::trim);
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("{name}"))
    };
    assert!(!value("DATABASE_URL").contains('$'), "{}", value("DATABASE_URL"));
    assert_eq!(value("PGPASSWORD"), value("POSTGRES_PASSWORD"));

    let port = free_port();
    let server = start_on(Some(port), &new_directory(), &[]).await;
    let password = "a@b/c:d#e%20f?g&h";
    let change = format!("ALTER ROLE postgres PASSWORD '{password}'");
    TestDatabase::at(server.url().expose()).execute(&change).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let check = |password: &str| {
        run(program(
            &["check", "--port", "0"],
            &[("DATABASE_URL", &*url), ("PGPASSWORD", password)],
        ))
    };
    let (fine, _, errors) = check(password);
    assert!(fine, "{errors}");
    let (fine, _, errors) = check("another");
    assert!(!fine && errors.contains("PGPASSWORD"), "{errors}");
    server.stop().await;
}

#[tokio::test]
async fn the_example_is_printed_and_can_be_used() {
    let (fine, example, _) = run(program(&["config", "--example"], &[]));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pgmq-gateway.example.toml");
    assert!(fine && example == fs::read_to_string(path).expect("there"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &example).expect("written");
    let path = file.path().display().to_string();
    let (fine, _, errors) = run(program(&["config", "--config", &path], &[]));
    assert!(fine, "{errors}");
}

/// As every other variable, it counts as unset where it is empty: a composition of containers sets it so.
#[tokio::test]
async fn the_file_is_named_by_a_variable_that_may_be_empty() {
    let name = "PGMQ_GATEWAY_CONFIG";
    let (fine, said, errors) = run(program(&["config"], &[(name, "")]));
    assert!(fine && said.contains("port = 8080"), "{said}{errors}");
    let unserved = [(name, ""), ("PGMQ_GATEWAY__SERVER__PORT", "1")];
    let output = program(&["healthcheck"], &unserved).output().expect("it ran");
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "[server]\nport = 9000\n").expect("written");
    let path = file.path().display().to_string();
    let (_, said, errors) = run(program(&["config"], &[(name, &path)]));
    assert!(said.contains("port = 9000") && said.contains(&path), "{said}{errors}");
    let (fine, _, errors) = run(program(&["config"], &[(name, "/no/such.toml")]));
    assert!(!fine && errors.contains("/no/such.toml"), "{errors}");
    let options = ["config", "--config", &path];
    let (fine, said, errors) = run(program(&options, &[(name, "/no/such.toml")]));
    assert!(fine && said.contains("port = 9000"), "{said}{errors}");
    let (_, help, _) = run(program(&["--help"], &[]));
    assert!(help.contains(name), "{help}");
}

#[tokio::test]
async fn options_win_over_the_environment_and_are_named() {
    let environment = [("PORT", "1"), ("PGMQ_GATEWAY__SERVER__HOST", "::1")];
    let options =
        ["config", "--port", "9000", "--host", "localhost", "--database-url", "postgres://h/d"];
    let (fine, said, errors) = run(program(&options, &environment));
    assert!(fine, "{errors}");
    for (setting, option) in [
        ("port = 9000", "--port"),
        ("host = \"127.0.0.1\"", "--host"),
        ("url = (hidden)", "--database-url"),
    ] {
        let line = said.lines().find(|line| line.contains(setting)).unwrap_or_default();
        assert!(line.contains(&format!("# option {option}")), "{setting}: {said}");
    }
    let (fine, _, errors) = run(program(&["config", "--port", "many"], &[]));
    assert!(!fine && errors.contains("`server.port` from option --port"), "{errors}");

    let database = TestDatabase::new().await;
    let mut gateway = Program::start(program(
        &["--port", "0", "--database-url", &database.url()],
        &environment[1..1],
    ));
    gateway.client().await.get("/livez").await.expect(200);
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gateway.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_known_to_all_gateways_when_its_command_ends() {
    let database = TestDatabase::new().await;
    let gateways =
        [TestGateway::on(&database, |_| {}).await, TestGateway::on(&database, |_| {}).await];
    let url = database.url();
    let keys = |arguments: &[&str]| {
        let arguments: Vec<&str> =
            std::iter::once("keys").chain(arguments.iter().copied()).collect();
        let (fine, said, errors) = run(program(&arguments, &[("DATABASE_URL", &url)]));
        assert!(fine && errors.contains("gateways look every 1000 ms"), "{errors}");
        said.trim().to_owned()
    };
    let key = keys(&["create", "--name", "shop", "--grant", "admin"]);
    for gateway in &gateways {
        gateway.with_key(&key).get("/queues").await.expect(200);
        gateway.get("/queues").await.problem(401, "unauthenticated");
    }
    keys(&["revoke", key.split('_').nth(1).expect("an id")]);
    for gateway in &gateways {
        gateway.with_key(&key).get("/queues").await.problem(401, "unauthenticated");
    }
}

//! What is taken from which source, and what is said of mistakes.

use std::io::Write;

use proptest::prelude::*;

use super::*;

fn sources(file: &str, environment: &[(&str, &str)]) -> (Sources, tempfile::NamedTempFile) {
    let mut toml = tempfile::Builder::new().suffix(".toml").tempfile().expect("temporary file");
    toml.write_all(file.as_bytes()).expect("written");
    let owned = |(name, value): &(&str, &str)| (name.into(), value.into());
    let sources = Sources {
        file: Some(toml.path().to_owned()),
        environment: environment.iter().map(owned).collect(),
        options: Vec::new(),
    };
    (sources, toml)
}

fn refusal(file: &str, environment: &[(&str, &str)]) -> String {
    let (sources, _file) = sources(file, environment);
    load(&sources).expect_err("must be refused").to_string()
}

#[test]
fn later_sources_win_and_are_named() {
    let (sources, file) = sources(
        "[server]\nport = 1000\nhost = \"::1\"\noperations_host = \"localhost\"\n[long_poll]\nmax_connections = 3\n",
        &[
            ("PORT", "2000"),
            ("PGMQ_GATEWAY__LONG_POLL__MAX_CONNECTIONS", "7"),
            ("DATABASE_URL", "postgres://u:secret@h/d"),
            ("UNRELATED", "x"),
        ],
    );
    let loaded = load(&sources).expect("valid");
    assert_eq!(loaded.settings.server.port, 2000);
    assert!(loaded.settings.server.operations_host.is_loopback());
    assert_eq!(loaded.settings.long_poll.max_connections, 7);
    let find = |key: &str| {
        let entry = loaded.effective.iter().find(|e| e.key == key);
        entry.map(|e| (e.value.clone(), e.source.clone())).expect("listed")
    };
    assert_eq!(find("server.port").1, "environment variable PORT");
    assert_eq!(find("server.host").1, file.path().display().to_string());
    assert_eq!(find("limits.max_message_bytes"), ("1048576".into(), "default".into()));
    assert_eq!(find("database.direct_url"), ("unset".into(), "default".into()));
    assert_eq!(find("database.url").0, "(hidden)");
    assert!(!format!("{loaded:?}").contains("secret"));
}

#[test]
fn what_would_break_a_line_does_not() {
    for (file, environment) in [
        ("\"a\\nb\" = 1\n", &[][..]),
        ("[server]\n\"\\u001b[31m\" = 1\n", &[]),
        ("[log]\nlevel = \"\"\"a\nb\"\"\"\n", &[]),
        ("[server]\nhost = \"a\\nb\"\n", &[]),
        ("", &[("PGMQ_GATEWAY__A\nB", "1")]),
        ("", &[("PGMQ_GATEWAY__LOG__FORMAT", "a\nb")]),
        ("", &[("DATABASE_URL_FILE", "/no\nwhere")]),
    ] {
        let line = refusal(file, environment);
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

fn one_line_at_most(loaded: Result<Loaded, ConfigError>) -> Result<(), TestCaseError> {
    if let Err(error) = loaded {
        let line = error.to_string();
        prop_assert!(!line.is_empty() && !line.contains(char::is_control), "{:?}", line);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused_in_one_line(
        text in "\\PC{0,60}|(\\[?(server|limits|log|x\"\ny|database)\\]?[.= \n]{0,3}(port|url|\"\\\\n\"|1e9|'|nan|\\{\\}|-1|1979-05-27)?[ \n]?){0,8}",
    ) {
        let (sources, _file) = sources(&text, &[]);
        one_line_at_most(load(&sources))?;
    }

    #[test]
    fn any_environment_is_read_or_refused_in_one_line(
        name in "(PGMQ_GATEWAY__)?(\\PC{0,20}|(SERVER|LIMITS|LOG|DATABASE)__(PORT|HOST|LEVEL|URL|MAX_BODY_BYTES)(_FILE)?)",
        value in any::<String>(),
    ) {
        let (sources, _file) = sources("", &[(&name, &value)]);
        one_line_at_most(load(&sources))?;
    }
}

#[test]
fn our_own_variable_wins_over_the_customary_one() {
    let (sources, _file) =
        sources("", &[("PGMQ_GATEWAY__SERVER__PORT", "1"), ("PORT", "2"), ("DATABASE_URL", "")]);
    let loaded = load(&sources).expect("valid");
    assert_eq!(loaded.settings.server.port, 1);
    assert_eq!(loaded.settings.database.url, None);
}

#[test]
fn a_mounted_secret_is_read() {
    let mut secret = tempfile::NamedTempFile::new().expect("temporary file");
    secret.write_all(b"postgres://u:p@h/d\n").expect("written");
    let path = secret.path().display().to_string();
    for name in ["DATABASE_URL_FILE", "PGMQ_GATEWAY__DATABASE__URL_FILE"] {
        let (sources, _file) = sources("", &[(name, &path)]);
        let url = load(&sources).expect("valid").settings.database.url.expect("set");
        assert_eq!(url.expose(), "postgres://u:p@h/d");
    }
    let missing = refusal("", &[("DATABASE_URL_FILE", "/nowhere/at/all")]);
    assert!(missing.contains("DATABASE_URL_FILE") && missing.contains("/nowhere/at/all"));
}

#[test]
fn mistakes_are_one_line_with_key_source_and_what_is_allowed() {
    for (file, environment, parts) in [
        ("[server]\nprot = 1\n", &[][..], &["`server.prot`", ".toml", "server.port"][..]),
        ("[sever]\nport = 1\n", &[], &["`sever.port`", ".toml", "database, embedded"]),
        ("port = 1\n", &[], &["`port`", ".toml"]),
        ("[server]\nport = \"abc\"\n", &[], &["`server.port`", ".toml", "an integer"]),
        ("[server]\nport = 70000\n", &[], &["`server.port`", "`70000` is not", "from 0 to 65535"]),
        ("[server\n", &[], &[".toml"]),
        ("", &[("PORT", "many")], &["`server.port`", "PORT", "an integer"]),
        (
            "",
            &[("PGMQ_GATEWAY__SERVER__HOST", "here")],
            &["`server.host`", "SERVER__HOST", "IP address", "0.0.0.0"],
        ),
        ("", &[("PGMQ_GATEWAY__AUTH__MODE", "on")], &["`auth.mode`", "required was probably"]),
        ("[auth]\nmode = false\n", &[], &["`auth.mode`", "none was probably meant"]),
        ("", &[("PGMQ_GATEWAY__NO__SUCH", "1")], &["`no.such`", "PGMQ_GATEWAY__NO__SUCH"]),
        ("", &[("PGMQ_GATEWAY__LOG__FORMAT", "xml")], &["`log.format`", "text", "json"]),
        ("", &[("PGMQ_GATEWAY__LOG__LEVEL", "inof")], &["`log.level`", "inof", "debug"]),
        ("", &[("PGMQ_GATEWAY__LOG__LEVEL", ",")], &["`log.level`", "debug"]),
        ("", &[("PGMQ_GATEWAY__LOG__LEVEL", "info,,a=debug")], &["`log.level`", "debug"]),
        (
            "[[auth.keys]]\nname = \"k\"\nkey = \"0123456789abcdef\"\ngrants = []\n\
             expires_at = \"tomorrow\"\n",
            &[],
            &["`auth.keys[0].expires_at`", "RFC 3339", "T12:00:00Z"],
        ),
        (
            "[[auth.keys]]\nname = \"k\"\nkey = \"0123456789abcdef\"\ngrants = \"send:x\"\n",
            &[],
            &["`auth.keys[0].grants`", "expected a list", "orders*"],
        ),
        (
            "[[auth.keys]]\nname = \"kay\"\nkey = \"0123456789abcdef\"\ngrants = []\n\
             requests_per_second = 0\n",
            &[],
            &["`auth.keys`", "`requests_per_second` of `kay`", "1 to 1000000"],
        ),
        (
            "[[auth.keys]]\nname = \"kay\"\nkey = \" 0123456789abcdef\"\ngrants = []\n",
            &[],
            &["`auth.keys`", "`kay`", "spaces at its ends"],
        ),
        ("[log]\nrequests = \"0%\"\n", &[], &["`log.requests`", "0%", "errors", "1%"]),
        (
            "[server]\nkeep_alive_timeout_seconds = 0\n",
            &[],
            &["`server.keep_alive_timeout_seconds`", "1 to 3600"],
        ),
        ("", &[("PGMQ_GATEWAY__EMBEDDED__PORT", "0")], &["`embedded.port`", "1 to 65535"]),
        (
            "[server]\nunix_socket_mode = \"0888\"\n",
            &[],
            &["`server.unix_socket_mode`", ".toml", "octal", "0777"],
        ),
        ("[server]\nunix_socket_mode = \"+660\"\n", &[], &["`server.unix_socket_mode`", "octal"]),
        ("[tls]\ncert_file = \"c\"\n", &[], &["`tls.cert_file`", ".toml", "tls.key_file"]),
        ("", &[("PGMQ_GATEWAY__TLS__KEY_FILE", "k")], &["`tls.key_file`", "tls.cert_file"]),
        ("[tls]\nclient_ca_file = \"a\"\n", &[], &["`tls.client_ca_file`", "tls.cert_file"]),
        ("[limits]\nmax_connections = 0\n", &[], &["`limits.max_connections`", "1 to 1000000"]),
        (
            "[limits]\nmax_header_bytes = 100\n",
            &[],
            &["`limits.max_header_bytes`", "8192 to 1048576"],
        ),
        (
            "[database]\nmax_connections = 0\n",
            &[],
            &["`database.max_connections`", ".toml", "1 to 1000"],
        ),
    ] {
        let line = refusal(file, environment);
        for part in parts {
            assert!(line.contains(part), "{line:?} lacks {part:?}");
        }
        assert_eq!(line.lines().count(), 1, "{line:?}");
    }
}

#[test]
fn a_wrong_url_is_refused_without_showing_it() {
    for wrong in ["mysql://u:hunter2@h/d", "hunter2", "postgres//hunter2"] {
        let line = refusal("", &[("DATABASE_URL", wrong)]);
        assert!(line.contains("database.url") && line.contains("postgres://user"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

/// A list of keys comes in JSON, as programs write it, or in TOML, as the file has it.
#[test]
fn keys_are_taken_from_a_variable() {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    let json = r#" [{"name":"a","key":"hunter2hunter2hunter2","grants":["send:q*","manage"]}] "#;
    file.write_all(json.as_bytes()).expect("written");
    let path = file.path().display().to_string();
    let toml = r#"[{name = "a", key = "hunter2hunter2hunter2", grants = ["send:q*", "manage"]}]"#;
    let name = "PGMQ_GATEWAY__AUTH__KEYS";
    for (name, value) in [(name, json), (name, toml), (&*format!("{name}_FILE"), &path)] {
        let (sources, _file) = sources("[auth]\nmode = \"required\"\n", &[(name, value)]);
        let loaded = load(&sources).expect("valid");
        let key = &loaded.settings.auth.keys[0];
        assert_eq!((&*key.name, key.grants.len()), ("a", 2));
        let secret = key.key.as_ref().expect("set");
        assert_eq!(secret.expose(), "hunter2hunter2hunter2");
        let shown = loaded.effective.iter().find(|e| e.key == "auth.keys").expect("listed");
        assert_eq!(shown.source, format!("environment variable {name}"));
        assert!(!format!("{loaded:?}").contains("hunter2"), "{shown:?}");
    }
}

#[test]
fn neither_a_key_nor_its_hash_is_shown() {
    let hash = "54922fe5f24af6617e9ba8e5331d9d670af9530e50e10045bc83251db7d800be";
    let keys = format!(r#"[{{"name":"a","sha256":"{hash}","grants":["send"]}}]"#);
    let (sources, _file) = sources("", &[("PGMQ_GATEWAY__AUTH__KEYS", &keys)]);
    let loaded = load(&sources).expect("valid");
    assert_eq!(loaded.settings.auth.keys[0].sha256.as_deref(), Some(hash));
    let shown = loaded.effective.iter().find(|e| e.key == "auth.keys").expect("listed");
    assert!(shown.value.contains(r#"sha256 = "(hidden)""#), "{shown:?}");
    assert!(!shown.value.contains(hash), "{shown:?}");
}

#[test]
fn a_secret_is_not_shown_where_it_is_refused() {
    let keys = "PGMQ_GATEWAY__AUTH__KEYS";
    for (file, environment) in [
        ("", &[(keys, r#"[{name="x",key="hunter2"}"#)][..]),
        ("", &[(keys, r#"[{name="x",key="hunter2hunter2hunter2"}]"#)]),
        ("", &[(keys, r#"[{"name":"x","key":["hunter2"],"grants":["send"]}]"#)]),
        ("", &[(keys, r#"["hunter2"]"#)]),
        ("", &[(keys, "hunter2")]),
        ("", &[(keys, "[]\nmore = 'hunter2'")]),
        ("[auth]\nkeys = \"hunter2\"\n", &[]),
        ("[[auth.keys]]\nname = 'x'\nkey = 'hunter2'\ngrants = ['send']\n", &[]),
        ("[auth]\nadmin_key = ['hunter2']\n", &[]),
        ("[auth]\nadmin_key = \"hunter2\n", &[]),
        ("[receipts]\nsigning_key = { a = hunter2 }\n", &[]),
    ] {
        let line = refusal(file, environment);
        assert!(!line.contains("hunter2"), "{line}");
        let place = if environment.is_empty() { ".toml" } else { keys };
        assert!(line.contains(place), "{line}");
    }
    let line = refusal("", &[(keys, r#"[{"name":"x","key_file":"/k","grants":["fly"]}]"#)]);
    assert!(line.contains("auth.keys[0].grants") && line.contains("the rights are"), "{line}");
}

/// The example file: every setting once, commented out, with its default.
#[test]
fn the_example_file_is_complete() {
    let example = include_str!("../../pgmq-gateway.example.toml");
    let uncommented: String = example
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .collect();
    let (sources, _file) = sources(&uncommented, &[]);
    let loaded = load(&sources).expect("the example must be valid");
    let defaults = load(&Sources::default()).expect("defaults are valid");
    let unset = |key: &str| defaults.effective.iter().any(|e| e.key == key && e.value == "unset");
    for (example, default) in loaded.effective.iter().zip(&defaults.effective) {
        assert_ne!(example.source, "default", "`{}` is missing", example.key);
        if !unset(&example.key) {
            assert_eq!(example.value, default.value, "default of `{}`", example.key);
        }
    }
}

#[test]
fn names_of_keys_are_all_different() {
    let key = |name: &str| {
        format!(
            "[[auth.keys]]\nname = '{name}'\nkey = 'hunter2hunter2-{name}'\ngrants = ['send']\n"
        )
    };
    let two = key("shop") + &key("stall") + &key("shop");
    let line = refusal(&two, &[]);
    assert!(line.contains("`auth.keys`") && line.contains("`shop` is the name of two"), "{line}");
    let line = refusal(&key("admin_key"), &[("PGMQ_GATEWAY__AUTH__ADMIN_KEY", &"x".repeat(16))]);
    assert!(line.contains("`admin_key` is the name of two"), "{line}");
    let (sources, _file) = sources(&(key("shop") + &key("Shop") + &key("admin_key")), &[]);
    load(&sources).expect("three names");
}

#[cfg(unix)]
#[test]
fn one_of_our_variables_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let odd = |text: &str| std::ffi::OsString::from_vec([text.as_bytes(), b"\xff"].concat());
    let refused = |name: std::ffi::OsString, value| {
        load(&Sources { file: None, environment: vec![(name, value)], ..Sources::default() }).err()
    };
    for name in [
        "DATABASE_URL",
        "DATABASE_URL_FILE",
        "PORT",
        "PGMQ_GATEWAY__DATABASE__URL",
        "PGMQ_GATEWAY__SERVER__PORT",
        "PGMQ_GATEWAY__AUTH__ADMIN_KEY_FILE",
        "PGHOST",
        "PGPASSWORD",
    ] {
        let error = refused(name.into(), odd("postgres://hunter2@h/d")).expect(name).to_string();
        assert!(error.contains(name) && error.contains("not UTF-8"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = refused(odd("PGMQ_GATEWAY__SERVER__PORT"), "1".into()).expect("no such setting");
    assert!(error.to_string().contains("unknown setting"), "{error}");
    assert!(refused("UNRELATED".into(), odd("x")).is_none());
    assert!(refused(odd("UNRELATED"), "x".into()).is_none());
    assert!(refused("PGMQ_GATEWAY__SERVER__PORT".into(), "".into()).is_none());
}

#[test]
fn variables_that_are_almost_settings_are_warned_of() {
    let warnings = |name: &str, value: &str| {
        let (sources, _file) = sources("", &[(name, value)]);
        load(&sources).expect("valid").warnings
    };
    let port = "PGMQ_GATEWAY__SERVER__PORT was probably meant";
    for (name, meant) in [
        ("PGMQ_GATEWAY_SERVER_PORT", port),
        ("PGMQ_GATEWAY_SERVER__PORT", port),
        ("pgmq_gateway__server__port", port),
        ("Pgmq_Gateway_Server_Port", port),
        ("PGMQGATEWAY__SERVER__PORT", port),
        ("PGMQ-GATEWAY__SERVER__PORT", port),
        ("PGMQ_GATWAY__SERVER__PORT", port),
        ("PQMQ_GATEWAY__SERVER__PORT", port),
        ("PGMQ_GATEWAY_SERVER_PROT", port),
        ("PGMQ_GATEWAY_DATABASE_URL", "PGMQ_GATEWAY__DATABASE__URL was"),
        ("PGMQ_GATEWAY_DATABASE_URL_FILE", "PGMQ_GATEWAY__DATABASE__URL_FILE was"),
        ("PGMQ_GATEWAY_AUTH_ADMIN_KEY", "PGMQ_GATEWAY__AUTH__ADMIN_KEY was"),
        ("PGMQ_GATEWAY_ADMIN_KEY", "PGMQ_GATEWAY__AUTH__ADMIN_KEY was"),
        ("PGMQ_GATEWAY_PORT", "PGMQ_GATEWAY__SERVER__PORT"),
        ("PGMQ_GATEWAY_CONFIGS", "PGMQ_GATEWAY_CONFIG was"),
        ("pgmq_gateway_config", "PGMQ_GATEWAY_CONFIG was"),
        ("PGMQ_GATEWAY_SOMETHING", "those of settings are as PGMQ_GATEWAY__SERVER__PORT"),
        ("database_url", "DATABASE_URL was"),
    ] {
        let warnings = warnings(name, "9000");
        let [warning] = &*warnings else { panic!("{name}: {warnings:?}") };
        assert!(warning.contains(&format!("variable {name} ")), "{warning}");
        assert!(warning.contains(meant), "{warning}");
        assert!(!warning.contains("9000"), "{warning}");
    }
    for (name, value) in [
        ("PGMQ_GATEWAY_SERVER_PORT", ""),
        ("PGMQ_GATEWAY__SERVER__PORT", "9000"),
        ("PGMQ_GATEWAY_CONFIG", "/etc/pgmq-gateway.toml"),
        ("UNRELATED", "9000"),
        ("API_GATEWAY_URL", "http://h"),
        // In every pod beside a service of this name.
        ("PGMQ_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("PGMQ_GATEWAY_SERVICE_PORT", "8080"),
        ("PGMQ_GATEWAY_SERVICE_PORT_HTTP", "8080"),
        ("PGMQ_GATEWAY_PORT", "tcp://10.0.0.1:8080"),
        ("PGMQ_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("PGMQ_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ] {
        let warnings = warnings(name, value);
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    let line = refusal("", &[("PGMQ_GATEWAY__SERVER_PORT", "1")]);
    assert!(line.contains("unknown setting") && line.contains(port), "{line}");
}

#[test]
fn lists_of_names_are_read_however_they_are_written() {
    let hosts = "PGMQ_GATEWAY__HTTP__ALLOWED_HOSTS";
    for (text, names) in [
        ("a.example, b.example", &["a.example", "b.example"][..]),
        (r#"["a.example","b.example"]"#, &["a.example", "b.example"]),
        (r#" [ "a.example" ] "#, &["a.example"]),
        ("['a.example', 'b.example']", &["a.example", "b.example"]),
        ("[::1],a.example", &["[::1]", "a.example"]),
        ("[::1]", &["[::1]"]),
        (r#"["[::1]"]"#, &["[::1]"]),
        ("[]", &[]),
        ("*", &["*"]),
    ] {
        let (sources, _file) = sources("", &[(hosts, text)]);
        let loaded = load(&sources).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(loaded.settings.http.allowed_hosts, names, "{text}");
    }
    let origins = "PGMQ_GATEWAY__HTTP__CORS_ORIGINS";
    let (sources, _file) =
        sources("", &[(origins, r#"["https://a.example","https://b.example"]"#)]);
    let loaded = load(&sources).expect("valid");
    assert_eq!(loaded.settings.http.cors_origins, ["https://a.example", "https://b.example"]);
    for wrong in ["ftp://x y", "https://u@h?q#f", "https://a.example,null"] {
        let line = refusal("", &[(origins, wrong)]);
        assert!(line.contains("`http.cors_origins`") && line.contains("https://app"), "{line}");
    }
    for wrong in
        ["[a.example]", r#"["a.example""#, "[1::x]", "a.example:8080", "http://a.example", "a b"]
    {
        let line = refusal("", &[(hosts, wrong)]);
        assert!(line.contains("`http.allowed_hosts`") && line.contains("without a port"), "{line}");
    }
    for wrong in ["queue-api", "/queue-api/", "//a", "/a b", "/a?b", "https://a.example"] {
        let line = refusal("", &[("PGMQ_GATEWAY__HTTP__PATH_PREFIX", wrong)]);
        assert!(line.contains("`http.path_prefix`") && line.contains("/queue-api"), "{line}");
    }
}

//! Variables that are about the same setting.

use std::io::Write;

use super::DRIVER;
use crate::config::{LogFormat, Sources, load, log_format};

fn sources(environment: &[(&str, &str)]) -> Sources {
    let owned = |(name, value): &(&str, &str)| (name.into(), value.into());
    Sources { environment: environment.iter().map(owned).collect(), ..Sources::default() }
}

fn file(content: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(content.as_bytes()).expect("written");
    let path = file.path().display().to_string();
    (file, path)
}

#[test]
fn two_variables_that_contradict_each_other_are_both_named() {
    let (_file, path) = file("hunter2-in-a-long-file\n");
    let (key, key_file) = ("PGMQ_GATEWAY__AUTH__ADMIN_KEY", "PGMQ_GATEWAY__AUTH__ADMIN_KEY_FILE");
    for (one, two) in [
        ((key, "hunter2-in-a-variable"), (key_file, &*path)),
        ((key, "hunter2-in-a-variable"), ("PGMQ_GATEWAY__auth__admin_key", "hunter2-in-another")),
        (("PGMQ_GATEWAY__auth__ADMIN_KEY_file", &*path), (key, "hunter2-in-a-variable")),
        (("DATABASE_URL", "postgres://hunter2@h/d"), ("DATABASE_URL_FILE", &*path)),
        (("PGMQ_GATEWAY__SERVER__PORT", "1"), ("PGMQ_GATEWAY__server__port", "2")),
    ] {
        let lines = [[one, two], [two, one]]
            .map(|both| load(&sources(&both)).expect_err(one.0).to_string());
        let line = &lines[0];
        assert_eq!(line, &lines[1], "their order makes no difference");
        for (name, _) in [one, two] {
            assert!(line.contains(&format!("variable {name} ")), "{line}");
        }
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn two_variables_that_agree_are_one() {
    let (_file, path) = file("postgres://u:p@h/d\n");
    let url = ("DATABASE_URL", "postgres://u:p@h/d");
    for other in [("DATABASE_URL_FILE", &*path), ("DATABASE_URL_FILE", "")] {
        load(&sources(&[url, other])).expect("valid");
    }
    // What is ours wins over what is customary, so these two leave nothing open.
    let ours = ("PGMQ_GATEWAY__DATABASE__URL", "postgres://other/d");
    let loaded = load(&sources(&[ours, url])).expect("valid");
    assert_eq!(loaded.settings.database.url.expect("set").expose(), ours.1);
}

/// For the last line of a start that is refused.
#[test]
fn the_form_of_the_log_is_known_however_its_variable_is_written() {
    let (_file, path) = file("json\n");
    for (variable, format) in [
        (("PGMQ_GATEWAY__LOG__FORMAT", "json"), LogFormat::Json),
        (("PGMQ_GATEWAY__log__format", "json"), LogFormat::Json),
        (("PGMQ_GATEWAY__LOG__FORMAT_FILE", &*path), LogFormat::Json),
        (("PGMQ_GATEWAY__LOG__FORMAT_FILE", "/nowhere"), LogFormat::Text),
        (("PGMQ_GATEWAY__LOG__FORMAT", "xml"), LogFormat::Text),
        (("PGMQ_GATEWAY__LOG__FORMAT", ""), LogFormat::Text),
    ] {
        assert_eq!(log_format(&sources(&[variable])), format, "{variable:?}");
        // Where they contradict each other, programs may be reading.
        let other = ("PGMQ_GATEWAY__log__FORMAT", "text");
        assert_eq!(log_format(&sources(&[other, variable])), format, "{variable:?}");
    }
}

/// They are the driver's affair, and whoever sets them must know that they count.
#[test]
fn the_variables_of_the_driver_stand_in_the_documents() {
    let page = include_str!("../../docs/database.md");
    for name in DRIVER {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

//! `pg_dump` and `psql`, as a person uses them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::postgres;

/// What `pg_dump` writes with these arguments.
pub fn dump(url: &str, arguments: &[&str]) -> Vec<u8> {
    let dumped = Command::new(program("pg_dump")).args(arguments).arg(url).output();
    let dumped = dumped.expect("pg_dump runs");
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    dumped.stdout
}

/// Loads a dump, past what fails, and returns what was said of that.
pub fn load(url: &str, dump: &[u8]) -> String {
    let mut psql = Command::new(program("psql"));
    psql.args(["-X", "-q", url]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut psql = psql.spawn().expect("psql runs");
    let mut stdin = psql.stdin.take().expect("piped");
    let dump = dump.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(&dump).expect("written"));
    let loaded = psql.wait_with_output().expect("psql ends");
    writing.join().expect("written");
    String::from_utf8_lossy(&loaded.stderr).into_owned()
}

/// Runs SQL that may have bytes in it which are no UTF-8, in a session that says nothing about encodings.
pub fn run_bytes(url: &str, sql: &[u8]) {
    let sql = [b"SET client_encoding = 'SQL_ASCII'; SET client_min_messages = error;\n\\set ON_ERROR_STOP on\n", sql].concat();
    let errors = load(url, &sql);
    assert!(errors.is_empty(), "{errors}");
}

fn program(name: &str) -> PathBuf {
    let installed = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin")).max()
    };
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&path).find(|directory| directory.join("pg_ctl").is_file());
        found
            .and_then(|directory| fs::canonicalize(directory.join("pg_ctl")).ok())?
            .parent()
            .map(Path::to_owned)
    };
    let directory = postgres::bin_dir().or_else(on_path).or_else(installed);
    directory.expect("PostgreSQL is installed").join(name)
}

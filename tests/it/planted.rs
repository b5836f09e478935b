//! What the user whom the private PostgreSQL runs as puts in root's way.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown, lchown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::{User, geteuid, mkfifo},
};
use tempfile::TempDir;

use crate::support::{
    postgres::new_directory,
    process::{Program, embedded_environment, program},
};

/// What is root's, and is to stay as it is.
struct Roots {
    directory: TempDir,
    file: PathBuf,
}

impl Roots {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("file");
        fs::write(&file, "root's").expect("written");
        Self { directory, file }
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(fs::read_to_string(&self.file).expect("there"), "root's");
        for path in [self.directory.path(), &self.file] {
            assert_eq!(fs::symlink_metadata(path).expect("there").uid(), 0, "{}", path.display());
        }
        assert_eq!(fs::read_dir(self.directory.path()).expect("a directory").count(), 1);
    }
}

fn command(directory: &Path) -> Command {
    let environment = embedded_environment(directory);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    program(&[], &environment)
}

/// It serves, and stops.
async fn runs(directory: &Path) {
    let mut gateway = Program::start(command(directory));
    gateway.client().await.get("/readyz").await.expect(200);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().await, "{}", gateway.log());
}

fn refuses(directory: &Path) -> String {
    let Output { status, stderr, .. } = command(directory).output().expect("ran");
    assert!(!status.success());
    String::from_utf8_lossy(&stderr).into_owned()
}

fn postgres() -> u32 {
    User::from_name("postgres").expect("passwd").expect("postgres").uid.as_raw()
}

/// Puts a link where `postgres` may put one, in place of what is there.
fn plant(link: &Path, target: &Path) {
    let _ = fs::remove_file(link);
    if link.exists() {
        fs::rename(link, link.with_extension("away")).expect("moved away");
    }
    symlink(target, link).expect("a link");
    lchown(link, Some(postgres()), None).expect("handed over");
}

#[tokio::test]
async fn the_top_directory_is_roots_and_what_is_below_is_not_followed() {
    if !geteuid().is_root() {
        return;
    }
    let (directory, roots) = (new_directory(), Roots::new());
    runs(&directory).await;
    for (path, user) in [("", 0), ("data", postgres()), ("run", postgres()), ("log", postgres())] {
        let found = fs::metadata(directory.join(path)).expect("there");
        assert_eq!((found.uid(), found.mode() & 0o022), (user, 0), "{path}");
    }
    let startup_log = directory.join("log/startup.log");
    plant(&startup_log, &roots.file);
    runs(&directory).await;
    roots.assert_untouched();
    assert!(fs::symlink_metadata(&startup_log).expect("there").is_file(), "a file of its own");
    fs::remove_file(&startup_log).expect("removed");
    fs::hard_link(&roots.file, &startup_log).expect("a link");
    runs(&directory).await;
    roots.assert_untouched();
    // Lock files that make no sense are removed, and not what they lead to.
    for lock in ["run/.s.PGSQL.5432.lock", "data/postmaster.pid"] {
        plant(&directory.join(lock), &roots.file);
        runs(&directory).await;
        roots.assert_untouched();
        // A pipe is waited for by whoever opens it.
        let _ = fs::remove_file(directory.join(lock));
        mkfifo(&directory.join(lock), Mode::S_IRWXU).expect("a pipe");
        runs(&directory).await;
    }
}

/// An earlier gateway gave all of it to `postgres`, who could put links anywhere.
#[tokio::test]
async fn a_directory_that_was_given_away_is_taken_back() {
    if !geteuid().is_root() {
        return;
    }
    let (directory, roots) = (new_directory(), Roots::new());
    runs(&directory).await;
    let give_away = || chown(&directory, Some(postgres()), None).expect("given away");
    give_away();
    runs(&directory).await;
    assert_eq!(fs::metadata(&directory).expect("there").uid(), 0, "taken back");
    for name in ["log", "run", "data", "lock", "turn.lock"] {
        give_away();
        let planted = directory.join(name);
        let target = if name.ends_with("lock") { &roots.file } else { roots.directory.path() };
        plant(&planted, target);
        let said = refuses(&directory);
        roots.assert_untouched();
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(name) && last.contains("it is a link"), "{said}");
        fs::remove_file(&planted).expect("removed");
        let _ = fs::rename(planted.with_extension("away"), &planted);
        runs(&directory).await;
    }
}

/// What is made at the first start finds links in its place.
#[tokio::test]
async fn the_first_start_follows_no_link_either() {
    if !geteuid().is_root() {
        return;
    }
    let roots = Roots::new();
    for name in ["password", "data.unfinished"] {
        let directory = new_directory();
        fs::create_dir(&directory).expect("made");
        chown(&directory, Some(postgres()), None).expect("given away");
        let target = if name == "password" { &roots.file } else { roots.directory.path() };
        plant(&directory.join(name), target);
        runs(&directory).await;
        roots.assert_untouched();
    }
    // Nor one on the way, which leads to where somebody else may not write.
    let base = new_directory();
    fs::create_dir(&base).expect("made");
    chown(&base, Some(postgres()), None).expect("given away");
    plant(&base.join("way"), roots.directory.path());
    let said = refuses(&base.join("way/gateway"));
    assert!(said.contains("`way`"), "{said}");
    roots.assert_untouched();
}

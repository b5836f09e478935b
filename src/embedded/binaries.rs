//! Finding PostgreSQL's programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{EmbeddedError, directory::Directory};

/// The oldest version that will do.
const MIN_MAJOR: u32 = 14;
/// Directories whose entries that begin with the word hold a version each, in `bin` where that is
/// said: Debian, RPM, Alpine, Homebrew, the installer for macOS.
const HOMES: [(&str, &str, &str); 6] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Library/PostgreSQL", "", "bin"),
];

/// A PostgreSQL on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    /// Looks in `setting` if there is one, else on the PATH and where distributions keep them, for
    /// the version that made the data there is, or for any that will do where there is none.
    pub(super) fn find(
        setting: Option<&Path>,
        made_by: Option<(PathBuf, u32)>,
    ) -> Result<Self, EmbeddedError> {
        let directories = match setting {
            Some(dir) => vec![dir.to_owned()],
            None => customary(),
        };
        let found: Vec<Self> = directories.iter().filter_map(|dir| Self::at(dir)).collect();
        if found.is_empty() {
            let looked = match setting {
                Some(dir) => dir.display().to_string(),
                None => "the PATH and where distributions keep them".to_owned(),
            };
            return Err(EmbeddedError::NotInstalled { looked });
        }
        let Some((data, wanted)) = made_by else {
            return Ok(found[0].clone());
        };
        if let Some(fitting) = found.iter().find(|binaries| binaries.major == wanted) {
            return Ok(fitting.clone());
        }
        let mut versions: Vec<String> = found.iter().map(|b| b.major.to_string()).collect();
        versions.dedup();
        Err(EmbeddedError::OtherVersion { data, wanted, found: versions.join(", ") })
    }

    /// The path of one of the programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Both programs, in a version that will do; behind links, as they look for their files beside
    /// themselves.
    fn at(dir: &Path) -> Option<Self> {
        let postgres = fs::canonicalize(dir.join("postgres")).ok()?;
        let dir = postgres.parent()?.to_owned();
        if !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        let major = parse_major(&String::from_utf8_lossy(&output.stdout))?;
        (major >= MIN_MAJOR).then_some(Self { dir, major })
    }
}

fn customary() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    for (home, prefix, bin) in HOMES {
        let Ok(entries) = fs::read_dir(home) else {
            continue;
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        // The newest first.
        names.sort_by_key(|name| std::cmp::Reverse(trailing_number(name)));
        directories.extend(names.iter().map(|name| Path::new(home).join(name).join(bin)));
    }
    directories
}

fn trailing_number(name: &str) -> u32 {
    let start = name.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    name[start..].parse().unwrap_or(0)
}

/// The version that made a data directory.
pub(super) fn version_of(data: &Directory) -> Option<u32> {
    let content = data.read("PG_VERSION").ok()?;
    std::str::from_utf8(&content).ok()?.trim().parse().ok()
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, or `17beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta2\n", Some(18)),
            ("something else", None),
        ] {
            assert_eq!(parse_major(text), major, "{text}");
        }
        assert_eq!(trailing_number("postgresql@17"), 17);
        assert_eq!(trailing_number("9.6"), 6);
        assert_eq!(trailing_number("postgresql"), 0);
    }

    #[test]
    fn a_directory_without_programs_is_none() {
        let empty = tempfile::tempdir().expect("temporary directory");
        let error = Binaries::find(Some(empty.path()), None).expect_err("nothing there");
        let line = error.to_string();
        assert!(line.contains("apt-get install postgresql"), "{line}");
        assert!(line.contains(&empty.path().display().to_string()), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn data_of_another_version_is_named() {
        let made_by = Some((PathBuf::from("/data"), 9));
        let error = Binaries::find(None, made_by).expect_err("no such version").to_string();
        assert!(error.contains("made by PostgreSQL 9"), "{error}");
    }
}

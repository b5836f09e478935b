//! The way to the directory of everything.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Component, Path},
};

use nix::{
    errno::Errno,
    fcntl::{self, AtFlags, OFlag},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat},
};

use super::{super::owner::Owner, kind};

/// The most links on one way.
const MAX_LINKS: usize = 40;
/// What directories on the way are made with, less what the umask takes away.
const MODE: Mode = Mode::from_bits_truncate(0o755);

/// Opens a directory, and makes what is missing of it.
pub(super) fn open(path: &Path, owner: Owner, make: bool) -> io::Result<OwnedFd> {
    if owner.ids().is_some() {
        return walk(path, make);
    }
    if make {
        std::fs::create_dir_all(path)?;
    }
    Ok(fcntl::open(path, directory(OFlag::empty()), Mode::empty())?)
}

/// Goes from the root directory to `path`, one step after the other. A link is followed if it is root's,
/// and stands where nobody else could have put it.
fn walk(path: &Path, make: bool) -> io::Result<OwnedFd> {
    let root = || fcntl::open("/", directory(OFlag::empty()), Mode::empty());
    let mut at = root()?;
    let mut steps: VecDeque<OsString> = steps(path).collect();
    let mut links = 0;
    while let Some(name) = steps.pop_front() {
        let found = match fstatat(&at, &*name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) if make => {
                match mkdirat(&at, &*name, MODE) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                fstatat(&at, &*name, AtFlags::AT_SYMLINK_NOFOLLOW)?
            }
            found => found?,
        };
        if kind(&found) != SFlag::S_IFLNK {
            at = fcntl::openat(&at, &*name, directory(OFlag::O_NOFOLLOW), Mode::empty())?;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        if found.st_uid != 0 || !is_roots_alone(&fstat(&at)?) {
            return Err(foreign_link(&name));
        }
        let target = fcntl::readlinkat(&at, &*name)?;
        let target = Path::new(&target);
        if target.is_absolute() {
            at = root()?;
        }
        for step in self::steps(target).rev() {
            steps.push_front(step);
        }
    }
    Ok(at)
}

fn steps(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn directory(more: OFlag) -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | more
}

/// Whether nobody but root can put something in place of what is root's in a directory.
fn is_roots_alone(directory: &FileStat) -> bool {
    let mode = Mode::from_bits_truncate(directory.st_mode);
    let open = mode.intersects(Mode::S_IWGRP | Mode::S_IWOTH);
    directory.st_uid == 0 && (!open || mode.contains(Mode::S_ISVTX))
}

fn foreign_link(name: &OsStr) -> io::Error {
    let name = name.to_string_lossy();
    io::Error::other(format!(
        "`{name}` in it is a link that root does not follow: others could have put it there"
    ))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{chown, lchown, symlink},
    };

    use super::*;

    #[test]
    fn root_follows_its_own_links_on_the_way_and_nobody_elses() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let temporary = tempfile::tempdir().expect("temporary directory");
        let base = temporary.path();
        fs::create_dir(base.join("real")).expect("made");
        symlink("real", base.join("mine")).expect("a link");
        walk(&base.join("mine/new"), true).expect("followed");
        assert!(base.join("real/new").is_dir());
        let absolute = base.join("absolute");
        symlink(base.join("mine"), &absolute).expect("a link");
        walk(&absolute.join("new/../newer"), true).expect("followed");
        assert!(base.join("real/newer").is_dir());
        symlink("circle", base.join("circle")).expect("a link");
        walk(&base.join("circle"), true).expect_err("a circle");
        // Made by another user, or standing where another user may put things.
        symlink("real", base.join("theirs")).expect("a link");
        lchown(base.join("theirs"), Some(1), Some(1)).expect("handed over");
        let said = walk(&base.join("theirs/new2"), true).expect_err("refused").to_string();
        assert!(said.contains("`theirs`"), "{said}");
        assert!(!base.join("real/new2").exists());
        fs::create_dir(base.join("open")).expect("made");
        symlink("../real", base.join("open/link")).expect("a link");
        chown(base.join("open"), Some(1), Some(1)).expect("handed over");
        walk(&base.join("open/link/new3"), true).expect_err("refused");
        assert!(!base.join("real/new3").exists());
    }
}

//! Directories and the files in them, by descriptor. Where the gateway is root, most of what is below
//! the private PostgreSQL's directory belongs to another user, who may put a link, a pipe or a device
//! anywhere in it: nothing there is opened by its path, and no link is followed.

mod way;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{self, AtFlags, OFlag},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{EmbeddedError, failed, owner::Owner};

/// The most bytes of a file that are read.
const MAX_READ: u64 = 64 << 10;
/// How often a new file is tried to be put in place of whatever somebody else puts there.
const ATTEMPTS: usize = 10;

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    owner: Owner,
}

impl Directory {
    /// The directory of everything, if it is there. Nothing is changed.
    pub(super) fn find(path: &Path, owner: Owner) -> Result<Option<Self>, EmbeddedError> {
        match way::open(path, owner, false) {
            Ok(fd) => Ok(Some(Self { fd, path: path.to_owned(), owner })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("cannot open", path)(error)),
        }
    }

    /// The directory of everything, made if it is missing. Where the gateway is root, it is root's: the
    /// user that PostgreSQL runs as can put nothing into it.
    pub(super) fn make(path: &Path, owner: Owner) -> Result<Self, EmbeddedError> {
        let fd = way::open(path, owner, true).map_err(failed("cannot make", path))?;
        owner.keep(&fd).map_err(failed("cannot use", path))?;
        Ok(Self { fd, path: path.to_owned(), owner })
    }

    /// Where it is, for programs and people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in this one that belongs to the user whom PostgreSQL runs as, made if it is missing.
    pub(super) fn make_private(&self, name: &str) -> Result<Self, EmbeddedError> {
        let path = self.path.join(name);
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed("cannot make", &path)(errno.into())),
        }
        let opened = self.enter(OsStr::new(name)).map_err(failed("cannot open", &path))?;
        self.owner.take(&opened.fd).map_err(failed("cannot hand over", &path))?;
        Ok(opened)
    }

    /// A directory in this one, if it is there.
    pub(super) fn open(&self, name: &str) -> Result<Option<Self>, EmbeddedError> {
        match self.enter(OsStr::new(name)) {
            Ok(directory) => Ok(Some(directory)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("cannot open", &self.path.join(name))(error)),
        }
    }

    /// Whether there is anything of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// The beginning of a file.
    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = File::from(self.open_file(name, OFlag::O_RDONLY, Mode::empty())?);
        let mut content = Vec::new();
        file.take(MAX_READ).read_to_end(&mut content)?;
        Ok(content)
    }

    /// A file for both reading and writing, made if it is missing. What is in it is kept.
    pub(super) fn file(&self, name: &str) -> Result<File, EmbeddedError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT;
        let opened = self.open_file(name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        opened.map(File::from).map_err(failed("cannot write", &self.path.join(name)))
    }

    /// An empty file that belongs to the user whom PostgreSQL runs as, in place of whatever has its name.
    pub(super) fn new_file(&self, name: &str) -> Result<File, EmbeddedError> {
        self.try_new_file(name).map_err(failed("cannot write", &self.path.join(name)))
    }

    fn try_new_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        for _ in 0..ATTEMPTS {
            match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            match self.open_file(name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(fd) => {
                    self.owner.take(&fd)?;
                    return Ok(File::from(fd));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Removes a file or a link.
    pub(super) fn remove(&self, name: &str) -> Result<(), EmbeddedError> {
        let removed = unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir);
        removed.map_err(|errno| failed("cannot remove", &self.path.join(name))(errno.into()))
    }

    /// Removes whatever has this name, and all that is in it.
    pub(super) fn remove_all(&self, name: &str) -> Result<(), EmbeddedError> {
        let removed = self.try_remove_all(OsStr::new(name));
        removed.map_err(failed("cannot remove", &self.path.join(name)))
    }

    fn try_remove_all(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            // A directory, in the words of one system or another.
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        let directory = self.enter(name)?;
        for entry in directory.entries()? {
            directory.try_remove_all(&entry)?;
        }
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)?)
    }

    fn entries(&self) -> io::Result<Vec<OsString>> {
        let mut directory = Dir::from_fd(self.fd.try_clone()?)?;
        let names = directory.iter().map(|entry| {
            entry.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
        });
        let mut names = names.collect::<Result<Vec<_>, _>>()?;
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }

    /// Gives something another name.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), EmbeddedError> {
        let renamed = fcntl::renameat(&self.fd, from, &self.fd, to);
        renamed.map_err(|errno| failed("cannot make", &self.path.join(to))(errno.into()))
    }

    fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | self.links();
        let fd = fcntl::openat(&self.fd, name, flags, Mode::empty());
        let fd = fd.map_err(|errno| self.explain(name, errno))?;
        Ok(Self { fd, path: self.path.join(name), owner: self.owner })
    }

    /// Opens what is a file and nothing else: a pipe would be waited for.
    fn open_file(&self, name: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let safe = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | self.links();
        let fd = fcntl::openat(&self.fd, name, flags | safe, mode);
        let fd = fd.map_err(|errno| self.explain(OsStr::new(name), errno))?;
        if kind(&fstat(&fd)?) != SFlag::S_IFREG {
            return Err(io::Error::other("it is no file"));
        }
        Ok(fd)
    }

    /// Who is not root has made all of it, and may have put a part of it elsewhere.
    fn links(&self) -> OFlag {
        if self.owner.ids().is_some() { OFlag::O_NOFOLLOW } else { OFlag::empty() }
    }

    fn explain(&self, name: &OsStr, errno: Errno) -> io::Error {
        let entry = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if self.owner.ids().is_some() && entry.is_ok_and(|entry| kind(&entry) == SFlag::S_IFLNK) {
            return io::Error::other("it is a link, and root follows none here");
        }
        errno.into()
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What something is: a file, a directory, a link.
fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use nix::unistd::{geteuid, mkfifo};

    use super::*;

    fn opened(directory: &tempfile::TempDir) -> Option<Directory> {
        // Links are root's affair: others have made all of it themselves.
        let owner = Owner::find(None).ok().filter(|owner| owner.ids().is_some())?;
        Some(Directory::make(directory.path(), owner).expect("opened"))
    }

    #[test]
    fn root_opens_nothing_that_is_a_link_or_no_file() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let Some(directory) = opened(&temporary) else { return };
        let elsewhere = tempfile::tempdir().expect("temporary directory");
        let theirs = elsewhere.path().join("theirs");
        fs::write(&theirs, "theirs").expect("written");
        symlink(&theirs, temporary.path().join("link")).expect("a link");
        symlink(elsewhere.path(), temporary.path().join("way")).expect("a link");
        mkfifo(&temporary.path().join("pipe"), Mode::S_IRWXU).expect("a pipe");
        assert!(directory.read("link").is_err() && directory.read("pipe").is_err());
        assert!(directory.file("link").is_err());
        let said = directory.make_private("way").expect_err("refused").to_string();
        assert!(said.contains("it is a link"), "{said}");
        assert!(directory.open("way").is_err());
        // A new file takes the place of the link, and a link is removed itself.
        directory.new_file("link").expect("a file");
        directory.remove_all("way").expect("removed");
        assert_eq!(fs::read(&theirs).expect("still there"), b"theirs");
        assert_eq!(directory.read("link").expect("a file"), b"");
    }

    #[test]
    fn what_is_removed_is_all_that_is_in_it_and_nothing_else() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let owner = Owner::find(None).expect("an owner");
        let directory = Directory::make(temporary.path(), owner).expect("opened");
        let elsewhere = tempfile::tempdir().expect("temporary directory");
        fs::write(elsewhere.path().join("theirs"), "").expect("written");
        let tree = temporary.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).expect("made");
        fs::write(tree.join("a/file"), "").expect("written");
        symlink(elsewhere.path(), tree.join("a/b/link")).expect("a link");
        directory.remove_all("tree").expect("removed");
        assert!(!directory.has("tree") && elsewhere.path().join("theirs").exists());
        directory.remove_all("tree").expect("gone already");
    }

    #[test]
    fn the_top_stays_roots() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let Some(directory) = opened(&temporary) else { return };
        let private = directory.make_private("run").expect("made");
        let user = |directory: &Directory| fstat(directory).expect("there").st_uid;
        assert_eq!(user(&directory), geteuid().as_raw());
        assert_ne!(user(&private), geteuid().as_raw());
    }
}

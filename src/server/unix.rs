//! A Unix socket as a file that comes and goes.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::SocketAddr,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::AT_FDCWD,
    sys::stat::{FchmodatFlags, Mode, fchmodat},
    unistd::{AccessFlags, access},
};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tracing::{info, warn};

/// Connections that the system keeps for us until we accept them.
const BACKLOG: u32 = 1024;

/// The file of a socket that is listened on; it is removed with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: in its place there may be another's by now.
    identity: (u64, u64),
}

/// Listens at a path, where nobody else does.
pub(super) async fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path).await?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
    // Before anybody can connect; not through a link that somebody has put in its place.
    let mode = Mode::from_bits_truncate(mode as _);
    fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?;
    Ok((socket.listen(BACKLOG)?, file))
}

/// Whether there is a socket that a process left behind, where it can be listened at a path. Changes nothing.
pub(super) async fn inspect(path: &Path) -> io::Result<bool> {
    let is_stale = is_stale(path).await?;
    // As the system would say if it were tried.
    SocketAddr::from_pathname(path)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let rights = AccessFlags::W_OK | AccessFlags::X_OK;
    access(directory.unwrap_or(Path::new(".")), rights)?;
    Ok(is_stale)
}

/// Removes a socket that a process left behind.
async fn remove_stale(path: &Path) -> io::Result<()> {
    if !is_stale(path).await? {
        return Ok(());
    }
    info!(path = %path.display(), "removing a socket that nobody listens on");
    fs::remove_file(path)
}

/// Whether there is a socket that nobody listens on; an error is whatever else may be in the way.
async fn is_stale(path: &Path) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let text = "there is a file that is not a socket, and it is left alone";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if !ours {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn only_what_nobody_uses_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let (listener, file) = bind(&path, 0o600).await.expect("a new one");
        let mode = fs::symlink_metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = bind(&path, 0o600).await.expect_err("it is in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);

        let error = inspect(&path).await.expect_err("it is in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);

        // As a process does that is killed.
        std::mem::forget(file);
        drop(listener);
        assert!(inspect(&path).await.expect("it would be removed"));
        assert!(path.exists());
        let (listener, file) = bind(&path, 0o660).await.expect("nobody is there");
        drop(listener);
        drop(file);
        assert!(!path.exists(), "it goes with its owner");
        assert!(!inspect(&path).await.expect("it would be made"));
        assert!(!path.exists(), "it was made");
        for path in [directory.path().join("none/socket"), directory.path().join("a".repeat(200))] {
            let (inspected, bound) = (inspect(&path).await, bind(&path, 0o600).await);
            let (inspected, bound) = (inspected.expect_err("no"), bound.expect_err("no"));
            assert_eq!(inspected.kind(), bound.kind());
        }

        fs::write(&path, "precious").expect("written");
        let error = bind(&path, 0o660).await.expect_err("not a socket");
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
    }

    #[tokio::test]
    async fn another_ones_socket_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let (_first, file) = bind(&path, 0o600).await.expect("bound");
        fs::rename(&path, directory.path().join("moved")).expect("moved");
        let _second = bind(&path, 0o600).await.expect("bound");
        drop(file);
        assert!(path.exists());
    }
}

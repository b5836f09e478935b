//! Who the private PostgreSQL runs as: it refuses to be root.

use std::{
    env,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, User, geteuid};

use super::{EmbeddedError, failed};

/// The user to become, where the gateway is root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner(Option<(Uid, Gid)>);

impl Owner {
    /// The gateway's own user or, for root, `user` or else `postgres`.
    pub(super) fn find(user: Option<&str>) -> Result<Self, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        let name = user.unwrap_or("postgres");
        let found = User::from_name(name).ok().flatten().filter(|user| !user.uid.is_root());
        let user = found.ok_or_else(|| EmbeddedError::NoUser(name.to_owned()))?;
        Ok(Self(Some((user.uid, user.gid))))
    }

    /// User and group to start a program with.
    pub(super) fn ids(self) -> Option<(u32, u32)> {
        self.0.map(|(uid, gid)| (uid.as_raw(), gid.as_raw()))
    }

    /// Hands a file or directory over.
    pub(super) fn take(self, path: &Path) -> Result<(), EmbeddedError> {
        let Some((uid, gid)) = self.ids() else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).map_err(failed("cannot hand over", path))
    }
}

/// Where the data lives unless a setting says otherwise.
pub(super) fn default_dir() -> Result<PathBuf, EmbeddedError> {
    if geteuid().is_root() {
        // Not below /root, which the user that PostgreSQL runs as could not enter.
        return Ok(PathBuf::from("/var/lib/pgmq-gateway"));
    }
    if let Some(data) = env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(Path::new(&data).join("pgmq-gateway"));
    }
    let home = env::var_os("HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = home.or_else(|| User::from_uid(geteuid()).ok().flatten().map(|user| user.dir));
    Ok(home.ok_or(EmbeddedError::NoHome)?.join(".local/share/pgmq-gateway"))
}

//! Who the private PostgreSQL runs as: it refuses to be root.

use std::{env, ffi::OsString, io, os::fd::AsFd, path::PathBuf};

use nix::{
    sys::stat::{Mode, fchmod, fstat},
    unistd::{Gid, Uid, User, fchown, geteuid},
};

use super::EmbeddedError;

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

    /// Hands a file or directory over, which is root's or theirs already.
    pub(super) fn take(self, it: impl AsFd) -> io::Result<()> {
        let Some((uid, gid)) = self.0 else { return Ok(()) };
        let found = fstat(&it)?.st_uid;
        if found != 0 && found != uid.as_raw() {
            return Err(io::Error::other(format!("it belongs to another user, number {found}")));
        }
        Ok(fchown(it, Some(uid), Some(gid))?)
    }

    /// Makes a directory root's where the gateway is root: its owner can enter it, and nobody else can put
    /// anything into it.
    pub(super) fn keep(self, directory: impl AsFd) -> io::Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        let mode = Mode::from_bits_truncate(fstat(&directory)?.st_mode);
        if mode.contains(Mode::S_ISVTX) && mode.contains(Mode::S_IWOTH) {
            return Err(io::Error::other(
                "everybody puts files there: give it a directory of its own",
            ));
        }
        fchown(&directory, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))?;
        let others = Mode::S_IWGRP | Mode::S_IWOTH;
        Ok(fchmod(&directory, (mode - others) | Mode::S_IXGRP | Mode::S_IXOTH)?)
    }
}

/// Where the data lives unless a setting says otherwise.
pub(super) fn default_dir() -> Result<PathBuf, EmbeddedError> {
    if geteuid().is_root() {
        // Not below /root, which the user that PostgreSQL runs as could not enter.
        return Ok(PathBuf::from("/var/lib/pgmq-gateway"));
    }
    let home = env::var_os("HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = home.or_else(|| User::from_uid(geteuid()).ok().flatten().map(|user| user.dir));
    dir_below(env::var_os("XDG_DATA_HOME"), home).ok_or(EmbeddedError::NoHome)
}

/// Where data is put by the XDG Base Directory Specification, which wants a relative path passed over.
fn dir_below(data_home: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let data_home = data_home.map(PathBuf::from).filter(|dir| dir.is_absolute());
    let data_home = data_home.or_else(|| Some(home?.join(".local/share")))?;
    Some(data_home.join("pgmq-gateway"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_an_absolute_path_is_where_data_is_put() {
        for (data_home, home, dir) in [
            (Some("/data"), Some("/home/a"), Some("/data/pgmq-gateway")),
            (Some("data"), Some("/home/a"), Some("/home/a/.local/share/pgmq-gateway")),
            (Some(""), Some("/home/a"), Some("/home/a/.local/share/pgmq-gateway")),
            (None, Some("/home/a"), Some("/home/a/.local/share/pgmq-gateway")),
            (Some("/data"), None, Some("/data/pgmq-gateway")),
            (Some("data"), None, None),
        ] {
            let found = dir_below(data_home.map(OsString::from), home.map(PathBuf::from));
            assert_eq!(found.as_deref(), dir.map(Path::new), "{data_home:?}");
        }
    }
}

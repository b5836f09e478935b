//! What an earlier run left behind: servers that still run on the data, and files that say that one does.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{EmbeddedError, cluster::Cluster, directory::Directory, owner::Owner};

/// Time for a stop before the next harder signal.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks at processes that stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// What a server's processes are called.
const NAME: &str = "postgres";

/// A server's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: Pid,
    /// Whether it is the one that the others belong to.
    is_postmaster: bool,
}

/// Stops whatever runs on our data although we hold the lock, and removes lock files over which no
/// server would start.
pub(super) async fn clear(cluster: &Cluster) -> Result<(), EmbeddedError> {
    stop_servers(cluster.data.path(), cluster.owner).await?;
    let socket = cluster.socket_file();
    let socket_lock = format!(".s.PGSQL.{}.lock", cluster.port());
    for (directory, name) in [(&cluster.data, "postmaster.pid"), (&cluster.run, &socket_lock)] {
        if !blocks_a_start(directory, name) {
            continue;
        }
        let lock = directory.path().join(name);
        // One that cannot be seen, as in another container with the same volume.
        if UnixStream::connect(&socket).is_ok() {
            let output = format!(
                "a server answers at {}, and {} does not say which: stop it",
                socket.display(),
                lock.display()
            );
            return Err(EmbeddedError::Failed { program: NAME, output });
        }
        warn!(file = %lock.display(), "removing a lock file that makes no sense: no server runs");
        directory.remove(name)?;
    }
    Ok(())
}

/// Stops the servers on our data: a gateway that was killed left one behind, perhaps on its way out
/// already, and perhaps with processes of its own that have lost it.
async fn stop_servers(data: &Path, owner: Owner) -> Result<(), EmbeddedError> {
    let mut running = on(data, owner);
    if running.is_empty() {
        return Ok(());
    }
    info!(?running, "stopping the PostgreSQL that an earlier run left behind");
    // A process that has lost its server takes SIGINT for the end of a statement.
    for (to_server, to_others) in [
        (Signal::SIGINT, Signal::SIGTERM),
        (Signal::SIGQUIT, Signal::SIGQUIT),
        (Signal::SIGKILL, Signal::SIGKILL),
    ] {
        let has_server = running.iter().any(|process| process.is_postmaster);
        for process in &running {
            let signal = if process.is_postmaster { to_server } else { to_others };
            // A server stops its own, unless it does not stop itself.
            if process.is_postmaster || !has_server || to_server == Signal::SIGKILL {
                let _ = kill(process.pid, signal);
            }
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while !running.is_empty() && Instant::now() < deadline {
            sleep(LOOK_INTERVAL).await;
            running = on(data, owner);
        }
        if running.is_empty() {
            return Ok(());
        }
    }
    let output = format!("it still runs on {}: {running:?} do not stop", data.display());
    Err(EmbeddedError::Failed { program: NAME, output })
}

/// The processes of servers on this data. All of them work in its directory, whatever they call
/// themselves; the first one was also told its name. Root stops none that is not its owner's.
fn on(data: &Path, owner: Owner) -> Vec<Process> {
    let real = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().map(Pid::from_raw)?;
        let directory = entry.path();
        let name = fs::read_to_string(directory.join("comm")).ok()?;
        if name.trim_end() != NAME || !is_owned_by(&directory, owner) {
            return None;
        }
        let arguments = fs::read(directory.join("cmdline")).unwrap_or_default();
        let data = data.as_os_str().as_encoded_bytes();
        let is_postmaster = arguments.split(|byte| *byte == 0).any(|argument| argument == data);
        let is_there = fs::read_link(directory.join("cwd")).is_ok_and(|cwd| cwd == real);
        (is_there || is_postmaster).then_some(Process { pid, is_postmaster })
    });
    processes.collect()
}

fn is_owned_by(process: &Path, owner: Owner) -> bool {
    let Some((uid, _)) = owner.ids() else { return true };
    fs::metadata(process).is_ok_and(|process| process.uid() == uid)
}

/// Whether PostgreSQL would refuse to start over a lock file although no server runs: it is empty, says
/// nothing of use, or has a number that is another process's by now.
fn blocks_a_start(directory: &Directory, name: &str) -> bool {
    match directory.read(name) {
        Ok(content) => pid_in(&content).is_none_or(is_alive),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn pid_in(content: &[u8]) -> Option<Pid> {
    let line = content.split(|byte| *byte == b'\n').next()?;
    let pid = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
    (pid > 0).then_some(Pid::from_raw(pid))
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_postgresql_would_stumble_over_is_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("postmaster.pid");
        let owner = Owner::find(None).expect("an owner");
        let opened = Directory::make(directory.path(), owner).expect("opened");
        let blocks_a_start = || blocks_a_start(&opened, "postmaster.pid");
        assert!(!blocks_a_start(), "there is none");
        let own = format!("{}\n/data\n", std::process::id());
        for (content, blocks) in [
            (&b""[..], true),
            (b"\n", true),
            (b"garbage\n/data\n", true),
            (b"\0\0\0\0", true),
            (b"\xff\xfe", true),
            (b"0\n", true),
            (b"-7\n", true),
            (b"99999999999999\n", true),
            (own.as_bytes(), true),
            (b"2147483647\n/data\n", false),
            (b" 2147483647 ", false),
        ] {
            fs::write(&path, content).expect("written");
            assert_eq!(blocks_a_start(), blocks, "{content:?}");
        }
    }

    #[test]
    fn other_processes_are_left_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut shell = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(directory.path())
            .spawn()
            .expect("a process that works there");
        let owner = Owner::find(None).expect("an owner");
        assert_eq!(on(directory.path(), owner), []);
        shell.kill().expect("killed");
        shell.wait().expect("ended");
    }
}

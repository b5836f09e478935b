//! How much memory the process may have.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use nix::sys::resource::{Resource, getrlimit};

/// The least of what the machine has, what the process's control groups allow, and what its own limit
/// is; nothing where none of them tells.
pub(super) fn memory_limit() -> Option<u64> {
    let own = getrlimit(Resource::RLIMIT_AS).ok().map(|(soft, _)| soft);
    let limits = [of_system(Path::new("/")), own].into_iter().flatten();
    limits.filter(|limit| *limit < 1 << 60).min()
}

/// What the files of a system say that has its root here.
fn of_system(root: &Path) -> Option<u64> {
    let read = |path: PathBuf| fs::read_to_string(path).ok();
    let groups = read(root.join("proc/self/cgroup")).unwrap_or_default();
    let files = groups.lines().filter_map(parse_group).flat_map(|(directory, file, group)| {
        // Where containers have them: a group that is not there is that of the host, and what is mounted
        // is the container's own.
        let base = root.join("sys/fs/cgroup").join(directory);
        up_from(&group).into_iter().map(move |group| base.join(group).join(file))
    });
    let groups = files.filter_map(read).filter_map(|text| text.trim().parse().ok());
    let machine = read(root.join("proc/meminfo")).and_then(|text| total(&text));
    groups.chain(machine).min()
}

/// Of a line of `/proc/self/cgroup`: where such groups are mounted, the file with the limit, and which
/// group it is. Version 2 has one for everything, and no name; version 1 one for memory.
fn parse_group(line: &str) -> Option<(&'static str, &'static str, PathBuf)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, PathBuf::from(parts.next()?));
    if controllers.is_empty() {
        return Some(("", "memory.max", path));
    }
    let is_memory = controllers.split(',').any(|controller| controller == "memory");
    is_memory.then_some(("memory", "memory.limit_in_bytes", path))
}

/// A group and all that it is part of, each of which may have a limit.
fn up_from(group: &Path) -> Vec<PathBuf> {
    let is_name = |component: &Component<'_>| matches!(component, Component::Normal(_));
    // One that is beside ours cannot be seen from here.
    if group.components().any(|component| component == Component::ParentDir) {
        return vec![PathBuf::new()];
    }
    let group: PathBuf = group.components().filter(is_name).collect();
    group.ancestors().map(Path::to_owned).collect()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a system says with these files.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a directory");
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        of_system(root.path())
    }

    #[test]
    fn the_least_limit_counts_wherever_it_is_written() {
        const V2: (&str, &str) = ("proc/self/cgroup", "0::/a/b\n");
        const V1: (&str, &str) =
            ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/a/b\n1:cpu:/z\n0::/\n");
        const MACHINE: (&str, &str) = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:  2000 kB\n");
        let v2 = |group: &'static str| format!("sys/fs/cgroup/{group}memory.max");
        let v1 = |group: &'static str| format!("sys/fs/cgroup/memory/{group}memory.limit_in_bytes");
        assert_eq!(limit(&[]), None);
        assert_eq!(limit(&[MACHINE]), Some(2000 << 10));
        assert_eq!(limit(&[V2, MACHINE, (&v2(""), "max\n")]), Some(2000 << 10));
        // In a container, of which the outer name may be told.
        assert_eq!(limit(&[V2, MACHINE, (&v2(""), "1000000\n")]), Some(1_000_000));
        assert_eq!(limit(&[V1, MACHINE, (&v1(""), "1000000\n")]), Some(1_000_000));
        // Beside others, or within one.
        for (group, limited) in [("a/b/", true), ("a/", true), ("z/", false), ("a/c/", false)] {
            let found = if limited { 1_000_000 } else { 2000 << 10 };
            assert_eq!(limit(&[V2, MACHINE, (&v2(group), "1000000")]), Some(found), "{group}");
            assert_eq!(limit(&[V1, MACHINE, (&v1(group), "1000000")]), Some(found), "{group}");
        }
        let both = [V2, MACHINE, (&*v2("a/b/"), "1000000"), (&*v2("a/"), "500000")];
        assert_eq!(limit(&both), Some(500_000));
        // As version 1 writes that there is none.
        let none = "9223372036854771712";
        assert_eq!(limit(&[V1, MACHINE, (&v1("a/b/"), none)]), Some(2000 << 10));
        let outside = ("proc/self/cgroup", "0::/../../x\n");
        assert_eq!(limit(&[outside, MACHINE, (&v2(""), "700")]), Some(700));
    }
}

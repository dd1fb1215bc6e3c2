//! Finds how much memory this process may take: the limits of its control groups, of its own resources, and
//! of the machine.
//!
//! A group's limit holds for everything below it, so each one from the process's own group up to the root of
//! what is visible counts. Both versions of control groups may be at work on one machine.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Address space that a mount takes without filling it, in bytes: the buffers of the FUSE session, the stacks
/// of threads, the program, and the reserves of the allocator. A limit on it is no limit on memory.
const UNFILLED_BYTES: u64 = 512 << 20;

/// The file systems of control groups: their type in the table of mounts, and the files that hold limits.
const GROUPS: [(&str, &[&str]); 2] = [
    ("cgroup2", &["memory.max", "memory.high"]),
    ("cgroup", &["memory.limit_in_bytes"]),
];

/// A limit, and who sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    pub(crate) bytes: u64,
    pub(crate) from: String,
}

/// Returns the narrowest limit; `None` where nothing is known.
pub(crate) fn memory_limit() -> Option<MemoryLimit> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let table = String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap_or_default()).into_owned();
    let groups = of_groups(&text("/proc/self/cgroup"), &table, |path| {
        fs::read_to_string(path).ok()
    });
    let own = [
        (Resource::RLIMIT_AS, "ulimit -v"),
        (Resource::RLIMIT_DATA, "ulimit -d"),
    ];
    let own = own.into_iter().filter_map(|(resource, name)| {
        let (soft, _) = getrlimit(resource).ok()?;
        let bytes = (soft != RLIM_INFINITY).then(|| soft.saturating_sub(UNFILLED_BYTES))?;
        let from = name.to_owned();
        Some(MemoryLimit { bytes, from })
    });
    let machine = of_machine(&text("/proc/meminfo"));
    groups
        .into_iter()
        .chain(own)
        .chain(machine)
        .min_by_key(|limit| limit.bytes)
}

/// Returns the limits of the groups in `own` (`/proc/self/cgroup`), found through `table`
/// (`/proc/self/mountinfo`).
fn of_groups(own: &str, table: &str, read: impl Fn(&Path) -> Option<String>) -> Vec<MemoryLimit> {
    let mut limits = Vec::new();
    for line in table.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else {
            continue;
        };
        let mut kind = kind.split(' ');
        let kind_name = kind.next();
        let options = kind.nth(1).unwrap_or_default();
        let Some((_, files)) = GROUPS.iter().find(|(name, _)| Some(*name) == kind_name) else {
            continue;
        };
        let is_second = kind_name == Some("cgroup2");
        if !is_second && !options.split(',').any(|option| option == "memory") {
            continue;
        }
        let mount: Vec<&str> = mount.split(' ').collect();
        let (Some(root), Some(top)) = (mount.get(3), mount.get(4)) else {
            continue;
        };
        let mut groups = own.lines().filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let this = match is_second {
                true => controllers.is_empty(),
                false => controllers.split(',').any(|one| one == "memory"),
            };
            this.then_some(path)
        });
        let Some(group) = groups.next() else { continue };
        // A container sees its own group as the root of what is mounted.
        let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
        let below: PathBuf = below
            .components()
            .filter(|c| matches!(c, std::path::Component::Normal(_)))
            .collect();
        let top = Path::new(top);
        for directory in top
            .join(below)
            .ancestors()
            .take_while(|path| path.starts_with(top))
        {
            for file in *files {
                let path = directory.join(file);
                // `max` is no number, and the first version writes an enormous one for no limit.
                let bytes = read(&path).and_then(|text| text.trim().parse::<u64>().ok());
                limits.extend(bytes.filter(|bytes| *bytes < 1 << 60).map(|bytes| MemoryLimit {
                    bytes,
                    from: path.display().to_string(),
                }));
            }
        }
    }
    limits
}

/// Reads the memory of the machine from `/proc/meminfo`.
fn of_machine(text: &str) -> Option<MemoryLimit> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(MemoryLimit {
        bytes: kib << 10,
        from: "the machine".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "30 20 0:27 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n";
    const SECOND: &str = "31 20 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n";

    fn limits(own: &str, table: &str, files: &[(&str, &str)]) -> Vec<u64> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        of_groups(own, table, read)
            .into_iter()
            .map(|limit| limit.bytes)
            .collect()
    }

    #[test]
    fn the_limit_of_a_group_above_counts_in_both_versions() {
        let files = [
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "134217728\n"),
            (
                "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ];
        let own = "8:pids:/x\n4:cpu,memory:/a/b\n0::/\n";
        assert_eq!(limits(own, FIRST, &files), [128 << 20]);
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.high", "1000\n"),
            ("/sys/fs/cgroup/a/memory.max", "2000\n"),
            ("/sys/fs/cgroup/c/memory.max", "1\n"),
            ("/memory.max", "1\n"),
        ];
        assert_eq!(limits("0::/a/b\n", SECOND, &files), [1000, 2000]);
    }

    #[test]
    fn a_container_finds_its_group_at_the_root_of_what_is_mounted() {
        let files = [("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n")];
        let bound = FIRST.replace(" / /sys", " /docker/1 /sys");
        assert_eq!(limits("4:memory:/docker/1\n", &bound, &files), [4096]);
        let files = [("/sys/fs/cgroup/memory.max", "4096\n")];
        assert_eq!(limits("0::/../other\n", SECOND, &files), [4096]);
        assert_eq!(limits("", SECOND, &files), [] as [u64; 0]);
    }

    #[test]
    fn this_machine_has_some_memory() {
        assert!(memory_limit().is_some_and(|limit| limit.bytes > 0));
        assert_eq!(
            of_machine("MemTotal:  2048 kB\nMemFree: 1 kB\n").map(|l| l.bytes),
            Some(2 << 20)
        );
    }
}

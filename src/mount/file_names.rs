//! The names of files that stand for several disks. Each is the disk's name where that is one that a file can
//! have and that no other disk has; else it is the disk's id. So a name never depends on the order in which
//! the engine lists the disks, and a file never changes its disk because another one has come.

use std::collections::HashSet;

/// Upper bound on the name of a file, in bytes (NAME_MAX).
pub(super) const MAX_BYTES: usize = 255;

/// The name that is kept for what a mount itself has to tell.
const RESERVED: &str = ".rhv-mount";

/// Returns a name for each of `disks`, given by their ids and names. Those `beside` them have no files now.
/// They may have some at the next mount, and a name that one of them shares would then be another disk's.
pub(super) fn file_names(disks: &[(&str, &str)], beside: &[(&str, &str)]) -> Vec<String> {
    let is_anothers = |n: usize, name: &str| {
        let others = disks.iter().enumerate().filter(|(other, _)| *other != n);
        let mut others = others.map(|(_, other)| other).chain(beside);
        others.any(|(id, its_name)| name == *its_name || name.eq_ignore_ascii_case(id))
    };
    let mut taken = HashSet::new();
    let mut names = Vec::with_capacity(disks.len());
    for (n, (id, name)) in disks.iter().enumerate() {
        let own = [*name, *id].map(str::to_owned);
        let mut usable = own
            .into_iter()
            .enumerate()
            .filter(|(which, name)| is_safe(name) && (*which == 1 || !is_anothers(n, name)));
        // An engine whose ids are no ids is not worth more than a number.
        let chosen = usable.find(|(_, name)| !taken.contains(name));
        let chosen = chosen.map_or_else(|| format!("disk number {}", n + 1), |(_, name)| name);
        taken.insert(chosen.clone());
        names.push(chosen);
    }
    names
}

/// True for a name that a file can have, and that does not steer a terminal that shows it.
fn is_safe(name: &str) -> bool {
    !matches!(name, "" | "." | ".." | RESERVED)
        && !name.contains('/')
        && !name.contains(char::is_control)
        && name.len() <= MAX_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_has_its_disks_name_unless_that_is_unsafe_or_anothers() {
        let long = "x".repeat(MAX_BYTES + 1);
        let disks = [
            ("id1", "web_Disk1"),
            ("id2", "web Größe 2"),
            ("id3", "same"),
            ("id4", "same"),
            ("id5", "a/b"),
            ("id6", "."),
            ("id7", ".."),
            ("id8", ""),
            ("id9", "a\nb"),
            ("id10", long.as_str()),
            ("id11", RESERVED),
            ("id12", "ID1"),
            ("id13", "a\u{9b}b"),
        ];
        let expected = [
            "web_Disk1",
            "web Größe 2",
            "id3",
            "id4",
            "id5",
            "id6",
            "id7",
            "id8",
            "id9",
            "id10",
            "id11",
            "id12",
            "id13",
        ];
        assert_eq!(file_names(&disks, &[]), expected);
    }

    /// The one may be active today and the other one tomorrow.
    #[test]
    fn a_name_that_a_disk_without_a_file_has_too_is_no_files() {
        let (data, other) = (("id1", "data"), ("id2", "data"));
        assert_eq!(file_names(&[data], &[other]), ["id1"]);
        assert_eq!(file_names(&[other], &[data]), ["id2"]);
        assert_eq!(file_names(&[("id3", "ID1")], &[data]), ["id3"]);
        assert_eq!(file_names(&[data], &[("id4", "web")]), ["data"]);
    }

    proptest! {
        #[test]
        fn names_are_unique_and_safe_whatever_the_engine_says(
            disks in proptest::collection::vec(("[ab/]{0,2}", "[ab/.]{0,2}"), 0..8),
        ) {
            let disks = disks.iter().map(|(id, name)| (id.as_str(), name.as_str()));
            let disks: Vec<(&str, &str)> = disks.collect();
            let names = file_names(&disks, &[]);
            prop_assert!(names.iter().all(|name| is_safe(name)), "{names:?}");
            let different: HashSet<&String> = names.iter().collect();
            prop_assert_eq!(different.len(), disks.len(), "{:?}", names);
        }
    }
}

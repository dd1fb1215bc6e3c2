//! The disks of a VM that take part in a backup or a restore: those that `--include` names, or all where it
//! names none, without those that `--exclude` names.

use serde::{Deserialize, Serialize};

use super::cli::ChosenDisksArgs;
use super::usage;
use crate::engine::is_uuid;
use crate::failure::Failure;

/// See the head of this file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ChosenDisks {
    /// Names and ids.
    include: Vec<String>,
    /// Names and ids; none of them is in `include`.
    exclude: Vec<String>,
}

impl ChosenDisks {
    pub(super) fn gather(args: ChosenDisksArgs) -> Result<ChosenDisks, Failure> {
        let ChosenDisksArgs { include, exclude } = args;
        match include.iter().find(|name| exclude.contains(name)) {
            Some(both) => Err(usage(format!("--include and --exclude both name {both}"))),
            None => Ok(ChosenDisks { include, exclude }),
        }
    }

    /// Returns why this disk does not take part, where it does not.
    pub(crate) fn why_not(&self, id: &str, name: &str) -> Option<&'static str> {
        let is_it = |wanted: &String| is_named(id, name, wanted);
        match () {
            () if self.exclude.iter().any(is_it) => Some("--exclude names it"),
            () if !self.include.is_empty() && !self.include.iter().any(is_it) => {
                Some("--include does not name it")
            }
            () => None,
        }
    }

    /// Returns an option and the name in it that is of none of the disks `known`, which are ids and names. A
    /// disk that is left out because of a typing error is missing when it is needed.
    pub(crate) fn unknown(&self, known: &[(&str, &str)]) -> Option<(&'static str, &str)> {
        let options = [("--include", &self.include), ("--exclude", &self.exclude)];
        let is_known = |wanted: &String| known.iter().any(|(id, name)| is_named(id, name, wanted));
        options.into_iter().find_map(|(option, names)| {
            let name = names.iter().find(|name| !is_known(name))?;
            Some((option, name.as_str()))
        })
    }
}

/// True where `wanted` is the id of the disk, or its name.
fn is_named(id: &str, name: &str, wanted: &str) -> bool {
    match is_uuid(wanted) {
        true => id.eq_ignore_ascii_case(wanted),
        false => name == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f0c2a9e-7b1d-4c55-9e6a-d2b8f4a61c07";

    fn chosen(include: &[&str], exclude: &[&str]) -> ChosenDisks {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        ChosenDisks {
            include: owned(include),
            exclude: owned(exclude),
        }
    }

    #[test]
    fn a_disk_takes_part_unless_an_option_leaves_it_out() {
        let cases = [
            (chosen(&[], &[]), None),
            (chosen(&["root"], &[]), None),
            (chosen(&[&ID.to_uppercase()], &[]), None),
            (chosen(&["data"], &[]), Some("--include does not name it")),
            (chosen(&[], &[ID]), Some("--exclude names it")),
            (chosen(&["root"], &[ID]), Some("--exclude names it")),
        ];
        for (chosen, why) in cases {
            assert_eq!(chosen.why_not(ID, "root"), why, "{chosen:?}");
        }
    }

    #[test]
    fn a_name_of_no_disk_is_told_with_its_option() {
        let known = [(ID, "root"), ("other", "data")];
        assert_eq!(chosen(&["root"], &["data"]).unknown(&known), None);
        assert_eq!(
            chosen(&["root", "dat"], &["x"]).unknown(&known),
            Some(("--include", "dat"))
        );
        // A name of an id's form is none.
        let id = ID.replace('3', "4");
        assert_eq!(
            chosen(&[], &[&id]).unknown(&known),
            Some(("--exclude", id.as_str()))
        );
    }
}

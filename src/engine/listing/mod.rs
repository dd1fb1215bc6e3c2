//! Lists of what the engine has: disks, disk snapshots, storage domains and VMs, with the ids that other
//! commands take.
//!
//! A name that the user gives is that of an object, or its id; where there is no such object, it is a pattern
//! in which `*` stands for any characters. The engine searches where its search language can carry the name.
//! Its results are compared once more, since its search knows wildcards and ignores case (SyntaxChecker).
//!
//! VMs come in pages (`search=... page N`, with `max`). `/disks` has none: the engine ignores `max` without a
//! search, and applies it after the search, so that every page but the first is empty
//! (AbstractBackendCollectionResource). So disks come in one answer, whose length `wire` bounds.
//!
//! The fields of the structs are those of the JSON that `rhv-mount list` prints, and are described in
//! `docs/listing.md`.
//!
//! ```text
//! disks        disks
//! domains      storage domains
//! snapshots    disk snapshots, told from the VM snapshots that they belong to
//! meant        the disk snapshots that a wrong word may mean
//! of_backup    the disks of one VM, for a backup of them
//! for_restore  which VMs, clusters and storage domains there are, for a restore
//! vms          VMs, their disks and their snapshots
//! vm_disks     the disks of one VM, for a mount of them all
//! ```

mod disks;
mod domains;
mod for_restore;
mod meant;
mod of_backup;
mod snapshots;
mod vm_disks;
mod vms;

use std::collections::HashSet;

use serde_json::Value;

pub(crate) use self::disks::ListedDisk;
pub(crate) use self::domains::ListedDomain;
pub(crate) use self::for_restore::Cluster;
pub(crate) use self::snapshots::ListedSnapshot;
pub(crate) use self::vm_disks::{LeftOut, Vm as BackedVm, VmDisk, VmDisks};
pub(crate) use self::vms::{AttachedDisk, ListedVm, VmSnapshot};
use super::address::{query, quoted};
use super::disks::{is_uuid, there_are};
use super::json::list;
use super::{Engine, Error};

/// The number of objects in a page. A VM takes some 10 KB.
const PAGE: usize = 100;

/// Upper bound on the pages of a collection, so that no answer of an engine makes a list endless.
const MAX_PAGES: usize = 1000;

/// An object that has an id, and a name that others may have too.
trait Named {
    fn id(&self) -> &str;
    fn name(&self) -> &str;
}

/// A collection of the engine's API, and how its elements are read.
struct Collection<T> {
    /// Its elements in messages, as in `disks`.
    many: &'static str,
    /// One of them in messages, as in `disk`.
    one: &'static str,
    /// Its path below the API.
    path: &'static str,
    /// The member of an answer that holds the list.
    key: &'static str,
    /// A parameter that requests have, or nothing.
    parameter: &'static str,
    /// True where the engine gives it in pages.
    has_pages: bool,
    /// Reads an element.
    of: fn(&Value) -> Option<T>,
}

impl<T> Collection<T> {
    /// The path of a page of the objects that `search` finds; pages are numbered from 1.
    fn page(&self, search: Option<&str>, number: usize) -> String {
        let mut search = search.unwrap_or_default().to_owned();
        if self.has_pages {
            search += &format!(" sortby name asc page {number}");
        }
        let path = match search.trim() {
            "" => self.path.to_owned(),
            search => query(self.path, search),
        };
        let path = match self.has_pages {
            true => with(path, &format!("max={PAGE}")),
            false => path,
        };
        with(path, self.parameter)
    }
}

/// Adds a parameter to a path.
fn with(path: String, parameter: &str) -> String {
    match (parameter, path.contains('?')) {
        ("", _) => path,
        (_, true) => format!("{path}&{parameter}"),
        (_, false) => format!("{path}?{parameter}"),
    }
}

/// The objects for a name.
struct Found<T> {
    objects: Vec<T>,
    /// It is the name or the id of each of them, and no pattern.
    exactly: bool,
}

impl Engine {
    /// Returns the objects of a collection, or those for the name `wanted`, ordered by their names. Where
    /// there are none for it, the error names some that are there.
    fn objects<T: Named>(&self, collection: &Collection<T>, wanted: Option<&str>) -> Result<Found<T>, Error> {
        let mut found = match wanted {
            Some(wanted) => self.named(collection, wanted)?,
            None => Found {
                objects: self.all(collection)?,
                exactly: false,
            },
        };
        match wanted {
            Some(wanted) if found.objects.is_empty() => Err(Error::Unfit(format!(
                "no {} {wanted} on {}: {}",
                collection.one,
                self.url(),
                self.what_there_is(collection)
            ))),
            _ => {
                found
                    .objects
                    .sort_by(|a, b| (a.name(), a.id()).cmp(&(b.name(), b.id())));
                Ok(found)
            }
        }
    }

    /// Returns the objects with this id or name; where there are none, those whose names fit the pattern.
    fn named<T: Named>(&self, collection: &Collection<T>, wanted: &str) -> Result<Found<T>, Error> {
        if is_uuid(wanted) {
            if let Some(one) = self.by_id(collection, wanted)? {
                return Ok(Found {
                    objects: vec![one],
                    exactly: true,
                });
            }
        }
        let search = is_searchable(wanted).then(|| format!("name={}", quoted(wanted)));
        let found = self.collect(collection, search.as_deref())?;
        let (same, others): (Vec<T>, Vec<T>) = found.into_iter().partition(|one| one.name() == wanted);
        Ok(match same.is_empty() {
            false => Found {
                objects: same,
                exactly: true,
            },
            true => Found {
                objects: others
                    .into_iter()
                    .filter(|one| fits(wanted, one.name()))
                    .collect(),
                exactly: false,
            },
        })
    }

    fn by_id<T>(&self, collection: &Collection<T>, id: &str) -> Result<Option<T>, Error> {
        let path = with(format!("{}/{id}", collection.path), collection.parameter);
        let answer = self.get(collection.one, &path)?;
        self.object(collection.one, id, answer, collection.of)
    }

    fn all<T: Named>(&self, collection: &Collection<T>) -> Result<Vec<T>, Error> {
        self.collect(collection, None)
    }

    /// Returns the words of a message about a missing object that name some of those that exist.
    fn what_there_is<T: Named>(&self, collection: &Collection<T>) -> String {
        match self.all(collection) {
            Ok(all) => there_are(all.iter().map(|one| one.name().to_owned()).collect()),
            Err(error) => error.to_string(),
        }
    }

    /// Gets the objects that `search` finds, page by page where there are pages.
    fn collect<T: Named>(&self, collection: &Collection<T>, search: Option<&str>) -> Result<Vec<T>, Error> {
        let (mut objects, mut ids) = (Vec::new(), HashSet::new());
        for number in 1..=MAX_PAGES {
            let answer = self.get_list(collection.many, &collection.page(search, number))?;
            let answer = self.listed(collection.many, collection.key, answer)?;
            let page = list(&answer, collection.key);
            let before = objects.len();
            // An object that is made or removed meanwhile shifts the pages: another one may come twice.
            let new = page.iter().filter_map(collection.of);
            objects.extend(new.filter(|one| ids.insert(one.id().to_owned())));
            // A version of the engine without pages sends the same one again.
            if !collection.has_pages || page.len() < PAGE || objects.len() == before {
                return Ok(objects);
            }
        }
        Err(Error::Unfit(format!(
            "the engine {} has more than {} {}; ask for fewer, by a name or a pattern like 'web*'",
            self.url(),
            PAGE * MAX_PAGES,
            collection.many
        )))
    }

    /// Gets the list at `path`, whose elements are under `key`. It is empty where the object that it belongs
    /// to has gone meanwhile.
    fn part<T>(
        &self,
        what: &str,
        path: &str,
        key: &str,
        of: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let Some(answer) = self.get_list(what, path)? else {
            return Ok(Vec::new());
        };
        let answer = self.listed(what, key, Some(answer))?;
        Ok(list(&answer, key).iter().filter_map(of).collect())
    }
}

/// Returns true if a search can carry this name: its language refuses some characters, and others mean
/// something else there.
fn is_searchable(name: &str) -> bool {
    let foreign = |c: char| c.is_control() || matches!(c, '\'' | '"' | ';' | '\\' | '%');
    !name.is_empty() && !name.contains(foreign)
}

/// Returns true if `name` fits the pattern, in which each `*` stands for any characters, or none.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::disks::DISKS;
    use super::vms::VMS;
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in [
            ("web*", "web01"),
            ("web*", "web"),
            ("*_Disk1", "web_Disk1"),
            ("w*b*1", "web01"),
            ("*", ""),
            ("a*a", "aa"),
            ("a**z", "a-z"),
            ("*ß*", "Straße"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("web", "web01"),
            ("web*", "Web01"),
            ("a*a", "a"),
            ("*x*y*", "yx"),
            ("w?b", "web"),
            ("", "web"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_that_the_search_language_cannot_carry_is_not_searched_for() {
        for name in ["web01", "web 01", "web*", "größe_1.2-3"] {
            assert!(is_searchable(name), "{name}");
        }
        for name in ["", "it's", "a;b", "\"x\"", "100%", "a\\b", "a\nb"] {
            assert!(!is_searchable(name), "{name}");
        }
    }

    #[test]
    fn only_what_has_pages_is_asked_for_by_pages() {
        assert_eq!(DISKS.page(None, 1), "/disks");
        assert_eq!(DISKS.page(Some("name=a"), 1), "/disks?search=name%3Da");
        assert_eq!(
            VMS.page(Some("name=a"), 3),
            "/vms?search=name%3Da%20sortby%20name%20asc%20page%203&max=100&follow=disk_attachments"
        );
        assert_eq!(
            VMS.page(None, 1),
            "/vms?search=sortby%20name%20asc%20page%201&max=100&follow=disk_attachments"
        );
    }
}

//! The configuration for disks that have got other ids, or of which some are not there.
//!
//! An id is replaced wherever it stands: in `fileRef`, `href`, `parentRef`, and in the items of the hardware.
//! The volumes of such a disk get new ids too, since `diskId` is a volume's, and those of the old disk may be
//! there still. A disk that was not restored is cut out as a whole: the engine would attach the one with its
//! id, if there is one, and that is somebody's.

use std::io;
use std::ops::Range;

use super::{Configuration, reference};

impl Configuration {
    /// Returns the text of the configuration with these disks only, given by their ids there and their ids
    /// now. `fresh` makes an id that nothing has.
    pub(crate) fn for_disks(
        &self,
        disks: &[(&str, &str)],
        mut fresh: impl FnMut() -> io::Result<String>,
    ) -> io::Result<String> {
        let mut text = self.without(|id| disks.iter().any(|(old, _)| old.eq_ignore_ascii_case(id)));
        for (old, new) in disks {
            let Some(disk) = self.disk(old) else { continue };
            if disk.id.eq_ignore_ascii_case(new) {
                continue;
            }
            text = text.replace(&disk.id, new);
            for volume in &disk.volumes {
                text = text.replace(volume, &fresh()?);
            }
        }
        Ok(text)
    }

    /// Returns the text without the disks whose ids are not to `stay`.
    fn without(&self, stay: impl Fn(&str) -> bool) -> String {
        let goes = |n: usize| {
            let element = &self.elements[n];
            let place = match element.name.as_str() {
                "Disk" => element.attribute("fileRef").or(element.attribute("diskId")),
                "File" => element.attribute("href"),
                "Item" => return self.disk_of_item(n).is_some_and(|id| !stay(&id)),
                _ => None,
            };
            place.is_some_and(|place| !stay(reference(place).map_or(place, |(disk, _)| disk)))
        };
        let cut: Vec<Range<usize>> = (0..self.elements.len())
            .filter(|n| goes(*n))
            .map(|n| self.elements[n].place.clone())
            .collect();
        let (mut text, mut at) = (String::with_capacity(self.text.len()), 0);
        for place in cut.into_iter().filter(|place| !place.is_empty()) {
            // One may be within another.
            if place.start >= at {
                text += &self.text[at..place.start];
                at = place.end;
            }
        }
        text + &self.text[at..]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BASE_VOLUME, DATA, DATA_VOLUME, ROOT, ROOT_VOLUME, ovf};
    use super::*;

    const NEW: &str = "99999999-0000-0000-0000-00000000000a";

    fn for_disks(disks: &[(&str, &str)]) -> String {
        let mut count = 0;
        let fresh = || {
            count += 1;
            Ok(format!("fresh-{count}"))
        };
        Configuration::read(ovf())
            .unwrap()
            .for_disks(disks, fresh)
            .unwrap()
    }

    #[test]
    fn a_disk_that_keeps_its_id_changes_nothing() {
        assert_eq!(for_disks(&[(ROOT, ROOT), (DATA, DATA)]), ovf());
    }

    #[test]
    fn a_new_id_stands_wherever_the_old_one_stood_and_so_do_those_of_the_volumes() {
        let text = for_disks(&[(ROOT, NEW), (DATA, DATA)]);
        for old in [ROOT, ROOT_VOLUME, BASE_VOLUME] {
            assert!(!text.contains(old), "{old}: {text}");
        }
        let count = |of: &str, what: &str| of.matches(what).count();
        assert_eq!(count(&text, NEW), count(&ovf(), ROOT));
        assert_eq!(count(&text, "fresh-2"), count(&ovf(), ROOT_VOLUME));
        assert_eq!(count(&text, DATA_VOLUME), count(&ovf(), DATA_VOLUME));
        let read = Configuration::read(text).unwrap();
        let root = read.disk(NEW).unwrap();
        assert_eq!((root.bootable, root.volumes.len()), (true, 2));
    }

    /// The engine would attach a disk with that id, whosever it is.
    #[test]
    fn a_disk_that_was_not_restored_is_nowhere_in_it() {
        let text = for_disks(&[(DATA, DATA)]);
        for gone in [ROOT, ROOT_VOLUME, BASE_VOLUME] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        let read = Configuration::read(text.clone()).unwrap();
        assert_eq!(read.disks.len(), 1);
        assert!(
            text.contains("56:6f:00:00:00:01") && text.contains("<Nic"),
            "{text}"
        );
        assert!(!for_disks(&[]).contains("<Item><rasd:Caption>"));
    }
}
